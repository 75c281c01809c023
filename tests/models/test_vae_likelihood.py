"""Log-likelihood and coherence: against closed forms, multivae, and what must not change them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from dfdlib.data import Cohort
from dfdlib.models.vae import PRIORS, MultimodalVAE

FIXTURE = Path(__file__).parents[1] / "fixtures" / "multivae.safetensors"
NOT_MMVM = [prior for prior in PRIORS if prior != "mmvm"]
NOISE, LOADINGS = 0.7, {"a": (1.5, -0.5), "b": (0.8, 2.0), "c": (1.0, 0.3)}
MEAN, STD = (
    {"a": (3.0, -1.0), "b": (10.0, 0.5), "c": (0.0, 0.0)},
    {"a": (2.0, 0.5), "b": (4.0, 0.1)},
)


class Linear(nn.Module):
    """An exact decoder x = W z, and the encoder of a view's own likelihood, normalised in z."""

    def __init__(self, weight, widen=1.0):
        super().__init__()
        self.weight, self.widen = torch.tensor(weight), widen

    def encode(self, x):
        precision = self.weight.square().sum() / NOISE**2
        mean = x[:, : len(self.weight)] @ self.weight / self.weight.square().sum()
        spread = math.log(self.widen) - precision.log()
        return mean.unsqueeze(1), spread.expand(len(x), 1)


class Encoder(Linear):
    def forward(self, x):
        return self.encode(x)


class Decoder(Linear):
    def forward(self, z):
        return z * self.weight


def linear_gaussian(data, *, widen=1.0, scaled=False, **options):
    model = MultimodalVAE(
        schema=data.schema,
        d_latent=1,
        likelihood="gaussian",
        scale=NOISE,
        encoders={name: Encoder(weight, widen) for name, weight in LOADINGS.items()},
        decoders={name: Decoder(weight) for name, weight in LOADINGS.items()},
        **options,
    )
    if scaled:
        for name in STD:
            model.views[name].mean.copy_(torch.tensor(MEAN[name]))
            model.views[name].std.copy_(torch.tensor(STD[name]))
    return model


def patients(n=30, *, seed=0, holes=0.3, scaled=False, features=False):
    """Draws of the model itself, with views missing, and single values too."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 1, generator=generator)
    x = {}
    for name, weight in LOADINGS.items():
        values = z * torch.tensor(weight) + NOISE * torch.randn(n, 2, generator=generator)
        if scaled and name in STD:
            values = torch.tensor(MEAN[name]) + torch.tensor(STD[name]) * values
        if features:
            values[torch.rand(n, generator=generator) < 0.3, 1] = torch.nan
        x[name] = values
    observed = torch.rand(n, 3, generator=generator) >= holes
    observed[:, 0] |= ~observed.any(1)
    features = {
        name: ~values.isnan() & observed[:, [j]] for j, (name, values) in enumerate(x.items())
    }
    return Cohort(x=x, x_observed=features)


def exact(data, *, apart=False, scaled=False):
    """The Gaussian density of what each patient has; of each view by itself if `apart`."""
    result = []
    for row in range(len(data)):
        blocks = []
        for j, name in enumerate(data.names):
            if not data.observed[row, j]:
                continue
            mean, std = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
            if scaled and name in STD:
                mean, std = torch.tensor(MEAN[name]).double(), torch.tensor(STD[name]).double()
            seen = data.x_observed[name][row]
            weight = torch.tensor(LOADINGS[name]).double()
            parts = (data.x[name][row].double(), mean, std * weight, std * NOISE)
            blocks.append([part[seen] for part in parts])
        groups = [[block] for block in blocks] if apart else [blocks]
        total = 0.0
        for group in groups:
            x, mean, loading, noise = (torch.cat(part) for part in zip(*group, strict=True))
            covariance = loading.outer(loading) + torch.diag(noise.square())
            total += float(MultivariateNormal(mean, covariance).log_prob(x))
        result.append(total)
    return np.array(result)


# ---------------------------------------------------------------- log-likelihood


@pytest.mark.parametrize("scaled", [False, True])
def test_one_draw_of_the_exact_posterior_gives_the_exact_likelihood(scaled):
    data = patients(scaled=scaled)
    model = linear_gaussian(data, prior="poe", prior_expert="all", scaled=scaled)
    answer = model.log_likelihood(data, n_samples=1, seed=3)
    np.testing.assert_allclose(answer, exact(data, scaled=scaled), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("prior", NOT_MMVM)
def test_many_draws_of_any_posterior_give_the_exact_likelihood(prior):
    data = patients(features=True, scaled=True)
    # wider than the product, which by itself is narrower than the true posterior of few values
    model = linear_gaussian(data, prior=prior, scaled=True, widen=4.0)
    answer = model.log_likelihood(data, n_samples=4_000, seed=0)
    np.testing.assert_allclose(
        answer, exact(data, apart=prior == "independent", scaled=True), atol=0.1
    )


@pytest.mark.parametrize("prior", NOT_MMVM)
def test_it_grows_with_the_draws_from_the_lower_bound_to_the_likelihood(prior):
    data = patients(500, seed=1)
    model = linear_gaussian(
        data, prior=prior, widen=2.0, balance=False, kl_times="once", experts="all"
    )
    bound = -float(model.eval().loss(next(data.batches(500)))["total"].detach())
    by_draws = [model.log_likelihood(data, n_samples=k, seed=0).mean() for k in (1, 4, 16, 64)]
    limit = exact(data, apart=prior == "independent").mean()
    assert np.all(np.diff([*by_draws, limit]) > 0)
    assert by_draws[-1] == pytest.approx(limit, abs=0.05)
    # the closed form of the loss leaves out a mixture's own entropy
    if prior in ("independent", "avg", "poe"):
        assert by_draws[0] == pytest.approx(bound, abs=0.3)


def test_poe_has_the_likelihood_of_multivae():
    stored = load_file(FIXTURE)
    model, data = of_fixture(stored)
    answer = model.log_likelihood(data, n_samples=20_000, seed=0)
    np.testing.assert_allclose(answer, stored["poe.log_likelihood"], atol=0.05)


def test_laplace_counts_and_pictures_against_an_integral_over_a_grid():
    torch.manual_seed(0)
    n = 5
    x = {
        "picture": torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8),
        "counts": torch.randint(0, 5, (n, 2)).float(),
        "flags": (torch.rand(n, 3) < 0.5).float(),
        "labs": 5 + 3 * torch.randn(n, 2),
    }
    data = Cohort(x=x)
    likelihood = {"counts": "poisson", "flags": "bernoulli"}
    model = MultimodalVAE(
        schema=data.schema, prior="moe", d_latent=1, likelihood=likelihood, width=4
    )
    model.prepare(data)
    z = torch.linspace(-8, 8, 4001)[:, None]
    with torch.no_grad():
        centre = {name: decoder(z) for name, decoder in model.eval().decoders.items()}
    mean, std = x["labs"].mean(0), x["labs"].std(0, correction=0)
    log_p = (
        torch.distributions.Laplace(centre["picture"][:, None], 0.75)
        .log_prob(x["picture"] / 255)
        .flatten(2)
        .sum(2)
        + torch.distributions.Poisson(centre["counts"].exp()[:, None]).log_prob(x["counts"]).sum(2)
        + torch.distributions.Bernoulli(logits=centre["flags"][:, None]).log_prob(x["flags"]).sum(2)
        + torch.distributions.Laplace(mean + std * centre["labs"][:, None], 0.75 * std)
        .log_prob(x["labs"])
        .sum(2)
    )
    log_p = log_p.double() + Normal(0.0, 1.0).log_prob(z.double())
    integral = log_p.logsumexp(0) + math.log(float(z[1] - z[0]))
    answer = model.log_likelihood(data, n_samples=4_000, seed=1)
    np.testing.assert_allclose(answer, integral.numpy(), atol=0.05)


def test_a_patient_has_it_whoever_else_is_there_and_whatever_missing_views_hold():
    data = patients(40, holes=0.5)
    model = linear_gaussian(data, prior="mopoe", widen=3.0)
    before = model.train().log_likelihood(data, n_samples=50, seed=7)
    assert model.training
    first = model.log_likelihood(data.select(np.arange(40) < 11), n_samples=50, seed=7)
    np.testing.assert_allclose(first, before[:11], atol=1e-4)
    assert np.array_equal(model.log_likelihood(data, n_samples=50, seed=7), before)
    assert not np.allclose(model.log_likelihood(data, n_samples=50, seed=8), before)
    other = {name: values.where(data.x_observed[name], 9.0) for name, values in data.x.items()}
    moved = Cohort(x=other, x_observed=data.x_observed)
    same = model.log_likelihood(moved, n_samples=50, seed=7)
    assert np.array_equal(same, before)
    # a patient with one view, whether the cohort has columns of the others or not
    only = data.observed[:, 0] & (data.observed.sum(1) == 1)
    one = data.select(only).select(modalities=["a"])
    alone = exact(one)
    found = linear_gaussian(data, prior="poe", prior_expert="all").log_likelihood(one, n_samples=1)
    np.testing.assert_allclose(found, alone, atol=2e-5)


def test_draws_that_do_not_fit_together_are_taken_in_turns(monkeypatch):
    data = patients(20)
    model = linear_gaussian(data, prior="moe")
    whole = model.log_likelihood(data, n_samples=130, seed=0)
    monkeypatch.setattr("dfdlib.models.vae.AT_A_TIME", 2 * 7 * 3)
    np.testing.assert_allclose(model.log_likelihood(data, n_samples=130, seed=0), whole, atol=1e-4)


def test_what_has_no_likelihood():
    data = patients()
    with pytest.raises(ValueError, match=r"MMVM's prior is the mixture .*vae.coherence\(cohort"):
        linear_gaussian(data, prior="mmvm").log_likelihood(data, n_samples=10, seed=0)
    model = linear_gaussian(data, prior="poe")
    for options, message in (
        ({"n_samples": 0}, "n_samples=0 is no whole number from 1 on. Pass n_samples=1"),
        ({"n_samples": True}, "n_samples=True is no whole number"),
        ({"seed": -1}, "seed=-1 is no whole number from 0 on"),
    ):
        with pytest.raises(ValueError, match=message):
            model.log_likelihood(data, **options)
    other = Cohort(x={"d": torch.zeros(3, 2)})
    with pytest.raises(ValueError, match="'d' is not a modality of this model"):
        model.log_likelihood(other)
    holes = data.observed.clone()
    holes[3] = False
    with pytest.warns(UserWarning, match="1 of 30 rows"):
        empty = Cohort(x=data.x, observed=holes)
    with pytest.raises(ValueError, match="1 of 30 patients have no view at all"):
        model.log_likelihood(empty)


# ---------------------------------------------------------------- coherence


class Take(nn.Module):
    """An encoder of a view's first value, with a spread of its own; and a decoder by a factor."""

    def __init__(self, spread=1e-6, factor=1.0):
        super().__init__()
        self.spread, self.factor = spread, factor

    def forward(self, x):
        if x.shape[1] == 1:
            return self.factor * x
        return x[:, :1], torch.full_like(x[:, :1], 2 * math.log(self.spread))


def signs(n=4000, holes=0.0):
    """Two views of one number each, whose sign is the class."""
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(n, generator=generator) < 0.6
    values = (2.0 * y - 1).unsqueeze(1)
    observed = torch.rand(n, 2, generator=generator) >= holes
    observed[:, 0] |= ~observed.any(1)
    return Cohort(x={"a": values, "b": values}, observed=observed, y=y.float().numpy())


def sign_model(data, *, prior="mmvm", spread=1e-6, b_factor=1.0):
    return MultimodalVAE(
        schema=data.schema,
        prior=prior,
        d_latent=1,
        encoders={name: Take(spread) for name in "ab"},
        decoders={"a": Take(), "b": Take(factor=b_factor)},
    )


SIGN = {name: lambda values: values[:, 0] > 0 for name in "ab"}


def table(frame, column="coherence"):
    return frame.set_index(["source", "target"])[column].to_dict()


@pytest.mark.parametrize("prior", PRIORS)
def test_coherence_is_one_where_labels_are_carried_over_and_zero_where_turned(prior):
    data = signs(holes=0.3)
    frame = sign_model(data, prior=prior, b_factor=-1.0).coherence(data, data.y, classifiers=SIGN)
    assert table(frame) == {("a", "a"): 1, ("a", "b"): 0, ("b", "a"): 1, ("b", "b"): 0}
    assert (frame["real"] == 1).all()
    for j, name in enumerate("ab"):
        there = data.observed[:, j]
        rows = frame[frame["source"] == name]
        assert (rows["n"] == int(there.sum())).all()
        np.testing.assert_allclose(rows["chance"], float(data.y[there].mean()), rtol=1e-5)


def test_coherence_falls_as_the_posterior_widens_as_the_normal_law_says():
    data = signs()
    frame = sign_model(data, spread=1.5).coherence(data, data.y, classifiers=SIGN)
    expected = float(Normal(0.0, 1.0).cdf(torch.tensor(1 / 1.5)))
    for value in table(frame).values():
        assert value == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 4000))
    again = sign_model(data, spread=1.5).coherence(data, data.y, classifiers=SIGN)
    assert frame.equals(again)
    other = sign_model(data, spread=1.5).coherence(data, data.y, classifiers=SIGN, seed=1)
    assert not frame.equals(other)


def test_poe_generates_from_one_view_what_multivae_does():
    stored = load_file(FIXTURE)
    model, data = of_fixture(stored, repeats=1000)
    labels = torch.ones(len(data))
    labels[-1] = 0
    positive = {name: lambda values: (values[:, 0] > 0).int() for name in "abc"}
    frame = model.coherence(data, labels, classifiers=positive)
    found = frame["coherence"].to_numpy().reshape(3, 3)
    np.testing.assert_allclose(found, stored["poe.positive"].numpy(), atol=0.017)


def test_its_own_classifiers_are_judged_on_patients_that_they_have_not_seen():
    generator = torch.Generator().manual_seed(0)
    n, y = 120, torch.arange(120) % 3
    words = np.array(["low", "middle", "high"])[y]
    noise = torch.randn(n, 60, generator=generator)
    told = torch.nn.functional.one_hot(y).float() + 0.05 * torch.randn(n, 3, generator=generator)
    told[0, 1] = torch.nan
    data = Cohort(x={"noise": noise, "told": told})
    torch.manual_seed(0)
    model = MultimodalVAE(schema=data.schema, d_latent=2)
    model.prepare(data)
    frame = model.coherence(data, words)
    real = table(frame, "real")
    assert real["told", "told"] > 0.98
    assert real["noise", "noise"] < 0.55
    assert frame["chance"].tolist() == pytest.approx([1 / 3] * 4)
    # patients without a label do not count; the same patient twice stands in one half
    some = words.astype(object)
    some[:30] = None
    assert (model.coherence(data, some)["n"] == 90).all()
    twice = Cohort(
        x={"noise": noise.repeat(2, 1), "told": told.repeat(2, 1)},
        groups={"patient": np.tile(np.arange(n), 2)},
    )
    assert table(model.coherence(twice, np.tile(words, 2)), "real")["noise", "noise"] < 0.55


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        ({"a": 1}, {}, TypeError, r"coherence takes one class per patient as labels, got a dict"),
        (None, {}, TypeError, r"one class per patient as labels, got None. Write vae.coherence"),
        (np.zeros((50, 2)), {}, ValueError, r"^labels have shape \(50, 2\).*labels\[:, 0\]"),
        (np.zeros(49), {}, ValueError, r"labels have shape \(49,\), and coherence takes one"),
        (np.ones(50), {}, ValueError, "the known labels are all of one class"),
        ("y", {"seed": -1}, ValueError, "seed=-1 is no whole number"),
        ("y", {"classifiers": {"c": abs}}, ValueError, "'c' is not a view of this model"),
        ("y", {"classifiers": {"a": abs}}, TypeError, "as the classifier of 'b', got None. Write"),
        (
            "y",
            {"classifiers": {"a": lambda x: x, "b": lambda x: x}},
            ValueError,
            r"the classifier of 'a' gives shape \(\d+, 1\) .*scores.argmax\(1\)",
        ),
    ],
)
def test_labels_and_classifiers_that_it_refuses(labels, options, error, message):
    data = signs(50)
    with pytest.raises(error, match=message):
        sign_model(data).coherence(data, data.y if isinstance(labels, str) else labels, **options)


def test_too_few_patients_for_classifiers_of_its_own():
    data = signs(3)
    with pytest.raises(
        ValueError, match=r"half of the patients with 'a' are of one class.*classif"
    ):
        sign_model(data).coherence(data, np.array([0, 0, 1]))


# ---------------------------------------------------------------- what multivae was asked


class Halves(nn.Linear):
    def forward(self, x):
        return super().forward(x[:, : self.in_features]).chunk(2, 1)


def of_fixture(stored, repeats=1):
    data = Cohort(x={name: stored[f"x.{name}"].repeat(repeats, 1) for name in "abc"})
    networks = {}
    for part, kind in (("encoder", Halves), ("decoder", nn.Linear)):
        for name in "abc":
            weight = stored[f"{part}.{name}.weight"]
            network = networks[part, name] = kind(weight.shape[1], weight.shape[0])
            network.weight.data, network.bias.data = weight, stored[f"{part}.{name}.bias"]
            # as multivae was asked: with wide posteriors, of which fewer draws suffice
            network.bias.data[3:] += 2.0 if part == "encoder" else 0.0
    model = MultimodalVAE(
        schema=data.schema,
        prior="poe",
        prior_expert="all",
        d_latent=3,
        encoders={name: networks["encoder", name] for name in "abc"},
        decoders={name: networks["decoder", name] for name in "abc"},
    )
    return model, data

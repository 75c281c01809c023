"""The objective: against multivae, against the exact evidence, and what must not change it."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributions import MultivariateNormal

from dfdlib.data import Cohort
from dfdlib.models import fusion
from dfdlib.models.vae import PRIORS, MultimodalVAE

FIXTURE = Path(__file__).parents[1] / "fixtures" / "multivae.safetensors"
NOT_MMVM = [prior for prior in PRIORS if prior != "mmvm"]


class Halves(nn.Linear):
    """A linear encoder of the values alone: the flags that follow them are left out."""

    def forward(self, x):
        return super().forward(x[:, : self.in_features]).chunk(2, 1)


def three_views(n=40, seed=0, holes=0.3):
    generator = torch.Generator().manual_seed(seed)
    x = {
        "picture": torch.rand(n, 1, 8, 8, generator=generator),
        "labs": torch.randn(n, 3, generator=generator),
        "flags": (torch.rand(n, 4, generator=generator) < 0.5).float(),
    }
    observed = torch.rand(n, 3, generator=generator) >= holes
    observed[:, 0] |= ~observed.any(1)
    return Cohort(x=x, observed=observed)


def make(data, **options):
    torch.manual_seed(0)
    defaults = {"d_latent": 4, "likelihood": {"flags": "bernoulli"}}
    model = MultimodalVAE(schema=data.schema, **(defaults | options))
    model.prepare(data)
    return model


# ---------------------------------------------------------------- multivae


def peer_model(stored, *, holes, **options):
    names = ("a", "b", "c")
    x = {name: stored[f"x.{name}"] for name in names}
    observed = torch.stack([stored[f"observed.{name}"] for name in names], 1)
    data = Cohort(x=x, observed=observed if holes else None)
    d = stored["poe.whole.mean"].shape[1]
    networks = {}
    for part, kind in (("encoder", Halves), ("decoder", nn.Linear)):
        networks[part] = {}
        for name in names:
            weight = stored[f"{part}.{name}.weight"]
            networks[part][name] = kind(weight.shape[1], weight.shape[0])
            networks[part][name].weight.data = weight
            networks[part][name].bias.data = stored[f"{part}.{name}.bias"]
    model = MultimodalVAE(
        schema=data.schema,
        d_latent=d,
        encoders=networks["encoder"],
        decoders=networks["decoder"],
        balance=False,
        kl_times="once",
        **options,
    )
    return model, next(data.batches(100))


@pytest.fixture
def no_noise(monkeypatch):
    """Latents are posterior means, and components go by position, as in the stored answers."""
    monkeypatch.setattr(
        MultimodalVAE,
        "_noise",
        lambda self, batch, names: torch.zeros(len(batch), len(names), self.d_latent),
    )
    monkeypatch.setattr(torch, "randperm", torch.arange)


@pytest.mark.parametrize("kind", ["whole", "holes"])
def test_poe_is_that_of_multivae(kind, no_noise):
    stored = load_file(FIXTURE)
    model, batch = peer_model(stored, holes=kind == "holes", prior="poe", prior_expert="all")
    joint = model.components(model.encode(batch)[0])
    torch.testing.assert_close(joint.mean[:, 0], stored[f"poe.{kind}.mean"])
    torch.testing.assert_close(joint.log_variance[:, 0], stored[f"poe.{kind}.log_variance"])
    loss = model.loss(batch)["total"]
    torch.testing.assert_close(loss, stored[f"poe.{kind}.loss"][0])


def test_mopoe_is_that_of_multivae(no_noise):
    stored = load_file(FIXTURE)
    model, batch = peer_model(stored, holes=False, prior="mopoe", prior_expert="full")
    joint = model.components(model.encode(batch)[0])
    torch.testing.assert_close(joint.mean.transpose(0, 1), stored["mopoe.mean"])
    torch.testing.assert_close(joint.log_variance.transpose(0, 1), stored["mopoe.log_variance"])
    place = (torch.arange(len(batch)) + 0.5) / len(batch)
    torch.testing.assert_close(fusion.pick(*joint, place)[0], stored["mopoe.joint"])
    divergence = fusion.kl_standard(joint.mean, joint.log_variance).mean()
    torch.testing.assert_close(divergence, stored["mopoe.kl"][0])
    # it counts the mean divergence of all components, where the code of MMVM's authors counts that
    # of the component that was drawn
    terms = model.train().loss(batch)
    loss = terms["total"] - terms["kl"] + divergence
    torch.testing.assert_close(loss, stored["mopoe.loss"][0])


def test_mopoe_gives_patients_the_same_subsets_as_multivae():
    stored = load_file(FIXTURE)
    model, batch = peer_model(stored, holes=True, prior="mopoe")
    there = model.components(model.encode(batch)[0]).observed
    weight = stored["mopoe.holes.weight"].T
    torch.testing.assert_close(there / there.sum(1, keepdim=True), weight)


# ---------------------------------------------------------------- the evidence

LOADINGS, NOISE = {"a": (1.5, -0.5), "b": (0.8, 2.0)}, 0.7


class Loading(nn.Module):
    """The true decoder of a linear-Gaussian model with one latent."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.tensor([weight])

    def forward(self, z):
        return z @ self.weight


class Fixed(nn.Module):
    """A linear encoder with a variance of its own, drawn at random."""

    def __init__(self, n_features, generator):
        super().__init__()
        self.map = torch.randn(n_features, 1, generator=generator) / 2
        self.log_variance = 2 * torch.randn(1, generator=generator) - 1

    def forward(self, x):
        mean = x[:, : len(self.map)] @ self.map
        return mean, self.log_variance.expand_as(mean)


class Likelihood(nn.Module):
    """What a view says of the latent by itself: its likelihood, normalised in z."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.tensor(weight)

    def forward(self, x):
        precision = self.weight.square().sum() / NOISE**2
        mean = x[:, : len(self.weight)] @ self.weight / self.weight.square().sum()
        mean = mean.unsqueeze(1)
        return mean, -precision.log().expand_as(mean)


def linear_gaussian(encoders, *, repeats=4000, seed=0, **options):
    """A model with the true decoders, one patient many times over, and the exact evidence."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.tensor([*LOADINGS["a"], *LOADINGS["b"]])
    covariance = weights.outer(weights) + NOISE**2 * torch.eye(4)
    x = torch.linalg.cholesky(covariance) @ torch.randn(4, generator=generator)
    data = Cohort(x={"a": x[:2].expand(repeats, 2), "b": x[2:].expand(repeats, 2)})
    model = MultimodalVAE(
        schema=data.schema,
        d_latent=1,
        likelihood="gaussian",
        scale=NOISE,
        encoders=encoders,
        decoders={name: Loading(weight) for name, weight in LOADINGS.items()},
        **options,
    )
    joint = float(MultivariateNormal(torch.zeros(4), covariance).log_prob(x))
    apart = sum(
        float(MultivariateNormal(torch.zeros(2), covariance[s, s]).log_prob(x[s]))
        for s in (slice(0, 2), slice(2, 4))
    )
    return model.train(), next(data.batches(repeats)), joint, apart


@pytest.mark.parametrize("prior", NOT_MMVM)
@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_the_elbo_never_exceeds_the_evidence(prior, beta):
    torch.manual_seed(0)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        encoders = {name: Fixed(2, generator) for name in LOADINGS}
        for times in ("once", "views"):
            model, batch, joint, apart = linear_gaussian(
                encoders, seed=seed, prior=prior, beta=beta, kl_times=times
            )
            elbo = -float(model.loss(batch)["total"].detach())
            evidence = apart if prior == "independent" else joint
            assert elbo < evidence + 0.05, (seed, times)


def test_the_elbo_reaches_the_evidence_at_the_exact_posterior():
    torch.manual_seed(0)
    encoders = {name: Likelihood(weight) for name, weight in LOADINGS.items()}
    options = {"prior": "poe", "prior_expert": "all", "kl_times": "once"}
    for seed in range(3):
        model, batch, joint, _ = linear_gaussian(encoders, repeats=40_000, seed=seed, **options)
        assert -float(model.loss(batch)["total"]) == pytest.approx(joint, abs=0.03)
        model, batch, joint, _ = linear_gaussian(encoders, seed=seed, **options | {"beta": 3.0})
        assert -float(model.loss(batch)["total"]) < joint - 0.5


@pytest.mark.parametrize("regulariser", ["pairwise", "mixture"])
def test_mmvm_can_exceed_the_evidence_since_its_prior_depends_on_the_data(regulariser):
    class Same(nn.Module):
        def forward(self, x):
            mean = torch.full_like(x[:, :1], 0.4)
            return mean, torch.full_like(mean, -6.0)

    torch.manual_seed(0)
    encoders = {name: Same() for name in LOADINGS}
    found = {}
    for alpha in (0.0, 1.0):
        model, batch, _, _ = linear_gaussian(
            encoders, prior="mmvm", regulariser=regulariser, alpha=alpha, annealing="none"
        )
        patient = torch.tensor([[0.4]]) @ torch.tensor([[*LOADINGS["a"], *LOADINGS["b"]]])
        batch.x.update(a=patient[:, :2].expand(4000, 2), b=patient[:, 2:].expand(4000, 2))
        weights = torch.tensor([*LOADINGS["a"], *LOADINGS["b"]])
        covariance = weights.outer(weights) + NOISE**2 * torch.eye(4)
        joint = float(MultivariateNormal(torch.zeros(4), covariance).log_prob(patient[0]))
        found[alpha] = -float(model.loss(batch)["total"]) - joint
    assert found[0.0] > 1
    assert found[1.0] < 0


# ---------------------------------------------------------------- what must not matter


@pytest.mark.parametrize("prior", PRIORS)
def test_no_order_of_patients_or_views_changes_a_result(prior):
    data = three_views()
    model = make(data, prior=prior, regulariser="mixture").eval()
    batch = next(data.batches(40))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    turned = data.select(modalities=["flags", "picture", "labs"])
    other = make(turned, prior=prior, regulariser="mixture").eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = model.loss(batch)
        for found in (model.loss(batch.rows(order)), other.loss(next(turned.batches(40)))):
            assert set(found) == set(expected)
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-5)
        alone = torch.stack([model.loss(batch.rows(order[i : i + 1]))["total"] for i in range(40)])
        torch.testing.assert_close(alone.mean(), expected["total"], atol=1e-4, rtol=1e-5)
    features = model.embed(batch)
    for name, mean in other.embed(next(turned.batches(40))).items():
        torch.testing.assert_close(mean, features[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prior", PRIORS)
def test_what_a_missing_view_holds_changes_nothing_and_teaches_its_encoder_nothing(prior):
    data = three_views()
    model = make(data, prior=prior).train()
    batch = next(data.batches(40))
    rows = (~batch.observed[:, 1] & batch.observed[:, 0]).nonzero().squeeze(1)
    batch = batch.rows(rows)
    losses = []
    for fill in (0.0, 1e6):
        batch.x["labs"].fill_(fill)
        batch.x_observed["labs"].fill_(fill > 0)
        torch.manual_seed(3)
        model.zero_grad()
        loss = model.loss(batch)["total"]
        loss.backward()
        losses.append(loss.detach())
        for part in (model.encoders["labs"], model.decoders["labs"]):
            for parameter in part.parameters():
                assert (parameter.grad == 0).all()
        assert any((p.grad != 0).any() for p in model.encoders["picture"].parameters())
    assert torch.equal(*losses)


def test_a_patient_without_the_view_adds_nothing_to_its_gradient():
    data = three_views()
    model = make(data, prior="mmvm").eval()
    batch = next(data.batches(40))
    gradients = []
    for rows in (torch.arange(40), batch.observed[:, 1].nonzero().squeeze(1)):
        model.zero_grad()
        (model.loss(batch.rows(rows))["total"] * len(rows)).backward()
        gradients.append([p.grad.clone() for p in model.encoders["labs"].parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prior", PRIORS)
def test_a_process_that_gets_nobody_touches_every_weight(prior):
    data = three_views()
    model = make(data, prior=prior, regulariser="mixture").train()
    loss = model.loss(next(data.batches(40)).rows(torch.arange(0)))["total"]
    loss.backward()
    assert float(loss.detach()) == 0
    assert all((p.grad == 0).all() for p in model.parameters())


# ---------------------------------------------------------------- options


def test_kl_times_and_beta_by_hand():
    data = three_views()
    batch = next(data.batches(40))
    count = batch.observed.sum(1)
    for prior in ("avg", "poe"):
        model = make(data, prior=prior, kl_times="once").eval()
        joint = model.components(model.encode(batch)[0])
        divergence = fusion.kl_standard(joint.mean[:, 0], joint.log_variance[:, 0])
        torch.testing.assert_close(model.loss(batch)["kl"], divergence.mean())
        model.kl_times = "views"
        terms = model.loss(batch)
        torch.testing.assert_close(terms["kl"], (count * divergence).mean())
        model.beta = 0.25
        parts = sum(v for k, v in terms.items() if k.startswith("reconstruction"))
        torch.testing.assert_close(model.loss(batch)["total"], parts + 0.25 * terms["kl"])


def test_splitting_a_batch_agrees_with_all_components_on_average():
    data = three_views(n=30)
    model = make(data, prior="mopoe").train()
    batch = next(data.batches(30))
    torch.manual_seed(0)
    with torch.no_grad():
        split = torch.stack([model.loss(batch)["total"] for _ in range(300)])
        model.experts = "all"
        whole = torch.stack([model.loss(batch)["total"] for _ in range(50)])
    error = math.hypot(float(split.std()) / 300**0.5, float(whole.std()) / 50**0.5)
    assert abs(float(split.mean() - whole.mean())) < 4 * error
    assert whole.std() < split.std()


def test_small_views_are_balanced_against_the_largest():
    data = three_views()
    batch = next(data.batches(40))
    even = make(data, balance=False).eval().loss(batch)
    found = make(data).eval().loss(batch)
    for name, weight in (("picture", 1), ("labs", 64 / 3), ("flags", 16)):
        key = f"reconstruction_{name}"
        torch.testing.assert_close(found[key], weight * even[key])


def test_stages_reach_the_regulariser():
    data = three_views(holes=0.0)
    batch = next(data.batches(40))
    model = make(data, prior="mmvm", annealing="none").train()
    q = model.encode(batch)[0]
    torch.testing.assert_close(model.loss(batch)["kl"], fusion.mmvm(*q).mean())
    model.alpha = 1.0
    standard = fusion.kl_standard(q.mean, q.log_variance).sum(1).mean()
    torch.testing.assert_close(model.loss(batch)["kl"], standard)
    assert set(model.stage_options) == {"alpha", "beta", "regulariser"}

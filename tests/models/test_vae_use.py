"""What a fitted VAE is for: features, filling in, generating, saving; and what it refuses."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from dfdlib.data import Cohort
from dfdlib.evaluation import predict_proba
from dfdlib.models import GRAPE, Classifier, fusion
from dfdlib.models.vae import ANNEALED, PRIORS, MultimodalVAE, prior_weight
from dfdlib.training import Stage, fit, load_model


def discs(n=256, seed=0, holes=0.0):
    """A disc whose place both pictures and two numbers tell."""
    generator = torch.Generator().manual_seed(seed)
    at = torch.rand(n, 2, generator=generator)
    line = torch.arange(16) / 15
    far = (line - at[:, :1, None]).square() + (line[:, None] - at[:, 1:, None]).square()
    picture = (-20 * far).exp().unsqueeze(1)
    observed = torch.rand(n, 3, generator=generator) >= holes
    observed[:, 0] |= ~observed.any(1)
    x = {"front": picture, "side": 1 - picture.flip(3), "place": 10 + 3 * at}
    return Cohort(x=x, observed=observed)


def quick(data, **options):
    settings = {"d_latent": 4, "beta": 0.05, "width": 8, "annealed": 0.2}
    return MultimodalVAE(schema=data.schema, **(settings | options))


@pytest.fixture(scope="module")
def fitted():
    data = discs(1024, holes=0.2)
    model = quick(data, likelihood={"place": "gaussian"}, scale=0.3)
    stages = [Stage(epochs=25)]
    return fit(model, data, stages=stages, batch_size=64, lr=4e-3, weight_decay=0.0)


# ---------------------------------------------------------------- a fitted model


def test_a_view_is_filled_in_from_another(fitted):
    data = discs(200, seed=1)
    batch = next(data.batches(200))
    for view, given in (("side", ["front"]), ("front", ["place"]), ("place", ["side"])):
        truth = data.x[view]
        found = fitted.model.impute(batch, view, given=given)
        mean = truth.mean(0)
        left = (found - truth).square().sum() / (mean - truth).square().sum()
        assert left < 0.5, (view, float(left))
    both = fitted.model.impute(batch, "place")
    one = [fitted.model.impute(batch, "place", given=[name]) for name in ("front", "side")]
    torch.testing.assert_close(both, (one[0] + one[1]) / 2, atol=1e-4, rtol=1e-4)


def test_imputing_a_view_does_not_look_at_it(fitted):
    data = discs(20, seed=1)
    batch = next(data.batches(20))
    before = fitted.model.impute(batch, "side")
    batch.x["side"].fill_(0.7)
    assert torch.equal(fitted.model.impute(batch, "side"), before)


def test_reconstruction_is_imputation_where_the_view_is_missing(fitted):
    data = discs(40, seed=2, holes=0.4)
    batch = next(data.batches(40))
    found = fitted.model.reconstruct(batch)
    there = batch.observed[:, 1]
    others = batch.rows((~there).nonzero().squeeze(1))
    torch.testing.assert_close(found["side"][~there], fitted.model.impute(others, "side"))
    truth = discs(40, seed=2).x["side"]
    wrong = (found["side"] - truth)[there].square().sum()
    assert wrong < 0.5 * (truth.mean(0) - truth)[there].square().sum()


def test_features_are_encoder_means_and_zeros_where_there_is_none(fitted):
    data = discs(30, seed=3, holes=0.4)
    batch = next(data.batches(30))
    found = fitted.model.train().embed(batch)
    assert fitted.model.training
    fitted.model.eval()
    assert list(found) == ["front", "side", "place", "joint"]
    for j, name in enumerate(("front", "side")):
        there = batch.observed[:, j]
        mean = fitted.model.encoders[name](batch.x[name][there])[0]
        torch.testing.assert_close(found[name][there], mean, atol=1e-5, rtol=1e-4)
        assert (found[name][~there] == 0).all()
    stacked = torch.stack([found[name] for name in data.names], 1)
    mean = stacked.sum(1) / batch.observed.sum(1, keepdim=True)
    torch.testing.assert_close(found["joint"], mean, atol=1e-6, rtol=1e-5)


def test_generated_pictures_are_of_the_patient(fitted):
    data = discs(50, seed=4)
    batch = next(data.batches(50))
    drawn = fitted.model.generate(batch, n=8, seed=1)
    assert drawn["front"].shape == (8, 50, 1, 16, 16)
    again = fitted.model.generate(batch, n=8, seed=1)
    assert torch.equal(drawn["front"], again["front"])
    assert not torch.equal(drawn["front"][0], drawn["front"][1])
    turned = fitted.model.generate(batch.rows(torch.arange(49, -1, -1)), n=8, seed=1)
    torch.testing.assert_close(turned["front"].flip(1), drawn["front"])
    own = (drawn["front"] - data.x["front"]).square().mean()
    other = (drawn["front"] - data.x["front"].roll(1, 0)).square().mean()
    assert own < other / 3


def test_saved_and_loaded_it_says_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "vae")
    loaded = load_model(tmp_path / "vae")
    assert isinstance(loaded, MultimodalVAE)
    assert loaded.prior == "mmvm"
    assert loaded.likelihood == {"place": "gaussian"}
    batch = next(discs(20, seed=5, holes=0.3).batches(20))
    for name, value in fitted.model.embed(batch).items():
        assert torch.equal(loaded.embed(batch)[name], value)
    assert torch.equal(loaded.loss(batch)["total"], fitted.model.loss(batch)["total"])


def test_new_patients_come_from_a_prior_that_has_them():
    data = discs(20)
    model = quick(data, prior="poe")
    drawn = model.sample(5, seed=1)
    assert drawn["side"].shape == (5, 1, 16, 16)
    assert torch.equal(drawn["side"], model.sample(5, seed=1)["side"])
    z = torch.zeros(2, 4)
    torch.testing.assert_close(model.decode(z)["front"][0], model.decode(z)["front"][1])
    with pytest.raises(ValueError, match=r"none to draw new patients from. Take model.generate"):
        quick(data).sample(5)


@pytest.mark.parametrize("prior", PRIORS)
def test_every_prior_learns_and_is_the_same_for_the_same_seed(prior):
    data = discs(128, holes=0.3)
    train, val = data.split((0.8, 0.2))
    runs = [
        fit(
            quick(data, prior=prior, dropout=0.1),
            train,
            val,
            stages=[Stage(epochs=4)],
            batch_size=32,
            lr=3e-3,
            select="val_loss",
        )
        for _ in range(2)
    ]
    states = [run.model.state_dict() for run in runs]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    total = runs[0].history["train_total"]
    assert total.iloc[-1] < total.iloc[0]
    assert runs[0].selection == "lowest validation loss"
    assert "val_auroc" not in runs[0].history


# ---------------------------------------------------------------- what fit tells a method


def test_fit_says_how_much_of_the_training_is_done(monkeypatch):
    data = discs(50)
    model = quick(data)
    said = []
    advance = MultimodalVAE.advance

    def listen(self, done):
        said.append(done)
        advance(self, done)

    monkeypatch.setattr(MultimodalVAE, "advance", listen)
    fit(model, data, stages=[Stage(epochs=1), Stage(epochs=2, beta=0.5)], batch_size=20)
    np.testing.assert_allclose(said, np.arange(9) / 9)
    assert model.done == 1


def test_annealing_is_that_of_the_public_code_at_the_papers_length():
    steps = 240 * 3212
    for t in (0, 10_000, 20_000, 50_000, 149_999):
        published = max(np.exp(t * np.log(1e-10) / 150_000), 0)
        found = prior_weight(t / steps, alpha=0.0, annealing="exp", annealed=ANNEALED)
        assert found == pytest.approx(published, rel=1e-9)
    for annealing, half in (("linear", 0.6), ("cosine", 0.6), ("none", 0.2)):
        options = {"alpha": 0.2, "annealing": annealing, "annealed": 0.5}
        assert prior_weight(0.25, **options) == pytest.approx(half)
        assert prior_weight(0.5, **options) == prior_weight(1.0, **options) == 0.2
    assert prior_weight(0.0, alpha=0.0, annealing="exp", annealed=0.0) == 0


def test_annealing_ends_in_evaluation_mode():
    data = discs(20)
    batch = next(data.batches(20))
    model = quick(data)
    model.advance(0.0)
    q = model.encode(batch)[0]
    standard = fusion.kl_standard(q.mean, q.log_variance).sum(1).mean()
    torch.testing.assert_close(model.train().loss(batch)["kl"], standard)
    torch.testing.assert_close(model.eval().loss(batch)["kl"], fusion.mmvm(*q).mean())
    model.advance(1.0)
    torch.testing.assert_close(model.train().loss(batch)["kl"], fusion.mmvm(*q).mean())


def test_labels_are_neither_needed_nor_read(fitted):
    data = discs(40)
    labelled = Cohort(x=data.x, y=torch.zeros(40))
    run = fit(quick(labelled), labelled, stages=[Stage(epochs=1)])
    other = fit(quick(data), data, stages=[Stage(epochs=1)])
    assert run.history["train_total"].tolist() == other.history["train_total"].tolist()
    with pytest.raises(TypeError, match=r"predicts no label. Take its features, model.embed"):
        predict_proba(fitted.model, discs(5))
    with pytest.raises(ValueError, match=r"no AUROC to select by. Pass select='val_loss'"):
        fit(quick(data), *data.split((0.5, 0.5)), select="val_auroc")


def test_half_precision_reaches_networks_only():
    data = discs(64)
    runs = [
        fit(
            quick(data),
            data,
            stages=[Stage(epochs=3)],
            batch_size=32,
            fabric=Fabric(accelerator="cpu", devices=1, precision=precision),
        ).history["train_total"]
        for precision in ("32-true", "bf16-mixed")
    ]
    assert not runs[0].equals(runs[1])
    np.testing.assert_allclose(runs[1], runs[0], rtol=0.01)


def test_supervised_methods_still_need_labels():
    data = Cohort(x={"labs": torch.randn(6, 2)}, y=[0, 1] * 3)
    bare = Cohort(x={"labs": torch.randn(6, 2)})
    model = Classifier(backbone=GRAPE(d=8), schema=data.schema)
    assert model.units(next(data.batches(6))) == 6
    with pytest.raises(ValueError, match="the training part has no labels"):
        fit(model, bare)


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_latent": 0}, "d_latent must be a whole number from 1 on, got 0. Take d_latent=64"),
        ({"d_latent": -3}, "d_latent must be a whole number from 1 on, got -3"),
        ({"prior": "pow"}, "'pow' is not a choice of prior .*Did you mean 'poe'"),
        ({"regulariser": "pair"}, "'pair' is not a choice of regulariser"),
        ({"kl_times": "twice"}, "'twice' is not a choice of kl_times"),
        ({"experts": "some"}, "'some' is not a choice of experts"),
        ({"annealing": "sine"}, "'sine' is not a choice of annealing .*'cosine'"),
        ({"network": "resnet"}, "'resnet' is not a choice of network"),
        ({"beta": -1}, "beta must be between 0 and inf, got -1. Take beta=1.0"),
        ({"alpha": 1.5}, "alpha must be between 0 and 1, got 1.5"),
        ({"scale": 0.0}, "scale must be positive, got 0.0. Take scale=0.75"),
        ({"dropout": 1.0}, "dropout must be between 0 and 1, got 1.0"),
        ({"likelihood": "normal"}, "'normal', given for 'front', is not a likelihood"),
        ({"likelihood": {"fornt": "laplace"}}, "'fornt' is not a modality.*'front'"),
        ({"encoders": {"lateral": torch.nn.Identity()}}, "'lateral' is not a modality"),
        ({"network": "residual"}, "for images of 224 by 224 pixels, got 16 by 16"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        quick(discs(4), **options)


def test_views_that_it_cannot_model():
    codes = Cohort(x={"drugs": [[1, 2], [3]]})
    with pytest.raises(ValueError, match="'drugs' is of kind 'codes', and a view is an image or"):
        quick(codes)
    tiny = Cohort(x={"icon": torch.rand(3, 1, 4, 4)})
    with pytest.raises(ValueError, match="images of 4 by 4 pixels are too small"):
        quick(tiny)
    taken = Cohort(x={"joint": torch.rand(3, 2)})
    with pytest.raises(ValueError, match="a view cannot be called 'joint'"):
        quick(taken)


def test_patients_without_any_view():
    data = discs(10)
    holes = data.observed.clone()
    holes[3:5] = False
    with pytest.warns(UserWarning, match="2 of 10 rows have nothing observed"):
        empty = Cohort(x=data.x, observed=holes)
    with pytest.raises(ValueError, match=r"2 of 10 patients have no view at all.*cohort.select"):
        fit(quick(empty), empty)
    model = quick(data)
    with pytest.raises(ValueError, match="row 3 of the batch has no view at all"):
        model.embed(next(empty.batches(10)))
    only = data.select(modalities="front")
    with pytest.raises(ValueError, match="10 of 10 patients have none of place, so 'side' cannot"):
        model.impute(next(only.batches(10)), "side", given=["place"])
    with pytest.raises(ValueError, match=r"'sidee' is not a view .*'side'"):
        model.impute(next(data.batches(10)), "sidee")


def test_a_view_that_nobody_has():
    data = discs(10)
    holes = data.observed.clone()
    holes[:, 1] = False
    none = Cohort(x=data.x, observed=holes)
    with pytest.raises(ValueError, match="'side' is observed for nobody in the training part"):
        fit(quick(none), none)


def test_pictures_of_another_shape():
    data = discs(10)
    model = quick(data)
    other = Cohort(x={**data.x, "side": torch.rand(10, 1, 20, 16)})
    with pytest.raises(ValueError, match=r"'side' has size \(1, 20, 16\) here"):
        fit(model, other)
    with pytest.raises(ValueError, match=r"'side' has entries of shape \(1, 20, 16\) here.*one"):
        model.embed(next(other.batches(10)))
    named = Cohort(x={"back": torch.rand(4, 1, 16, 16)})
    with pytest.raises(ValueError, match="'back' is not a view of this model"):
        model.embed(next(named.batches(4)))


@pytest.mark.parametrize(
    ("likelihood", "value", "message"),
    [
        ("bernoulli", 1.5, "'place' has 1 values that a bernoulli .*: it is of values between 0"),
        ("bernoulli", -0.5, "'place' has 1 values that a bernoulli"),
        ("poisson", -1.0, "'place' has 1 values that a poisson .* values whole numbers"),
        ("poisson", 0.5, "'place' has 1 values .*Pass counts, or likelihood='laplace'"),
    ],
)
def test_values_outside_the_range_of_the_likelihood(likelihood, value, message):
    place = torch.zeros(10, 2)
    place[4, 1] = value
    data = Cohort(x={**discs(10).x, "place": place})
    model = quick(data, likelihood={"place": likelihood})
    with pytest.raises(ValueError, match=message):
        fit(model, data)
    with pytest.raises(ValueError, match=message):
        model.loss(next(data.batches(10)))


def test_bernoulli_pictures_outside_zero_to_one():
    data = Cohort(x={"front": 255 * torch.rand(4, 1, 8, 8)})
    with pytest.raises(ValueError, match=r"between 0 and 1. Divide by the largest possible value"):
        fit(quick(data, likelihood="bernoulli"), data)


def test_a_checkpoint_of_another_prior():
    data = discs(10)
    state = quick(data, prior="poe").state_dict()
    with pytest.raises(ValueError, match=r"of a VAE with prior='poe', and this model has prior='m"):
        quick(data).load_state_dict(state)


def test_an_encoder_of_another_width():
    data = discs(10)
    other = quick(data, d_latent=5)
    model = quick(data, encoders={"place": other.encoders["place"]})
    with pytest.raises(ValueError, match=r"the encoder of 'place' gives .*Make it with d=4"):
        model.embed(next(data.batches(10)))


@pytest.mark.gpu
@pytest.mark.parametrize("prior", PRIORS)
def test_on_a_gpu_it_says_the_same_as_on_the_cpu(prior):
    data = discs(64, holes=0.3)
    model = quick(data, prior=prior, regulariser="mixture").eval()
    model.prepare(data)
    batch = next(data.batches(64))
    with torch.no_grad():
        expected, features = model.loss(batch), model.embed(batch)
        model.cuda()
        moved = batch.to("cuda")
        for name, value in model.loss(moved).items():
            torch.testing.assert_close(value.cpu(), expected[name], atol=1e-2, rtol=1e-3)
        for name, value in model.embed(moved).items():
            torch.testing.assert_close(value.cpu(), features[name], atol=1e-2, rtol=1e-2)
    assert model.generate(moved, n=2)["side"].is_cuda
    fit(model, data, stages=[Stage(epochs=2)], batch_size=32)
    assert next(model.parameters()).is_cuda

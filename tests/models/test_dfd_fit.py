"""Whole runs of DFD: same bits, saved, resumed, on any task, blind to the batch and the site."""

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from dfdlib.data import Cohort
from dfdlib.evaluation import predict_proba
from dfdlib.models import DFD, GRAPE, MUSE, Deconfounder, TokenTransformer
from dfdlib.training import Stage, fit, load_model
from small_cohorts import labels_of, three_modalities

BACKBONES = [GRAPE, TokenTransformer, MUSE]
RULES = ["concat", "causal", "marginal", "causal_refit", "bias", "bias_refit"]
STAGES = [Stage(epochs=1, mi_weight=0.0), Stage(epochs=2)]
EVERYTHING = {
    "gate_layers": "all",
    "gate_channels": True,
    "swap_weight": 0.5,
    "difficulty": True,
    "environment": "site",
    "mi_within": True,
    "mi_refits": 1,
    "n_memory": 5,
}

# models of a few steps have the signatures of failure
pytestmark = pytest.mark.filterwarnings(
    "ignore:(the bias stream|the gate|the estimate|H_c and H_b)"
)


def cohort(task="binary", n=101, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, observed = three_modalities(n, generator)
    y = labels_of(x["labs"], task, generator, noise=0.3)
    site = np.array(["va", "umc"])[torch.randint(0, 2, (n,), generator=generator).numpy()]
    patient = [f"{seed}-{i}" for i in range(n)]
    groups = {"site": site, "patient": patient}
    return Cohort(x=x, observed=observed, y=y, task=task, groups=groups)


def fitted(data, backbone=GRAPE, val=None, **options):
    settings = {"stages": STAGES, "batch_size": 50, "lr": 0.02}
    own = ("folder", "select", "seed", "stages", "lr")
    settings |= {k: options.pop(k) for k in own if k in options}
    model = DFD(backbone=backbone(d=8), schema=data.schema, **options)
    return fit(model, data, val, **settings)


def same(a, b):
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in ours.items())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_score_does_not_depend_on_the_batch(backbone):
    data = cohort()
    # of what shapes a score; the terms of the loss that are left out would make it nearly constant
    options = {"gate_layers": "all", "gate_channels": True, "environment": "site", "mi": None}
    run = fitted(data, backbone, stages=[Stage(epochs=20)], lr=1e-2, n_memory=5, **options)
    model = run.model
    for rule in RULES:
        model.predict = rule
        whole = torch.cat([model.predict_proba(b) for b in data.batches(101)])
        alone = torch.cat([model.predict_proba(b) for b in data.select(range(15)).batches(1)])
        assert whole[:, 1].std() > 1e-3, rule
        torch.testing.assert_close(alone, whole[:15], atol=1e-5, rtol=0)
        shuffled = list(data.batches(30, seed=3))
        p = torch.cat([model.predict_proba(b) for b in shuffled])
        index = torch.cat([b.index for b in shuffled])
        torch.testing.assert_close(p, whole[index], atol=1e-5, rtol=0)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_same_seed_gives_the_same_bits(backbone):
    data = cohort()
    first, again = (fitted(data, backbone, **EVERYTHING).model for _ in range(2))
    assert same(first, again)
    assert first.measured == again.measured
    assert not same(first, fitted(data, backbone, seed=1, **EVERYTHING).model)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("options", [{}, EVERYTHING, {"mi": "hsic"}])
def test_a_saved_model_gives_the_same_scores_by_every_rule(tmp_path, backbone, options):
    data, new = cohort(), cohort(seed=1)
    run = fitted(data, backbone, **options)
    for rule in RULES:
        run.model.predict = rule
        expected = predict_proba(run.model, new)
        run.save(tmp_path / rule)
        loaded = load_model(tmp_path / rule)
        assert loaded.predict == rule
        np.testing.assert_array_equal(predict_proba(loaded, new), expected)


class Killed(Exception):  # noqa: N818 - a signal, not an error
    pass


@pytest.mark.parametrize("select", ["last", "val_auroc"])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, monkeypatch, select):
    data, val = cohort(), cohort(n=60, seed=1)
    settings = EVERYTHING | {"select": select}
    whole = fitted(data, val=val, **settings)
    calls, loss = [], DFD.loss

    def dying(self, batch):
        calls.extend([1] * self.training)
        if len(calls) == 5:  # three batches an epoch: in the second one
            raise Killed
        return loss(self, batch)

    monkeypatch.setattr(DFD, "loss", dying)
    with pytest.raises(Killed):
        fitted(data, val=val, folder=tmp_path, **settings)
    monkeypatch.undo()
    resumed = fitted(data, val=val, folder=tmp_path, **settings)
    assert same(whole.model, resumed.model)
    assert whole.history.equals(resumed.history)
    assert whole.model.measured == resumed.model.measured


def test_a_trained_model_holds_no_patient():
    data = cohort()
    sizes = {}
    for n in (101, 150):
        model = fitted(cohort(n=n), **EVERYTHING).model
        state = model.state_dict()
        assert state["relative_difficulty.label"].numel() == 0
        assert state["relative_difficulty.smoothed"].numel() == 0
        sizes[n] = {name: value.shape for name, value in state.items()}
    assert sizes[101] == sizes[150]
    assert predict_proba(model, data).shape == (101, 2)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("options", [{}, {"swap_weight": 1.0, "difficulty": True}])
def test_every_task_learns_with_labels_that_are_missing(task, options):
    data = cohort(task)
    model = DFD(backbone=GRAPE(d=8), schema=data.schema, **options)
    stages = [Stage(epochs=14, mi_weight=0.0)]
    history = fit(model, data, stages=stages, batch_size=25, lr=0.02).history
    assert np.isfinite(history.to_numpy()).all()
    known = ~data.y.reshape(len(data), -1).isnan().any(1).numpy()
    # relative difficulty may turn f_c against the label, so f_b is asked there
    model.predict = "bias" if "difficulty" in options else "concat"
    y, p = data.y[known].numpy(), predict_proba(model, data)[known]
    if task != "multilabel":
        y, p = y[:, None] == np.arange(1, p.shape[1]), p[:, 1:]
    assert roc_auc_score(y, p) > 0.7


@pytest.mark.parametrize("mi", ["club", "mine", "infonce", "hsic", "dcor"])
@pytest.mark.parametrize("n", [101, 102, 103])  # the last batch has 1, 2 or 3 patients
def test_a_last_batch_of_few_patients(mi, n):
    data = cohort(n=n)
    history = fitted(data, mi=mi, mi_within=mi != "mine").history
    assert np.isfinite(history["train_total"]).all()


@pytest.mark.parametrize("mi", ["club", "infonce", "hsic", "dcor"])
def test_a_stream_that_is_empty_shares_nothing(mi):
    data = cohort()
    torch.manual_seed(0)
    model = DFD(backbone=GRAPE(d=8), schema=data.schema, mi=mi)
    model.prepare(data)
    with torch.no_grad():
        model.bias_backbone.q[-1].bias.fill_(-1e3)  # no unit of H_b fires
    terms = model.loss(next(data.batches(101)))
    terms["total"].backward()
    assert all(term.isfinite() for term in terms.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert mi in ("club", "infonce") or terms["mi"] == 0


def strip(data):
    """The same patients, with nothing but what is measured of them."""
    return Cohort(x=data.x, observed=data.observed, kinds=data.schema.kinds)


def test_the_site_is_read_in_training_only():
    data, val = cohort(), cohort(n=60, seed=1)
    blind = Cohort(
        x=val.x, observed=val.observed, y=val.y, groups={"patient": val.groups["patient"]}
    )
    model = fitted(data, val=blind, **EVERYTHING).model
    for rule in RULES:
        model.predict = rule
        expected = predict_proba(model, val)
        np.testing.assert_array_equal(predict_proba(model, strip(val)), expected)
    with pytest.raises(ValueError, match="'site' is not a group"):
        model.fix_states(lambda: blind.batches(60))


def test_other_sites_give_another_model_and_fit_forgets_what_it_saw():
    data = cohort()
    model = DFD(backbone=GRAPE(d=8), schema=data.schema, environment="site")
    settings = {"stages": [Stage(epochs=2)], "batch_size": 50, "lr": 0.02}
    fit(model, data, **settings)
    first = copy.deepcopy(model)
    assert (first.alignment.p_value < 1).all()  # hospitals were compared
    fit(model, data, **settings)
    assert same(first, model)
    groups = dict(data.groups) | {"site": np.roll(data.groups["site"], 1)}
    other = Cohort(x=data.x, observed=data.observed, y=data.y, groups=groups)
    assert not same(first, fit(model, other, **settings).model)


def test_a_loaded_model_is_told_the_sites_before_it_trains_on(tmp_path):
    data = cohort()
    fitted(data, environment="site").save(tmp_path / "model")
    model = load_model(tmp_path / "model")
    with pytest.raises(RuntimeError, match=r"'site' belong to the training part.*prepare\(train\)"):
        fit(model, data, stages=[Stage(epochs=1)], init="keep")
    model.prepare(data)
    fit(model, data, stages=[Stage(epochs=1)], init="keep")


def test_without_causal_weight_a_stage_trains_the_bias_stream_alone():
    data = cohort()
    stages = [Stage(epochs=2, causal_weight=0.0, mi_weight=0.0)]
    model = DFD(backbone=GRAPE(d=8), schema=data.schema)
    seen = {}
    for epochs in (1, 3):
        stage = Stage(epochs=epochs, causal_weight=0.0, mi_weight=0.0)
        fit(model, data, stages=[stage], weight_decay=0.0, lr=0.01)
        seen[epochs] = {k: v.clone() for k, v in model.named_parameters()}
    moved = {k.split(".")[0] for k in seen[1] if not torch.equal(seen[1][k], seen[3][k])}
    assert moved.isdisjoint({"backbone", "head"})
    assert {"bias_backbone", "bias_head", "gate_net", "encoders"} <= moved
    assert stages[0].overrides.keys() <= set(model.stage_options)


def test_a_head_is_taken_apart_by_the_rule_concat_only():
    data = cohort(n=60)
    model = fitted(data, head=Deconfounder(route="stratified")).model
    batch = next(data.batches(60))
    parts = model.explain(batch)
    whole = parts.groupby("row")["contribution"].sum().to_numpy()
    np.testing.assert_allclose(whole, model.predict_proba(batch)[:, 1].numpy(), atol=1e-5)
    model.predict = "causal"
    with pytest.raises(ValueError, match=r"predict='causal' averages before .* 'concat'"):
        model.explain(batch)


def test_a_validation_reads_what_its_rule_needs_and_the_end_fixes_all():
    data, val = cohort(), cohort(seed=1)
    plain = fitted(data).model
    watched = fitted(data, val=val, select="val_loss", predict="concat").model
    assert watched.kept.share.sum() == pytest.approx(1)
    for rule in ("concat", "marginal"):
        run = fitted(data, val=val, predict=rule)
        last = run.history["val_auroc"].iloc[-1]
        p = predict_proba(run.model, val)[:, 1]
        known = ~val.y.isnan().numpy()
        assert last == pytest.approx(roc_auc_score(val.y.numpy()[known], p[known]))
    assert same(plain, fitted(data, val=val).model)

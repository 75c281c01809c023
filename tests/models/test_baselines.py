import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dfdlib import data
from dfdlib.data import Cohort
from dfdlib.evaluation import predict_proba
from dfdlib.models import GRAPE, Classifier, Deconfounder, TokenTransformer
from dfdlib.models.baselines import CORAL, IRM, VREx
from dfdlib.models.environments import MomentMatching, risks
from dfdlib.models.group_dro import GroupDRO
from dfdlib.models.lff import LfF
from dfdlib.models.m3care import M3Care
from dfdlib.training import Stage, fit, load_model
from small_cohorts import random_labels

METHODS = [IRM, VREx, CORAL, GroupDRO]
TASKS = ["binary", "multiclass", "multilabel"]


def cohort(n=120, task="binary", seed=0):
    generator = torch.Generator().manual_seed(seed)
    labs = torch.randn(n, 3, generator=generator)
    ecg = torch.randn(n, 2, generator=generator)
    ecg[torch.rand(n, generator=generator) < 0.4] = torch.nan
    y = random_labels(task, n, generator)
    if task == "multilabel":
        y[9, 2] = torch.nan
    site = np.array(["east", "north", "west"])[torch.randint(0, 3, (n,), generator=generator)]
    return Cohort(x={"labs": labs, "ecg": ecg}, y=y, task=task, groups={"site": site})


def make(method, data, **options):
    torch.manual_seed(0)
    model = method(backbone=GRAPE(d=8), schema=data.schema, **{"environment": "site"} | options)
    model.prepare(data)
    return model


def by_site(data):
    """The whole cohort as one batch, and the known rows of each site."""
    batch = next(data.batches(len(data)))
    return batch, [np.asarray(data.groups["site"] == level) for level in ("east", "north", "west")]


def raw(method, data, **options):
    """What `between` gives for free logits."""
    model = make(method, data, **options)
    batch, sites = by_site(data)
    k = data.schema.n_outputs
    logits = torch.randn(len(data), k, generator=torch.Generator().manual_seed(1)).double()
    arguments = {
        "h": torch.zeros(len(data), 8),
        "y": batch.y.double(),
        "codes": model.environments.codes(batch),
        "weight": torch.ones(len(data)).double(),
    }
    return model, logits, arguments, sites


def risk(logits, y, task):
    """Mean cross-entropy of the labels that are known, by torch."""
    if task == "multiclass":
        known = ~y.isnan()
        return nn.functional.cross_entropy(logits[known], y[known].long())
    known = ~y.reshape(logits.shape).isnan()
    return nn.functional.binary_cross_entropy_with_logits(
        logits[known], y.reshape(logits.shape)[known]
    )


@pytest.mark.parametrize("task", TASKS)
def test_irm_is_the_squared_gradient_by_a_dummy_scale(task):
    model, logits, arguments, sites = raw(IRM, cohort(task=task))
    expected = []
    for rows in sites:
        w = torch.ones((), dtype=torch.double, requires_grad=True)
        value = risk(logits[rows] * w, arguments["y"][rows], task)
        expected.append(torch.autograd.grad(value, w)[0] ** 2)
    value = model.between(logits=logits, **arguments)
    torch.testing.assert_close(value, torch.stack(expected).mean())


def test_irm_of_a_logistic_risk_by_hand():
    # one site predicts s = 2 for a patient with y = 1, the other s = -1 for one with y = 1
    data = Cohort(
        x={"labs": torch.randn(3, 1)}, y=[1.0, 1.0, 0.0], groups={"site": ["a", "b", "b"]}
    )
    model = make(IRM, data)
    logits = torch.tensor([[2.0], [-1.0], [-1.0]]).double()
    batch = next(data.batches(3))
    value = model.between(
        h=torch.zeros(3, 8), logits=logits, y=batch.y.double(), codes=torch.tensor([0, 1, 1]),
        weight=torch.ones(3).double(),
    )  # fmt: skip
    sigmoid = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))
    a = (sigmoid[0] - 1) * 2
    b = ((sigmoid[1] - 1) * -1 + sigmoid[1] * -1) / 2
    assert float(value) == pytest.approx((a**2 + b**2) / 2)


@pytest.mark.parametrize("task", TASKS)
def test_vrex_is_the_variance_of_the_risks(task):
    model, logits, arguments, sites = raw(VREx, cohort(task=task))
    each = [float(risk(logits[rows], arguments["y"][rows], task)) for rows in sites]
    value = model.between(logits=logits, **arguments)
    assert float(value) == pytest.approx(np.var(each))
    same = arguments | {"codes": torch.ones_like(arguments["codes"])}
    assert float(model.between(logits=logits, **same)) == pytest.approx(0)


def test_vrex_of_made_up_risks():
    # risks of log 2 and log 4: variance (log 2 / 2)^2
    logits = torch.tensor([0.5, 0.25]).logit().double()
    data = cohort()
    value = make(VREx, data).between(
        h=torch.zeros(2, 8), logits=logits[:, None], y=torch.ones(2).double(),
        codes=torch.tensor([0, 2]), weight=torch.ones(2).double(),
    )  # fmt: skip
    assert float(value) == pytest.approx((math.log(2) / 2) ** 2, rel=1e-6)


@pytest.mark.parametrize("method", [IRM, VREx])
def test_gradients_of_the_penalties(method):
    model, logits, arguments, _ = raw(method, cohort(30, task="multiclass"))
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: model.between(logits=s, **arguments), logits)


def test_weights_of_patients_are_repetitions():
    logits, y = torch.randn(6, 1).double(), torch.tensor([0.0, 1, 1, 0, 1, torch.nan]).double()
    codes = torch.tensor([0, 0, 1, 1, 1, 1])
    weight = torch.tensor([2.0, 0, 1, 1, 1, 1]).double()
    mean, there = risks(logits, y, codes, weight, n_groups=3)
    again = risks(logits[[0, 0, 2, 3, 4]], y[[0, 0, 2, 3, 4]], codes[[0, 0, 2, 3, 4]],
                  torch.ones(5).double(), n_groups=3)  # fmt: skip
    torch.testing.assert_close(mean, again[0])
    assert there.tolist() == [1, 1, 0]
    assert mean[2] == 0


def test_coral_is_moment_matching_of_the_embedding():
    data = cohort()
    model = make(CORAL, data).train()
    batch, _ = by_site(data)
    value = model.loss(batch)["between_environments"]
    alone = MomentMatching(d=8, n_classes=2, n_environments=3)
    expected = alone(model.embed(batch), batch.y, model.environments.codes(batch))
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("method", [IRM, VREx, CORAL])
def test_the_total_is_cross_entropy_and_weighted_penalty(method):
    data = cohort()
    model = make(method, data, penalty_weight=3.0).train()
    terms = model.loss(next(data.batches(200)))
    expected = terms["cross_entropy"] + 3 * terms["between_environments"]
    torch.testing.assert_close(terms["total"], expected)
    assert terms["between_environments"] > 0
    model.penalty_weight = 0.0
    terms = model.loss(next(data.batches(200)))
    torch.testing.assert_close(terms["total"], terms["cross_entropy"])


def test_weight_0_is_erm():
    train = data.load("synthetic", n=200)
    stages = [Stage(epochs=2)]
    erm = fit(Classifier(backbone=GRAPE(d=8), schema=train.schema), train, stages=stages)
    expected = predict_proba(erm.model, train)
    for method in (IRM, VREx):
        model = method(
            backbone=GRAPE(d=8), schema=train.schema, environment="site", penalty_weight=0
        )
        np.testing.assert_array_equal(
            predict_proba(fit(model, train, stages=stages).model, train), expected
        )


@pytest.mark.parametrize("method", METHODS)
def test_what_is_trained_saved_and_loaded_scores_patients_of_no_known_site(method, tmp_path):
    whole = data.load("synthetic", n=300)
    train, test = whole.split((0.7, 0.3))
    model = method(backbone=GRAPE(d=8), schema=train.schema, environment="site")
    run = fit(model, train, test, stages=[Stage(epochs=2)], batch_size=70)
    run.save(tmp_path / "model")
    expected = predict_proba(run.model, test)
    unknown = Cohort(x=test.x, x_observed=test.x_observed, observed=test.observed)
    loaded = load_model(tmp_path / "model")
    np.testing.assert_array_equal(predict_proba(loaded, unknown), expected)
    assert {k: v.shape for k, v in loaded.state_dict().items()} == {
        k: v.shape for k, v in run.model.state_dict().items()
    }
    with pytest.raises(RuntimeError, match=r"Call model.prepare\(train\) before training on"):
        fit(loaded, train, stages=[Stage(epochs=1)], init="keep")
    alone = [run.model.predict_proba(batch) for batch in test.batches(1)]
    np.testing.assert_allclose(torch.cat(alone), expected, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_gets_a_gradient(method):
    data = cohort()
    model = make(method, data).train()
    model.loss(next(data.batches(200)))["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("method", METHODS)
def test_a_group_that_is_constant_or_unknown_is_refused(method):
    train = data.load("synthetic", n=100)
    one, _ = train.leave_out("site", "north")
    model = method(backbone=GRAPE(d=8), schema=train.schema, environment="site")
    with pytest.raises(
        ValueError, match=r"'site' is south for all .* so there are no environments"
    ):
        fit(model, one, stages=[Stage(epochs=1)])
    model = method(backbone=GRAPE(d=8), schema=train.schema, environment="ward")
    with pytest.raises(ValueError, match="'ward' is not a group"):
        fit(model, train, stages=[Stage(epochs=1)])


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_one_environment_or_without_labels_gives_no_nan(method):
    data = cohort()
    model = make(method, data).train()
    alone = data.select(data.groups["site"] == "west")
    for part in (alone, data.select(range(5))):
        loss = model.loss(next(part.batches(200)))["total"]
        loss.backward()
        assert torch.isfinite(loss)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_heads_keep_their_weights_and_penalties():
    train = data.load("synthetic", n=200, missing="mnar_latent")
    for route, name in (("ipw", "cross_entropy"), ("invariant", "penalty")):
        model = make(VREx, train, head=Deconfounder(route=route)).train()
        assert name in model.loss(next(train.batches(200)))
    model = make(VREx, train, head=Deconfounder(route="ipw")).train()
    batch = next(train.batches(200))
    tokens, observed = model.tokens(batch)
    logits = model.logits(model.represent(tokens, observed), observed)
    weight = model.head.sample_weight(observed)
    risk, _ = risks(logits, batch.y, model.environments.codes(batch), weight, n_groups=2)
    torch.testing.assert_close(model.loss(batch)["between_environments"], risk.var(correction=0))
    plain, _ = risks(logits, batch.y, model.environments.codes(batch), torch.ones(200), n_groups=2)
    assert not torch.allclose(plain, risk)


TWO_PROCESSES = """
import sys
import torch
from lightning_fabric import Fabric

sys.path[:0] = {tests!r}
from test_baselines import trained

def work(fabric):
    states = trained(fabric)
    if fabric.is_global_zero:
        torch.save(states, {out!r})

if __name__ == "__main__":
    Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn").launch(work)
"""


def trained(fabric=None):
    """All methods, trained on uneven shares."""
    data = cohort(49)
    site = {"schema": data.schema, "environment": "site"}
    models = {kind.__name__: kind(backbone=GRAPE(d=8), **site) for kind in METHODS}
    # moments of units that are nearly dead move in steps
    models["CORAL"] = CORAL(backbone=TokenTransformer(d=8), **site)
    models["LfF"] = LfF(backbone=GRAPE(d=8), schema=data.schema)
    models["M3Care"] = Classifier(backbone=M3Care(backbone=GRAPE(d=8)), schema=data.schema)
    for model in models.values():
        fit(model, data, stages=[Stage(epochs=2)], batch_size=16, fabric=fabric)
    return {name: model.state_dict() for name, model in models.items()}


def test_two_processes_give_the_result_of_one(tmp_path):
    script, out = tmp_path / "two.py", tmp_path / "states.pt"
    script.write_text(
        TWO_PROCESSES.format(
            tests=[str(folder) for folder in Path(__file__).parents[:2]], out=str(out)
        )
    )
    subprocess.run([sys.executable, script], check=True, capture_output=True)
    two = torch.load(out)
    for name, state in trained().items():
        torch.testing.assert_close(two[name], state, atol=1e-4, rtol=1e-4)


def test_penalised_methods_refuse():
    schema = cohort().schema
    for method, usual in ((IRM, 100), (VREx, 10), (CORAL, 1)):
        with pytest.raises(ValueError, match=f"got -1. {method.__name__} usually takes {usual}"):
            method(backbone=GRAPE(d=8), schema=schema, environment="site", penalty_weight=-1)
    with pytest.raises(ValueError, match="several labels per patient make no classes"):
        make(CORAL, cohort(task="multilabel"))
    with pytest.raises(ValueError, match=r"'weight' is no stage option of IRM \(options: penalty"):
        fit(make(IRM, cohort()), cohort(), stages=[Stage(epochs=1, weight=1)])

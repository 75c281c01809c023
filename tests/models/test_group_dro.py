import numpy as np
import pytest
import torch

from dfdlib.data import Cohort
from dfdlib.models import GRAPE, Classifier
from dfdlib.models.group_dro import GroupDRO, GroupWeights
from dfdlib.training import Stage, fit


def cohort(task="binary", n=90):
    generator = torch.Generator().manual_seed(0)
    labs = torch.randn(n, 3, generator=generator)
    site = np.array(["a", "b"])[torch.randint(0, 2, (n,), generator=generator)]
    shape = (n, 2) if task == "multilabel" else (n,)
    y = torch.randint(0, 3 if task == "multiclass" else 2, shape, generator=generator).float()
    y[:4] = torch.nan
    return Cohort(x={"labs": labs}, y=y, task=task, groups={"site": site})


def make(data, **options):
    torch.manual_seed(0)
    model = GroupDRO(backbone=GRAPE(d=8), schema=data.schema, environment="site", **options)
    model.prepare(data)
    return model.train()


def test_weights_by_hand():
    weights = GroupWeights()
    weights.prepare(torch.tensor([5, 3, 0]))
    torch.testing.assert_close(weights.q, torch.tensor([0.5, 0.5, 0]))
    raised = np.array([0.5 * np.exp(0.1 * 2.0), 0.5 * np.exp(0.1 * 1.0), 0])
    q = weights(torch.tensor([2.0, 1.0, 0.0]), step_size=0.1)
    np.testing.assert_allclose(q, raised / raised.sum(), rtol=1e-6)
    raised = raised / raised.sum() * np.exp(0.1 * np.array([0.0, 3.0, 0.0]))
    q = weights(torch.tensor([0.0, 3.0, 0.0]), step_size=0.1)
    np.testing.assert_allclose(q, raised / raised.sum(), rtol=1e-6)
    torch.testing.assert_close(weights.q, q)
    weights.eval()
    assert torch.equal(weights(torch.tensor([9.0, 0.0, 0.0]), step_size=1), q)
    weights.reset_parameters()
    torch.testing.assert_close(weights.q, torch.tensor([0.5, 0.5, 0]))


def test_a_group_that_stays_worst_takes_all_weight_without_overflow():
    weights = GroupWeights()
    weights.prepare(torch.tensor([1, 1]))
    for _ in range(50):
        q = weights(torch.tensor([100.0, 50.0]), step_size=10)
    assert q.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("task", "groups"),
    [
        ("binary", "environment"),
        ("binary", "environment_label"),
        ("multiclass", "environment_label"),
        ("multilabel", "environment"),
    ],
)
def test_the_loss_is_the_weighted_risk_of_the_groups(task, groups):
    data = cohort(task)
    model = make(data, groups=groups, step_size=0.5)
    batch = next(data.batches(90))
    model.fix_states(lambda: data.batches(90))
    p = model.eval().predict_proba(batch).double().numpy()
    y = data.y.numpy()
    model.train()
    parts = [data.groups["site"] == level for level in ("a", "b")]
    if groups == "environment_label":
        parts = [part & (y == c) for part in parts for c in range(data.schema.n_classes)]
    risk = []
    for part in parts:
        known = part & ~np.isnan(y).reshape(len(y), -1).all(1)
        if task == "multilabel":
            chosen = np.where(y == 1, p, 1 - p)[known]
        else:
            chosen = p[known, y[known].astype(int)]
        risk.append(-np.log(chosen).mean())
    q = np.exp(0.5 * np.array(risk))
    terms = model.loss(batch)
    assert float(terms["group_risk"].detach()) == pytest.approx(
        (q / q.sum() * risk).sum(), rel=1e-4
    )
    torch.testing.assert_close(terms["total"], terms["group_risk"])
    assert "cross_entropy" not in terms


def test_groups_nobody_is_in_have_no_weight():
    data = cohort()
    data = data.select((data.groups["site"] == "a") | (data.y.numpy() == 1))
    model = make(data)
    torch.testing.assert_close(model.group_weights.q, torch.tensor([1, 1, 0, 1]) / 3)
    model.loss(next(data.batches(90)))
    assert model.group_weights.q[2] == 0


def test_the_worst_group_is_helped():
    # the feature is the label for 190 patients of site a; in site b it is its opposite
    y = torch.arange(220) % 2
    x = y.float() * 2 - 1
    x[190:] *= -1
    noise = torch.randn(220, 2, generator=torch.Generator().manual_seed(0))
    side = (x[:, None] + 0.3 * noise)[:, :1]
    cause = (2 * y - 1)[:, None] + 1.5 * noise[:, 1:]
    site = ["a"] * 190 + ["b"] * 30
    data = Cohort(x={"side": side, "cause": cause}, y=y, groups={"site": site})
    erm = Classifier(backbone=GRAPE(d=8), schema=data.schema)
    robust = GroupDRO(
        backbone=GRAPE(d=8), schema=data.schema, environment="site", groups="environment",
        step_size=0.1,
    )  # fmt: skip

    def losses(model):
        fit(model, data, stages=[Stage(epochs=30)], lr=0.01, batch_size=110)
        parts = [data.select(data.groups["site"] == s) for s in "ab"]
        return [float(model.loss(next(p.batches(220)))["total"].detach()) for p in parts]

    erm, robust = losses(erm), losses(robust)
    assert erm[0] < robust[0] < robust[1] < erm[1]


def test_group_dro_refuses():
    data = cohort()
    with pytest.raises(ValueError, match=r"'enviroment' is not a kind of groups .* Did you mean"):
        make(data, groups="enviroment")
    with pytest.raises(ValueError, match="step_size must be positive, got 0"):
        make(data, step_size=0)
    with pytest.raises(ValueError, match=r"several labels per patient make none. Pass groups='env"):
        make(cohort("multilabel"))

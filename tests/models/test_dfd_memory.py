"""What DFD keeps of the training part, and the six rules of prediction that read it."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from dfdlib.data import Cohort
from dfdlib.evaluation import predict_proba
from dfdlib.models import DFD, GRAPE, Deconfounder
from dfdlib.models import memory as memory_module
from dfdlib.models.memory import Memory
from dfdlib.training import Stage, fit
from small_cohorts import labels_of, three_modalities

RULES = ["concat", "causal", "marginal", "causal_refit", "bias", "bias_refit"]
TASKS = ["binary", "multiclass", "multilabel"]

# models of a few steps have the signatures of failure
pytestmark = pytest.mark.filterwarnings(
    "ignore:(the bias stream|the gate|the estimate|H_c and H_b)"
)


def cohort(task="binary", n=60):
    generator = torch.Generator().manual_seed(0)
    x, observed = three_modalities(n, generator)
    y = labels_of(x["labs"], task, generator, unknown=3)
    return Cohort(x=x, observed=observed, y=y, task=task)


def fitted(data, **options):
    model = DFD(backbone=GRAPE(d=8), schema=data.schema, **options)
    fit(model, data, stages=[Stage(epochs=5)], batch_size=32, lr=0.02)
    return model


def streams(model, data):
    with torch.no_grad():
        return model.embed(next(data.batches(len(data)))).chunk(2, dim=1)


def keep_everybody(model, h_b):
    """Let each training patient be a representative of its own."""
    kept, n = model.kept, len(h_b)
    kept.share.zero_()
    kept.prototypes[:n], kept.share[:n] = h_b, 1 / n


def probability(model, logits):
    p = logits.softmax(-1) if model.task == "multiclass" else logits.sigmoid()
    return (torch.cat([1 - p, p], -1) if model.task == "binary" else p).detach().numpy()


@pytest.mark.parametrize("task", TASKS)
def test_rules_of_one_pass(task):
    data = cohort(task)
    model = fitted(data)
    h_c, h_b = streams(model, data)
    mean_c, mean_b = (h.mean(0).expand_as(h) for h in (h_c, h_b))
    f_c, f_b = model.head.map, model.bias_head
    expected = {
        "concat": f_c(torch.cat([h_c, h_b], 1)),
        "causal": f_c(torch.cat([h_c, mean_b], 1)),
        "bias": f_b(torch.cat([mean_c, h_b], 1)),
    }
    for rule, logits in expected.items():
        model.predict = rule
        np.testing.assert_allclose(
            predict_proba(model, data), probability(model, logits), atol=1e-5, err_msg=rule
        )


@pytest.mark.parametrize("task", TASKS)
def test_marginal_over_everybody_is_the_plain_sum_over_patients(task):
    data = cohort(task)
    model = fitted(data, predict="marginal", n_memory=100)
    h_c, h_b = streams(model, data)
    keep_everybody(model, h_b)
    p = np.zeros_like(predict_proba(model, data))
    for own in h_b:
        p += probability(model, model.head.map(torch.cat([h_c, own.expand_as(h_c)], 1)))
    np.testing.assert_allclose(predict_proba(model, data), p / len(data), atol=1e-5)


def test_marginal_over_prototypes():
    data = cohort(n=200)
    model = fitted(data, predict="marginal", n_memory=5)
    h_c, h_b = streams(model, data)
    centres, share = model.kept.prototypes, model.kept.share
    # centres of k-means: means of the patients that are nearest
    assert int((share > 0).sum()) > 1
    nearest = torch.cdist(h_b, centres[share > 0]).argmin(1)
    for k in range(int((share > 0).sum())):
        torch.testing.assert_close(centres[k], h_b[nearest == k].mean(0), atol=1e-5, rtol=0)
        assert float(share[k]) == pytest.approx(float((nearest == k).float().mean()))
    p = sum(
        float(s) * probability(model, model.head.map(torch.cat([h_c, h.expand_as(h_c)], 1)))
        for h, s in zip(centres, share, strict=True)
    )
    np.testing.assert_allclose(predict_proba(model, data), p, atol=1e-5)


def test_marginal_averages_over_bias_then_over_patterns():
    data = cohort()
    head = Deconfounder(route="stratified")
    model = fitted(data, head=head, predict="marginal", n_memory=60)
    h_c, h_b = streams(model, data)
    keep_everybody(model, h_b)
    patterns, count = data.observed.unique(dim=0, return_counts=True)
    layer = head.adjustment
    p = torch.zeros(len(data))
    for own in h_b:
        hidden = layer.hidden(torch.cat([h_c, own.expand_as(h_c)], 1))
        for r, n in zip(patterns.float(), count, strict=True):
            logits = layer.out(torch.relu(hidden + r @ layer.by_pattern)).squeeze(1)
            p += n / len(data) * logits.sigmoid().detach() / len(data)
    np.testing.assert_allclose(predict_proba(model, data)[:, 1], p, atol=1e-5)


def test_with_one_logit_and_a_linear_head_marginal_ranks_as_causal():
    data = cohort()
    model = fitted(data)
    orders = []
    for rule in ("causal", "marginal", "concat"):
        model.predict = rule
        orders.append(predict_proba(model, data)[:, 1].argsort().tolist())
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("task", TASKS)
def test_refits_are_logistic_regressions_on_one_stream(task):
    data = cohort(task)
    model = fitted(data)
    for rule, h in zip(("causal_refit", "bias_refit"), streams(model, data), strict=True):
        h = h.numpy()
        x = (h - h.mean(0)) / np.where(h.std(0) > 0, h.std(0), 1)
        columns = []
        for y in data.y.reshape(len(data), -1).T.numpy():
            known = ~np.isnan(y)
            reference = LogisticRegression(tol=1e-9, max_iter=5000).fit(x[known], y[known])
            columns.append(reference.predict_proba(x))
        expected = columns[0] if task != "multilabel" else np.stack([c[:, 1] for c in columns], 1)
        model.predict = rule
        np.testing.assert_allclose(predict_proba(model, data), expected, atol=2e-3)


def memory(d=2, task="binary", n_outputs=1, size=4):
    return Memory(d=d, n_outputs=n_outputs, task=task, size=size)


def test_marginal_of_extreme_logits_is_finite_and_right():
    kept = memory(d=1, size=7)
    opposed = torch.tensor([1.0, -1, 1, 1, 1, 1, 1]).unsqueeze(1)
    for share, scale, expected in [
        # all agree: the logit itself, though p is 1 in any floating point number
        ([1, 0, 0, 0, 0, 0, 0], 300.0, 300.0),
        # seven float32 sevenths sum to more than 1
        ([1 / 7, 0, *[1 / 7] * 5], 60.0, 60.0),
        ([0.5, 0.5, 0, 0, 0, 0, 0], 300.0, 0.0),
        ([0.25, 0.75, 0, 0, 0, 0, 0], 300.0, np.log(1 / 3)),
    ]:
        kept.share.copy_(torch.tensor(share))
        for sign in (1, -1):
            kept.prototypes.copy_(sign * scale * opposed)
            logit = kept.logits(
                "marginal", torch.zeros(1, 2), f_c=lambda z: z[:, 1:], f_b=torch.nn.Identity()
            )
            assert float(logit) == pytest.approx(sign * expected, abs=1e-4)


def test_marginal_of_extreme_classes_is_finite():
    kept = memory(d=1, task="multiclass", n_outputs=3, size=2)
    kept.prototypes[:, 0], kept.share[:] = torch.tensor([1.0, -1.0]), 0.5
    weight = torch.tensor([[200.0, -200.0, 0.0]])
    log_p = kept.logits(
        "marginal", torch.zeros(1, 2), f_c=lambda z: z[:, 1:] @ weight, f_b=torch.nn.Identity()
    )
    expected = torch.tensor([[np.log(0.5), np.log(0.5), -200.0]])
    torch.testing.assert_close(log_p, expected.float(), atol=1e-4, rtol=0)


def rows(n=300, d=2, y=None):
    """Both streams and labels, sorted as a training part may be."""
    h = torch.linspace(0, 1, n)[:, None, None] + torch.tensor([[0.0], [5.0]]) + torch.zeros(d)
    return h, (torch.arange(n) % 2).float() if y is None else y


def batches(h, y, size=40):
    return zip(h.split(size), y.split(size), strict=True)


def test_many_patients_are_read_off_a_random_part(monkeypatch):
    monkeypatch.setattr(memory_module, "MAX_ROWS", 60)
    h, y = rows()
    kept = memory()
    found = kept.fix(batches(h, y))
    assert found.shape == (60, 2, 2)
    first = found[:, 0, 0].sort().values
    torch.testing.assert_close(first, (torch.arange(60) + 0.5) / 60, atol=0.17, rtol=0)
    torch.testing.assert_close(found[:, 1] - 5, found[:, 0], atol=1e-5, rtol=0)  # still pairs
    torch.testing.assert_close(kept.mean, h.mean(0))  # the means are of everybody


def test_the_means_do_not_depend_on_the_batches():
    h, y = rows()
    kept, other = memory(), memory()
    kept.fix(batches(h, y))
    other.fix(batches(h, y, size=7))
    torch.testing.assert_close(kept.mean, other.mean, atol=1e-7, rtol=0)


def test_fewer_patients_than_representatives():
    h, y = rows(n=3)
    kept = memory(size=10)
    kept.fix(batches(h, y))
    assert int((kept.share > 0).sum()) == 1
    assert float(kept.share.sum()) == pytest.approx(1)


@pytest.mark.parametrize(("n", "far"), [(9, 0), (60, 0), (60, 3), (300, 1), (300, 9), (300, 10)])
def test_a_prototype_stands_for_ten_patients_or_more(n, far):
    """Also where k-means would give single patients, far from all, a centre of their own."""
    h = torch.randn(n, 2, 3, generator=torch.Generator().manual_seed(0))
    h[:far, 1] += 100
    kept = memory(d=3, size=64)
    kept.fix(batches(h, (torch.arange(n) % 2).float()))
    used = kept.share > 0
    count = kept.share[used] * n
    torch.testing.assert_close(count, count.round(), atol=1e-3, rtol=0)
    assert float(count.sum()) == pytest.approx(n, abs=1e-3)
    assert float(count.min()) > min(n, 10) - 0.01
    # they are means: weighted by their shares, that of everybody
    mean = kept.share[used] @ kept.prototypes[used]
    torch.testing.assert_close(mean, h[:, 1].mean(0), atol=1e-4, rtol=0)
    assert n < 10 or float(torch.cdist(kept.prototypes[used], h[:, 1]).min()) > 1e-3


def test_prototypes_of_a_collapsed_stream():
    h, y = rows(n=20)
    kept = memory()
    kept.fix(batches(torch.ones_like(h), y))
    assert kept.share.tolist() == [1, 0, 0, 0]
    assert kept.prototypes[0].tolist() == [1, 1]
    assert kept.refit_weight.abs().max() == 0  # nothing to regress on


def test_refit_of_an_absent_class_gives_it_no_probability():
    h, _ = rows(n=30)
    y = torch.where(torch.arange(30) < 10, 0.0, 2.0)
    kept = memory(task="multiclass", n_outputs=4)
    kept.fix(batches(h, y))
    p = (h[:, 0] @ kept.refit_weight[0].T + kept.refit_bias[0]).softmax(1)
    assert p[:, [1, 3]].max() == 0
    assert (p.argmax(1) == y).float().mean() > 0.9


def test_refit_of_one_class_says_nothing():
    h, _ = rows(n=30)
    kept = memory()
    kept.fix(batches(h, torch.ones(30)))
    assert kept.refit_weight.abs().max() == kept.refit_bias.abs().max() == 0


def test_refusals():
    h = torch.zeros(1, 4)
    with pytest.raises(ValueError, match=r"'margnal' is not a rule of prediction.*'marginal'"):
        memory().logits("margnal", h, f_c=torch.nn.Identity(), f_b=torch.nn.Identity())
    for rule in RULES[1:]:
        with pytest.raises(RuntimeError, match=rf"'{rule}' reads what is kept.*predict='concat'"):
            memory().logits(rule, h, f_c=torch.nn.Identity(), f_b=torch.nn.Identity())

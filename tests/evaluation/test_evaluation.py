"""Probabilities, reports, comparisons and harnesses, each against an independent answer."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    roc_auc_score,
)
from torch import nn

from dfdlib.data import Cohort
from dfdlib.evaluation import (
    METRICS,
    MIN_EVENTS,
    compare,
    evaluate,
    out_of_fold,
    out_of_group,
    predict_proba,
)
from dfdlib.evaluation.bootstrap import patient_weights
from dfdlib.evaluation.compare import holm, two_sided_p_value, verdict


class Logit(nn.Module):
    """Probability = sigmoid(first feature), with what a real model has: a weight and dropout."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.dropout = nn.Dropout(0.5)
        self.sizes = []

    def predict_proba(self, batch):
        assert not torch.is_grad_enabled()
        self.sizes.append(len(batch))
        p = torch.sigmoid(self.dropout(batch.x["labs"][:, 0]) * self.weight)
        return torch.stack([1 - p, p], dim=1)


def make(n=120, *, seed=0, y=None, **options):
    """Four sites, patterns from a modality that is sometimes missing, ages, two visits each."""
    rng = np.random.default_rng(seed)
    labs = rng.normal(size=(n, 2)).astype(np.float32)
    ecg = np.where(rng.random((n, 1)) < 0.4, np.nan, 1.0)
    risk = labs[:, 0] + rng.normal(size=n)
    y = (risk > 0).astype(int) if y is None else y
    covariates = pd.DataFrame(
        {"age": rng.integers(30, 80, n), "sex": rng.choice(["female", "male"], n)}
    )
    groups = {"site": np.array(list("abcd"))[rng.integers(0, 4, n)], "patient": np.arange(n) // 2}
    return Cohort(x={"labs": labs, "ecg": ecg}, y=y, covariates=covariates, groups=groups | options)


def sigmoid(cohort, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    z = cohort.x["labs"][:, 0].numpy().astype(float) + noise * rng.normal(size=len(cohort))
    return 1 / (1 + np.exp(-z))


def ends(draws):
    """Of a 95 % interval: with B draws the k-th from both sides, k / (B + 1) at most 2.5 %."""
    k = (len(draws) + 1) // 40
    return np.sort(draws)[[k - 1, -k]]


@pytest.fixture
def cohort():
    return make()


# ------------------------------------------------------------------ predict_proba


def test_predict_proba_is_in_order_and_whatever_the_batch(cohort):
    model = Logit()
    whole = predict_proba(model, cohort)
    np.testing.assert_allclose(whole[:, 1], sigmoid(cohort), atol=1e-6)
    np.testing.assert_allclose(predict_proba(model, cohort, batch_size=7), whole, atol=1e-6)
    assert model.sizes == [120] + [7] * 17 + [1]
    assert whole.dtype == np.float64
    np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-15)


def test_predict_proba_leaves_every_module_in_its_mode(cohort):
    model = Logit()
    model.frozen = nn.Dropout(0.5).eval()
    predict_proba(model, cohort)
    assert model.training
    assert model.dropout.training
    assert not model.frozen.training

    def fail(batch):
        raise RuntimeError

    model.predict_proba = fail
    with pytest.raises(RuntimeError):
        predict_proba(model, cohort)
    assert model.dropout.training


def test_predict_proba_needs_no_labels(cohort):
    blind = Cohort(x={"labs": cohort.x["labs"]})
    p = predict_proba(Logit(), cohort)
    np.testing.assert_allclose(predict_proba(Logit(), blind), p, atol=1e-6)


class Trained(Logit):
    """A model that knows what it was made for, as those of dfdlib do."""

    def __init__(self, schema, k):
        super().__init__()
        self.schema, self.k = schema, k

    def predict_proba(self, batch):
        return (batch.x["labs"][:, :1] * torch.arange(self.k)).softmax(1)


def test_a_class_that_nobody_in_the_cohort_has_stays_a_class():
    three = make(y=np.arange(120) % 3)
    model = Trained(three.schema, 3)
    two = make(y=np.arange(120) % 2)  # reads as binary
    assert two.task == "binary"
    p = predict_proba(model, two)
    np.testing.assert_allclose(p, predict_proba(model, three))
    report = evaluate(model, two, n_boot=0)
    assert report.task == "multiclass"
    values = report.frame.set_index("metric")
    y = two.y.numpy().astype(int)
    assert values.loc["accuracy", "value"] == pytest.approx((p.argmax(1) == y).mean())
    assert values.loc["brier", "value"] == pytest.approx(((p - np.eye(3)[y]) ** 2).sum(1).mean())
    assert values.loc["auroc", "note"] == "nobody in class 2"
    named = Cohort(x=two.x, y=two.y, task="multiclass", groups=two.groups)
    same = evaluate(p, named, n_boot=0).frame
    pd.testing.assert_series_equal(same["value"], report.frame["value"])
    with pytest.raises(ValueError, match=r"expected \(120, 2\).*pass task='multiclass' to Cohort"):
        evaluate(p, two)


@pytest.mark.parametrize("y", [np.arange(120) % 4, np.arange(240).reshape(120, 2) % 2])
def test_labels_that_the_model_does_not_know_are_refused(y):
    model = Trained(make(y=np.arange(120) % 3).schema, 3)
    with pytest.raises(
        ValueError, match=r"made for a multiclass task with n_classes=3, the labels"
    ):
        evaluate(model, make(y=y))


def test_a_run_is_no_model(cohort):
    class Run:
        model = Logit()

    with pytest.raises(TypeError, match=r"Run is no torch module\. Pass its model: run\.model"):
        predict_proba(Run(), cohort)
    with pytest.raises(TypeError, match=r"Run is neither .*Pass its model: run\.model"):
        evaluate(Run(), cohort)


@pytest.mark.gpu
def test_predict_proba_moves_batches_to_the_model(cohort):
    model = Logit().to("cuda")
    np.testing.assert_allclose(predict_proba(model, cohort)[:, 1], sigmoid(cohort), atol=1e-6)
    assert evaluate(model, cohort, n_boot=0).device == torch.cuda.get_device_name()


# ------------------------------------------------------------------ evaluate


def test_values_are_those_of_sklearn(cohort):
    p, y = sigmoid(cohort), cohort.y.numpy()
    values = evaluate(p, cohort, n_boot=0).frame.set_index("metric")["value"]
    expected = {
        "auroc": roc_auc_score(y, p),
        "auprc": average_precision_score(y, p),
        "accuracy": accuracy_score(y, p > 0.5),
        "f1": f1_score(y, p > 0.5),
        "brier": brier_score_loss(y, p),
    }
    assert list(values.index) == list(METRICS)
    assert values.drop("ece").to_dict() == pytest.approx(expected, abs=1e-12)


def test_a_model_and_its_probabilities_give_one_report(cohort):
    model = Logit()
    p = predict_proba(model, cohort)
    reports = [evaluate(m, cohort, by="site", n_boot=50) for m in (model, p, p[:, 1])]
    pd.testing.assert_frame_equal(reports[0].frame, reports[1].frame)
    pd.testing.assert_frame_equal(reports[0].frame, reports[2].frame)


def test_levels_are_subsets_with_the_same_draws(cohort):
    p, y = sigmoid(cohort), cohort.y.numpy()
    report = evaluate(p, cohort, by=("site", "pattern", "sex"), n_boot=80, seed=4)
    frame = report.frame.set_index(["metric", "group", "level"])
    counts = np.vstack(list(patient_weights(60, 80, seed=4, chunk=80)))
    weights = counts[:, np.arange(120) // 2]
    masks = {
        ("site", "b"): cohort.groups["site"] == "b",
        ("pattern", "labs"): cohort.pattern == "labs",
        ("sex", "male"): (cohort.covariates["sex"] == "male").to_numpy(),
        ("all", "all"): np.ones(120, dtype=bool),
    }
    for key, mask in masks.items():
        row = frame.loc[("auroc", *key)]
        assert row["value"] == pytest.approx(roc_auc_score(y[mask], p[mask]))
        draws = [roc_auc_score(y[mask], p[mask], sample_weight=w[mask]) for w in weights]
        expected = ends(draws)
        np.testing.assert_allclose([row["low"], row["high"]], expected, atol=1e-12)
        assert row["n"] == mask.sum()
        assert row["n_pos"] == y[mask].sum()
        assert row["note"] == ""
    assert list(report.strata)[:5] == [("all", "all"), *(("site", s) for s in "abcd")]


def test_the_seed_decides_the_intervals(cohort):
    p = sigmoid(cohort)
    one, same, other = (evaluate(p, cohort, n_boot=50, seed=s).frame for s in (1, 1, 2))
    pd.testing.assert_frame_equal(one, same)
    assert (one["value"] == other["value"]).all()
    assert (one["low"] != other["low"]).any()


def test_no_replicates_no_intervals(cohort):
    frame = evaluate(sigmoid(cohort), cohort, n_boot=0).frame
    assert frame["value"].notna().all()
    assert frame[["low", "high"]].isna().all(axis=None)


def test_levels_of_mixed_types_are_strata():
    cohort = make(site=np.array([1, "a", 2] * 40, dtype=object), patient=np.arange(120))
    report = evaluate(sigmoid(cohort), cohort, by="site", n_boot=0)
    assert [level for _, level in report.strata] == ["all", "1", "2", "a"]
    assert report.frame["n"].unique().tolist() == [120, 40]


def test_small_and_one_class_levels_are_said_not_scored():
    site = np.repeat(["big", "ill", "small", "lone"], [60, 20, 9, 1])
    y = np.r_[np.arange(60) % 2, np.ones(20, int), np.arange(9) % 2, 1]
    cohort = make(90, y=y, site=site, patient=np.arange(90))
    report = evaluate(sigmoid(cohort), cohort, by="site", n_boot=100)
    frame = report.frame[report.frame["group"] == "site"].set_index("level")
    assert set(frame.loc["ill", "note"]) == {"one class: 20 of 20 positive"}
    assert set(frame.loc["small", "note"]) == {"only 9 patients"}
    assert set(frame.loc["lone", "note"]) == {"only 1 patient"}
    numbers = frame[["value", "low", "high"]]
    assert numbers.loc[["ill", "small", "lone"]].isna().all(axis=None)
    assert numbers.loc["big"].notna().all(axis=None)
    assert frame.loc["small", "n"].tolist() == [9] * 6
    assert frame.loc["ill", "n_pos"].tolist() == [20] * 6


def test_patients_are_counted_not_rows():
    cohort = make(40, patient=np.arange(40) // 5)
    report = evaluate(sigmoid(cohort), cohort)
    assert set(report.frame["note"]) == {"only 8 patients"}


def test_dropped_replicates_are_counted():
    y = np.zeros(40, int)
    y[:5] = 1
    cohort = make(40, y=y, patient=np.arange(40))
    frame = evaluate(sigmoid(cohort), cohort, n_boot=2000, seed=0).frame
    counts = np.vstack(list(patient_weights(40, 2000, seed=0, chunk=2000)))
    dropped = (counts[:, :5].sum(axis=1) == 0).sum()
    assert 2 < dropped < 25  # (35/40)^40 = 0.5 %
    assert set(frame["note"]) == {f"{dropped} of 2000 replicates lacked a class"}
    assert frame["low"].notna().all()


def test_a_rare_class_of_several_has_no_interval_but_two_large_ones_have():
    y = np.r_[np.arange(36) % 2, 2, 2, 2, 3]
    cohort = make(40, y=y, patient=np.arange(40))
    p = np.random.default_rng(0).dirichlet(np.ones(4), 40)
    report = evaluate(p, cohort, n_boot=200)
    frame = report.frame.set_index("metric")
    assert frame.loc[["auroc", "auprc", "f1"], "low"].isna().all()
    assert set(frame.loc[["auroc", "auprc", "f1"], "note"]) == {
        "fewer than 5 patients of class 2, 3: no interval"
    }
    assert frame.loc["accuracy", "low"] < frame.loc["accuracy", "value"]  # two classes are enough
    assert frame.loc["accuracy", "note"] == ""
    table = report.table()
    assert table["n by class"].tolist() == ["18, 18, 3, 1"]
    assert table["note"].tolist() == [
        "auroc, auprc, f1: fewer than 5 patients of class 2, 3: no interval"
    ]
    alone = make(40, y=np.r_[np.zeros(36, int), 1, 2, 2, 3], patient=np.arange(40))
    frame = evaluate(p, alone, n_boot=200).frame
    assert frame["value"].notna().all()
    assert frame["low"].isna().all()
    assert set(frame["note"]) == {"fewer than 5 patients of class 1, 2, 3: no interval"}


def rare(n, events, **options):
    """A cohort with so many events, the highest scores among them."""
    y = np.zeros(n, int)
    y[:events] = 1
    return make(n, y=y, **{"patient": np.arange(n)} | options)


@pytest.mark.parametrize("events", [1, 4, 36, 39])
def test_fewer_than_five_of_either_class_have_no_interval(events):
    cohort = rare(40, events)
    report = evaluate(sigmoid(cohort), cohort, n_boot=200)
    assert report.frame["value"].notna().all()
    assert report.frame[["low", "high"]].isna().all(axis=None)
    said = "events" if events < 5 else "rows without an event"
    assert set(report.frame["note"]) == {f"fewer than {MIN_EVENTS} {said}: no interval"}
    table = report.table("auroc")
    assert table[["n", "n_pos"]].to_numpy().tolist() == [[40, events]]
    assert "[" not in table["auroc"].iloc[0]


def test_five_events_are_enough_and_a_lone_one_that_scores_highest_is_no_certainty():
    five = rare(40, 5)
    assert evaluate(sigmoid(five), five, n_boot=200).frame["low"].notna().all()
    lone = rare(60, 1)
    p = np.r_[0.99, np.random.default_rng(0).random(59) * 0.9]
    assert evaluate(p, lone).table("auroc").iloc[0].tolist() == [
        "1.00", 60, 1, "fewer than 5 events: no interval"
    ]  # fmt: skip


def test_events_are_counted_by_patient():
    patient = np.r_[np.arange(12) // 4, np.arange(3, 31)]  # twelve events of three patients
    cohort = rare(40, 12, patient=patient)
    frame = evaluate(sigmoid(cohort), cohort, n_boot=200).frame
    assert frame["low"].isna().all()
    assert set(frame["note"]) == {"fewer than 5 patients with events: no interval"}
    other = make(40, y=1 - cohort.y.numpy().astype(int), patient=patient)
    notes = set(evaluate(sigmoid(other), other, n_boot=200).frame["note"])
    assert notes == {"fewer than 5 patients without an event: no interval"}


def test_few_events_in_one_level_leave_the_others_their_interval():
    y = np.r_[np.arange(40) % 2, np.arange(40) < 2].astype(int)
    cohort = make(80, y=y, site=np.repeat(["a", "b"], 40), patient=np.arange(80))
    table = evaluate(sigmoid(cohort), cohort, by="site", n_boot=200).table("brier")
    assert "[" in table.loc[("site", "a"), "brier"]
    assert "[" not in table.loc[("site", "b"), "brier"]
    assert table["note"].tolist() == ["", "", "fewer than 5 events: no interval"]
    assert table["n_pos"].tolist() == [22, 20, 2]


def test_a_label_of_few_has_no_interval():
    y = np.random.default_rng(0).integers(0, 2, (60, 3)).astype(float)
    y[:, 1] = np.arange(60) < 3
    y[50:, 2] = np.nan
    cohort = make(60, y=y, patient=np.arange(60))
    frame = evaluate(np.random.default_rng(1).random((60, 3)), cohort, n_boot=100).frame
    assert frame["value"].notna().all()
    assert frame["low"].isna().all()
    assert set(frame["note"]) == {"fewer than 5 patients with or without label 1: no interval"}


@pytest.mark.parametrize("turned", [False, True])
def test_perfect_separation_gets_an_exact_bound(turned):
    y = np.arange(60) < 20
    cohort = rare(60, 20)
    p = np.where(y != turned, 0.9, 0.1)
    report = evaluate(p, cohort, n_boot=200)
    frame = report.frame.set_index("metric")
    # Clopper and Pearson: of 20 independent pairs, and of 60 patients, all succeed
    expected = {"auroc": binomtest(20, 20), "accuracy": binomtest(60, 60)}
    for metric, test in expected.items():
        low, high = test.proportion_ci(method="exact")
        low, high = (1 - high, 1 - low) if turned else (low, high)
        np.testing.assert_allclose(frame.loc[metric, ["low", "high"]].astype(float), [low, high])
        edge = 0 if turned else 1
        assert frame.loc[metric, "note"] == (
            f"at the edge: the bootstrap cannot see beyond {edge}; exact bound instead"
        )
    if not turned:
        assert frame.loc[["auprc", "f1"], "low"].isna().all()
        assert set(frame.loc[["auprc", "f1"], "note"]) == {
            "at the edge: the bootstrap cannot see beyond 1: no interval"
        }
        assert report.table().loc[("all", "all"), "note"].startswith("auroc, accuracy: at the edge")
    assert frame.loc["brier", "note"] == "the replicates do not differ: no interval"


def test_an_exact_bound_counts_patients_once():
    """Each of 12 patients is seen well and ill: only six pairs share no patient."""
    y = np.arange(24) % 2
    cohort = make(24, y=y, patient=np.arange(24) // 2)
    row = evaluate(np.where(y == 1, 0.9, 0.1), cohort, n_boot=100).frame.set_index("metric")
    assert row.loc["auroc", "low"] == pytest.approx(0.025 ** (1 / 6))
    assert row.loc["accuracy", "low"] == pytest.approx(0.025 ** (1 / 12))


def test_replicates_that_do_not_differ_are_no_interval():
    cohort = rare(60, 20)
    frame = evaluate(np.full(60, 0.3), cohort, n_boot=100).frame.set_index("metric")
    assert frame.loc["auroc", "value"] == 0.5
    assert np.isnan(frame.loc["auroc", "low"])
    assert frame.loc["auroc", "note"] == "the replicates do not differ: no interval"
    assert frame.loc["f1", "value"] == 0
    assert frame.loc["f1", "note"] == "at the edge: the bootstrap cannot see beyond 0: no interval"
    assert frame.loc["brier", "low"] < frame.loc["brier", "high"]
    one = evaluate(sigmoid(cohort), cohort, n_boot=1)
    assert set(one.frame["note"]) == {"one replicate: no interval"}
    assert set(evaluate(sigmoid(cohort), cohort, n_boot=0).frame["note"]) == {""}


def test_two_ends_never_round_to_one_number():
    cohort = make(3000, y=np.arange(3000) % 2, patient=np.arange(3000))
    table = evaluate(np.where(np.arange(3000) % 2, 0.9, 0.1), cohort, n_boot=50).table("auroc")
    assert table["auroc"].tolist() == ["1.000 [0.998, 1.000]"]


def test_few_replicates_are_no_95_per_cent(cohort):
    def caption(n_boot):
        return evaluate(sigmoid(cohort), cohort, n_boot=n_boot).table().attrs["caption"]

    assert caption(0) == "With no intervals."
    assert caption(20) == "With the range of 20 replicates by patient, too few for 95 %."
    assert caption(39) == "With 95 % bootstrap intervals by patient (39 replicates)."


def test_rows_without_a_label_are_left_out_and_counted(cohort):
    y = cohort.y.numpy().copy()
    y[:20] = np.nan
    part = make(y=y)
    report = evaluate(sigmoid(part), part, by="site", n_boot=20)
    kept = cohort.select(np.arange(20, 120))
    expected = evaluate(sigmoid(part)[20:], kept, by="site", n_boot=20)
    columns = ["value", "low", "high", "n", "n_pos"]
    pd.testing.assert_frame_equal(report.frame[columns], expected.frame[columns])
    assert report.left_out == 20
    notes = report.frame.set_index("group")["note"]
    assert set(notes["all"]) == {"20 rows without a label left out"}
    assert set(notes["site"]) == {""}


def test_a_level_without_labels_is_said(cohort):
    y = cohort.y.numpy().copy()
    y[cohort.groups["site"] == "b"] = np.nan
    part = make(y=y)
    frame = evaluate(sigmoid(part), part, by="site", n_boot=20).frame.set_index("level")
    assert set(frame.loc["b", "note"]) == {"only 0 patients"}
    assert frame.loc["b", "n"].tolist() == [0] * 6


def test_multiclass_and_its_levels():
    y = np.arange(120) % 3
    site = np.repeat(["full", "two", "one"], 40)
    y[40:80] = y[40:80] % 2
    y[80:] = 1
    cohort = make(y=y, site=site)
    p = np.random.default_rng(0).dirichlet(np.ones(3), 120)
    frame = evaluate(p, cohort, by="site", n_boot=50).frame.set_index(["level", "metric"])
    assert frame.loc[("all", "auroc"), "value"] == pytest.approx(
        roc_auc_score(y, p, multi_class="ovr")
    )
    assert frame.loc[("all", "brier"), "value"] == pytest.approx(
        ((p - np.eye(3)[y]) ** 2).sum(axis=1).mean()
    )
    assert frame.loc[("two", "auroc"), "note"] == "nobody in class 2"
    assert np.isnan(frame.loc[("two", "f1"), "value"])
    two = slice(40, 80)
    assert frame.loc[("two", "accuracy"), "value"] == (p[two].argmax(axis=1) == y[two]).mean()
    assert set(frame.loc["one", "note"]) == {"one class: all 40 in class 1"}
    assert frame["n_pos"].isna().all()


def test_multilabel():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (120, 3)).astype(float)
    y[rng.random(y.shape) < 0.1] = np.nan
    y[0] = np.nan
    y[cohort_rows := np.arange(100, 120), 2] = 1
    site = np.where(np.isin(np.arange(120), cohort_rows), "z", "a")
    cohort = make(y=y, site=site)
    p = rng.random((120, 3))
    report = evaluate(p, cohort, by="site", n_boot=50)
    frame = report.frame.set_index(["level", "metric"])
    known = ~np.isnan(y)
    expected = np.mean([roc_auc_score(y[k, c], p[k, c]) for c, k in enumerate(known.T)])
    assert frame.loc[("all", "auroc"), "value"] == pytest.approx(expected)
    assert frame.loc[("all", "auroc"), "n_pos"] == np.nansum(y)
    assert report.left_out == 1
    assert frame.loc[("z", "auprc"), "note"] == "one class only in label 2"
    assert frame.loc[("z", "brier"), "value"] == pytest.approx(
        np.nanmean((p - y)[site == "z"] ** 2, axis=0).mean()
    )


def test_ages_are_cut_at_bands_or_tertiles(cohort):
    age = cohort.covariates["age"].to_numpy()
    bands = {"age": [0, 45, 60, 79]}
    report = evaluate(sigmoid(cohort), cohort, by="age", bands=bands, n_boot=0)
    assert [level for _, level in report.strata][1:] == ["[0, 45)", "[45, 60)", "[60, 79]"]
    np.testing.assert_array_equal(report.strata["age", "[60, 79]"], np.flatnonzero(age >= 60))
    np.testing.assert_array_equal(report.strata["age", "[0, 45)"], np.flatnonzero(age < 45))
    cut = evaluate(sigmoid(cohort), cohort, by="age", n_boot=0).strata
    low, high = np.quantile(age, [1 / 3, 2 / 3])
    names = ["all", f"< {low:g}", f"[{low:g}, {high:g})", f">= {high:g}"]
    assert [level for _, level in cut] == names
    np.testing.assert_array_equal(cut["age", names[3]], np.flatnonzero(age >= high))


def test_unknown_ages_and_few_values_are_levels():
    cohort = make()
    cohort.covariates["grade"] = np.r_[np.repeat([2.0, 1.0], 55), [np.nan] * 10]
    age = cohort.covariates["age"] = cohort.covariates["age"].astype(float)
    age[:12] = np.nan
    cohort.covariates["age"] = age
    strata = evaluate(sigmoid(cohort), cohort, by=("grade", "age"), n_boot=0).strata
    assert [level for group, level in strata if group == "grade"] == ["1.0", "2.0", "unknown"]
    np.testing.assert_array_equal(strata["age", "unknown"], np.arange(12))
    assert sum(len(rows) for (group, _), rows in strata.items() if group == "age") == 120


def test_categories_keep_their_order(cohort):
    stage = pd.Categorical(["late", "early"] * 60, categories=["early", "late", "never"])
    cohort.covariates["stage"] = stage
    strata = evaluate(sigmoid(cohort), cohort, by="stage", n_boot=0).strata
    assert [level for _, level in strata] == ["all", "early", "late"]


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (np.full(119, 0.5), r"shape \(119,\), expected \(120, 2\)"),
        (np.full((120, 3), 1 / 3), r"shape \(120, 3\), expected \(120, 2\)"),
        (np.full((120, 2), 0.4), "120 rows do not sum to 1, first row 0: sum 0.8"),
        (np.r_[np.nan, np.full(119, 0.5)], "of 1 rows are NaN or infinite, first row 0"),
        (np.r_[np.full(119, 0.5), 1.5], "outside 0 to 1 in 1 rows, first row 119.*torch.sigmoid"),
        (np.full((120, 2), -3.0), "outside 0 to 1"),
    ],
)
def test_refuses_what_are_no_probabilities(cohort, p, message):
    with pytest.raises(ValueError, match=message):
        evaluate(p, cohort)


def test_rounded_probabilities_pass_and_ties_stay(cohort):
    p = sigmoid(cohort).astype(np.float16)
    rough = np.column_stack([1 - p, p])
    assert evaluate(rough, cohort, n_boot=0).frame["value"].tolist() == (
        evaluate(p.astype(float), cohort, n_boot=0).frame["value"].tolist()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "sitee"}, "'sitee' is not a pattern, group or covariate .*mean 'site'"),
        ({"by": ("site", "sevrity")}, "'sevrity' is not a pattern, group or covariate"),
        ({"by": "age", "bands": {"agee": [0, 1]}}, "'agee' is not a name in by= .*mean 'age'"),
        ({"by": "age", "bands": {"age": [0, 90, 50]}}, "Pass rising edges"),
        (
            {"by": "age", "bands": {"age": [0, 50, 60]}},
            r"values of 'age' lie outside .*\. Widen the last edge",
        ),
        ({"by": "sex", "bands": {"sex": [0, 1]}}, "'sex' holds no numbers to cut"),
        ({"n_boot": -1}, "n_boot is -1. Pass a whole number, 0 or more, such as 1000"),
        ({"n_bins": 0}, "n_bins is 0. Pass a whole number, 1 or more"),
        ({"n_boot": True}, "n_boot is True. Pass a whole number, 0 or more"),
        ({"seed": -1}, "seed is -1. Pass a whole number, 0 or more"),
    ],
)
def test_refuses_options(cohort, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(sigmoid(cohort), cohort, **options)


def test_refuses_without_labels(cohort):
    blind = Cohort(x={"labs": cohort.x["labs"]})
    with pytest.raises(ValueError, match=r"no labels. Pass y= to Cohort, or call predict_proba"):
        evaluate(sigmoid(cohort), blind)
    empty = cohort.select(np.arange(120))
    empty.y = torch.full((120,), torch.nan)
    with pytest.raises(ValueError, match="every label is missing"):
        evaluate(sigmoid(cohort), empty)


def test_refuses_what_is_no_model(cohort):
    class Estimator:
        """scikit-learn's, by its interface."""

    with pytest.raises(TypeError, match=r"Estimator is neither .*model.predict_proba\(X\)"):
        evaluate(Estimator(), cohort)


# ------------------------------------------------------------------ Report


def test_table(cohort):
    report = evaluate(sigmoid(cohort), cohort, by="site", n_boot=50, selection="last epoch")
    table = report.table()
    assert table.columns.tolist() == [*METRICS, "n", "n_pos"]
    assert (
        table.loc[("site", "c"), "n_pos"] == (cohort.y.numpy()[cohort.groups["site"] == "c"]).sum()
    )
    assert table.index.tolist() == list(report.strata)
    row = report.frame.set_index(["metric", "level"]).loc[("brier", "c")]
    assert table.loc[("site", "c"), "brier"] == (
        f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    )
    assert table.attrs["selection"] == "last epoch"
    assert table.attrs["caption"] == (
        "With 95 % bootstrap intervals by patient (50 replicates). Model selection: last epoch."
    )
    assert report.table("auroc", digits=3).columns.tolist() == ["auroc", "n", "n_pos"]
    assert table.to_string().startswith("selection: last epoch")
    assert evaluate(sigmoid(cohort), cohort, n_boot=0).table().columns.name is None
    with pytest.raises(ValueError, match=r"'aurok' is not a metric .*mean 'auroc'"):
        report.table("aurok")


def test_the_rule_is_read_from_the_model_and_printed(cohort):
    model = Logit()
    assert evaluate(model, cohort, n_boot=0).selection == ""
    model.selection = "last epoch"  # as `fit` leaves it
    report = evaluate(model, cohort, n_boot=0)
    assert "selection: last epoch" in str(report.table("auroc"))
    assert "selection: last epoch" in report.table("auroc").to_html()
    assert evaluate(model, cohort, n_boot=0, selection="by hand").selection == "by hand"


def test_table_says_why_there_is_no_number():
    cohort = make(90, site=np.repeat(["a", "b"], [84, 6]), patient=np.arange(90))
    table = evaluate(sigmoid(cohort), cohort, by="site", n_boot=0).table()
    ill = int(cohort.y[84:].sum())
    assert table.loc[("site", "b")].tolist() == ["–"] * 6 + [6, ill, "only 6 patients"]
    assert table.loc[("site", "a"), "note"] == ""
    assert "[" not in table.loc[("site", "a"), "auroc"]


def test_save(cohort, tmp_path):
    report = evaluate(sigmoid(cohort), cohort, by="site", n_boot=50, selection="last epoch")
    parameters = {"dataset": "heart", "method": "ERM", "seed": 3}
    report.save(tmp_path / "a.json", claim="dfd-gain", parameters=parameters)
    stored = json.loads((tmp_path / "a.json").read_text())
    row = report.frame.iloc[0]
    assert stored["effect"] == row["value"]
    assert [stored["low"], stored["high"]] == [row["low"], row["high"]]
    assert stored["runs"] == [{"seed": 3, "value": row["value"]}]
    assert stored["dataset"] == "heart"
    assert stored["selection"] == "last epoch"
    assert stored["verdict"] == "undecided"
    assert stored["device"] == "cpu"
    where = {"metric": "brier", "group": "site", "level": "b"}
    report.save(tmp_path / "b.json", claim="dfd-gain", parameters={}, seed=7, **where)
    stored = json.loads((tmp_path / "b.json").read_text())
    assert stored["parameters"] == {"group": "site", "level": "b"}
    row = report.frame.set_index(["metric", "group", "level"]).loc[tuple(where.values())]
    assert stored["effect"] == row["value"]
    assert stored["seeds"] == [7]
    with pytest.raises(ValueError, match=r"'site=e' is not a level .*mean"):
        report.save(tmp_path / "c.json", claim="dfd-gain", parameters={}, group="site", level="e")
    with pytest.raises(ValueError, match="is not a claim"):
        report.save(tmp_path / "c.json", claim="dfd-gian", parameters={})


# ------------------------------------------------------------------ compare


def test_compare_is_paired_and_equals_a_loop(cohort):
    y, p, q = cohort.y.numpy(), sigmoid(cohort), sigmoid(cohort, noise=1.0)
    a, b = (evaluate(s, cohort, by="site", n_boot=0) for s in (p, q))
    frame = compare(a, b, n_boot=200, seed=5)
    assert frame.columns.tolist() == [
        *("metric", "group", "level", "difference", "low", "high", "p", "p_holm"),
        *("low_holm", "high_holm", "verdict", "n", "note"),
    ]
    weights = np.vstack(list(patient_weights(60, 200, seed=5, chunk=200)))[:, np.arange(120) // 2]
    row = frame.iloc[0]
    draws = [
        roc_auc_score(y, p, sample_weight=w) - roc_auc_score(y, q, sample_weight=w) for w in weights
    ]
    assert row["difference"] == pytest.approx(roc_auc_score(y, p) - roc_auc_score(y, q))
    np.testing.assert_allclose([row["low"], row["high"]], ends(draws), atol=1e-12)
    assert row["p"] == pytest.approx(2 * (1 + (np.array(draws) <= 0).sum()) / 201)
    assert frame["level"].tolist() == ["all", *"abcd"]
    assert frame["n"].sum() == 240
    # paired: much narrower than two intervals side by side
    alone = evaluate(p, cohort, n_boot=300).frame.iloc[0]
    near = evaluate(sigmoid(cohort, noise=0.05), cohort, n_boot=0)
    close = compare(evaluate(p, cohort, n_boot=0), near, n_boot=300).iloc[0]
    assert close["high"] - close["low"] < 0.5 * (alone["high"] - alone["low"])


def test_compare_draws_patients_and_seeds_together(cohort):
    y = cohort.y.numpy()
    ps = [sigmoid(cohort, noise=0.2, seed=s) for s in range(3)]
    qs = [sigmoid(cohort, noise=1.0, seed=10 + s) for s in range(3)]
    a, b = ([evaluate(p, cohort, n_boot=0) for p in part] for part in (ps, qs))
    row = compare(a, b, n_boot=80, seed=2).iloc[0]
    weights = np.vstack(list(patient_weights(60, 80, seed=2, chunk=80)))[:, np.arange(120) // 2]
    drawn = np.random.default_rng([2, 3]).multinomial(3, [1 / 3] * 3, size=80)
    gap = [
        [
            roc_auc_score(y, p, sample_weight=w) - roc_auc_score(y, q, sample_weight=w)
            for w in weights
        ]
        for p, q in zip(ps, qs, strict=True)
    ]
    draws = (drawn * np.transpose(gap)).sum(axis=1) / 3
    whole = [roc_auc_score(y, p) - roc_auc_score(y, q) for p, q in zip(ps, qs, strict=True)]
    assert row["difference"] == pytest.approx(np.mean(whole))
    np.testing.assert_allclose([row["low"], row["high"]], ends(draws), atol=1e-12)


def test_seeds_may_have_test_sets_of_their_own(cohort):
    parts = [cohort.split((0.5, 0.5), seed=s)[1] for s in range(2)]
    a = [evaluate(sigmoid(part), part, n_boot=0) for part in parts]
    b = [evaluate(sigmoid(part, noise=1.0), part, n_boot=0) for part in parts]
    row = compare(a, b, n_boot=100).iloc[0]
    gaps = [x.frame["value"][0] - z.frame["value"][0] for x, z in zip(a, b, strict=True)]
    assert row["difference"] == pytest.approx(np.mean(gaps))
    assert row["n"] == round(np.mean([len(part) for part in parts]))
    assert row["low"] < row["difference"] < row["high"]


def test_a_method_against_itself_differs_in_nothing(cohort):
    a = evaluate(sigmoid(cohort), cohort, n_boot=0)
    row = compare(a, a, n_boot=100).iloc[0]
    assert (row["difference"], row["p"], row["p_holm"]) == (0, 1, 1)
    assert row["verdict"] == "did not hold"


def test_levels_without_a_number_stay_out_of_the_correction():
    cohort = make(90, site=np.repeat(["a", "b"], [84, 6]), patient=np.arange(90))
    a, b = (evaluate(sigmoid(cohort, noise=s), cohort, by="site", n_boot=0) for s in (0.0, 1.0))
    frame = compare(a, b, n_boot=200).set_index("level")
    assert frame.loc["b", "note"] == "only 6 patients"
    assert frame.loc["b", ["difference", "low", "high", "p", "p_holm", "low_holm"]].isna().all()
    assert frame.loc["b", "verdict"] == "undecided"
    assert frame.loc["b", "n"] == 6
    tested = frame.loc[["all", "a"]]
    assert tested["p_holm"].min() == pytest.approx(min(1, 2 * tested["p"].min()))


def test_a_level_that_one_seed_lacks_has_no_number(cohort):
    other = make(seed=1, site=np.repeat(["a", "b", "c", "e"], 30))
    pairs = [
        [evaluate(sigmoid(c, noise=s), c, by="site", n_boot=0) for c in (cohort, other)]
        for s in (0.0, 1.0)
    ]
    notes = compare(*pairs, n_boot=200).set_index("level")["note"]
    assert notes.to_dict() == {
        **dict.fromkeys(["all", "a", "b", "c"], ""),
        "d": "no such level in report 1",
        "e": "no such level in report 0",
    }


def no_numbers(frame):
    numbers = ["difference", "low", "high", "p", "p_holm", "low_holm", "high_holm"]
    return frame[numbers].isna().all(axis=None) and set(frame["verdict"]) == {"undecided"}


@pytest.mark.parametrize(
    ("n", "y", "note"),
    [
        (8, np.arange(8) % 2, "only 8 patients"),
        (1, np.ones(1, int), "only 1 patient"),
        (40, np.ones(40, int), "one class: 40 of 40 positive"),
        (40, np.zeros(40, int), "one class: 0 of 40 positive"),
    ],
)
@pytest.mark.parametrize("n_boot", [0, 1, 50])
def test_where_nothing_can_be_scored_the_table_says_why(n, y, note, n_boot):
    cohort = make(n, y=y, patient=np.arange(n))
    a, b = (evaluate(p, cohort, by="site", n_boot=50) for p in (sigmoid(cohort), np.full(n, 0.5)))
    found = compare(a, b, metrics=METRICS, n_boot=n_boot)
    assert no_numbers(found)
    assert (found["note"] != "").all()
    assert set(found.loc[found["group"] == "all", "note"]) == {note}
    with pytest.raises(ValueError, match="n_boot is -5"):
        compare(a, b, n_boot=-5)


def test_compare_of_labels_that_nobody_has():
    y = np.random.default_rng(0).integers(0, 2, (40, 2)).astype(float)
    y[:, 1] = 0
    cohort = make(40, y=y, patient=np.arange(40))
    a, b = (evaluate(np.random.default_rng(s).random((40, 2)), cohort, n_boot=0) for s in (0, 1))
    found = compare(a, b, metrics=("auroc", "brier"), n_boot=100).set_index("metric")
    assert no_numbers(found.loc[["auroc"]])
    assert found.loc["auroc", "note"] == "one class only in label 1"
    assert np.isfinite(found.loc["brier", "difference"])
    assert np.isnan(found.loc["brier", "low"])
    assert found.loc["brier", "note"].startswith("fewer than 5 patients with or without label 1")


def test_compare_says_what_one_report_lacks():
    y = np.arange(60) % 3
    cohort = make(60, y=y, patient=np.arange(60))
    rng = np.random.default_rng(0)
    three, four = (evaluate(rng.dirichlet(np.ones(k), 60), cohort, n_boot=0) for k in (3, 4))
    for pair in ((three, four), (four, three)):
        found = compare(*pair, metrics=("auroc", "accuracy"), n_boot=100).set_index("metric")
        assert found.loc["auroc", "note"] == "nobody in class 3"
        assert np.isnan(found.loc["auroc", "difference"])
        assert found.loc["accuracy", ["difference", "low"]].notna().all()
    part = replace(three, frame=three.frame[three.frame["metric"] != "auroc"])
    found = compare(three, part, n_boot=100)
    assert no_numbers(found)
    assert found["note"].tolist() == ["no auroc in report 0"]
    none = replace(three, frame=three.frame.iloc[:0])
    assert no_numbers(compare(none, part, metrics=METRICS, n_boot=100))
    with pytest.raises(ValueError, match=r"metrics is empty\. Pass some of auroc"):
        compare(three, three, metrics=())


def test_few_events_give_a_difference_and_no_more():
    y = np.r_[np.arange(40) % 2, np.arange(40) < 4].astype(int)
    cohort = make(80, y=y, site=np.repeat(["a", "b"], 40), patient=np.arange(80))
    a, b = (evaluate(sigmoid(cohort, noise=s), cohort, by="site", n_boot=0) for s in (0.0, 1.0))
    found = compare(a, b, n_boot=200).set_index("level")
    assert found.loc["b", "note"] == "fewer than 5 events: no interval"
    assert np.isfinite(found.loc["b", "difference"])
    assert found.loc["b", ["low", "high", "p", "p_holm", "low_holm", "high_holm"]].isna().all()
    assert found.loc["b", "verdict"] == "undecided"
    alone = compare(a, b, n_boot=200).set_index("level").loc[["all", "a"], "p_holm"]
    assert alone.notna().all()


def test_a_difference_at_the_edge_is_no_certainty():
    y = np.arange(60) % 2
    cohort = make(60, y=y, patient=np.arange(60))
    perfect, other, flat, noisy = (
        evaluate(p, cohort, n_boot=0)
        for p in (0.1 + 0.8 * y, 0.3 + 0.4 * y - 0.001 * np.arange(60), np.full(60, 0.5),
                  sigmoid(cohort, noise=3.0))
    )  # fmt: skip
    edge = "at the edge: the bootstrap cannot see beyond 1"
    for pair, difference, note in (
        ((perfect, flat), 0.5, f"a is {edge}"),
        ((other, perfect), 0, f"a is {edge}; b is {edge}"),
    ):
        row = compare(*pair, n_boot=100).iloc[0]
        assert row["difference"] == difference
        assert row[["low", "high", "p", "low_holm"]].isna().all()
        assert row["verdict"] == "undecided"
        assert row["note"] == f"{note}; the replicates do not differ: no interval"
    row = compare(noisy, perfect, n_boot=100).iloc[0]
    assert row["low"] < row["high"] < 0
    assert row["note"] == f"b is {edge}"
    raised = evaluate(sigmoid(cohort, noise=3.0) ** 2, cohort, n_boot=0)
    row = compare(noisy, raised, n_boot=100).iloc[0]  # the same order: the same AUROC, for sure
    assert row[["difference", "low", "high"]].tolist() == [0, 0, 0]
    assert row["p"] == 1


def test_p_value_by_hand():
    draws = np.r_[np.full(2, -1.0), np.full(97, 1.0), [np.nan] * 5]
    assert two_sided_p_value(draws) == 2 * 3 / 100
    assert two_sided_p_value(np.ones(99)) == 2 / 100
    assert two_sided_p_value(-np.ones(99)) == 2 / 100
    assert two_sided_p_value(np.zeros(99)) == 1


def test_holm_by_hand():
    # the textbook's four: 4 × .005, 3 × .01, 2 × .03, then no smaller than the one before
    adjusted, levels = holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005]), 0.05)
    np.testing.assert_allclose(adjusted, [0.03, 0.06, np.nan, 0.06, 0.02])
    # .03 is not rejected at .05 / 2, and there the step stands still
    np.testing.assert_allclose(levels, [0.05 / 3, 0.05 / 2, 0.05, 0.05 / 2, 0.05 / 4])
    adjusted, levels = holm(np.array([0.001, 0.002, 0.04]), 0.05)
    np.testing.assert_allclose(adjusted, [0.003, 0.004, 0.04])
    np.testing.assert_allclose(levels, [0.05 / 3, 0.05 / 2, 0.05])
    np.testing.assert_array_equal(holm(np.full(2, np.nan), 0.05)[0], [np.nan, np.nan])


def test_adjusted_intervals_agree_with_adjusted_p():
    cohort = make(400)
    a = evaluate(sigmoid(cohort), cohort, by=("site", "sex"), n_boot=0)
    b = evaluate(sigmoid(cohort, noise=1.0), cohort, by=("site", "sex"), n_boot=0)
    frame = compare(a, b, metrics=METRICS, n_boot=3000)
    outside = (frame["low_holm"] > 0) | (frame["high_holm"] < 0)
    assert (outside == (frame["p_holm"] <= 0.05)).all()
    assert outside.any()
    assert not outside.all()
    assert (frame["low_holm"] <= frame["low"]).all()
    assert (frame["high_holm"] >= frame["high"]).all()


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.02, 0.05, "held"),
        (-0.005, 0.005, "did not hold"),  # inside ± margin
        (-0.05, -0.02, "did not hold"),  # on the other side
        (-0.05, 0.005, "did not hold"),  # both: what is claimed is ruled out
        (0.005, 0.05, "undecided"),
        (-0.05, 0.05, "undecided"),
        (np.nan, np.nan, "undecided"),
    ],
)
def test_verdict(low, high, expected):
    assert verdict("auroc", low, high, 0.01) == expected
    assert verdict("brier", -high, -low, 0.01) == expected  # lower is better


def test_verdicts_of_compare(cohort):
    y = cohort.y.numpy()
    good, poor = 0.1 + 0.8 * y, sigmoid(cohort, noise=3.0)
    a, b = (evaluate(p, cohort, n_boot=0) for p in (good, poor))
    both = {"metrics": ("auroc", "brier"), "n_boot": 200}
    assert compare(a, b, margin=0.05, **both)["verdict"].tolist() == ["held", "held"]
    assert compare(b, a, margin=0.05, **both)["verdict"].tolist() == ["did not hold"] * 2
    assert (compare(a, b, margin=0.9, **both)["verdict"] == "did not hold").all()
    gap = compare(a, b, n_boot=200).iloc[0]["difference"]
    assert compare(a, b, margin=gap, n_boot=200)["verdict"].tolist() == ["undecided"]


def test_too_few_replicates_are_said(cohort):
    a = evaluate(sigmoid(cohort), cohort, by="site", n_boot=0)
    with pytest.warns(
        UserWarning, match=r"100 replicates are too few .* of 5 rows. Pass n_boot=200"
    ):
        frame = compare(a, a, n_boot=100)
    assert frame["low"].notna().all()
    assert frame["low_holm"].isna().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("auroc", "auc")}, "'auc' is not a metric"),
        ({"margin": -1}, "margin is -1. Pass the smallest difference"),
        ({"alpha": 5.0}, "alpha is 5.0. Pass a number between 0 and 1"),
        ({"n_boot": -5}, "n_boot is -5"),
    ],
)
def test_compare_refuses_options(cohort, options, message):
    a = evaluate(sigmoid(cohort), cohort, n_boot=0)
    with pytest.raises(ValueError, match=message):
        compare(a, a, **options)


def test_compare_refuses_what_is_not_paired(cohort):
    a = evaluate(sigmoid(cohort), cohort, n_boot=0)
    part = cohort.select(np.arange(100))
    shorter = evaluate(sigmoid(part), part, n_boot=0)
    turned = cohort.select(np.arange(120)[::-1].copy())
    relabelled = make(y=1 - cohort.y.numpy().astype(int))
    with pytest.raises(ValueError, match=r"of different patients .120 and 100 rows.*same cohort"):
        compare(a, shorter)
    with pytest.raises(ValueError, match="reports 1 are of different patients"):
        compare([a, a], [a, evaluate(sigmoid(turned), turned, n_boot=0)])
    with pytest.raises(ValueError, match="of different patients"):
        compare(a, evaluate(sigmoid(relabelled), relabelled, n_boot=0))
    with pytest.raises(ValueError, match=r"a has 1 reports, b has 2. Pass one of each per seed"):
        compare(a, [a, a])
    with pytest.raises(ValueError, match="a has 0 reports"):
        compare([], [])
    coarse = evaluate(sigmoid(cohort), cohort, n_boot=0, n_bins=5)
    with pytest.raises(ValueError, match=r"n_bins 5 and 10, which alone changes ece.*same n_bins="):
        compare(a, coarse, metrics=("auroc", "ece"))
    assert compare(a, coarse, n_boot=50)["difference"].tolist() == [0]
    with pytest.raises(ValueError, match=r"different levels. Evaluate both with the same by="):
        compare(a, evaluate(sigmoid(cohort), cohort, by="site", n_boot=0))
    three = make(y=np.arange(120) % 3)
    other = evaluate(np.full((120, 3), 1 / 3), three, n_boot=0)
    with pytest.raises(ValueError, match=r"of tasks binary and multiclass. Pass one task"):
        compare(a, other)


# ------------------------------------------------------------------ harnesses


def seen(log):
    def fit_predict(train, test):
        log.append((set(train.x["labs"][:, 0].tolist()), test))
        return 1 / (1 + np.exp(-test.x["labs"][:, 0].numpy().astype(float)))

    return fit_predict


def test_out_of_group_is_in_order_and_trains_on_the_others():
    cohort = make(patient=np.arange(120))
    log = []
    p = out_of_group(cohort, "site", seen(log))
    np.testing.assert_allclose(p[:, 1], sigmoid(cohort))
    assert p.shape == (120, 2)
    assert len(log) == 4
    for train, test in log:
        assert len(set(test.groups["site"])) == 1
        assert not train & set(test.x["labs"][:, 0].tolist())
        assert len(train) + len(test) == 120


@pytest.mark.parametrize("within", [None, "site"])
def test_out_of_fold_keeps_patients_whole(within):
    cohort = make(240, site=np.repeat(["a", "b"], 120))
    log = []
    p = out_of_fold(cohort, seen(log), within=within, folds=4)
    np.testing.assert_allclose(p[:, 1], sigmoid(cohort))
    assert len(log) == (8 if within else 4)
    value = dict(zip(cohort.x["labs"][:, 0].tolist(), range(240), strict=True))
    for train, test in log:
        rows = [value[v] for v in train]
        assert not set(cohort.groups["patient"][rows]) & set(test.groups["patient"])
        sites = set(cohort.groups["site"][rows]) | set(test.groups["site"])
        assert len(sites) == (1 if within else 2)
        share = test.y.mean() - cohort.y.mean()  # classes are shared out about evenly
        assert abs(share) < 0.15


def test_out_of_fold_follows_the_seed_and_other_groups(cohort):
    def tests(**options):
        log = []
        out_of_fold(cohort, seen(log), folds=3, **options)
        return [test.groups["patient"].tolist() for _, test in log]

    assert tests(seed=0) == tests(seed=0)
    assert tests(seed=0) != tests(seed=1)
    whole = make(patient=np.arange(120))
    log = []
    out_of_fold(whole, seen(log), by="site", folds=2)
    sites = [set(test.groups["site"]) for _, test in log]
    assert not sites[0] & sites[1]


def test_out_of_fold_of_other_tasks():
    y = np.arange(120) % 3
    cohort = make(y=y)
    p = out_of_fold(cohort, lambda train, test: np.full((len(test), 3), 1 / 3))
    assert p.shape == (120, 3)
    labels = np.random.default_rng(0).integers(0, 2, (120, 4)).astype(float)
    p = out_of_fold(make(y=labels), lambda train, test: np.full((len(test), 4), 0.9))
    assert (p == 0.9).all()
    few = make(6, y=np.arange(6) % 3, patient=np.arange(6))  # every class is smaller than that
    p = out_of_fold(few, lambda train, test: np.full((len(test), 3), 1 / 3), folds=6)
    assert np.isfinite(p).all()
    rare = np.r_[[1, 1], np.zeros(118, int)]  # fewer cases than folds
    p = out_of_fold(make(y=rare), lambda train, test: np.full(len(test), 0.1), folds=10)
    np.testing.assert_allclose(p[:, 1], 0.1)


def test_harnesses_refuse(cohort):
    def half(train, test):
        return np.full(len(test), 0.5)

    with pytest.raises(ValueError, match=r"'sit' is not a group .*mean 'site'"):
        out_of_group(cohort, "sit", half)
    with pytest.raises(ValueError, match="patients would stand in two parts"):
        out_of_group(cohort, "site", half)
    with pytest.raises(ValueError, match=r"'site' has one level, 'a'. Use out_of_fold"):
        out_of_group(make(site=np.full(120, "a")), "site", half)
    with pytest.raises(ValueError, match=r"'patinet' is not a group .*mean 'patient'"):
        out_of_fold(cohort, half, by="patinet")
    with pytest.raises(ValueError, match="'hospital' is not a group"):
        out_of_fold(cohort, half, within="hospital")
    with pytest.raises(ValueError, match=r"^\d+ patients are in several levels of 'site'. Pass"):
        out_of_fold(cohort, half, by="site")
    with pytest.raises(ValueError, match=r"folds is 61, with 60 to share out. Pass 2 to 60"):
        out_of_fold(cohort, half, folds=61)
    with pytest.raises(ValueError, match="folds is 1"):
        out_of_fold(cohort, half, folds=1)
    with pytest.raises(ValueError, match=r"shape \(3,\), expected"):
        out_of_fold(cohort, lambda train, test: np.full(3, 0.5))
    lone = make(y=np.r_[[2] * 5, np.arange(115) % 2], site=np.repeat(["va", "x"], [5, 115]),
                patient=np.arange(120))  # fmt: skip
    with pytest.raises(
        ValueError, match=r"\(5, 2\) for 3 classes: no row to train on is of class 2"
    ):
        out_of_group(lone, "site", lambda train, test: np.full((len(test), 2), 0.5))


# ------------------------------------------------------------------ cost


def test_memory_does_not_grow_with_the_replicates():
    cohort = make(2000, patient=np.arange(2000))
    p = sigmoid(cohort)
    evaluate(p, cohort, n_boot=1)
    peaks = []
    for n_boot in (200, 2000):
        tracemalloc.start()
        evaluate(p, cohort, n_boot=n_boot)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]

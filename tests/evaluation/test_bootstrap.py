"""The weighted forms against scikit-learn, and the bootstrap against known coverage."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    roc_auc_score,
)

from dfdlib.evaluation.bootstrap import (
    METRICS,
    WeightedMetrics,
    bootstrap,
    check_whole,
    interval,
    patient_weights,
)


def probabilities(rng, n, k, *, ties):
    p = rng.dirichlet(np.ones(k), size=n)
    if ties:  # a coarse grid: many equal scores, within and across classes
        p = np.round(p * 8) + 1
        p /= p.sum(axis=1, keepdims=True)
    return p


def weights(rng, b, n):
    """Counts as a bootstrap draws them, zeros included, and a row of fractions."""
    w = rng.poisson(1.0, size=(b, n)).astype(float)
    w[0] = rng.random(n)
    return w


def ece(p, y, w, n_bins=10):
    """Bin by bin, as a textbook writes it."""
    edges, total = np.linspace(0, 1, n_bins + 1), 0.0
    for b in range(n_bins):
        rows = (p > edges[b]) & (p <= edges[b + 1]) | ((b == 0) & (p == 0))
        if w[rows].sum():
            gap = np.average(p[rows], weights=w[rows]) - np.average(y[rows], weights=w[rows])
            total += w[rows].sum() / w.sum() * abs(gap)
    return total


def column_scores(y, s, w):
    """scikit-learn on one 0/1 column."""
    d = s > 0.5
    return {
        "auroc": roc_auc_score(y, s, sample_weight=w),
        "auprc": average_precision_score(y, s, sample_weight=w),
        "accuracy": accuracy_score(y, d, sample_weight=w),
        "f1": f1_score(y, d, sample_weight=w),
        "brier": brier_score_loss(y, s, sample_weight=w),
        "ece": ece(s, y, w),
    }


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_binary_replicates_equal_sklearn(ties, seed):
    rng = np.random.default_rng(seed)
    p, y = probabilities(rng, 80, 2, ties=ties), rng.integers(0, 2, 80).astype(float)
    w = weights(rng, 6, 80)
    got = WeightedMetrics(y, p, task="binary").replicates(w)
    for row, weight in zip(got, w, strict=True):
        expected = column_scores(y, p[:, 1], weight)
        np.testing.assert_allclose(row, [expected[m] for m in METRICS], rtol=0, atol=1e-10)


@pytest.mark.parametrize("ties", [False, True])
def test_multiclass_replicates_equal_sklearn(ties):
    rng = np.random.default_rng(1)
    p, y = probabilities(rng, 90, 4, ties=ties), rng.integers(0, 4, 90)
    w = weights(rng, 6, 90)
    got = WeightedMetrics(y.astype(float), p, task="multiclass").replicates(w)
    top, onehot = p.argmax(axis=1), np.eye(4)[y]
    for row, weight in zip(got, w, strict=True):
        expected = {
            "auroc": roc_auc_score(y, p, multi_class="ovr", sample_weight=weight),
            "auprc": average_precision_score(onehot, p, sample_weight=weight),
            "accuracy": accuracy_score(y, top, sample_weight=weight),
            "f1": f1_score(y, top, average="macro", sample_weight=weight),
            "brier": brier_score_loss(y, p, sample_weight=weight),
            "ece": ece(p.max(axis=1), (top == y).astype(float), weight),
        }
        np.testing.assert_allclose(row, [expected[m] for m in METRICS], rtol=0, atol=1e-10)


@pytest.mark.parametrize("ties", [False, True])
def test_multilabel_replicates_are_means_over_labels_that_are_known(ties):
    rng = np.random.default_rng(2)
    p, y = rng.random((90, 3)), rng.integers(0, 2, (90, 3)).astype(float)
    p = np.round(p, 1) if ties else p
    y[rng.random((90, 3)) < 0.2] = np.nan
    w = weights(rng, 6, 90)
    got = WeightedMetrics(y, p, task="multilabel").replicates(w)
    for row, weight in zip(got, w, strict=True):
        scores = [
            column_scores(y[known, c], p[known, c], weight[known])
            for c, known in enumerate(~np.isnan(y).T)
        ]
        expected = [np.mean([score[m] for score in scores]) for m in METRICS]
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_values_equal_replicates_of_unit_weight(task):
    rng = np.random.default_rng(3)
    k = {"binary": 2, "multiclass": 3, "multilabel": 3}[task]
    p = probabilities(rng, 60, k, ties=True)
    y = rng.integers(0, k if task == "multiclass" else 2, (60, 3 if task == "multilabel" else 1))
    metrics = WeightedMetrics(np.squeeze(y.astype(float)), p, task=task)
    once = metrics.replicates(np.ones((1, 60)))[0]
    np.testing.assert_allclose(list(metrics.values().values()), once, rtol=0, atol=1e-10)


def test_weight_equals_repetition():
    rng = np.random.default_rng(4)
    p, y = probabilities(rng, 40, 2, ties=True), rng.integers(0, 2, 40).astype(float)
    times = rng.integers(0, 4, 40)
    weighted = WeightedMetrics(y, p, task="binary").replicates(times[None].astype(float))[0]
    repeated = WeightedMetrics(y.repeat(times), p.repeat(times, axis=0), task="binary").values()
    np.testing.assert_allclose(weighted, list(repeated.values()), atol=1e-12)


def test_all_scores_equal_is_chance():
    y = np.array([0.0, 1, 1, 0, 1])
    got = WeightedMetrics(y, np.full((5, 2), 0.5), task="binary").values()
    assert got["auroc"] == 0.5
    assert got["auprc"] == pytest.approx(3 / 5)


def test_ece_by_hand():
    # bins (0.2, 0.3]: two patients at 0.25 and 0.3, one ill: |0.55 - 1| = 0.45
    # bin (0.8, 0.9]: 0.9 and 0.85, both ill: |1.75 - 2| = 0.25; bin [0, 0.1]: 0, healthy: 0
    s, y = np.array([0.25, 0.3, 0.9, 0.85, 0.0]), np.array([0.0, 1, 1, 1, 0])
    got = WeightedMetrics(y, np.column_stack([1 - s, s]), task="binary").values()["ece"]
    assert got == pytest.approx((0.45 + 0.25) / 5)


def test_ece_of_several_classes_takes_the_predicted_class():
    p = np.array([[0.6, 0.3, 0.1], [0.2, 0.55, 0.25], [0.15, 0.1, 0.75]])
    y = np.array([0.0, 2, 2])  # right, wrong, right
    got = WeightedMetrics(y, p, task="multiclass", n_bins=2).values()["ece"]
    assert got == pytest.approx(abs((0.6 + 0.55 + 0.75) - 2) / 3)


def test_ece_bins_are_those_of_sklearn():
    rng = np.random.default_rng(5)
    s, y = np.round(rng.random(300), 1), rng.integers(0, 2, 300).astype(float)
    share, mean = calibration_curve(y, s, n_bins=5)
    count = np.histogram(np.ceil(np.maximum(s, 1e-9) * 5 - 1e-9), bins=np.arange(0.5, 6))[0]
    expected = (np.abs(share - mean) * count).sum() / 300
    got = WeightedMetrics(y, np.column_stack([1 - s, s]), task="binary", n_bins=5).values()["ece"]
    assert got == pytest.approx(expected)


def test_one_class_is_nan():
    p = np.full((4, 2), 0.5)
    metrics = WeightedMetrics(np.array([0.0, 0, 1, 1]), p, task="binary")
    got = metrics.replicates(np.array([[1.0, 1, 1, 1], [2, 2, 0, 0], [0, 0, 2, 2], [0, 0, 0, 0]]))
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1:]).all()


def test_absent_class_leaves_what_needs_no_class():
    p = np.eye(3)[[0, 1, 2, 0]] * 0.7 + 0.1
    metrics = WeightedMetrics(np.array([0.0, 1, 2, 0]), p, task="multiclass")
    got = metrics.replicates(np.array([[1.0, 1, 0, 1], [1, 0, 0, 1]]))
    assert np.isnan(got[0]).tolist() == [True, True, False, True, False, False]
    assert np.isnan(got[1]).all()


def test_patient_weights_draw_whole_patients_in_one_stream():
    whole = np.vstack(list(patient_weights(7, 50, seed=3, chunk=50)))
    parts = np.vstack(list(patient_weights(7, 50, seed=3, chunk=8)))
    np.testing.assert_array_equal(whole, parts)
    assert (whole.sum(axis=1) == 7).all()
    assert whole.mean() == 1
    # each count is binomial(7, 1/7): variance 6/7
    many = next(patient_weights(7, 20_000, seed=0, chunk=20_000))
    np.testing.assert_allclose(many.var(axis=0), 6 / 7, atol=0.03)


def test_bootstrap_equals_a_loop_over_resampled_rows():
    rng = np.random.default_rng(6)
    patient = np.repeat(np.arange(30), 2)
    p, y = probabilities(rng, 60, 2, ties=True), rng.integers(0, 2, 60).astype(float)
    got = bootstrap(
        [(WeightedMetrics(y, p, task="binary"), patient)], n_patients=30, n_boot=20, seed=9
    )[0]
    counts = np.vstack(list(patient_weights(30, 20, seed=9, chunk=20))).astype(int)
    for row, count in zip(got, counts, strict=True):
        rows = np.repeat(np.arange(60), count[patient])
        assert row[0] == pytest.approx(roc_auc_score(y[rows], p[rows, 1]), abs=1e-12)


def test_interval_drops_undefined_replicates_up_to_half():
    draws = np.arange(100.0)
    draws[60:] = np.nan
    assert interval(draws) == (0, 59)  # k = floor(0.025 × 61) = 1
    assert interval(np.arange(1.0, 1000.0), alpha=0.1) == (50, 950)
    draws[40:] = np.nan
    assert np.isnan(interval(draws)).all()
    assert np.isnan(interval(np.zeros(0))).all()


def test_interval_of_what_does_not_differ_is_none():
    assert np.isnan(interval(np.ones(1000))).all()
    assert np.isnan(interval(np.ones(1))).all()
    rounded = np.r_[np.full(500, 0.1 + 0.2), np.full(500, 0.3)]
    assert np.isnan(interval(rounded)).all()
    nearly = np.r_[np.full(990, 1.0), np.full(10, 0.9)]  # 95 % of them are one value
    assert np.isnan(interval(nearly)).all()
    assert interval(np.r_[np.full(960, 1.0), np.full(40, 0.9)]) == (0.9, 1.0)


@pytest.mark.parametrize("value", ["9", 2.5, True, None, -1, np.float64(3)])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(
        ValueError, match=r"n_boot is .*\. Pass a whole number, 0 or more, such as 9"
    ):
        check_whole("n_boot", value, 0, "9")
    check_whole("n_boot", np.int64(3), 0, "9")


def test_interval_covers_and_needs_the_patients():
    """Two visits per patient, the second a copy: 95 % by patient, far less if rows are drawn."""
    rng = np.random.default_rng(0)
    truth, hits = norm.cdf(1 / np.sqrt(2)), np.zeros(2)  # binormal, one standard deviation apart
    for trial in range(300):
        y = rng.integers(0, 2, 100).astype(float)
        s = norm.cdf(y - 0.5 + rng.normal(size=100)).repeat(2)
        metrics = WeightedMetrics(y.repeat(2), np.column_stack([1 - s, s]), task="binary")
        for way, codes in enumerate([np.arange(100).repeat(2), np.arange(200)]):
            draws = bootstrap(
                [(metrics, codes)], n_patients=len(set(codes)), n_boot=200, seed=trial
            )
            low, high = interval(draws[0, :, 0])
            hits[way] += low <= truth <= high
    by_patient, by_row = hits / 300
    assert 0.91 <= by_patient <= 0.98
    assert by_row < 0.88

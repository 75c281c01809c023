"""Paired t intervals against scipy's t test, and where nothing spreads."""

import numpy as np
import pytest
from scipy import stats

from dfdlib.evaluation.compare import paired_intervals

EACH = np.random.default_rng(0).normal([[0.05], [0.02], [0.0]], 0.02, (3, 7))


def test_one_row_is_the_interval_of_the_t_test():
    row = paired_intervals(EACH[:1], margin=0.01, alpha=0.1).iloc[0]
    test = stats.ttest_1samp(EACH[0], 0)
    assert row["p_holm"] == pytest.approx(test.pvalue)
    assert (row["low"], row["high"]) == pytest.approx(tuple(test.confidence_interval(0.9)))
    assert row["each"] == EACH[0].tolist()


def test_several_rows_share_the_level():
    """Of three, the first two rejected by hand: p times 3 and 2, levels 1 - alpha / 3 and / 2."""
    frame = paired_intervals(EACH, margin=0.0, names=["a", "b", "c"])
    tests = [stats.ttest_1samp(row, 0) for row in EACH]
    order = np.argsort([test.pvalue for test in tests])
    adjusted = [tests[k].pvalue * (3 - place) for place, k in enumerate(order)]
    assert frame["p_holm"].to_numpy()[order] == pytest.approx(np.maximum.accumulate(adjusted))
    first = tests[order[0]].confidence_interval(1 - 0.05 / 3)
    assert frame["low"].iloc[order[0]] == pytest.approx(first.low)
    assert frame.index.tolist() == ["a", "b", "c"]


def test_seeds_that_agree_leave_one_point_and_no_division_by_nothing():
    with np.errstate(all="raise"):
        frame = paired_intervals(np.array([[0.03] * 5, [0.0] * 5]), margin=0.02)
    assert frame["low"].tolist() == pytest.approx([0.03, 0.0], abs=1e-10)
    assert frame["high"].tolist() == pytest.approx([0.03, 0.0], abs=1e-10)
    assert frame["p_holm"].iloc[0] < 1e-9
    assert frame["p_holm"].iloc[1] == 1
    assert frame["verdict"].tolist() == ["held", "did not hold"]


def test_an_error_that_all_seeds_share_adds_in_squares():
    row = paired_intervals(np.array([[0.1] * 5]), margin=0.0, shared=[0.01]).iloc[0]
    assert row["high"] - 0.1 == pytest.approx(stats.t.isf(0.025, 4) * 0.01)


def test_less_is_better_of_some_metrics():
    each = -np.abs(EACH[:1])
    assert paired_intervals(each, margin=0.0, metric="brier")["verdict"].tolist() == ["held"]
    assert paired_intervals(each, margin=0.0)["verdict"].tolist() == ["did not hold"]


def test_one_seed_has_no_interval():
    with pytest.raises(ValueError, match=r"needs 2 differences a row, got 1. Pass one per seed"):
        paired_intervals(EACH[:, :1], margin=0.0)

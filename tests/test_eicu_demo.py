"""What the grid on the eICU demo declares, and what may leave it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from dfdlib.data import Cohort

WORKFLOW = Path(__file__).parents[1] / "workflow"


@pytest.fixture(scope="module")
def grid():
    sys.path.insert(0, str(WORKFLOW))
    import eicu_demo

    yield eicu_demo
    sys.path.remove(str(WORKFLOW))


def test_declarations_name_what_exists(grid):
    given = grid.SETTINGS
    parts = given["parts"]
    assert {part["cohort"] for part in parts.values()} == set(given["cohorts"])
    # nothing is kept for later
    assert {name for part in parts.values() for name in part["methods"]} == set(given["methods"])
    for answer in given["answers"]:
        for part in answer["parts"]:
            assert {*answer["methods"], answer["minus"]} <= set(parts[part]["methods"])
    assert set(given["scores"]) <= set(parts)


def test_few_are_not_told(grid):
    told = grid.eicu_demo_data
    few, many = np.arange(40) < 9, np.arange(40) < 10
    assert told.count(few, 10) is None
    assert told.count(many, 10) == 10
    assert told.count(np.zeros(40, bool), 10) == 0
    assert told.share(many, 10) == 0.25
    # neither the few, nor those whom the few leave over, nor a share of a few
    assert told.share(few, 10) is None
    assert told.share(~few, 10) is None
    assert told.share(np.zeros(9, bool), 10) is None
    assert told.share(np.ones(40, bool), 10) == 1


def test_what_is_hidden_is_not_what_is_left(grid):
    told = grid.eicu_demo_data
    there, died = np.arange(60) < 40, np.arange(60) % 2 == 0
    # all who died are known, so 9 of those who are missing hide the others too
    died[58] = False
    assert told.by_presence(there, died, 10) == {
        "observed": pytest.approx(2 / 3),
        "mortality where observed": None,
        "mortality where missing": None,
    }
    died[58] = True
    assert told.by_presence(there, died, 10)["mortality where missing"] == 0.5
    assert told.by_presence(there | True, died, 10)["mortality where observed"] == 0.5


def test_a_patient_of_two_regions_is_on_no_side(grid):
    cohort = Cohort(
        x={"age": np.arange(4.0)},
        y=[0, 1, 0, 1],
        groups={"patient": ["a", "a", "b", "b"], "region": ["South", "West", "West", "West"]},
    )
    kept = grid.eicu_demo_data.in_one_region(cohort)
    assert kept.groups["patient"].tolist() == ["b", "b"]


def test_a_contrast_is_the_difference_of_scores(grid):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    cohort = Cohort(x={"age": np.arange(200.0)}, y=y)
    good = [0.3 * y + 0.7 * rng.random(200) for _ in range(3)]
    flat = [rng.random(200) for _ in range(3)]
    found = {"good": good, "flat": flat}
    each, draws = grid._contrast(cohort, [(1, cohort, good), (-1, cohort, flat)])
    row = grid._difference(cohort, found, "good", "flat")
    assert each == pytest.approx(row["each"])
    assert np.mean(each) == pytest.approx(row["effect"])
    assert grid.interval(draws) == pytest.approx((row["low"], row["high"]), abs=0.02)

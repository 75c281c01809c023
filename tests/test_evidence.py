"""The cohorts and the declarations behind DFD's evidence grid."""

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

WORKFLOW = Path(__file__).parents[1] / "workflow"
GIVEN = {"seed": 0, "n": 6000, "n_test": 6000, "test_seed": 1000}


@pytest.fixture(scope="module")
def grid():
    sys.path.insert(0, str(WORKFLOW))
    import evidence

    yield evidence
    sys.path.remove(str(WORKFLOW))


def test_declarations_name_what_exists(grid):
    for given in grid.EXPERIMENTS.values():
        trained = {name for names in given["backbones"].values() for name in names}
        assert trained <= set(grid.METHODS)
        assert set(given.get("audits", ())) <= trained
        for answer in given["answers"].values():
            asked = {*answer["methods"], answer["minus"].get("method", answer["methods"][0])}
            assert asked <= trained
            assert answer["minus"].get("data", next(iter(grid.EXPERIMENTS))) is not None
    declared = {
        name for g in grid.EXPERIMENTS.values() for b in g["backbones"].values() for name in b
    }
    assert set(grid.METHODS) == declared  # nothing is kept for later


def test_a_tag_agrees_as_often_as_it_should(grid):
    for strength in (0.0, 0.5, 1.0):
        train, worlds = grid.evidence_data.load(
            "tagged", source="synthetic", strength=strength, **GIVEN
        )
        for cohort, expected in (
            (train, (1 + strength) / 2),
            (worlds["id"], (1 + strength) / 2),
            (worlds["shifted"], (1 - strength) / 2),
            (worlds["randomised"], 0.5),
        ):
            tag = cohort.x["tag"][:, 0].numpy()
            assert np.mean(tag == 2 * cohort.y.numpy() - 1) == pytest.approx(expected, abs=0.02)


def test_only_the_tag_changes(grid):
    _, worlds = grid.evidence_data.load("tagged", source="heart", strength=0.5, **GIVEN)
    for name in worlds["id"].names[:-1]:
        np.testing.assert_array_equal(worlds["id"].x[name], worlds["shifted"].x[name])
    np.testing.assert_array_equal(worlds["id"].x["tag"], -worlds["shifted"].x["tag"])
    assert worlds["id"].observed[:, -1].all()


def test_the_maps_formula_is_what_is_drawn(grid):
    train, worlds = grid.evidence_data.load("mapped", slope=1.0, hidden=2, **GIVEN)
    for cohort, agrees in ((train, 0.95), (worlds["shifted"], 0.05), (worlds["randomised"], 0.5)):
        y, p = cohort.y.numpy(), cohort.truth["p_do"].to_numpy()
        for low in np.unique(p.round(6)):
            cell = p.round(6) == low
            assert y[cell].mean() == pytest.approx(low, abs=5 * np.sqrt(0.25 / cell.sum()))
        assert np.mean(cohort.truth["bias"] == 2 * y - 1) == pytest.approx(agrees, abs=0.02)


@pytest.mark.parametrize("hidden", [0, 2, 4])
def test_a_line_sees_the_causes_that_are_not_hidden(grid, hidden):
    train, _ = grid.evidence_data.load("mapped", slope=4.0, hidden=hidden, **GIVEN)
    causes = np.column_stack([train.x[f"m{m}"][:, :2] for m in range(4)])
    weight = LogisticRegression().fit(causes, train.y).coef_[0]
    seen = np.abs(weight[::2]) > 0.3
    np.testing.assert_array_equal(seen, np.arange(4) >= hidden)


def test_groups_of_patients_never_meet(grid):
    train, worlds = grid.evidence_data.load("mapped", slope=1.0, hidden=0, **GIVEN)
    ids = [set(c.groups["patient"]) for c in (train, *worlds.values())]
    assert all(not (a & b) for k, a in enumerate(ids) for b in ids[k + 1 :])


def test_patients_add_to_the_error_of_seeds(grid):
    from gate import intervals

    each = np.array([[0.1, 0.12, 0.08, 0.11, 0.09]])
    alone = intervals(each, ["a"], 0.02, alpha=0.05).iloc[0]
    added = intervals(each, ["a"], 0.02, alpha=0.05, patients=[0.05]).iloc[0]
    assert (alone["verdict"], added["verdict"]) == ("held", "undecided")
    assert added["high"] - added["low"] > 2 * 0.05 * 2.7  # t with four degrees of freedom

"""The papers' models: derivations against hand-made ones, and against simulated interventions."""

import inspect
import typing

import numpy as np
import pytest

from dfdlib import causal
from dfdlib.causal import papers

READINGS = typing.get_args(papers.Reading)


def test_derived_independences_are_those_worked_out_by_hand():
    table = papers.readings()
    assert table["marginal"].to_dict() == {
        "1": "X <- C -> B is open",
        "2": "X <- C -> B is open",
        "3": "C <- U -> B is open",
        "spurious": "independent",
        "anticausal": "X <- Y -> B is open",
    }
    assert table["given_Y"].to_dict() == {
        "1": "X <- C -> B is open",
        "2": "X <- C -> B is open",
        "3": "C <- U -> B is open",
        "spurious": "X -> Y <- C -> B is open",
        "anticausal": "independent",
    }
    assert table["effect"].to_dict() == {
        "1": "yes: adjust for {B}",
        "2": "no: X <- C -> Y stays open even given {B}, all that may be adjusted for; C is latent",
        "3": "yes: adjust for {}",
        "spurious": "yes: adjust for {}",
        "anticausal": "no: X <- Y stays open and there is nothing that may be adjusted for",
    }
    assert table.loc["1", "graph"] == "C -> B X, B -> Y, X -> Y"


@pytest.mark.parametrize("reading", READINGS)
def test_derived_independences_are_those_of_the_sample(reading):
    frame = papers.biased_features(reading).sample(40_000, seed=0, full=True)
    a, b = papers.representations(reading)
    row = papers.readings().loc[reading]
    marginal = np.corrcoef(frame[a], frame[b])[0, 1]
    within = [np.corrcoef(part[a], part[b])[0, 1] for _, part in frame.groupby("Y")]
    assert (abs(marginal) < 0.02) == (row["marginal"] == "independent")
    assert (max(map(abs, within)) < 0.03) == (row["given_Y"] == "independent")


@pytest.mark.parametrize("reading", ["1", "2"])
def test_adjusting_for_b_works_in_reading_1_and_not_in_reading_2(reading):
    """X in steps of 1 as the treatment, B in steps of 1/2 as the strata."""
    scm = papers.biased_features(reading)
    frame = scm.sample(60_000, seed=0)
    frame["level"] = np.clip(np.round(frame["X"]), -2, 2)
    frame["band"] = np.clip(np.round(frame["B"] * 2), -5, 5)
    fitted = causal.BackdoorAdjustment().fit(frame, outcome="Y", treatment="level", adjust="band")
    table = fitted.estimate()
    truth = [scm.do(X=x).sample(60_000, seed=1)["Y"].mean() for x in (-1.0, 1.0)]
    bias = table.loc[["do(level=-1.0)", "do(level=1.0)"], "adjusted"].to_numpy() - truth
    naive = table.loc[["do(level=-1.0)", "do(level=1.0)"], "naive"].to_numpy() - truth
    assert np.abs(naive).min() > 0.05
    if reading == "1":
        assert np.abs(bias).max() < 0.02
    else:
        assert np.abs(bias).min() > 0.03


def test_a_model_that_reads_b_fails_when_its_association_changes():
    """Reading 3: B predicts Y through U alone, so do(B) changes nothing."""
    scm = papers.biased_features("3")
    seen = scm.sample(40_000, seed=0)
    shifted = scm.do(B=lambda u: u).sample(40_000, seed=0)
    assert np.corrcoef(seen["B"], seen["Y"])[0, 1] > 0.2
    assert abs(np.corrcoef(shifted["B"], shifted["Y"])[0, 1]) < 0.02
    np.testing.assert_array_equal(seen["Y"], shifted["Y"])


HAND = {
    # c_to_y, r_to_y, x_to_r, d_to_ry: needed, sufficient, useless, harmful
    (1, 1, 0, 0): "",
    (1, 0, 0, 0): "useless",
    (0, 1, 0, 0): "needed sufficient",
    (0, 0, 0, 0): "sufficient useless",
    (1, 1, 1, 0): "harmful",
    (1, 0, 1, 0): "harmful",
    (0, 1, 1, 0): "harmful",
    (0, 0, 1, 0): "useless",
    (1, 1, 0, 1): "harmful",
    (1, 0, 0, 1): "harmful",
    (0, 1, 0, 1): "harmful",
    (0, 0, 0, 1): "harmful",
}
ANSWERS = ["needed", "sufficient", "useless", "harmful"]


@pytest.mark.parametrize("flags", HAND)
def test_adjusting_for_r_by_hand(flags):
    row = papers.adjusting_for_missingness().loc[tuple(bool(f) for f in flags)]
    assert " ".join(a for a in ANSWERS if row[a]) == HAND[flags]


def test_the_paths_behind_the_answers():
    table = papers.adjusting_for_missingness()
    both = table.loc[(True, True, False, False)]
    assert both["closes"] == "X <- C -> R -> Y"
    assert both["leaves"] == "X <- C -> Y"
    severity = table.loc[(True, False, True, False)]
    assert severity["opens"] == "X -> R <- C -> Y"
    assert table.loc[(False, True, True, False)]["blocks"] == "X -> R -> Y"
    assert table.loc[(False, False, False, True)]["opens"] == "X <- C -> R <- D -> Y"


@pytest.mark.parametrize("flags", HAND)
def test_simulated_bias_agrees_with_the_graph(flags):
    names = ("c_to_y", "r_to_y", "x_to_r", "d_to_ry")
    options = dict(zip(names, map(bool, flags), strict=True))
    scm = papers.missing_modalities(**options)
    frame = scm.sample(60_000, seed=0)
    worlds = [scm.do(X=x).sample(60_000, seed=0)["Y"] for x in (0, 1)]
    truth = (worlds[1] - worlds[0]).mean()
    row = papers.adjusting_for_missingness().loc[tuple(options.values())]

    def bias(adjust):
        fitted = causal.BackdoorAdjustment().fit(frame, outcome="Y", treatment="X", adjust=adjust)
        return abs(fitted.estimate().loc["1 - 0", "adjusted"] - truth)

    plain = not row["closes"] and not row["leaves"]
    assert (bias([]) < 0.03) == plain
    if row["sufficient"]:
        assert bias(["R"]) < 0.03
    if row["leaves"] or row["opens"] or row["blocks"]:
        assert bias(["R"]) > 0.05
    if plain and row["harmful"]:
        assert bias(["R"]) > bias([]) + 0.05


def test_the_missingness_graph_is_not_at_random_and_its_joint_is_lost():
    graph = papers.missing_modalities(r_to_y=False).graph
    assert causal.indicators(graph) == {"X": "R"}
    assert causal.proxies(graph) == {"X_observed"}
    assert str(causal.classify(graph)) == "MNAR: given Y, X <- C -> R is open"
    assert causal.recoverable(graph, "P(X)").answer == "no"
    assert causal.recoverable(graph, "P(Y | X)").answer == "no"
    assert causal.recoverable(graph, "P(Y)").answer == "yes"
    seen = causal.hide(papers.missing_modalities().sample(100, seed=0), {"X": "R"})
    assert (seen["X"].fillna(0) == seen["X_observed"]).all()


def test_unknown_readings_are_refused():
    plain = inspect.unwrap(papers.biased_features)  # without the type check of the tests
    with pytest.raises(
        ValueError, match=r"'anticausl' is not a reading .* Did you mean 'anticausal'"
    ):
        plain("anticausl")

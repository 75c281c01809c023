"""Stress cohorts against counting, fitted regressions, and the graphs that they declare."""

import itertools
import re
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dfdlib import data, stress
from dfdlib.causal import d_separated

WORLDS = ("train", "home", "shifted", "randomised")
OPEN, SEALED = (list(stress.kinds(half)["kind"]) for half in ("open", "sealed"))
UNBIASED = {"mnar-latent"} | {k for k in OPEN + SEALED if k.endswith("unbiased")}
#: What a linear fit on the features as they are cannot read.
CURVED = {
    *("between-modalities", "missing-only", "bias-in-the-spread", "xor", "parity"),
    "two-populations",  # each has slopes of its own
}


def features(cohort):
    """Values, 0 where missing, and what is there."""
    values = cohort.to_frame().to_numpy()
    values = np.nan_to_num((values - np.nanmean(values, 0)) / np.nanstd(values, 0))
    return np.hstack([values, cohort.observed.numpy()])


def auroc(p, cohort):
    return roc_auc_score(cohort.truth["y"], p)


def fitted(train):
    return LogisticRegression(max_iter=300, C=0.1).fit(features(train), train.y)


def score(model, cohort):
    return auroc(model.predict_proba(features(cohort))[:, 1], cohort)


# ---------------------------------------------------------------- lists


def test_both_halves_are_listed():
    table = stress.kinds()
    assert list(table) == ["kind", "departs", "n", "modalities", "hospitals", "structure"]
    assert len(SEALED) >= 8
    assert not set(OPEN) & set(SEALED)
    assert {2, 4, 8, 16} <= set(table["modalities"])
    assert {2, 3, 5, 20} <= set(table["hospitals"])
    assert {1000, 10_000, 100_000} <= set(table["n"])
    assert set(table["structure"]) == {"confounded", "anticausal", "unbiased"}


@pytest.mark.parametrize("half", ["open", "sealed"])
def test_the_list_says_what_cohorts_are(half):
    for _, row in stress.kinds(half).iterrows():
        cohort = stress.load(row["kind"], n=300)
        assert len(cohort.names) == row["modalities"]
        assert len(set(cohort.groups["site"])) == row["hospitals"]


# ---------------------------------------------------------------- the oracle


@pytest.mark.parametrize("kind", OPEN + SEALED)
def test_p_do_is_calibrated_in_the_randomised_world(kind):
    """In tenths of p_do, of three features, and in each pattern of availability."""
    cohort = stress.load(kind, draw=3, world="randomised", n=20_000)
    p, y = cohort.truth["p_do"], cohort.truth["y"]
    frame = cohort.to_frame()
    strata = [pd.qcut(p, 10, labels=False, duplicates="drop"), cohort.pattern]
    for column in (0, -1, len(frame.columns) // 2):
        values = frame.iloc[:, column]
        strata.append(pd.qcut(values.rank(method="first"), 8, labels=False).fillna(-1))
    for stratum in strata:
        cells = pd.DataFrame({"p": p, "y": y}).groupby(np.asarray(stratum))
        large = cells.size() >= 100
        spread = np.sqrt(cells.apply(lambda cell: (cell["p"] * (1 - cell["p"])).mean()))
        z = ((cells["y"].mean() - cells["p"].mean()) * np.sqrt(cells.size()) / spread)[large]
        assert z.abs().max() < 4.8


@pytest.mark.parametrize("kind", OPEN + SEALED)
def test_no_regression_beats_the_oracle_where_bias_is_randomised(kind):
    """Fitted in the randomised world itself, and in training."""
    test = stress.load(kind, draw=1, world="randomised", n=8000, seed=1)
    oracle = auroc(test.truth["p_do"], test)
    for world in ("randomised", "train"):
        model = fitted(stress.load(kind, draw=1, world=world, n=4000))
        assert score(model, test) < oracle + 0.004


@pytest.mark.parametrize("kind", sorted({*OPEN, *SEALED} - UNBIASED - CURVED - {"noisy-device"}))
def test_at_home_reading_the_bias_pays_and_where_it_turns_it_costs(kind):
    if "xor" in kind or kind == "steps-and-waves":
        pytest.skip("a linear model does not see this bias")
    model = fitted(stress.load(kind, draw=1, n=6000))
    for world, sign in (("home", 1), ("shifted", -1)):
        cohort = stress.load(kind, draw=1, world=world, n=6000, seed=1)
        assert sign * (score(model, cohort) - auroc(cohort.truth["p_do"], cohort)) > 0


@pytest.mark.parametrize(
    ("kind", "products"),
    [
        ("xor", [("spurious", 0, 1)]),
        ("between-modalities", [("pair", 0, 0)]),
    ],
)
def test_a_product_of_signs_holds_the_bias_that_no_feature_holds(kind, products):
    cohort = stress.load(kind, draw=1, n=8000)
    nodes = stress.nodes(kind, draw=1, n=8000)
    vitals, labs = (np.sign(cohort.x[name][:, -3:].numpy()) for name in ("vitals", "labs"))
    product = vitals[:, 0] * (vitals[:, 1] if kind == "xor" else labs[:, 0])
    single = [abs(np.corrcoef(v, nodes["B"])[0, 1]) for v in (vitals[:, 0], vitals[:, 1])]
    assert max(single) < 0.05
    assert np.corrcoef(product, nodes["B"])[0, 1] == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("kind", ["prevalence-unbiased", "unbiased", "noisy-device"])
def test_without_bias_the_oracle_is_the_best_at_home_too(kind):
    model = fitted(stress.load(kind, draw=1, n=6000))
    home = stress.load(kind, draw=1, world="home", n=8000, seed=1)
    assert score(model, home) == pytest.approx(auroc(home.truth["p_do"], home), abs=0.012)


def test_labels_are_wrong_as_often_as_the_kind_says():
    cohort = stress.load("label-errors", n=20_000)
    wrong = (cohort.y.numpy() != cohort.truth["y"]).groupby(cohort.groups["site"]).mean()
    assert wrong["hospital 01"] == 0
    assert wrong["hospital 02"] == pytest.approx(0.3, abs=0.02)


def test_the_bias_is_ordered_over_hospitals_as_the_kind_says():
    def agreement(kind, bias):
        nodes = stress.nodes(kind, n=30_000)
        return nodes.eval(f"C * {bias}").groupby(nodes["E"]).mean()

    first, second = (
        agreement("two-biases-cancelling", "B"),
        agreement("two-biases-cancelling", "B2"),
    )
    assert first[0] > first[1] + 0.2
    assert second[1] > second[0] + 0.2
    assert agreement("two-biases-aligned", "B2")[0] > agreement("two-biases-aligned", "B2")[1] + 0.2
    same, similar = agreement("same-bias", "B"), agreement("similar-hospitals", "B")
    assert same[0] == pytest.approx(same[1], abs=0.02)
    assert 0.0 < similar[0] - similar[1] < 0.15


# ---------------------------------------------------------------- the graph


def residual(values, given):
    """What a linear regression leaves over."""
    x = np.column_stack([np.ones(len(values)), *given])
    return values - x @ np.linalg.lstsq(x, values, rcond=None)[0]


@pytest.mark.parametrize("world", ["train", "randomised"])
@pytest.mark.parametrize("kind", OPEN + SEALED)
def test_data_have_the_independences_that_the_graph_declares(kind, world):
    """Pairs that are apart, alone or given one node of two values, have no partial correlation.

    A node of a few values is conditioned on within each of them, which needs no linearity.
    """
    graph = stress.graph(kind, world=world)
    nodes = stress.nodes(kind, draw=2, world=world, n=4000)
    assert set(graph) <= set(nodes)
    some = [node for node in graph if nodes[node].nunique() > 1]
    some = [n for n in some if not re.search(r"_(0[3-9]|1\d)$", n)][:14]
    few = [None, *(node for node in some if nodes[node].nunique() <= 5)]
    z = []
    for a, b in itertools.combinations(some, 2):
        for c in few:
            if c in (a, b) or not d_separated(graph, a, b, given=[c] if c else []):
                continue
            codes = [] if c is None else [(nodes[c] == v) * 1.0 for v in nodes[c].unique()[1:]]
            left, right = (residual(nodes[v].to_numpy(float), codes) for v in (a, b))
            z.append(np.corrcoef(left, right)[0, 1] * np.sqrt(len(nodes)))
    assert len(z) > 5
    assert np.abs(z).max() < 5


def test_randomising_cuts_bias_and_availability():
    graph = stress.graph("mnar-latent-biased")
    assert set(graph.predecessors("B")) == set(graph.predecessors("R_labs")) == {"C", "E"}
    graph = stress.graph("mnar-latent-biased", world="randomised")
    assert not [*graph.predecessors("B"), *graph.predecessors("R_labs")]
    assert list(stress.graph("confounded-causes").predecessors("A_vitals")) == ["C"]
    assert not [*stress.graph("confounded-causes", world="randomised").predecessors("A_vitals")]


# ---------------------------------------------------------------- seeds, speed, errors


@pytest.mark.parametrize("kind", ["second", "copied-forward", "counts-and-scores", "heavy-tails"])
def test_a_larger_cohort_begins_with_the_smaller_one(kind):
    small, large = (stress.load(kind, n=n) for n in (60, 900))
    for name in small.names:
        np.testing.assert_allclose(large.x[name][:60], small.x[name], rtol=1e-5)
    assert (large.observed[:60] == small.observed).all()
    np.testing.assert_allclose(large.truth[:60], small.truth, rtol=1e-9)


def test_worlds_draws_and_seeds_hold_different_patients():
    cohorts = [
        stress.load("linear", draw=draw, world=world, seed=seed, n=100)
        for draw, world, seed in itertools.product((0, 1), WORLDS, (0, 1))
    ]
    data.check_disjoint(*cohorts)


@pytest.mark.parametrize("kind", ["modalities-16", "hospitals-20", "noisy-device", "other-units"])
def test_ten_thousand_patients_take_less_than_a_second(kind):
    times = []
    for _ in range(3):
        start = time.process_time()
        stress.load(kind, n=10_000)
        times.append(time.process_time() - start)
    assert min(times) < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "lineer"}, "'lineer' is not a kind of stress cohorts .* Did you mean 'linear'"),
        ({"world": "id"}, r"'id' is not a world of stress cohorts \(train, home, shifted"),
        ({"n": 0}, "n is 0. Pass a whole number from 1 to 10000000"),
        ({"n": 2.5}, "n is 2.5. Pass a whole number"),
        ({"seed": -1}, "seed is -1. Pass a whole number from 0"),
        ({"draw": True}, "draw is True. Pass a whole number from 0 to 9999"),
    ],
)
def test_what_is_no_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        stress.load(**{"kind": "linear", **options})


def test_an_unknown_half_is_refused():
    with pytest.raises(
        ValueError, match=r"'closed' is not a half of the stress cohorts \(open, se"
    ):
        stress.kinds("closed")

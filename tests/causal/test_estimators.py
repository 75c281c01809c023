"""Estimators against exact tables, closed forms, and the interventions of a declared model."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression

from dfdlib import causal

N = 40_000
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)


def stones():
    """Charig et al. (1986): 700 patients, treatment, stone size, success."""
    cells = [
        ("A", "small", 81, 87),
        ("A", "large", 192, 263),
        ("B", "small", 234, 270),
        ("B", "large", 55, 80),
    ]
    rows = [
        (treatment, size, int(i < cured)) for treatment, size, cured, n in cells for i in range(n)
    ]
    return pd.DataFrame(rows, columns=["treatment", "size", "success"])


STONES = {"outcome": "success", "treatment": "treatment", "adjust": "size", "control": "B"}
EXACT = {"do(treatment=A)": 0.832546, "do(treatment=B)": 0.778875, "A - B": 0.053671}
NAIVE = {"do(treatment=A)": 0.78, "do(treatment=B)": 0.825714, "A - B": -0.045714}

SATURATED = [
    causal.BackdoorAdjustment(),
    causal.IPW(propensity_model="stratified"),
    causal.AIPW(outcome_model="stratified", propensity_model="stratified", folds=1),
    # With one binary covariate these models have a parameter for each cell too.
    causal.BackdoorAdjustment(outcome_model="regression", n_boot=0),
    causal.IPW(),
    causal.AIPW(folds=1),
]


@pytest.mark.parametrize("estimator", SATURATED)
def test_kidney_stones_are_exact(estimator):
    table = estimator.fit(stones(), **STONES).estimate()
    for row, value in EXACT.items():
        assert table.loc[row, "adjusted"] == pytest.approx(value, abs=2e-6)
        assert table.loc[row, "naive"] == pytest.approx(NAIVE[row], abs=1e-6)


def test_saturated_standard_errors_equal_the_delta_method():
    """Var(Σ_z p_z μ_z) = Σ p_z² μ_z(1 - μ_z)/n_z + (Σ p_z μ_z² - (Σ p_z μ_z)²)/n, by hand."""
    table = causal.BackdoorAdjustment().fit(stones(), **STONES).estimate()
    p = np.array([357, 343]) / 700
    for arm, cured, n in (("A", (81, 192), (87, 263)), ("B", (234, 55), (270, 80))):
        mu, n = np.array(cured) / np.array(n), np.array(n)
        variance = (p**2 * mu * (1 - mu) / n).sum() + ((p * mu**2).sum() - (p @ mu) ** 2) / 700
        assert table.loc[f"do(treatment={arm})", "se"] == pytest.approx(variance**0.5, rel=1e-6)
    assert (table["high"] - table["adjusted"]).to_numpy() == pytest.approx(1.959964 * table["se"])


def test_arrays_give_what_the_table_gives():
    table = stones()
    by_name = causal.BackdoorAdjustment().fit(table, **STONES).estimate()
    by_array = causal.BackdoorAdjustment().fit(
        outcome=table["success"].to_numpy(),
        treatment=table["treatment"].to_numpy(),
        adjust=(table["size"] == "small").to_numpy(),
        control="B",
    )
    np.testing.assert_allclose(by_name, by_array.estimate(), atol=1e-12)
    two_columns = np.column_stack([table["size"] == "small", np.zeros(700)])
    again = causal.BackdoorAdjustment().fit(
        outcome=table["success"], treatment=table["treatment"], adjust=two_columns, control="B"
    )
    np.testing.assert_allclose(by_name, again.estimate(), atol=1e-12)


def test_nullable_columns_are_read():
    table = stones()
    nullable = table.astype({"success": "Int64"})
    by_name = causal.AIPW().fit(nullable, **STONES).estimate()
    np.testing.assert_allclose(by_name, causal.AIPW().fit(table, **STONES).estimate())
    nullable.loc[5, "success"] = pd.NA
    row = causal.BackdoorAdjustment().fit(nullable, outcome="success", adjust="size").estimate()
    assert row.iloc[0]["adjusted"] == pytest.approx(table["success"].mean(), abs=0.002)
    with pytest.raises(ValueError, match="'success' is NaN or infinite in 1 of 700"):
        causal.AIPW().fit(nullable, **STONES)


def test_without_covariates_the_answer_is_the_naive_one():
    for estimator in SATURATED:
        table = estimator.fit(stones(), **{**STONES, "adjust": []}).estimate()
        np.testing.assert_allclose(table["adjusted"], table["naive"], atol=1e-12)


def test_three_arms_against_the_truth():
    scm = causal.SCM(
        Z=lambda u: u,
        T=lambda Z, u: (0.6 * Z + u > -0.5).astype(int) + (0.6 * Z + u > 0.6),
        Y=lambda T, Z, u: np.array([0.0, 1.0, 3.0])[T] + 2 * Z + u,
    )
    frame = scm.sample(N, seed=0)
    for estimator in (
        causal.BackdoorAdjustment(outcome_model="regression", n_boot=20),
        causal.AIPW(propensity_model=LogisticRegression(), clip=0.0),
    ):
        table = estimator.fit(frame, outcome="Y", treatment="T", adjust=["Z"]).estimate()
        assert table.index.tolist() == ["do(T=0)", "do(T=1)", "do(T=2)", "1 - 0", "2 - 0"]
        for row, truth in (("1 - 0", 1.0), ("2 - 0", 3.0)):
            assert table.loc[row, "naive"] > truth + 0.5
            assert table.loc[row, "adjusted"] == pytest.approx(truth, abs=4 * table.loc[row, "se"])
            assert table.loc[row, "se"] < 0.08


# ---------------------------------------------------------------- the mean of a missing variable


def missing(mechanism):
    """W ~ N(0, 1), Y = 1 + W + N(0, 1), seen with probability expit(W) (MAR) or expit(Y - 1)."""
    rule = {
        "mar": lambda W, u: u < 1 / (1 + np.exp(-W)),
        "mnar": lambda Y, u: u < 1 / (1 + np.exp(1 - Y)),
    }[mechanism]
    return causal.SCM(W=lambda u: u, Y=lambda W, u: 1 + W + u, R_Y=rule, noise={"R_Y": "uniform"})


def expectation(f):
    """E f(Z) for a standard normal Z, by Gauss and Hermite."""
    return (WEIGHTS * f(NODES)).sum() / WEIGHTS.sum()


def expit(x):
    return 1 / (1 + np.exp(-x))


# E[Y | seen] = 1 + E[(Y - 1) p] / E[p], with E[p] = 1/2 by symmetry.
MAR_COMPLETE = 1 + 2 * expectation(lambda z: z * expit(z))
MNAR_COMPLETE = 1 + 2 * expectation(lambda z: np.sqrt(2) * z * expit(np.sqrt(2) * z))


def mnar_limit():
    """E[ E[Y | W, seen] ]: what any adjustment for W alone tends to."""

    def given_w(w):
        p = expectation(lambda e: expit(w + e))
        return 1 + w + expectation(lambda e: e * expit(w + e)) / p

    return expectation(np.vectorize(given_w))


def test_the_closed_forms_are_those_of_the_reference():
    assert pytest.approx(1.4132, abs=1e-4) == MAR_COMPLETE
    assert pytest.approx(1.727, abs=1e-3) == MNAR_COMPLETE
    assert mnar_limit() == pytest.approx(1.42, abs=0.01)


def one(table):
    assert table.index.tolist() == ["E[Y]"]
    return table.iloc[0]


ADJUSTING = {
    "backdoor": causal.BackdoorAdjustment(outcome_model="regression", n_boot=50),
    "ipw": causal.IPW(clip=0.0),
    "aipw": causal.AIPW(),
    "imputation": causal.MultipleImputation(n_imputations=3),
}


@pytest.mark.parametrize("name", ADJUSTING)
def test_missing_at_random_is_repaired(name):
    frame = causal.hide(missing("mar").sample(N, seed=0))
    row = one(ADJUSTING[name].fit(frame, outcome="Y", adjust="W").estimate())
    assert row["naive"] == pytest.approx(MAR_COMPLETE, abs=0.025)
    assert row["adjusted"] == pytest.approx(1.0, abs=0.025)
    assert row["low"] < 1.0 < row["high"]
    assert row["se"] < 0.02


@pytest.mark.parametrize("wrong", ["outcome", "propensity"])
def test_aipw_is_right_with_one_model_wrong(wrong):
    frame = causal.hide(missing("mar").sample(N, seed=1))
    models = {
        "outcome": {"outcome_model": DummyRegressor()},
        "propensity": {"propensity_model": DummyClassifier(strategy="prior")},
    }[wrong]
    row = one(causal.AIPW(**models).fit(frame, outcome="Y", adjust="W").estimate())
    assert row["adjusted"] == pytest.approx(1.0, abs=0.025)
    if wrong == "outcome":
        alone = causal.BackdoorAdjustment(outcome_model=DummyRegressor(), n_boot=0)
    else:
        alone = causal.IPW(propensity_model=DummyClassifier(strategy="prior"))
    biased = one(alone.fit(frame, outcome="Y", adjust="W").estimate())
    assert biased["adjusted"] == pytest.approx(MAR_COMPLETE, abs=0.025)


def test_aipw_with_both_models_wrong_is_wrong():
    frame = causal.hide(missing("mar").sample(N, seed=1))
    both = causal.AIPW(
        outcome_model=DummyRegressor(), propensity_model=DummyClassifier(strategy="prior")
    )
    assert one(both.fit(frame, outcome="Y", adjust="W").estimate())["adjusted"] > 1.35


@pytest.mark.parametrize("name", ADJUSTING)
def test_missing_not_at_random_must_fail(name):
    """Adjusting for W removes part of the bias and cannot remove the rest: P(R | Y) is unknown."""
    frame = causal.hide(missing("mnar").sample(N, seed=0))
    row = one(ADJUSTING[name].fit(frame, outcome="Y", adjust="W").estimate())
    assert row["naive"] == pytest.approx(MNAR_COMPLETE, abs=0.03)
    assert row["adjusted"] == pytest.approx(mnar_limit(), abs=0.03)
    assert row["low"] > 1.3, "an estimator that repairs this used something it cannot know"


def test_the_true_propensity_repairs_what_no_estimated_one_can():
    frame = missing("mnar").sample(N, seed=0)
    known = expit(frame["Y"] - 1).to_numpy()
    seen = causal.hide(frame).assign(known=known)
    row = one(
        causal.IPW(clip=0.0).fit(seen, outcome="Y", adjust="W", propensity="known").estimate()
    )
    assert row["adjusted"] == pytest.approx(1.0, abs=0.03)
    by_array = causal.IPW(clip=0.0).fit(outcome=seen["Y"], adjust=seen["W"], propensity=known)
    assert by_array.estimate().iloc[0]["adjusted"] == pytest.approx(row["adjusted"])


def test_the_graph_says_beforehand_which_of_the_two_can_work():
    frame = causal.hide(missing("mar").sample(500, seed=0))
    causal.IPW().fit(frame, outcome="Y", adjust="W", graph=missing("mar").graph)
    with pytest.raises(ValueError, match="leaves Y -> R_Y open: Y is not missing at random"):
        causal.IPW().fit(frame, outcome="Y", adjust="W", graph=missing("mnar").graph)
    with pytest.raises(ValueError, match=r"adjusting for {} leaves Y <- W -> R_Y open"):
        causal.IPW().fit(frame, outcome="Y", graph=missing("mar").graph)
    with pytest.raises(ValueError, match="'Y' is not a variable with an indicator in the graph"):
        causal.IPW().fit(frame, outcome="Y", adjust="W", graph=causal.dag("W -> Y"))


def test_intervals_cover():
    """Over 100 small studies, 95 % intervals hold the truth in 88 or more."""
    held = {"backdoor": 0, "ipw": 0, "aipw": 0}
    for seed in range(100):
        frame = causal.hide(missing("mar").sample(400, seed=seed))
        estimators = {
            "backdoor": causal.BackdoorAdjustment(outcome_model=LinearRegression(), n_boot=20),
            "ipw": causal.IPW(clip=0.0),
            "aipw": causal.AIPW(folds=2, clip=0.0),
        }
        for name, estimator in estimators.items():
            row = one(estimator.fit(frame, outcome="Y", adjust="W").estimate())
            held[name] += row["low"] < 1.0 < row["high"]
    for name, count in held.items():
        assert count >= 88, name


def test_the_standard_error_of_imputation_is_the_spread_of_its_estimates():
    """Over 80 studies in which 1 of 4 is measured: coefficients are uncertain, not only values."""
    rows = []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        w = rng.standard_normal(400)
        y = 1 + w + rng.standard_normal(400)
        y[rng.random(400) > expit(w - 1.5)] = np.nan
        fitted = causal.MultipleImputation(n_imputations=10, seed=seed).fit(outcome=y, adjust=w)
        rows.append(fitted.estimate().loc["E[outcome]"])
    table = pd.DataFrame(rows)
    assert table["se"].mean() == pytest.approx(table["adjusted"].std(), rel=0.2)
    assert ((table["low"] < 1) & (table["high"] > 1)).mean() >= 0.9


# ---------------------------------------------------------------- diagnostics


def test_overlap_weights_and_balance_are_reported():
    scm = missing("mar")
    frame = causal.hide(scm.sample(N, seed=0))
    ipw = causal.IPW().fit(frame, outcome="Y", adjust="W")
    report = ipw.diagnostics().loc["Y observed"]
    seen = frame["Y"].notna()
    w = 1 / expit(frame.loc[seen, "W"])
    assert report["rows"] == seen.sum()
    assert report["effective"] == pytest.approx(w.sum() ** 2 / (w**2).sum(), rel=0.05)
    assert report["effective"] < 0.9 * report["rows"]
    assert report["share"] == pytest.approx(w.max() / w.sum(), rel=0.3)
    balance = ipw.balance().iloc[0]
    assert balance["covariate"] == "W"
    assert balance["before"] == pytest.approx(MAR_COMPLETE - 1, abs=0.02)
    assert balance["after"] == pytest.approx(0, abs=0.02)
    overlap = ipw.overlap(bins=10)
    assert overlap.groupby("group")["rows"].sum().to_dict() == {
        "Y observed": seen.sum(),
        "Y missing": (~seen).sum(),
    }
    assert overlap["low"].min() == 0
    assert overlap["high"].max() == 1


def test_clipping_is_said():
    frame = causal.hide(missing("mar").sample(2000, seed=0))
    with pytest.warns(UserWarning, match=r"\d+ of 2000 rows have a propensity below 0.2"):
        ipw = causal.IPW(clip=0.2).fit(frame, outcome="Y", adjust="W")
    few = ipw.diagnostics().iloc[0]
    assert few["clipped"] == (ipw.overlap(bins=5).query("high < 0.21")["rows"]).sum()
    assert few["lowest"] < 0.2
    assert 1.0 < one(ipw.estimate())["adjusted"] < MAR_COMPLETE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        causal.IPW(clip=0.0).fit(frame, outcome="Y", adjust="W")


def test_strata_are_reported():
    report = causal.BackdoorAdjustment().fit(stones(), **STONES).diagnostics()
    assert report.index.tolist() == ["size=large", "size=small"]
    assert report["share"].tolist() == pytest.approx([0.49, 0.51])
    assert report["rows, treatment=A"].tolist() == [263, 87]
    assert report["mean, treatment=B"].tolist() == pytest.approx([55 / 80, 234 / 270])


def test_extrapolation_of_a_model_is_reported():
    t = np.repeat([0, 1], 50)
    z = np.concatenate([np.linspace(0, 1, 50), np.linspace(0.5, 1.5, 50)])
    fitted = causal.BackdoorAdjustment(outcome_model="regression", n_boot=0).fit(
        outcome=z + t, treatment=t, adjust=z
    )
    assert fitted.diagnostics()["outside"].tolist() == [(z > 1).sum(), (z < 0.5).sum()]
    assert fitted.estimate().loc["1 - 0", "adjusted"] == pytest.approx(1.0)
    assert np.isnan(fitted.estimate().loc["1 - 0", "se"])


def hole(n=N, low=-np.inf, high=-1.0):
    """Missing at random, but for a region of W in which nobody is ever measured."""
    frame = missing("mar").sample(n, seed=0)
    frame["R_Y"] = frame["R_Y"].where((frame["W"] < low) | (frame["W"] > high), 0)
    return causal.hide(frame)


WEIGHTING = [causal.IPW(clip=0.0), causal.AIPW(clip=0.0)]


@pytest.mark.parametrize("estimator", WEIGHTING)
@pytest.mark.parametrize(("low", "high"), [(-np.inf, -1.0), (-0.5, 0.5), (1.0, np.inf)])
def test_a_region_without_anybody_is_pointed_out(estimator, low, high):
    frame = hole(low=low, high=high)
    inside = frame["W"].between(low, high)
    with pytest.warns(UserWarning, match=r"W is between its \d+\w+ and \d+\w+ perc.*\(pd\.cut"):
        fitted = estimator.fit(frame, outcome="Y", adjust="W")
    gap = fitted.gaps().iloc[0]
    assert (gap["arm"], gap["covariate"]) == ("Y observed", "W")
    # The run goes on to the next measured patients on both sides.
    assert inside.sum() <= gap["rows"] <= inside.sum() + 20
    assert gap["low"] <= frame.loc[inside, "W"].min()
    assert gap["high"] >= frame.loc[inside, "W"].max()
    assert gap["expected"] == pytest.approx(fitted.raw_propensity_[inside, 0].sum(), rel=0.01)
    assert gap["chance"] < 1e-12
    seen = frame.loc[frame["Y"].notna(), "W"]
    beyond = ((frame["W"] < seen.min()) | (frame["W"] > seen.max())).sum()
    assert fitted.diagnostics().loc["Y observed", "outside"] == beyond
    assert (beyond > 5000) == np.isinf(low + high)


def test_a_level_without_anybody_is_pointed_out():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"ward": rng.choice(["a", "b", "c"], 3000), "T": rng.integers(0, 2, 3000)})
    frame["Y"] = frame["T"] + rng.standard_normal(3000)
    frame.loc[frame["ward"] == "b", "T"] = 0
    flat = causal.IPW(propensity_model=DummyClassifier(strategy="prior"))
    rows = (frame["ward"] == "b").sum()
    with pytest.warns(UserWarning, match=rf"nobody has T=1 where ward is b: {rows} of 3000 rows"):
        fitted = flat.fit(frame, outcome="Y", treatment="T", adjust="ward")
    table = fitted.gaps().set_index("arm")
    assert table.loc["T=1", ["low", "high", "rows"]].tolist() == ["b", "b", rows]
    assert table.loc["T=1", "expected"] == pytest.approx(rows * frame["T"].mean())
    assert table.loc["T=0", "chance"] == 1.0


def test_thin_but_real_overlap_raises_no_alarm():
    """The bound holds: where the propensity is right, a gap is seldom called clear."""
    chances = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(100):
            frame = missing("mar").sample(300, seed=seed)
            known = expit(frame["W"])
            fitted = causal.IPW(clip=0.0).fit(
                causal.hide(frame).assign(known=known), outcome="Y", adjust="W", propensity="known"
            )
            chances.append(fitted.gaps().loc[0, "chance"])
            causal.AIPW(clip=0.0, folds=2).fit(causal.hide(frame), outcome="Y", adjust="W")
    for level in (0.05, 0.2):
        assert np.mean(np.array(chances) < level) <= level + 0.05


def test_without_covariates_there_are_no_gaps():
    assert causal.IPW().fit(stones(), **{**STONES, "adjust": []}).gaps().empty


def test_rubins_rules_by_hand():
    pooled = causal.rubin([1.0, 2.0, 4.0], [0.2, 0.4, 0.3])
    q, b, u = 7 / 3, np.var([1, 2, 4], ddof=1), 0.3
    assert pooled.value == pytest.approx(q)
    assert pooled.between == pytest.approx(b)
    assert pooled.variance == pytest.approx(u + 4 / 3 * b)
    assert pooled.df == pytest.approx(2 * (1 + u / (4 / 3 * b)) ** 2)
    assert causal.rubin([1.0, 1.0], [0.1, 0.1]).df == np.inf
    with pytest.raises(ValueError, match="at least two values and as many variances"):
        causal.rubin([1.0], [0.1])


def test_imputation_uses_covariates_that_are_missing_too():
    frame = causal.hide(missing("mar").sample(5000, seed=0))
    frame["V"] = frame["W"].where(np.arange(5000) % 4 > 0)
    fitted = causal.MultipleImputation(n_imputations=3).fit(frame, outcome="Y", adjust="V")
    assert one(fitted.estimate())["adjusted"] < 1.25
    report = one(fitted.diagnostics())
    assert 0 < report["share"] < 1
    half = one(fitted.estimate())["high"] - one(fitted.estimate())["adjusted"]
    assert half > 1.96 * one(fitted.estimate())["se"]
    with pytest.raises(ValueError, match="n_imputations must be at least 2"):
        causal.MultipleImputation(n_imputations=1)
    with pytest.raises(ValueError, match="needs something to impute from"):
        fitted.fit(frame, outcome="Y")
    with pytest.raises(ValueError, match="'V' is text with missing values"):
        fitted.fit(frame.assign(V=["a", None] * 2500), outcome="Y", adjust="V")


# ---------------------------------------------------------------- refusals

EVERY = [
    causal.BackdoorAdjustment(),
    causal.BackdoorAdjustment(outcome_model="regression", n_boot=0),
    causal.IPW(),
    causal.AIPW(),
]


def small(seed=0, n=200):
    rng = np.random.default_rng(seed)
    z = rng.integers(0, 2, n)
    t = rng.integers(0, 2, n)
    return pd.DataFrame({"T": t, "Z": z, "Y": t + z + rng.standard_normal(n)})


ROLES = {"outcome": "Y", "treatment": "T", "adjust": ["Z"]}


@pytest.mark.parametrize("estimator", EVERY)
def test_a_constant_treatment_is_refused(estimator):
    with pytest.raises(ValueError, match="treatment 'T' is constant: every row has the same"):
        estimator.fit(small().assign(T=1), **ROLES)


@pytest.mark.parametrize("estimator", EVERY)
@pytest.mark.parametrize("column", ["T", "Y", "Z"])
def test_nan_is_refused(estimator, column):
    frame = small().astype(float)
    frame.loc[[7, 9], column] = np.nan
    with pytest.raises(ValueError, match=rf"'{column}' is NaN or infinite in 2 of 200 rows.*row 7"):
        estimator.fit(frame, **ROLES)


@pytest.mark.parametrize("estimator", EVERY)
def test_no_overlap_is_refused(estimator):
    frame = small()
    frame["Z"] = frame["T"]
    with pytest.raises(ValueError, match=r"no overlap|the propensity of T=\d is"):
        estimator.fit(frame, **ROLES)


def test_no_overlap_says_where():
    frame = small()
    frame.loc[frame["Z"] == 1, "T"] = 0
    with pytest.raises(ValueError, match=r"in stratum Z=1 \(\d+ rows\) nobody has T=1"):
        causal.BackdoorAdjustment().fit(frame, **ROLES)
    with pytest.raises(ValueError, match=r"in stratum Z=1 \(\d+ rows\) nobody has T=1"):
        causal.IPW(propensity_model="stratified").fit(frame, **ROLES)
    wide = small().assign(Z=np.arange(200) / 200)
    with pytest.raises(ValueError, match=r"Cut Z into bands \(pd.cut\), or use a model"):
        causal.BackdoorAdjustment().fit(wide, **ROLES)
    apart = small().assign(Z=lambda f: f["T"] + np.arange(200) / 400)
    with pytest.raises(ValueError, match=r"Z is higher wherever T=1 than anywhere where T=0"):
        causal.BackdoorAdjustment(outcome_model="regression").fit(apart, **ROLES)
    seen = apart.assign(Y=apart["Y"].where(apart["T"] == 0))
    advice = r"Z is higher wherever Y missing than .* Y observed.* if it says nothing about Y"
    with pytest.raises(ValueError, match=advice):
        causal.BackdoorAdjustment(outcome_model="regression").fit(seen, outcome="Y", adjust="Z")
    with pytest.raises(ValueError, match=r"no overlap: every row with T=0|propensity of T=0 is"):
        causal.IPW(propensity_model=LogisticRegression()).fit(apart, **ROLES)


def test_a_propensity_of_zero_or_one_is_refused():
    frame = small().assign(p=0.5)
    causal.IPW().fit(frame, **ROLES, propensity="p")
    for value in (0.0, 1.0):
        frame.loc[3, "p"] = value
        with pytest.raises(ValueError, match=r"the propensity of T=0 is [01] in 1 of 200 .*row 3"):
            causal.IPW().fit(frame, **ROLES, propensity="p")
        with pytest.raises(ValueError, match=r"the propensity of T=0 is [01] in 1 of 200"):
            causal.AIPW().fit(frame, **ROLES, propensity="p")
    seen = frame.assign(Y=frame["Y"].where(frame["T"] == 1), p=np.where(frame["T"] == 1, 1.0, 0.0))
    advice = r"the propensity of Y observed is 0 .* never have Y observed.* give the mean of the"
    with pytest.raises(ValueError, match=advice) as refused:
        causal.IPW().fit(seen, outcome="Y", adjust=["Z"], propensity="p")
    assert "arm" not in str(refused.value)
    assert "adjust for less" not in str(refused.value)
    apart = frame.assign(Y=frame["Y"].where(frame["T"] == 1), p=np.where(frame["T"] == 1, 0.9, 0.1))
    with pytest.raises(ValueError, match=r"no row that misses Y has one like it to speak for it"):
        causal.IPW().fit(apart, outcome="Y", adjust=["Z"], propensity="p")
    certain = HistGradientBoostingClassifier(min_samples_leaf=1, learning_rate=20.0, max_iter=20)
    wide = small().assign(Z=np.arange(200) / 200)
    with pytest.raises(ValueError, match=r"the propensity of T=0 is|no overlap: every row"):
        causal.IPW(propensity_model=certain).fit(wide, **ROLES)


def test_a_known_propensity_is_checked():
    frame = small().assign(p=1.5)
    with pytest.raises(ValueError, match=r"one probability per row, .* 200 are missing or outs"):
        causal.IPW().fit(frame, **ROLES, propensity="p")
    three = frame.assign(T=np.arange(200) % 3, p=0.3)
    with pytest.raises(ValueError, match="for two arms, and 'T' has 3"):
        causal.IPW().fit(three, **ROLES, propensity="p")
    with pytest.raises(ValueError, match="BackdoorAdjustment uses no propensity"):
        causal.BackdoorAdjustment().fit(frame.assign(p=0.5), **ROLES, propensity="p")


def test_adjusting_for_a_descendant_is_refused_with_the_path():
    frame = small().rename(columns={"Z": "M"})
    roles = {**ROLES, "adjust": ["M"]}
    for estimator in EVERY:
        with pytest.raises(ValueError, match=r"cannot adjust for {M}: M descends .*: T -> M"):
            estimator.fit(frame, **roles, graph=causal.dag("T -> M -> Y"))
    with pytest.raises(ValueError, match="T <- U -> Y stays open"):
        EVERY[0].fit(small(), **ROLES, graph=causal.dag("T <- U -> Y; Z -> Y", latent="U"))
    EVERY[0].fit(small(), **ROLES, graph=causal.dag("T <- Z -> Y; T -> Y"))
    with pytest.raises(ValueError, match="graph= needs the names of columns"):
        EVERY[0].fit(outcome=[1.0, 2.0], treatment=[0, 1], graph=causal.dag("T -> Y"))


def test_names_and_shapes_are_checked():
    with pytest.raises(ValueError, match=r"'Tt' is not a column .* Did you mean 'T'"):
        EVERY[0].fit(small(), **{**ROLES, "treatment": "Tt"})
    with pytest.raises(ValueError, match="'X' is not a column"):
        EVERY[0].fit(small(), **{**ROLES, "adjust": ["X"]})
    with pytest.raises(ValueError, match="outcome='Y' names a column, but no table was given"):
        EVERY[0].fit(outcome="Y", treatment="T")
    with pytest.raises(ValueError, match="with a table, outcome is the name of a column"):
        EVERY[0].fit(small(), outcome=np.zeros(200), treatment="T")
    with pytest.raises(ValueError, match="treatment has 3 rows and outcome 4"):
        EVERY[0].fit(outcome=np.zeros(4), treatment=np.zeros(3))
    with pytest.raises(ValueError, match="adjust has 3 rows and outcome 4"):
        EVERY[0].fit(outcome=np.zeros(4), treatment=[0, 1, 0, 1], adjust=np.zeros(3))
    with pytest.raises(
        ValueError, match=r"outcome must have one value per row, got shape \(4, 1\)"
    ):
        EVERY[0].fit(outcome=np.zeros((4, 1)), treatment=[0, 1, 0, 1])
    with pytest.raises(ValueError, match="the outcome must be numbers"):
        EVERY[0].fit(small().assign(Y="good"), **ROLES)
    with pytest.raises(ValueError, match="the treatment 'T' has another role too"):
        EVERY[0].fit(small(), **{**ROLES, "adjust": ["Z", "T"]})
    with pytest.raises(ValueError, match=r"control=2 is not a level of 'T' \(0, 1\)"):
        EVERY[0].fit(small(), **ROLES, control=2)
    with pytest.raises(ValueError, match="treatment 'T' has 200 levels, and at most 20"):
        EVERY[0].fit(small().assign(T=np.arange(200)), **ROLES)


# ---------------------------------------------------------------- arrays that know more


def arrays(n=400, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    t = (rng.random(n) < 0.5) * 1
    index = pd.Index([f"p{i}" for i in range(n)])
    y = t + z + rng.normal(size=n)
    return {
        k: pd.Series(v, index=index) for k, v in (("outcome", y), ("treatment", t), ("adjust", z))
    }


ALIGNED = [
    causal.BackdoorAdjustment(outcome_model="regression", n_boot=0),
    causal.IPW(),
    causal.AIPW(folds=1),
]


@pytest.mark.parametrize("estimator", ALIGNED)
@pytest.mark.parametrize("moved", ["outcome", "treatment", "adjust", "propensity"])
def test_rows_belong_together_by_their_labels(estimator, moved):
    given = arrays()
    if moved == "propensity":
        if isinstance(estimator, causal.BackdoorAdjustment):
            pytest.skip("it takes no propensity")
        given["propensity"] = 1 / (1 + np.exp(-given["adjust"] / 4))
    names = {name: name for name in given}
    expected = estimator.fit(pd.DataFrame(given), **names).estimate()["adjusted"]
    given["adjust"] = given["adjust"].to_frame()
    given[moved] = given[moved].sample(frac=1, random_state=0)
    found = estimator.fit(**given).estimate()["adjusted"]
    np.testing.assert_allclose(found, expected)


def test_imputation_and_pooling_follow_the_labels():
    given = arrays()
    del given["treatment"]
    given["outcome"] = given["outcome"].where(given["adjust"] < 1)
    fitted = causal.MultipleImputation(n_imputations=3)
    expected = fitted.fit(**given).estimate()
    given["adjust"] = given["adjust"].iloc[::-1]
    pd.testing.assert_frame_equal(fitted.fit(**given).estimate(), expected)
    values = pd.Series([1.0, 2.0, 4.0], index=[*"abc"])
    assert causal.rubin(values, values.iloc[::-1]) == causal.rubin([1, 2, 4], [1, 2, 4])
    with pytest.raises(ValueError, match="1 labels of variances are not in values"):
        causal.rubin(values, values.set_axis([*"abd"]))
    with pytest.raises(ValueError, match="none missing"):
        causal.rubin(np.ma.masked_equal([1.0, 999.0, 3.0], 999.0), [1, 1, 1])


@pytest.mark.parametrize("estimator", EVERY)
@pytest.mark.parametrize("column", ["outcome", "treatment", "adjust"])
def test_labels_that_differ_are_refused(estimator, column):
    given = arrays()
    given[column] = given[column].set_axis(range(400))
    with pytest.raises(ValueError, match=r"have different indexes.*to_numpy\(\) where the or"):
        estimator.fit(**given)


@pytest.mark.parametrize("estimator", EVERY)
@pytest.mark.parametrize("column", ["outcome", "treatment", "adjust"])
def test_what_is_masked_is_missing_and_not_a_value(estimator, column):
    given = {k: v.to_numpy() for k, v in arrays().items()}
    given[column] = np.ma.array(given[column], mask=np.arange(400) == 7)
    name = "adjust_0" if column == "adjust" else column
    with pytest.raises(ValueError, match=f"'{name}' is NaN or infinite in 1 of 400 rows.*row 7"):
        estimator.fit(**given)


def test_a_masked_outcome_is_a_missing_one():
    given = {k: v.to_numpy() for k, v in arrays(4000).items() if k != "treatment"}
    hidden = given["adjust"] > 0.5
    truth = given["outcome"].mean()
    masked = np.ma.array(np.where(hidden, -999.0, given["outcome"]), mask=hidden)
    as_nan = np.where(hidden, np.nan, given["outcome"])
    for estimator in (causal.MultipleImputation(n_imputations=3),):
        rows = [
            estimator.fit(outcome=y, adjust=given["adjust"]).estimate() for y in (masked, as_nan)
        ]
        pd.testing.assert_frame_equal(*rows)
        assert abs(rows[0]["adjusted"].iloc[0] - truth) < 0.2
    with pytest.raises(ValueError, match="are missing or outside 0 to 1"):
        causal.IPW().fit(
            outcome=as_nan,
            adjust=given["adjust"],
            propensity=np.ma.array(as_nan * 0 + 0.5, mask=hidden),
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"outcome": np.array(["2020-01-01"] * 4, "M8[D]")},
            "outcome must be numbers: .*datetime64",
        ),
        ({"outcome": np.ones(4) * 1j}, "outcome must be numbers: .*complex128"),
        ({"outcome": ["1.5", "2", "3", "4"]}, "outcome holds <U3, not numbers"),
        ({"treatment": ["1", 1, 0, 0]}, "treatment holds numbers and words, and one of each reads"),
        ({"treatment": np.ones(4) * 1j}, "treatment 'treatment' holds complex numbers"),
        (
            {"adjust": np.array(["2020-01-01"] * 4, "M8[D]")},
            "covariate 'adjust_0' holds datetime64",
        ),
        ({"adjust": np.ones((4, 1)) * 1j}, "covariate 'adjust_0' holds complex128"),
        ({"adjust": {"z": [1, 2, 3, 4]}}, "adjust is a dict, and no table was given"),
        ({"adjust": "z"}, "adjust is the word 'z', and no table was given"),
        ({"adjust": pd.DataFrame(np.ones((4, 2)), columns=["z", "z"])}, "2 columns .* called 'z'"),
        ({"adjust": 3}, "adjust is a int. Pass one row per patient"),
        ({"outcome": [], "treatment": [], "adjust": []}, "the outcome has no rows"),
        ({"outcome": 3.0}, "outcome must have one value per row, got a float"),
        ({"outcome": {"y": 1}}, "outcome must have one value per row, got a dict"),
    ],
)
def test_arrays_that_hold_something_else_are_refused(given, message):
    plain = {"outcome": [1.0, 2, 3, 4], "treatment": [0, 1, 0, 1], "adjust": [1.0, 2, 1, 2]}
    with pytest.raises(ValueError, match=message):
        causal.BackdoorAdjustment().fit(**(plain | given))


def test_a_table_that_is_none_and_a_name_that_stands_for_two():
    with pytest.raises(ValueError, match="fit takes a table first, got a list"):
        causal.IPW().fit([[1, 2]], **ROLES)
    twice = pd.concat([small(), small()[["Z"]]], axis=1)
    with pytest.raises(ValueError, match="2 columns of the table are called 'Z': rename one"):
        causal.IPW().fit(twice, **ROLES)


def test_no_refusal_shows_the_values_of_a_patient():
    lone = small().assign(Z=lambda f: np.where(np.arange(200) == 0, 777.25, f["Z"]))
    for estimator in EVERY[:1]:
        with pytest.raises(ValueError, match="a stratum of Z with fewer than 10 rows") as refused:
            estimator.fit(lone, **ROLES)
        assert "777" not in str(refused.value)
    apart = small().assign(Z=lambda f: np.where(f["T"] == 1, 777.25, f["Z"]))
    for estimator in EVERY[1:]:
        with pytest.raises(ValueError, match=r"overlap|propensity") as refused:
            estimator.fit(apart, **ROLES)
        assert "777" not in str(refused.value)
    with pytest.raises(ValueError, match="name of a column, got a Series") as refused:
        EVERY[0].fit(lone, outcome=lone["Z"], treatment="T")
    assert "777" not in str(refused.value)


def test_a_missing_outcome_is_checked():
    frame = small()
    with pytest.raises(ValueError, match="and no value of it is missing"):
        EVERY[0].fit(frame, outcome="Y", adjust=["Z"])
    with pytest.raises(ValueError, match="and every value of it is missing"):
        EVERY[0].fit(frame.assign(Y=np.nan), outcome="Y", adjust=["Z"])
    with pytest.raises(ValueError, match="the outcome is infinite in 1 rows"):
        EVERY[0].fit(frame.assign(Y=[np.inf, np.nan] + [0.0] * 198), outcome="Y", adjust=["Z"])
    with pytest.raises(ValueError, match="there is no treatment"):
        EVERY[0].fit(frame.assign(Y=[np.nan] + [0.0] * 199), outcome="Y", control=1)


def test_options_are_checked():
    with pytest.raises(
        ValueError, match=r"'strata' is not a choice for outcome_model .* Did you mean 'stratified'"
    ):
        causal.BackdoorAdjustment(outcome_model="strata")
    with pytest.raises(ValueError, match=r"propensity_model must be one of .* have fit, got a int"):
        causal.IPW(propensity_model=3)
    with pytest.raises(ValueError, match=r"clip must be at least 0 and below 0.5, got 0.7"):
        causal.AIPW(clip=0.7)
    with pytest.raises(ValueError, match="folds must be at least 1"):
        causal.AIPW(folds=0)
    with pytest.raises(ValueError, match=r"smallest arm has 3 rows, fewer than 5 folds: .*folds=3"):
        causal.AIPW().fit(small().assign(T=[1] * 3 + [0] * 197), **ROLES)
    for estimator in (causal.AIPW(), causal.MultipleImputation()):
        with pytest.raises(ValueError, match="has seen no data: call fit first"):
            estimator.estimate()


def test_binary_outcomes_and_classifiers():
    scm = causal.SCM(
        Z=lambda u: u,
        T=lambda Z, u: 0.6 * Z + u > 0,
        Y=lambda T, Z, u: u < 1 / (1 + np.exp(-(T + Z))),
        noise={"Y": "uniform"},
    )
    frame = scm.sample(N, seed=0)
    truth = scm.do(T=1).sample(N, seed=0)["Y"].mean() - scm.do(T=0).sample(N, seed=0)["Y"].mean()
    for model in ("regression", LogisticRegression(C=np.inf)):
        fitted = causal.AIPW(outcome_model=model).fit(frame, outcome="Y", treatment="T", adjust="Z")
        row = fitted.estimate().loc["1 - 0"]
        assert row["adjusted"] == pytest.approx(truth, abs=0.02)
        assert row["naive"] > truth + 0.15
    constant = frame.assign(Y=1)
    row = causal.AIPW().fit(constant, outcome="Y", treatment="T", adjust="Z").estimate()
    assert row.loc["1 - 0", "adjusted"] == pytest.approx(0.0)

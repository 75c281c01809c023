"""Synthetic cohorts against their declared model: simulation, counting, calibration."""

import hashlib
import importlib
import json
import time
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score, roc_auc_score

from dfdlib import causal, data
from dfdlib.data import synthetic
from dfdlib.data.synthetic_model import AVAILABILITY, MODALITIES

ROOT = Path(__file__).parents[2]
HIDEABLE = MODALITIES[1:]
WORLDS = ("train", "id", "shifted", "randomised")
MECHANISMS = ("mcar", "mar", "severity", "mnar_latent", "mnar_self")


def load(**options):
    return data.load("synthetic", **options)


def nodes(n=200_000, seed=0, **options):
    """Every node of the model, latent ones too."""
    return synthetic.scm(**options).sample(n, seed=seed, full=True)


def causal_parts(cohort):
    """A of each modality, read off the features; NaN where it is missing."""
    frame = cohort.to_frame()
    parts = {}
    for name in cohort.names:
        columns = [f"{name}.cause_{k}" for k in (1, 2, 3) if f"{name}.cause_{k}" in frame]
        if columns:
            parts[name] = frame[columns].sum(axis=1, skipna=False) / np.sqrt(3)
    return pd.DataFrame(parts)


def signs(cohort, modality):
    """The signs of a spurious block, as one code from 0 to 7."""
    values = cohort.x[modality][:, -3:].numpy() > 0
    return values @ [1, 2, 4]


def assert_calibrated(p, y, *strata, largest=4.5):
    """In every cell of every stratum, the mean of y is that of p, within its standard error."""
    table = pd.DataFrame({"p": np.asarray(p), "y": np.asarray(y)})
    for stratum in strata:
        cells = table.groupby(np.asarray(stratum))
        excess = (cells["y"].mean() - cells["p"].mean()) * np.sqrt(cells.size())
        spread = np.sqrt((table["p"] * (1 - table["p"])).groupby(np.asarray(stratum)).mean())
        z = (excess / spread)[cells.size() >= 100]
        assert len(z)
        assert np.abs(z).max() < largest, z[np.abs(z) >= largest]


def tenths(values):
    return pd.qcut(values, 10, labels=False, duplicates="drop")


# ---------------------------------------------------------------- what a cohort looks like


def test_a_cohort_has_four_modalities_of_two_blocks():
    cohort = load(n=50, missing="mcar")
    assert cohort.schema.features["labs"] == (
        *(f"cause_{k}" for k in (1, 2, 3)),
        *(f"spurious_{k}" for k in (1, 2, 3)),
    )
    assert cohort.schema.sizes == dict.fromkeys(MODALITIES, (6,))
    assert cohort.task == "binary"
    assert set(cohort.groups) == {"site", "patient"}
    assert cohort.observed[:, 0].all()
    assert cohort.truth.attrs["estimand"] == synthetic.ESTIMAND
    assert cohort.truth.attrs["columns"].keys() == set(cohort.truth)


def test_bias_of_its_own_modalities_leaves_the_others_alone():
    cohort = load(n=50, where="own")
    blocks = {m: {f.split("_")[0] for f in cohort.schema.features[m]} for m in MODALITIES}
    assert blocks == {
        "vitals": {"cause"},
        "labs": {"cause"},
        "ecg": {"spurious"},
        "notes": {"spurious"},
    }


def test_truth_and_its_estimand_follow_the_parts_of_a_cohort():
    train, rest = load(n=100).split((0.7, 0.3))
    assert train.truth.attrs["estimand"] == rest.truth.attrs["estimand"] == synthetic.ESTIMAND
    assert len(train.truth) == 70


def test_severity_is_a_covariate_where_it_orders_the_tests():
    cohort = load(n=50, missing="severity")
    assert cohort.covariates["severity"].tolist() == cohort.truth["severity"].tolist()
    assert load(n=50, missing="mar").covariates.empty


@pytest.mark.parametrize(
    ("world", "sites"),
    [
        ("train", {"north", "south"}),
        ("id", {"north", "south"}),
        ("shifted", {"west"}),
        ("randomised", {"north", "south"}),
    ],
)
def test_each_world_has_its_hospitals(world, sites):
    assert set(load(n=200, world=world).groups["site"]) == sites


def test_causal_features_are_standard_normal_and_independent():
    x = load(n=100_000).to_frame()
    causes = x[[c for c in x if "cause" in c]]
    assert causes.shape[1] == 12
    np.testing.assert_allclose(causes.mean(), 0, atol=0.015)
    np.testing.assert_allclose(causes.cov(), np.eye(12), atol=0.02)


def test_severity_adds_up_the_causal_parts():
    for where, parts in (("mixed", 4), ("own", 2)):
        cohort = load(n=1000, where=where)
        expected = causal_parts(cohort).sum(axis=1) / np.sqrt(parts)
        np.testing.assert_allclose(cohort.truth["severity"], expected, atol=1e-5)


def test_half_of_the_patients_are_ill_in_every_world():
    for world in WORLDS:
        assert load(n=40_000, world=world).y.mean() == pytest.approx(0.5, abs=0.01)


# ---------------------------------------------------------------- seeds


def content(cohort):
    digest = hashlib.sha256()
    for array in (*cohort.x.values(), cohort.observed, cohort.y):
        digest.update(array.numpy().tobytes())
    digest.update(cohort.truth.to_numpy().tobytes())
    return digest.hexdigest()


def test_the_same_seed_gives_the_same_bits():
    options = {"n": 3000, "missing": "severity", "label_noise": 0.1}
    assert content(load(**options, seed=3)) == content(load(**options, seed=3))
    assert content(load(**options, seed=3)) != content(load(**options, seed=4))


def test_a_larger_cohort_begins_with_the_smaller_one():
    small, large = load(n=100, missing="mar"), load(n=5000, missing="mar")
    for m in MODALITIES:
        assert (large.x[m][:100] == small.x[m]).all()
    assert (large.y[:100] == small.y).all()
    np.testing.assert_allclose(large.truth[:100], small.truth, rtol=1e-12)


def test_worlds_of_one_seed_hold_different_patients():
    cohorts = [load(n=2000, world=world, seed=s) for world in WORLDS for s in (0, 1)]
    data.check_disjoint(*cohorts)
    severity = np.array([c.truth["severity"] for c in cohorts])
    off_diagonal = np.corrcoef(severity)[~np.eye(len(cohorts), dtype=bool)]
    assert np.abs(off_diagonal).max() < 0.1
    with pytest.raises(ValueError, match="share 2000 patients"):
        data.check_disjoint(cohorts[0], load(n=2000))


def test_options_keep_the_patients():
    plain, other = load(n=500), load(n=500, bias="parity", missing="mnar_latent", strength=0.3)
    for column in ("y", "confounder", "severity"):
        assert (plain.truth[column] == other.truth[column]).all()


# ---------------------------------------------------------------- p_do


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"missing": "mnar_latent"},
        {"missing": "severity", "causal_shift": True},
        {"missing": "mnar_self", "where": "own"},
        {"missing": "mar", "structure": "anticausal", "world": "shifted"},
    ],
    ids=str,
)
def test_p_do_is_what_intervening_on_the_model_gives(options):
    """Sets the observed causal parts of single patients in the model, and counts outcomes."""
    cohort = load(n=300, **options)
    parts = causal_parts(cohort)
    training = synthetic.scm(**options | {"world": "train"})
    n = 250_000
    most_hidden = parts.isna().sum(axis=1).idxmax()
    for row in (most_hidden, 0):
        seen = parts.loc[row].dropna()
        cut = training.do(**{f"A_{m}": float(value) for m, value in seen.items()})
        outcome = cut.sample(n, seed=11)["Y"].mean()
        assert cohort.truth["p_do"][row] == pytest.approx(outcome, abs=4 * 0.5 / np.sqrt(n))


@pytest.mark.parametrize("missing", ["none", *MECHANISMS])
@pytest.mark.parametrize("where", ["mixed", "own"])
def test_p_do_is_calibrated_in_the_randomised_world(missing, where):
    cohort = load(n=100_000, missing=missing, where=where, world="randomised")
    truth = cohort.truth
    shown = signs(cohort, "notes") + 8 * cohort.observed[:, 3].numpy()
    assert_calibrated(
        truth["p_do"], truth["y"], tenths(truth["p_do"]), cohort.pattern, shown, truth["bias"]
    )


def test_p_do_is_calibrated_where_hospitals_differ_in_causes_and_nothing_is_missing():
    for world in WORLDS:
        cohort = load(n=50_000, causal_shift=True, world=world)
        truth = cohort.truth
        assert_calibrated(truth["p_do"], truth["y"], tenths(truth["p_do"]), largest=4)


# ---------------------------------------------------------------- p_obs


@pytest.mark.parametrize("missing", ["none", *MECHANISMS])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"structure": "anticausal", "where": "own", "world": "id"},
        {"causal_shift": True, "bias": "parity", "strength": 2.0},
    ],
    ids=str,
)
def test_p_obs_is_calibrated_in_whatever_is_observed(missing, options):
    """Within any cells of observed things: by itself, pattern, features, signs, and pairs."""
    cohort = load(n=100_000, missing=missing, seed=5, **options)
    p, y = cohort.truth["p_obs"], cohort.truth["y"]
    sign = signs(cohort, "ecg") + 8 * cohort.observed[:, 2].numpy()
    parts = causal_parts(cohort)
    labs = parts["labs"].pipe(tenths).fillna(-1)
    vitals = tenths(parts["vitals"])
    pattern = pd.factorize(cohort.pattern)[0]
    assert_calibrated(
        p, y, tenths(p), pattern, sign, labs, 10 * pattern + vitals, 100 * sign + labs, largest=5
    )


@pytest.mark.parametrize("missing", MECHANISMS)
def test_no_classifier_beats_p_obs_in_distribution(missing):
    """A classifier that is given p_obs gains nothing from features and mask in addition."""
    options = {"missing": missing, "seed": 2}

    def inputs(cohort):
        p = cohort.truth["p_obs"].clip(1e-9, 1 - 1e-9)
        x = cohort.to_frame().fillna(0)
        return np.column_stack([np.log(p / (1 - p)), x, cohort.observed])

    train, test = load(n=20_000, **options), load(n=50_000, world="id", **options)
    more = LogisticRegression(max_iter=500).fit(inputs(train), train.y)
    auroc = roc_auc_score(test.y, more.predict_proba(inputs(test))[:, 1])
    assert auroc < roc_auc_score(test.y, test.truth["p_obs"]) + 0.0005


@pytest.mark.parametrize("missing", ["mcar", "mar"])
def test_an_ignorable_mask_does_not_part_the_two_oracles(missing):
    for world in WORLDS:
        truth = load(n=2000, bias="none", missing=missing, world=world).truth
        np.testing.assert_allclose(truth["p_obs"], truth["p_do"], rtol=1e-9)


# ---------------------------------------------------------------- bias


@pytest.mark.parametrize("structure", ["confounded", "anticausal"])
def test_linear_xor_and_parity_carry_the_same_information(structure):
    """Counted over the octants of the signs of a block, and of two blocks."""
    found = {}
    ideal = load(n=100_000, structure=structure).truth["p_obs"]
    for bias in ("linear", "xor", "parity"):
        cohort = load(n=100_000, bias=bias, structure=structure)
        truth = cohort.truth
        one, two = signs(cohort, "labs"), signs(cohort, "labs") + 8 * signs(cohort, "ecg")
        by_octants = truth["y"].groupby(two).transform("mean")
        found[bias] = {
            "bias": mutual_info_score(truth["bias"], one),
            "label": mutual_info_score(truth["y"], two),
            "auroc": roc_auc_score(truth["y"], by_octants),
        }
        assert truth["p_obs"].equals(ideal)
    table = pd.DataFrame(found)
    assert np.ptp(table, axis=1).max() < 0.002
    channel = np.log(2) + 0.9 * np.log(0.9) + 0.1 * np.log(0.1)  # of a sign wrong in 10 %
    np.testing.assert_allclose(table.loc["bias"], channel, atol=0.005)
    assert table.loc["auroc"].min() > 0.6


@pytest.mark.parametrize(("bias", "silent"), [("xor", 1), ("parity", 2)])
def test_fewer_signs_than_carry_the_bias_tell_nothing(bias, silent):
    cohort = load(n=100_000, bias=bias)
    code = signs(cohort, "labs")
    for hidden in range(3):
        kept = [k for k in range(3) if k != hidden][:silent]
        coarse = sum(((code >> k) & 1) << k for k in kept)
        assert mutual_info_score(cohort.truth["bias"], coarse) < 1e-4


@pytest.mark.parametrize("bias", ["linear", "xor", "parity", "none"])
def test_the_size_of_a_spurious_feature_and_its_marginal_tell_nothing(bias):
    cohort = load(n=100_000, bias=bias)
    size = cohort.x["labs"][:, 3:].abs().numpy()
    assert size.min() >= 0.5
    assert size.max() <= 1.5
    for column in size.T:
        assert mutual_info_score(cohort.truth["bias"], tenths(column)) < 3e-4
    positive = (cohort.x["labs"][:, 3:] > 0).double().mean(0)
    assert positive.tolist() == pytest.approx([0.5] * 3, abs=0.006)


@pytest.mark.parametrize(
    ("structure", "cause", "agreement"),
    [("confounded", "C", (0.9526, 0.8176, 0.0474)), ("anticausal", "Y", (0.8808, 0.7311, 0.1192))],
)
def test_hospitals_differ_in_the_bias_and_the_last_turns_its_sign(structure, cause, agreement):
    train, west, coin = (nodes(structure=structure, world=w) for w in WORLDS if w != "id")
    for frame, sites in ((train, (0, 1)), (west, (2,)), (coin, (0, 1))):
        same = frame["B"] == np.where(frame[cause] > 0, 1, -1)
        for site, rate in same.groupby(frame["E"]).mean().items():
            expected = 0.5 if frame is coin else agreement[site]
            assert rate == pytest.approx(expected, abs=0.006)
        assert tuple(sorted(frame["E"].unique())) == sites


def test_without_bias_the_spurious_blocks_follow_nothing():
    cohort = load(n=100_000, bias="none")
    assert cohort.truth["p_obs"].to_numpy() == pytest.approx(cohort.truth["p_do"], rel=1e-9)
    for against in ("y", "confounder"):
        assert mutual_info_score(cohort.truth[against], signs(cohort, "ecg")) < 3e-4


def test_causal_shift_moves_causes_given_the_outcome():
    frame = nodes(causal_shift=True)
    by_site = frame.groupby("E")["Z"].mean()
    assert by_site.to_numpy() == pytest.approx([-0.3, 0.3], abs=0.01)
    assert nodes(causal_shift=True, world="shifted")["Z"].mean() == pytest.approx(0.6, abs=0.01)
    given = frame.groupby(["E", "Y"])["A_labs"].mean()
    assert (given[1] - given[0]).min() > 0.1
    plain = nodes().groupby(["E", "Y"])["A_labs"].mean()
    assert np.abs(plain[1] - plain[0]).max() < 0.02


# ---------------------------------------------------------------- missingness


def difference(frame, column, by):
    """Mean of a column by the levels of 0/1 `by`, subtracted, and its standard error."""
    means, variances = frame.groupby(by)[column].mean(), frame.groupby(by)[column].var()
    return means[1] - means[0], np.sqrt((variances / frame.groupby(by).size()).sum())


def within(frame, column, by, strata):
    """The same within strata, pooled by size."""
    parts = [
        (len(part), *difference(part, column, by))
        for _, part in frame.groupby(strata)
        if part[by].value_counts().reindex([0, 1], fill_value=0).min() >= 20
    ]
    n, gap, error = np.array(parts).T
    return (n * gap).sum() / n.sum(), np.sqrt(((n * error) ** 2).sum()) / n.sum()


@pytest.mark.parametrize("missing", MECHANISMS)
@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_a_modality_is_there_for_70_percent_in_every_hospital_and_world(missing, strength):
    for world in ("train", "shifted", "randomised"):
        frame = nodes(100_000, missing=missing, strength=strength, world=world)
        shares = frame.groupby("E")[[f"R_{m}" for m in HIDEABLE]].mean()
        np.testing.assert_allclose(shares, AVAILABILITY, atol=0.009)


def test_the_mask_of_a_cohort_is_that_of_the_model():
    cohort = load(n=20_000, missing="mnar_latent")
    assert cohort.observed.double().mean(0).numpy() == pytest.approx([1, 0.7, 0.7, 0.7], abs=0.02)
    assert cohort.summary()["auroc_of_observed"]["labs"] > 0.6
    assert load(n=100).observed.all()


def test_mcar_masks_are_independent_of_everything():
    frame = nodes(missing="mcar")
    for mask in ("R_labs", "R_ecg", "R_notes"):
        others = frame.drop(columns=mask)
        correlation = others.corrwith(frame[mask]).abs()
        assert correlation.max() < 0.011
    pattern = frame["R_labs"] + 2 * frame["R_ecg"] + 4 * frame["R_notes"]
    for against in ("Y", "C", "E", "B"):
        assert mutual_info_score(pattern, frame[against]) < 1e-4


def test_mar_masks_depend_on_the_vitals_alone():
    frame = nodes(missing="mar")
    vitals = pd.qcut(frame["A_vitals"], 400, labels=False)
    for column in ("Y", "C", "A_labs", "A_ecg", "R_ecg", "B", "E"):
        gap, error = within(frame, column, "R_labs", vitals)
        assert abs(gap) < 4 * error
    gap, error = difference(frame, "Y", "R_labs")
    assert gap > 20 * error


def test_severity_orders_tests_and_the_mask_says_nothing_beyond_it():
    frame = nodes(missing="severity")
    stratum = pd.qcut(frame["Z"], 400, labels=False)
    for column in ("Y", "C", "R_ecg", "B"):
        gap, error = within(frame, column, "R_labs", stratum)
        assert abs(gap) < 4 * error
    for column in ("Y", "A_labs", "A_notes"):  # hidden values too
        gap, error = difference(frame, column, "R_labs")
        assert gap > 20 * error
    assert "Y" not in synthetic.scm(missing="severity").graph.predecessors("R_labs")


def test_the_latent_pushes_one_way_in_training_and_the_other_way_in_the_test_hospital():
    auroc = {}
    for world in ("train", "shifted", "randomised"):
        frame = nodes(missing="mnar_latent", world=world)
        count = frame[[f"R_{m}" for m in HIDEABLE]].sum(axis=1)
        for site, part in frame.groupby("E"):
            auroc[world, site] = roc_auc_score(part["Y"], count[part.index])
            assert abs(part["A_labs"].corr(part["R_labs"])) < 0.015
    assert auroc["train", 0] > auroc["train", 1] + 0.02 > 0.65
    assert auroc["shifted", 2] < 0.35
    assert auroc["randomised", 0] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("where", "masking"), [("mixed", HIDEABLE), ("own", ("labs",))])
def test_self_masking_hides_high_values(where, masking):
    frame = nodes(missing="mnar_self", where=where)
    for m in masking:
        gap, error = difference(frame, f"A_{m}", f"R_{m}")
        assert gap < -20 * error
        stratum = pd.qcut(frame[f"A_{m}"], 400, labels=False)
        gap, error = within(frame, "Y", f"R_{m}", stratum)
        assert abs(gap) < 4 * error
    for m in set(HIDEABLE) - set(masking):
        gap, error = difference(frame, "Y", f"R_{m}")
        assert abs(gap) < 4 * error


@pytest.mark.parametrize("missing", ["severity", "mnar_latent", "mnar_self"])
def test_strength_grades_what_the_mask_tells(missing):
    told = []
    for strength in (0.0, 0.5, 1.0, 2.0):
        frame = nodes(100_000, missing=missing, strength=strength)
        pattern = frame["R_labs"] + 2 * frame["R_ecg"] + 4 * frame["R_notes"]
        told.append(mutual_info_score(pattern, frame["Y"]))
    assert told[0] < 1e-4
    assert told == sorted(told)
    assert told[3] > 2 * told[1] > 0.002


# ---------------------------------------------------------------- strength, noise


@pytest.mark.parametrize("structure", ["confounded", "anticausal"])
@pytest.mark.parametrize("missing", MECHANISMS)
def test_without_strength_all_worlds_are_alike(structure, missing):
    for world in WORLDS:
        cohort = load(n=20_000, structure=structure, missing=missing, strength=0.0, world=world)
        truth = cohort.truth
        np.testing.assert_allclose(truth["p_obs"], truth["p_do"], rtol=1e-9)
        assert roc_auc_score(cohort.y, truth["p_do"]) == pytest.approx(0.755, abs=0.015)
        assert np.abs(truth.corr()["bias"].drop("bias")).max() < 0.03
        count = cohort.observed.double().sum(1)
        assert roc_auc_score(cohort.y, count) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("world", WORLDS)
def test_label_noise_turns_that_share_of_the_labels_and_leaves_the_truth(world):
    clean, noisy = (load(n=50_000, world=world, label_noise=r) for r in (0.0, 0.2))
    assert (clean.truth["y"] == clean.y.numpy()).all()
    pd.testing.assert_frame_equal(clean.truth, noisy.truth)
    wrong = noisy.y.numpy() != noisy.truth["y"]
    assert wrong.groupby(noisy.truth["y"]).mean().to_numpy() == pytest.approx([0.2, 0.2], abs=0.01)
    assert abs(wrong.corr(noisy.truth["p_do"])) < 0.02


# ---------------------------------------------------------------- the declared model


@pytest.mark.parametrize("missing", ["none", *MECHANISMS])
@pytest.mark.parametrize("structure", ["confounded", "anticausal"])
def test_the_graph_says_what_causes_what(structure, missing):
    scm = synthetic.scm(structure=structure, missing=missing)
    parents = {node: set(scm.graph.predecessors(node)) for node in scm.graph}
    assert parents["Y"] == {"Z", "C"}
    assert parents["Z"] == {f"A_{m}" for m in MODALITIES}
    assert parents["B"] == {"E", "C" if structure == "confounded" else "Y"}
    assert parents["S_notes"] == {"B"}
    assert parents.get("R_labs") == {
        "none": None,
        "mcar": set(),
        "mar": {"A_vitals"},
        "severity": {"Z"},
        "mnar_latent": {"C", "E"},
        "mnar_self": {"A_labs"},
    }.get(missing)


@pytest.mark.parametrize("missing", MECHANISMS)
def test_the_graph_is_classified_as_its_mechanism_is_called(missing):
    graph = synthetic.scm(missing=missing).graph
    assert causal.indicators(graph) == {f"A_{m}": f"R_{m}" for m in HIDEABLE}
    expected = {"mcar": "MCAR", "mar": "MAR", "severity": "MAR"}.get(missing, "MNAR")
    assert str(causal.classify(graph)).startswith(f"{expected}: ")


def test_only_what_exists_has_an_indicator():
    assert causal.indicators(synthetic.scm().graph) == {}
    own = synthetic.scm(missing="mnar_self", where="own").graph
    assert causal.indicators(own) == {"A_labs": "R_labs"}
    coins = synthetic.scm(missing="mnar_latent", world="randomised").graph
    assert causal.classify(coins).answer == "MCAR"


def test_paths_and_adjustment_follow_from_the_graph():
    assert causal.adjustment_sets(synthetic.scm().graph, "A_labs", "Y") == [frozenset()]
    shifted = synthetic.scm(causal_shift=True).graph
    assert frozenset({"E"}) in causal.adjustment_sets(shifted, "A_labs", "Y")
    assert not causal.adjustment_sets(synthetic.scm().graph, "B", "Y")
    assert nx.is_d_separator(synthetic.scm(world="randomised").graph, {"S_labs"}, {"Y"}, set())


def test_worlds_are_interventions():
    def cut(**options):
        graph = synthetic.scm(missing="mnar_latent", **options).graph
        return {node for node, done in graph.nodes(data="intervened") if done}

    assert cut(world="train") == cut(world="id") == set()
    assert cut(world="shifted") == {"E"}
    assert cut(world="randomised") == {"B", "R_labs", "R_ecg", "R_notes"}


def test_the_model_of_a_preset_and_the_cohort_agree():
    """The outcome of the cohort is a draw of the declared model: P(Y | Z, C) of both, by cells."""
    cohort = load(n=50_000, **synthetic.PRESETS["confounded-linear"])
    frame = nodes(50_000, seed=99, **synthetic.PRESETS["confounded-linear"])
    edges = [-9, -1, -0.5, 0, 0.5, 1, 9]
    a = cohort.truth.groupby([pd.cut(cohort.truth["severity"], edges), "confounder"])["y"]
    b = frame.groupby([pd.cut(frame["Z"], edges), "C"])["Y"]
    np.testing.assert_allclose(a.mean(), b.mean(), atol=0.04)


# ---------------------------------------------------------------- presets: frozen

# In distribution, shifted and randomised: AUROC of p_do, of p_obs, and of logistic regression
# trained on 10,000 patients (seed 1) with zeros for missing values and the mask as input; 50,000
# patients (seed 2) of each world.
SCORES = {
    "confounded-linear": (
        (0.7866, 0.8781, 0.8696),
        (0.7891, 0.5537, 0.5657),
        (0.7903, 0.7337, 0.7347),
    ),
    "confounded-xor": (
        (0.7866, 0.8781, 0.7855),
        (0.7891, 0.5537, 0.7878),
        (0.7903, 0.7337, 0.7892),
    ),
    "confounded-parity": (
        (0.7866, 0.8781, 0.7858),
        (0.7891, 0.5537, 0.7881),
        (0.7903, 0.7337, 0.7893),
    ),
    "anticausal": ((0.7866, 0.8944, 0.8864), (0.7891, 0.3725, 0.3806), (0.7903, 0.7027, 0.6986)),
    "own-modalities": (
        (0.7869, 0.8657, 0.8603),
        (0.7914, 0.5831, 0.5891),
        (0.7891, 0.7372, 0.7365),
    ),
    "causal-shift": ((0.7968, 0.8829, 0.8745), (0.8016, 0.5827, 0.5853), (0.7998, 0.7448, 0.7466)),
    "mcar": ((0.7517, 0.7517, 0.7508), (0.7544, 0.7544, 0.7535), (0.7525, 0.7525, 0.7516)),
    "mar": ((0.7503, 0.7503, 0.7495), (0.7538, 0.7538, 0.7528), (0.7525, 0.7525, 0.7516)),
    "severity": ((0.7461, 0.7709, 0.7664), (0.7494, 0.7740, 0.7695), (0.7525, 0.7250, 0.7303)),
    "mnar-latent": ((0.7498, 0.8667, 0.8525), (0.7546, 0.4965, 0.5022), (0.7525, 0.6956, 0.7033)),
    "mnar-self": ((0.7495, 0.7678, 0.7666), (0.7512, 0.7694, 0.7683), (0.7525, 0.7352, 0.7359)),
}
# The constants of the model and the presets with every option written out, as JSON.
FROZEN = "1a8cd2d3ac777e93bc49fc04161af37768c11c5aead00d427fdd75e2455e5e30"


def inputs(cohort):
    return np.column_stack([cohort.to_frame().fillna(0), cohort.observed])


@pytest.mark.parametrize("preset", synthetic.PRESETS)
def test_scores_of_the_presets(preset):
    options = synthetic.PRESETS[preset]
    train = load(n=10_000, seed=1, **options)
    plain = LogisticRegression(max_iter=1000).fit(inputs(train), train.y)
    for world, expected in zip(WORLDS[1:], SCORES[preset], strict=True):
        cohort = load(n=50_000, seed=2, world=world, **options)
        scores = (
            cohort.truth["p_do"],
            cohort.truth["p_obs"],
            plain.predict_proba(inputs(cohort))[:, 1],
        )
        found = [roc_auc_score(cohort.y, score) for score in scores]
        assert found == pytest.approx(expected, abs=0.001), np.round(found, 4).tolist()
        assert 0.74 < found[0] < 0.81


@pytest.fixture
def workflow(monkeypatch):
    """The script that stores the presets' scores."""
    monkeypatch.syspath_prepend(ROOT / "workflow")
    return importlib.import_module("answers.presets")


def test_presets_and_constants_are_frozen(workflow):
    assert workflow.fingerprint(synthetic.PRESETS) == FROZEN


def test_stored_scores_are_those_of_the_presets(workflow):
    stored = json.loads((ROOT / "results" / "presets.json").read_text())
    assert set(stored["presets"]) == set(synthetic.PRESETS)
    for name, preset in stored["presets"].items():
        assert preset["hash"] == workflow.fingerprint([name]), f"{name} changed. Run make results"
        cohort = load(n=20_000, seed=3, world="id", **synthetic.PRESETS[name])
        scores = preset["worlds"]["id"]
        for oracle in ("p_do", "p_obs"):
            found = roc_auc_score(cohort.y, cohort.truth[oracle])
            assert scores[oracle] == pytest.approx(found, abs=0.015)  # other patients
        assert len(scores["erm"]["auroc"]) == 5
        assert scores["erm"]["low"] < scores["erm"]["mean"] < scores["p_obs"]


# ---------------------------------------------------------------- refusals, speed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "confuonded"}, r"'confuonded' is not a structure of .*mean 'confounded'"),
        ({"bias": "paritiy"}, r"'paritiy' is not a bias of .*linear, xor, parity.*mean 'parity'"),
        ({"where": "owned"}, r"'owned' is not a where of .*Did you mean 'own'"),
        ({"missing": "mnar_laten"}, r"'mnar_laten' is not a missing of .*mean 'mnar_latent'"),
        ({"world": "randomized"}, r"'randomized' is not a world of .*mean 'randomised'"),
        ({"strenght": 0.5}, r"'strenght' is not a setting of synthetic.*Did you mean 'strength'"),
        ({"strength": -0.1}, r"strength=-0.1 is out of range. Pass 0 .* to 2"),
        ({"strength": 2.5}, r"strength=2.5 is out of range"),
        ({"strength": float("nan")}, r"strength=nan is out of range"),
        ({"label_noise": 0.5}, r"label_noise=0.5 is out of range.* under 0.5"),
        ({"label_noise": -0.01}, r"label_noise=-0.01 is out of range"),
        ({"n": 0}, r"n=0 is out of range. Pass 1 to 1000000000"),
        ({"seed": -1}, r"seed=-1 is out of range. Pass 0 to 2147483647"),
    ],
    ids=str,
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        load(**options)


def test_the_model_refuses_what_the_cohort_refuses():
    with pytest.raises(ValueError, match="'shfited' is not a world of"):
        synthetic.scm(world="shfited")


def test_a_million_patients_take_less_than_30_seconds():
    start = time.perf_counter()
    load(n=200_000, missing="severity")
    assert time.perf_counter() - start < 30 / 5

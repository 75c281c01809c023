from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from dfdlib.book import made_up
from dfdlib.data import Cohort, check_disjoint, eicu
from dfdlib.data.clinical.schemas import TABLES
from dfdlib.data.eicu import LAB_UNITS
from dfdlib.data.ingest import ingest
from dfdlib.data.tables import code_id
from dfdlib.evaluation import out_of_fold, predict_proba, tabular
from dfdlib.evaluation.leaks import audit_leaks
from dfdlib.models import GRAPE, Classifier
from dfdlib.models.series import SeriesTransformer
from dfdlib.training import Stage, fit, load_model

SHARED = Path(__file__).parents[3] / "shared" / "data"
DEMO, RAW = SHARED / "eicu_demo", SHARED / "eicu_demo_raw_subset"
needs_demo = pytest.mark.skipif(not DEMO.is_dir(), reason="needs ../shared/data/eicu_demo")
needs_raw = pytest.mark.skipif(not RAW.is_dir(), reason="needs ../shared/data/eicu_demo_raw_subset")


# ---------------------------------------------------------------- a few stays, made up

# id, hospital stay, patient, age, minutes, unit status, hospital status, start in the hospital
STAYS = [
    (11, 1, "a", "54", 2000, "Alive", "Alive", 60),
    (12, 1, "a", "54", 3000, "Expired", "Expired", 20_000),  # back within 15 days
    (21, 2, "b", "> 89", 2000, "Alive", "Alive", 0),
    (31, 3, "c", None, 2000, "Alive", "Alive", 0),
    (41, 4, "d", "17", 2000, "Alive", "Alive", 0),
    (51, 5, "e", "18", 719, "Alive", "Alive", 0),  # a minute short of 12 h
    (52, 6, "e", "18", 720, "Alive", "Expired", 10),
    (61, 7, "f", "89", 14_400, None, None, 0),
    (71, 8, "g", "40", 14_401, "Alive", "Alive", 0),
]
PATIENT = pd.DataFrame(
    STAYS,
    columns=["patientunitstayid", "patienthealthsystemstayid", "uniquepid", "age",
             "unitdischargeoffset", "unitdischargestatus", "hospitaldischargestatus", "start"],
).assign(
    hospitalaadmit=0, hospitalid=[5, 5, 5, 5, 5, 6, 6, 7, 7], unitvisitnumber=1,
    gender=["Female", "Female", *["Male"] * 5, "Unknown", None],
    ethnicity=["Asian", "Asian", *[None] * 7], admissionheight=[170, 0.3, *[None] * 7],
    hospitaladmitoffset=lambda t: -t["start"],
)  # fmt: skip
HOSPITAL = pd.DataFrame({"hospitalid": [5, 6], "region": ["South", None]})
EVENTS = {
    "diagnosis": pd.DataFrame(
        [(11, -90, "Sepsis|Pulmonary "), (11, 720, "renal"), (11, 721, "late"), (52, 1, "renal"),
         (11, 720, "renal")],
        columns=["patientunitstayid", "diagnosisoffset", "diagnosisstring"],
    ),
    "treatment": pd.DataFrame(
        [(11, 5, "ventilation"), (12, 800, "late")],
        columns=["patientunitstayid", "treatmentoffset", "treatmentstring"],
    ),
    "medication": pd.DataFrame(
        [(11, 5, 6, "ASPIRIN", "No"), (11, 5, 721, "starts late", "No"),
         (11, 721, 6, "ordered late", "No"), (52, 5, 6, "aspirin", "Yes"), (52, 5, 6, None, "No"),
         (52, 5, None, "ordered, never begun", "No")],
        columns=["patientunitstayid", "drugorderoffset", "drugstartoffset", "drugname",
                 "drugordercancelled"],
    ),
    "lab": pd.DataFrame(
        [(11, -60, -30, "sodium", "141"), (11, 700, 720, "pH", "7.4"), (11, 700, 721, "pH", "7.1"),
         (11, 690, None, "sodium", "<120"), (11, 690, None, "sodium", "133"),
         (11, 690, None, "sodium", "133"), (11, 5, 5, "no such test", "1"),
         (12, 721, 722, "pH", "7"), (11, None, 5, "pH", "7.2")],
        columns=["patientunitstayid", "labresultoffset", "labresultrevisedoffset", "labname",
                 "labresult"],
    ),
    "vitalaperiodic": pd.DataFrame(
        [(11, 30, 120, 80, None), (11, 721, 90, 50, 60), (52, 720, 100, 60, 70)],
        columns=["patientunitstayid", "observationoffset", "noninvasivesystolic",
                 "noninvasivediastolic", "noninvasivemean"],
    ),
    "apacheapsvar": pd.DataFrame(
        [(11, 4, 90, -1, 7.3), (12, -1, -1, -1, -1)],
        columns=["patientunitstayid", "eyes", "heartrate", "sodium", "ph"],
    ),
    "apachepredvar": pd.DataFrame(
        [(11, 1, 0), (61, 0, 1)], columns=["patientunitstayid", "aids", "diedinhospital"]
    ),
}  # fmt: skip
ALL = ("demographics", "codes", "labs", "vitals")


def write(folder, changed=None, suffix=".csv.gz"):
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"patient": PATIENT, "hospital": HOSPITAL, **EVENTS} | (changed or {})
    for name, table in tables.items():
        declared = list(TABLES["eicu"][name])
        rest = [column for column in table if column not in declared]  # as raw files have more
        table = table.reindex(columns=[*declared, *rest])
        if suffix == ".parquet":
            kinds = TABLES["eicu"][name]
            for column, kind in kinds.items():
                if kind in ("INTEGER", "DOUBLE"):
                    table[column] = pd.to_numeric(table[column], errors="coerce")
                else:
                    table[column] = table[column].astype("string")
            table.to_parquet(folder / f"{name}.parquet")
        else:
            table.to_csv(folder / f"{name}{suffix}", index=False)
    return folder


def rows(cohort, name, row):
    return cohort.x[name][torch.tensor([row])].values.numpy()


def test_inclusion_goes_rule_by_rule(tmp_path):
    flow = eicu.flow(write(tmp_path))
    assert flow["excluded"].tolist() == [0, 1, 1, 1, 1, 1]
    assert flow["rows"].tolist() == [9, 8, 7, 6, 5, 4]
    assert flow["patients"].tolist() == [7, 7, 6, 5, 4, 3]
    assert flow["labelled"].tolist() == [8, 7, 6, 5, 4, 3]
    assert flow["events"].tolist() == [1] * 6
    assert flow["rule"][1] == "in the unit for at least 12 h"
    assert eicu.flow(tmp_path, task="readmission").iloc[-1]["rows"] == 2  # not 12, not 61


def test_labels_and_groups(tmp_path):
    cohort = eicu.load(write(tmp_path))
    assert cohort.covariates["age"].tolist() == [54, 54, 18, 89]  # stays 11, 12, 52, 61
    np.testing.assert_array_equal(cohort.y, [0, 1, 0, np.nan])
    np.testing.assert_array_equal(eicu.load(tmp_path, died_in="hospital").y, [0, 1, 1, np.nan])
    assert cohort.groups["patient"].tolist() == ["a", "a", "e", "f"]
    assert cohort.groups["hospital"].tolist() == [5, 5, 6, 7]
    assert cohort.groups["region"].tolist() == ["South", "South", "unknown", "unknown"]
    assert cohort.covariates["sex"].tolist() == ["female", "female", "male", "unknown"]
    demographics = cohort.to_frame()
    np.testing.assert_array_equal(demographics["demographics.male"], [0, 0, 1, np.nan])
    np.testing.assert_array_equal(demographics["demographics.asian"], [1, 1, np.nan, np.nan])
    np.testing.assert_array_equal(demographics["demographics.height"], [170, *[np.nan] * 3])


def test_readmission_is_from_start_to_start_within_one_hospital_stay(tmp_path):
    write(tmp_path)
    assert eicu.load(tmp_path, task="readmission").y.tolist() == [1, 0]  # stays 11 and 52
    late = PATIENT.copy()
    for start, back in ((60 + 15 * 1440, 1), (61 + 15 * 1440, 0)):
        late.loc[1, "hospitaladmitoffset"] = -start
        write(tmp_path, {"patient": late})
        assert eicu.load(tmp_path, task="readmission").y.tolist() == [back, 0]
    late.loc[1, "patienthealthsystemstayid"] = 99  # another hospital stay
    assert eicu.load(write(tmp_path, {"patient": late}), task="readmission").y.tolist() == [0, 0]


def test_events_up_to_the_cut_in_the_order_of_time(tmp_path):
    cohort = eicu.load(write(tmp_path))
    words = ["diagnosis: sepsis|pulmonary", "treatment: ventilation", "medication: aspirin",
             "diagnosis: renal"]  # fmt: skip
    assert rows(cohort, "codes", 0).tolist() == [code_id(word) for word in words]
    assert rows(cohort, "codes", 1).tolist() == []
    assert set(rows(cohort, "codes", 2)) == {code_id("diagnosis: renal"), code_id(words[2])}
    known = cohort.x["codes"].words
    assert [known[code] for code in rows(cohort, "codes", 0).tolist()] == words
    sodium, ph = (list(LAB_UNITS).index(name) for name in ("sodium", "pH"))
    np.testing.assert_allclose(
        rows(cohort, "labs", 0), [[-1, 141, sodium], [11.5, 133, sodium], [700 / 60, 7.4, ph]]
    )
    np.testing.assert_allclose(rows(cohort, "vitals", 0), [[0.5, 120, 0], [0.5, 80, 1]])
    np.testing.assert_allclose(rows(cohort, "vitals", 2), [[12, 100, 0], [12, 60, 1], [12, 70, 2]])
    assert cohort.observed.int().tolist() == [
        [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 1], [1, 0, 0, 0]]  # fmt: skip


TIMES = {
    "diagnosis": ["diagnosisoffset"],
    "treatment": ["treatmentoffset"],
    "medication": ["drugorderoffset", "drugstartoffset"],
    "lab": ["labresultoffset", "labresultrevisedoffset"],
    "vitalaperiodic": ["observationoffset"],
}


def same(a, b):
    for name in a.names:
        left, right = a.x[name], b.x[name]
        if hasattr(left, "offsets"):
            torch.testing.assert_close(left.offsets, right.offsets)
            left, right = left.values, right.values
        torch.testing.assert_close(left, right, atol=0, rtol=0)


@pytest.mark.parametrize("table", TIMES)
def test_what_is_after_the_cut_does_not_enter(table, tmp_path):
    """Move what was recorded after the cut, change it, take it out: the features are the same."""
    before = eicu.load(write(tmp_path / "a"))
    events = EVENTS[table]
    times = TIMES[table]
    late = events[times].fillna(0).max(axis=1) > 720
    assert late.any()
    moved = events.copy()
    moved.loc[late, times[-1]] = 5000
    content = [c for c in events if c not in ("patientunitstayid", *times)]
    moved[content] = moved[content].astype(object)
    moved.loc[late, content] = {"lab": "99", "vitalaperiodic": 3}.get(table, "something else")
    if table == "lab":
        moved["labname"] = events["labname"]
    same(before, eicu.load(write(tmp_path / "b", {table: moved})))
    same(before, eicu.load(write(tmp_path / "c", {table: events[~late]})))


@pytest.mark.parametrize("table", TIMES)
def test_an_event_that_moves_past_the_cut_leaves(table, tmp_path):
    before = eicu.load(write(tmp_path / "a"))
    events = EVENTS[table].copy()
    events[TIMES[table]] = 721
    after = eicu.load(write(tmp_path / "b", {table: events}))
    name = {"lab": "labs", "vitalaperiodic": "vitals"}.get(table, "codes")
    gone = set(before.x[name].values.reshape(-1).tolist()) - set(
        after.x[name].values.reshape(-1).tolist()
    )
    assert gone
    if name != "codes":
        assert after.x[name].lengths.sum() == 0


def test_apache_is_of_the_first_day(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match=r"'apache' cannot be known 12 h after.*first 24 hours"):
        eicu.load(tmp_path, modalities=("demographics", "apache"))
    with pytest.raises(ValueError, match=r"'blood_gas' cannot be known 23\.9 h"):
        eicu.load(tmp_path, modalities=["blood_gas"], cut_hours=23.9)
    both = eicu.load(tmp_path, modalities=("demographics", "apache", "blood_gas"), cut_hours=24)
    table = both.to_frame()  # stays 11, 12, 61
    np.testing.assert_array_equal(table["apache.eyes"], [4, np.nan, np.nan])
    np.testing.assert_array_equal(table["apache.sodium"], [np.nan] * 3)
    np.testing.assert_array_equal(table["apache.aids"], [1, np.nan, np.nan])
    np.testing.assert_allclose(table["blood_gas.ph"], [7.3, np.nan, np.nan], rtol=1e-6)
    assert "apache.ph" not in table
    alone = eicu.load(tmp_path, modalities=("demographics", "apache"), cut_hours=24)
    assert "apache.ph" in alone.to_frame()


OUTCOMES = {"diedinhospital", "var03hspxlos", "dischargelocation", "actualicumortality",
            "predictedhospitalmortality", "unitdischargestatus", "hospitaldischargestatus",
            "dischargeweight", "unitdischargeoffset", "hospitaldischargeoffset",
            "activeupondischarge", "drugordercancelled"}  # fmt: skip


def test_no_outcome_is_a_feature(tmp_path):
    assert not OUTCOMES & set(TABLES["eicu"]["apachepredvar"]) | {"diedinhospital"} & set(
        TABLES["eicu"]["apacheapsvar"]
    )
    described = repr(eicu.MODALITIES)
    assert not [name for name in OUTCOMES if name in described]
    turned = EVENTS["apachepredvar"].assign(diedinhospital=lambda t: 1 - t["diedinhospital"])
    options = {"modalities": ("demographics", "apache"), "cut_hours": 24}
    before = eicu.load(write(tmp_path / "a"), **options)
    same(before, eicu.load(write(tmp_path / "b", {"apachepredvar": turned}), **options))


def test_files_in_any_form_give_the_same_cohort(tmp_path):
    first = eicu.load(write(tmp_path / "a"))
    for suffix in (".csv", ".parquet"):
        other = eicu.load(write(tmp_path / suffix, suffix=suffix))
        same(first, other)
        torch.testing.assert_close(first.y, other.y, equal_nan=True)
    folder = tmp_path / "a"
    (folder / "vitalaperiodic.csv.gz").rename(folder / "vitalAperiodic.csv.gz")
    text = pd.read_csv(folder / "lab.csv.gz", dtype=str)
    (folder / "lab.csv.gz").unlink()
    text.rename(columns=str.upper).to_csv(folder / "LAB.csv.gz", index=False)
    same(first, eicu.load(folder))


def test_a_split_keeps_patients_whole(tmp_path):
    cohort = eicu.load(write(tmp_path))
    for seed in range(5):
        train, test = cohort.split((0.5, 0.5), seed=seed)
        check_disjoint(train, test)


def test_refusals(tmp_path):
    with pytest.raises(
        ValueError, match=r"'eicu' needs root=.*https://physionet\.org/content/eicu"
    ):
        eicu.load()
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder.*data ingest eicu"):
        eicu.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no table of the eICU.*vitalperiodic"):
        eicu.load(tmp_path)
    write(tmp_path)
    for options, message in (
        ({"task": "mortalty"}, "'mortalty' is not a task of eICU.*Did you mean 'mortality'"),
        ({"modalities": ["lab"]}, "'lab' is not a modality of eICU.*Did you mean 'labs'"),
        ({"died_in": "ward"}, "'ward' is not a place of death"),
        ({"cut_hours": 0}, "cut_hours is 0.*Pass hours after admission"),
        ({"memory": "a lot"}, "memory='a lot' is no amount.*'4GB'"),
        (
            {"cut_hours": 239.9},
            "nobody is left: the rule 'aged 89 or less' left out the last of fewer",
        ),
    ):
        if "cut_hours" in options and options["cut_hours"] > 100:
            old = PATIENT[PATIENT["patientunitstayid"] == 21].assign(unitdischargeoffset=14_400)
            write(tmp_path, {"patient": old})
        with pytest.raises(ValueError, match=message):
            eicu.load(tmp_path, **options)
    write(tmp_path)
    (tmp_path / "lab.csv.gz").unlink()
    with pytest.raises(FileNotFoundError, match="no table 'lab', which the modality 'labs' needs"):
        eicu.load(tmp_path)
    broken = pd.read_csv(tmp_path / "patient.csv.gz").drop(columns="uniquepid")
    broken.to_csv(tmp_path / "patient.csv.gz", index=False)
    with pytest.raises(ValueError, match=r"patient\.csv\.gz, line 1: no column uniquepid"):
        eicu.flow(tmp_path)


def test_variables_have_units():
    table = eicu.variables().set_index(["modality", "variable"])
    assert table.loc[("labs", "sodium"), "unit"] == "mmol/L"
    assert table.loc[("apache", "temperature"), "unit"] == "°C"
    assert set(table.index.get_level_values(0)) == set(eicu.MODALITIES)
    assert table.loc["codes", "tables"].tolist() == ["diagnosis, treatment, medication"]


def test_suppress_hides_small_counts_and_what_would_give_them_away():
    flow = pd.DataFrame(
        {"rule": list("abc"), "excluded": [0, 30, 4], "rows": [120, 90, 86], "events": [40, 9, 9]}
    )
    hidden = eicu.suppress(flow)
    assert hidden["excluded"].tolist() == [0, 30, pd.NA]
    assert hidden["rows"].tolist() == [120, 90, 80]
    assert hidden["events"].tolist() == [40, pd.NA, pd.NA]
    large = flow.assign(excluded=[0, 30, 10], events=40)
    assert eicu.suppress(large)["rows"].tolist() == [120, 90, 86]


# ---------------------------------------------------------------- made-up patients, all tables


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The raw files of 150 patients, and what is ingested of them."""
    root = tmp_path_factory.mktemp("eicu")
    needed = {name for part in eicu.MODALITIES.values() for name in part.tables}
    made_up.write("eicu", root / "raw", n=150, seed=0, only=[
        "patient", "hospital", "diagnosis", "treatment", "medication", "lab", "vitalAperiodic",
        "apacheApsVar", "apachePredVar"])  # fmt: skip
    ingest("eicu", root / "raw", root / "typed", tables=[*needed, "hospital"], threads=1)
    return root


EVERY = {"cut_hours": 24, "modalities": tuple(eicu.MODALITIES)}


def test_raw_and_ingested_tables_give_the_same_cohort(made):
    raw_files, typed = (eicu.load(made / folder, **EVERY) for folder in ("raw", "typed"))
    same(raw_files, typed)
    torch.testing.assert_close(raw_files.y, typed.y, equal_nan=True)
    pd.testing.assert_frame_equal(raw_files.covariates, typed.covariates)
    for name, levels in raw_files.groups.items():
        np.testing.assert_array_equal(levels, typed.groups[name])
    flow = eicu.flow(made / "typed", cut_hours=24)
    pd.testing.assert_frame_equal(flow, eicu.flow(made / "raw", cut_hours=24))
    assert len(typed) == flow["rows"].iloc[-1]
    assert typed.observed.float().mean(dim=0).min() > 0.05


def test_cuts_nest(made):
    """What is known after 12 h is known after 24 h, of everybody who is still there."""
    early, late = (eicu.load(made / "typed", cut_hours=cut) for cut in (12, 24))
    assert len(late) < len(early)
    for name, at in (("labs", 0), ("vitals", 0)):
        times = late.x[name].values[:, at]
        assert 12 < times.max() <= 24
        assert early.x[name].values[:, at].max() <= 12


def test_a_model_learns_from_all_kinds_and_scores_alike_after_loading(made, tmp_path):
    train, test = eicu.load(made / "typed", **EVERY).split((0.7, 0.3), seed=0)
    model = Classifier(
        backbone=GRAPE(d=8),
        schema=train.schema,
        encoders={"vitals": SeriesTransformer(d=8, n_heads=2)},
    )
    run = fit(model, train, stages=[Stage(epochs=2)], seed=0)
    run.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    p = predict_proba(again, test)
    np.testing.assert_array_equal(p, predict_proba(run.model, test))
    one = test.select([3])  # the next patient, alone
    np.testing.assert_allclose(predict_proba(again, one), p[[3]], atol=1e-6)
    assert audit_leaks(train, test, model=again, n_shuffles=3, n_boot=0).set_index("check").loc[
        "scalers", "verdict"
    ] == "ok"  # fmt: skip


# ---------------------------------------------------------------- the open demo


def raw(folder, table):
    (file,) = (f for f in folder.iterdir() if f.name.lower().split(".")[0] == table)
    return pd.read_csv(file, low_memory=False)


@needs_demo
@pytest.mark.parametrize("task", ["mortality", "readmission"])
@pytest.mark.parametrize(("cut", "died_in"), [(12, "unit"), (24, "hospital")])
def test_demo_counts_are_those_of_plain_pandas(task, cut, died_in):
    t = raw(DEMO, "patient")
    assert len(t) == 2520
    status = t["unitdischargestatus"] if died_in == "unit" else t["hospitaldischargestatus"]
    y = status.map({"Expired": 1.0, "Alive": 0.0})
    if task == "readmission":
        t = t.sort_values(["hospitaladmitoffset", "unitvisitnumber"], ascending=[False, True])
        after = t.groupby("patienthealthsystemstayid")["hospitaladmitoffset"].shift(-1)
        y = (t["hospitaladmitoffset"] - after <= 15 * 1440).astype(float)
    age = pd.to_numeric(t["age"].str.replace("> 89", "90"))
    kept = [
        pd.Series(True, t.index),
        t["unitdischargeoffset"] >= cut * 60,
        t["unitdischargeoffset"] <= 10 * 1440,
        age.notna(),
        age >= 18,
        age < 90,
    ]
    if task == "readmission":
        kept.append(t["unitdischargestatus"] == "Alive")
    flow = eicu.flow(DEMO, task=task, cut_hours=cut, died_in=died_in)
    stay = pd.Series(True, t.index)
    for rule, line in zip(kept, flow.itertuples(), strict=True):
        stay &= rule
        counted = (int(stay.sum()), t.loc[stay, "uniquepid"].nunique(), int(y[stay].count()),
                   int((y[stay] == 1).sum()))  # fmt: skip
        assert (line.rows, line.patients, line.labelled, line.events) == counted, line.rule


@needs_demo
def test_demo_codes_and_vitals_are_those_of_plain_pandas():
    cohort = eicu.load(DEMO, modalities=("demographics", "codes", "vitals"))
    t = raw(DEMO, "patient")
    age = pd.to_numeric(t["age"], errors="coerce")
    stays = t.loc[t["unitdischargeoffset"].between(720, 14_400) & age.between(18, 89)]
    order = np.sort(stays["patientunitstayid"])
    np.testing.assert_array_equal(cohort.covariates["age"], age[stays.index].to_numpy()[
        np.argsort(stays["patientunitstayid"])])  # fmt: skip
    parts = []
    for table, time, word in (("diagnosis", "diagnosisoffset", "diagnosisstring"),
                              ("treatment", "treatmentoffset", "treatmentstring"),
                              ("medication", "drugstartoffset", "drugname")):  # fmt: skip
        part = raw(DEMO, table).dropna(subset=[word])
        known = part[time]
        if table == "medication":
            known = part[["drugstartoffset", "drugorderoffset"]].max(axis=1)
        part = part[known <= 720]
        words = f"{table}: " + part[word].str.strip().str.lower()
        parts.append(pd.DataFrame({"stay": part["patientunitstayid"], "t": part[time], "w": words}))
    codes = pd.concat(parts).drop_duplicates()
    codes = codes[codes["stay"].isin(order)]
    count = codes.groupby("stay").size().reindex(order, fill_value=0)
    np.testing.assert_array_equal(cohort.x["codes"].lengths, count)
    first = int(np.flatnonzero(count)[0])
    expected = codes[codes["stay"] == order[first]]["w"].map(code_id)
    assert sorted(rows(cohort, "codes", first)) == sorted(expected)

    vitals = raw(DEMO, "vitalaperiodic")
    vitals = vitals[vitals["patientunitstayid"].isin(order) & (vitals["observationoffset"] <= 720)]
    long = vitals.melt(
        ["patientunitstayid", "observationoffset"],
        ["noninvasivesystolic", "noninvasivediastolic", "noninvasivemean"],
    ).dropna().drop_duplicates()  # fmt: skip
    count = long.groupby("patientunitstayid").size().reindex(order, fill_value=0)
    np.testing.assert_array_equal(cohort.x["vitals"].lengths, count)
    assert cohort.x["vitals"].values[:, 1].double().sum().item() == pytest.approx(
        long["value"].sum()
    )


@needs_raw
def test_raw_subset_labs_are_those_of_plain_pandas():
    cohort = eicu.load(RAW, modalities=("demographics", "labs"), cut_hours=24)
    t, lab = raw(RAW, "patient"), raw(RAW, "lab")
    age = pd.to_numeric(t["age"], errors="coerce")
    stays = t[t["unitdischargeoffset"].between(1440, 14_400) & age.between(18, 89)]
    lab = lab[
        lab["patientunitstayid"].isin(stays["patientunitstayid"])
        & lab["labname"].isin(list(LAB_UNITS))
        & (lab[["labresultoffset", "labresultrevisedoffset"]].max(axis=1) <= 1440)
    ]
    lab = lab.dropna(subset=["labresult"]).drop_duplicates(
        ["patientunitstayid", "labresultoffset", "labname", "labresult"]
    )
    order = np.sort(stays["patientunitstayid"])
    count = lab.groupby("patientunitstayid").size().reindex(order, fill_value=0)
    assert count.sum() > 1000
    np.testing.assert_array_equal(cohort.x["labs"].lengths, count)
    by_name = lab.groupby("labname")["labresult"].sum()
    time, value, flag = cohort.x["labs"].values.double().numpy().T
    ours = pd.Series(value).groupby(np.array(list(LAB_UNITS))[flag.astype(int)]).sum()
    pd.testing.assert_series_equal(ours, by_name, check_names=False, rtol=1e-5, check_dtype=False)
    assert time.max() <= 24
    units = raw(RAW, "lab").groupby("labname")["labmeasurenamesystem"].first().fillna("")
    shared = [name for name in LAB_UNITS if name in units]
    assert [LAB_UNITS[name] for name in shared] == units[shared].tolist()


@needs_demo
def test_demo_orientation_boosting_on_apache_and_demographics():
    """.81 over all stays holds those who died within the day that APACHE looks at: without, .73."""
    t = raw(DEMO, "patient").merge(raw(DEMO, "apacheapsvar"), on="patientunitstayid", how="left")
    names = list(TABLES["eicu"]["apacheapsvar"])[1:]
    table = t[names].replace(-1, np.nan)
    table["age"] = pd.to_numeric(t["age"].str.replace("> 89", "90"))
    table["male"] = t["gender"] == "Male"
    table[["height", "weight"]] = t[["admissionheight", "admissionweight"]]
    everybody = Cohort(
        x={"apache": table},
        y=t["hospitaldischargestatus"].map({"Expired": 1.0, "Alive": 0.0}),
        groups={"patient": t["uniquepid"]},
    )
    options = {"died_in": "hospital", "modalities": ("demographics", "apache")}
    later = eicu.load(DEMO, cut_hours=24, **options)
    for cohort, auroc in ((everybody, 0.81), (later, 0.73)):
        cohort = cohort.select(~torch.isnan(cohort.y))
        p = out_of_fold(cohort, tabular("gradient boosting", seed=0), folds=5, seed=0)[:, 1]
        assert roc_auc_score(cohort.y, p) == pytest.approx(auroc, abs=0.03)

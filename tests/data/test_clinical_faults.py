"""Tables of eICU and MIMIC-IV with one fault each: the right value, or words that say what it is.

All of these patients are made up.
"""

import gzip
import os
import re
import subprocess
import sys
import traceback
import warnings
from datetime import date

import numpy as np
import pandas as pd
import pytest

from dfdlib.book import made_up
from dfdlib.data import eicu, load, mimic_iv
from dfdlib.data.clinical.schemas import TABLES
from dfdlib.data.eicu import LAB_UNITS
from dfdlib.data.ingest import ingest

# ---------------------------------------------------------------- a few patients in either schema

EICU = {
    "patient": pd.DataFrame(
        [(11, 1, "a", "54", 2000, "Alive", -60, 1), (12, 1, "a", "54", 3000, "Expired", -9000, 2),
         (21, 2, "b", "61", 2000, "Alive", 0, 1), (31, 3, "c", "70", 2000, "Alive", -5, 1)],
        columns=["patientunitstayid", "patienthealthsystemstayid", "uniquepid", "age",
                 "unitdischargeoffset", "unitdischargestatus", "hospitaladmitoffset",
                 "unitvisitnumber"],
    ).assign(gender="Female", hospitalid=5, admissionheight=170.0, admissionweight=70.0,
             hospitaldischargestatus="Alive"),
    "hospital": pd.DataFrame({"hospitalid": [5], "region": ["South"]}),
    "lab": pd.DataFrame(
        [(11, 60, 60, "creatinine", 1.0, "mg/dL"), (12, 60, 60, "creatinine", 1.5, "mg/dL"),
         (21, 60, 60, "creatinine", 2.0, "mg/dL"), (21, 61, 61, "sodium", 140, "mmol/L")],
        columns=["patientunitstayid", "labresultoffset", "labresultrevisedoffset", "labname",
                 "labresult", "labmeasurenamesystem"],
    ),
    "vitalaperiodic": pd.DataFrame(
        [(11, 30, 120.0), (21, 40, 110.0)],
        columns=["patientunitstayid", "observationoffset", "noninvasivesystolic"],
    ),
    "apacheapsvar": pd.DataFrame(
        [(11, 4, 90.0), (21, 3, 80.0)], columns=["patientunitstayid", "eyes", "heartrate"]
    ),
    "apachepredvar": pd.DataFrame([(11, 1)], columns=["patientunitstayid", "aids"]),
    "diagnosis": pd.DataFrame(
        [(11, 5, "sepsis")], columns=["patientunitstayid", "diagnosisoffset", "diagnosisstring"]
    ),
}  # fmt: skip
MIMIC = {
    "patients": pd.DataFrame(
        [(1, "M", 60, 2150, None), (2, "F", 40, 2150, "2150-06-01"), (3, "F", 50, 2150, None)],
        columns=["subject_id", "gender", "anchor_age", "anchor_year", "dod"],
    ),
    "admissions": pd.DataFrame(
        [(1, 11, "2150-01-01 08:00:00", "2150-01-05 08:00:00", 0),
         (1, 12, "2150-01-10 08:00:00", "2150-01-12 08:00:00", 0),
         (2, 21, "2150-05-01 08:00:00", "2150-05-03 08:00:00", 0),
         (3, 31, "2150-07-01 08:00:00", "2150-07-03 08:00:00", 0)],
        columns=["subject_id", "hadm_id", "admittime", "dischtime", "hospital_expire_flag"],
    ),
    "d_labitems": pd.DataFrame([(50912, "Creatinine")], columns=["itemid", "label"]),
    "labevents": pd.DataFrame(
        [(1, 11, 50912, "2150-01-02 08:00:00", "2150-01-02 09:00:00", 1.0, "mg/dL"),
         (1, 12, 50912, "2150-01-11 08:00:00", "2150-01-11 09:00:00", 1.5, "mg/dL"),
         (2, 21, 50912, "2150-05-02 08:00:00", "2150-05-02 09:00:00", 2.0, "mg/dl ")],
        columns=["subject_id", "hadm_id", "itemid", "charttime", "storetime", "valuenum",
                 "valueuom"],
    ),
    "diagnoses_icd": pd.DataFrame(
        [(1, 11, "0389", 9)], columns=["subject_id", "hadm_id", "icd_code", "icd_version"]
    ),
    "procedures_icd": pd.DataFrame([(1, 11, "2150-01-02", "3893", 9)], columns=[
        "subject_id", "hadm_id", "chartdate", "icd_code", "icd_version"]),
    "prescriptions": pd.DataFrame([(1, 11, "2150-01-02 10:00:00", "heparin")], columns=[
        "subject_id", "hadm_id", "starttime", "drug"]),
}  # fmt: skip
TABLES_OF = {"eicu": EICU, "mimic_iv": MIMIC}
MODALITIES = {"eicu": ("demographics", "labs"), "mimic_iv": ("demographics", "labs")}


def write(dataset, folder, changed=None, form="csv"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (TABLES_OF[dataset] | (changed or {})).items():
        table = table.reindex(columns=list(TABLES[dataset][name]))
        if form == "csv":
            whole = {c: "Int64" for c in table if c in ("hadm_id", "subject_id")
                     and pd.api.types.is_numeric_dtype(table[c])}  # fmt: skip
            table.astype(whole).to_csv(folder / f"{name}.csv", index=False)
        else:
            table.to_parquet(folder / f"{name}.parquet")
    return folder


def loaded(dataset, folder, **options):
    """The cohort, and all that was said of it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cohort = load(dataset, root=folder, **({"modalities": MODALITIES[dataset]} | options))
    return cohort, "\n".join(str(w.message) for w in said)


def flow(dataset, folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = {"eicu": eicu, "mimic_iv": mimic_iv}[dataset]
        return module.flow(folder, **options).set_index("rule")["excluded"]


def values(cohort, name="labs"):
    return [round(float(v), 3) for v in cohort.x[name].values[:, 1]]


def again(table, row, **changed):
    """The table with a row once more, in which something is different."""
    return pd.concat([table, table.iloc[[row]].assign(**changed)], ignore_index=True)


@pytest.mark.parametrize("dataset", TABLES_OF)
def test_where_nothing_is_wrong_nothing_is_said(tmp_path, dataset):
    cohort, said = loaded(dataset, write(dataset, tmp_path))
    assert said == ""
    assert len(cohort) == 4
    assert values(cohort) == ([1.0, 1.5, 2.0, 140.0] if dataset == "eicu" else [1.0, 1.5, 2.0])


# ---------------------------------------------------------------- time

OFFSETS = ["2150-01-02 09:00:00-05:00", "2150-01-02T09:00:00Z", "2150-01-02 09:00+05",
           "2150-01-02 09:00:00 UTC", "2150-01-02 09:00:00 America/New_York"]  # fmt: skip
NUMBERS = ["21500102", "91314.5", "5680285200", "5680285200000", "01/02/2150 09:00",
           "2.1.2150 09:00", "infinity", "50-01-02 09:00:00", "soon"]  # fmt: skip


@pytest.mark.parametrize("cell", [*OFFSETS, *NUMBERS])
@pytest.mark.parametrize("table", ["labevents", "admissions"])
def test_what_is_no_time_of_a_clock_on_the_wall_is_refused(tmp_path, cell, table):
    column = {"labevents": "storetime", "admissions": "admittime"}[table]
    changed = MIMIC[table].copy()
    changed.loc[1, column] = cell
    write("mimic_iv", tmp_path, {table: changed})
    where = (
        rf"^{table}\.csv, line 3: {column} holds .*, where a time as 2150-12-24 18:30:00 belongs"
    )
    with pytest.raises(ValueError, match=where) as caught:
        loaded("mimic_iv", tmp_path)
    with pytest.raises(ValueError, match=where) as ingested:
        ingest("mimic_iv", tmp_path, tmp_path / "out", tables=[table], threads=1)
    for error in (caught, ingested):
        assert cell not in str(error.value)
        assert str(tmp_path) not in str(error.value)
        if cell in OFFSETS[:3]:
            assert "dt.tz_localize(None)" in str(error.value)


@pytest.mark.parametrize(
    "cell", ["2150-01-02T09:00:00", "2150-01-02 09:00", "2150-01-02 9:00:00.0"]
)
def test_one_moment_in_other_spellings_is_the_same(tmp_path, cell):
    changed = MIMIC["labevents"].copy()
    changed.loc[0, "storetime"] = cell
    cohort, said = loaded("mimic_iv", write("mimic_iv", tmp_path, {"labevents": changed}))
    assert said == ""
    assert float(cohort.x["labs"].values[0, 0]) == 25.0


def typed_tables(**columns):
    """The tables of MIMIC-IV with types, some columns changed: table__column=function."""
    tables = {name: table.copy() for name, table in MIMIC.items()}
    times = {"admissions": ["admittime", "dischtime"], "labevents": ["charttime", "storetime"],
             "prescriptions": ["starttime"]}  # fmt: skip
    for name, of in times.items():
        tables[name][of] = tables[name][of].apply(pd.to_datetime)
    tables["patients"]["dod"] = [None, date(2150, 6, 1), None]
    tables["procedures_icd"]["chartdate"] = [date(2150, 1, 2)]
    for where, change in columns.items():
        name, column = where.split("__")
        tables[name][column] = change(tables[name][column])
    return tables


def test_parquet_of_pandas_is_read_as_csv_is(tmp_path):
    text, _ = loaded("mimic_iv", write("mimic_iv", tmp_path / "a"))
    for k, unit in enumerate(("s", "ms", "us", "ns")):
        tables = typed_tables(
            labevents__storetime=lambda t, unit=unit: t.astype(f"datetime64[{unit}]"),
            labevents__hadm_id=lambda t: t.astype(float),
        )
        other, said = loaded("mimic_iv", write("mimic_iv", tmp_path / str(k), tables, "parquet"))
        assert said == ""
        assert other.x["labs"].values.tolist() == text.x["labs"].values.tolist()
        assert other.y.tolist() == text.y.tolist()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: t.dt.tz_localize("UTC"), "times with a zone"),
        (lambda t: t.dt.tz_localize("America/New_York"), "times with a zone"),
        (lambda t: t - t.min(), "durations"),
        (lambda t: t.astype("datetime64[s]").astype("int64"), "numbers"),
        (lambda t: t.dt.strftime("%Y%m%d").astype(int), "numbers"),
        (lambda t: t.dt.strftime("%Y%m%d").astype(float), "numbers"),
        (lambda t: t.dt.strftime("%Y-%m-%dT%H:%M:%SZ"), "a date with an offset"),
    ],
)
def test_parquet_with_other_types_of_time_is_refused(tmp_path, change, what):
    write("mimic_iv", tmp_path, typed_tables(labevents__storetime=change), "parquet")
    with pytest.raises(ValueError, match=rf"^labevents\.parquet, .*: storetime holds {what}"):
        loaded("mimic_iv", tmp_path)


DAYS = {"admissions": ["admittime", "dischtime", "deathtime"], "prescriptions": ["starttime"],
        "labevents": ["charttime", "storetime"]}  # fmt: skip


def many(table, n=4):
    """The rows of a table n times over, of the first times of day each."""
    return pd.concat([table] * n, ignore_index=True)


@pytest.mark.parametrize(("table", "column"), [(t, c) for t, of in DAYS.items() for c in of])
@pytest.mark.parametrize("some", [True, False])
def test_a_day_where_a_time_belongs_is_refused_with_what_to_type(tmp_path, table, column, some):
    """Read as its midnight, a value of the evening would enter before a discharge at noon."""
    changed = many(MIMIC[table], 24 // len(MIMIC[table]))
    if column == "deathtime":
        changed[column] = changed["dischtime"]
    cut = changed.index[7:19] if some else changed.index
    changed.loc[cut, column] = changed.loc[cut, column].str[:10]
    write("mimic_iv", tmp_path, {table: changed})
    said = (
        rf"^{table}\.csv, line {cut[0] + 2}: {column} holds a date without a clock in "
        rf"{len(cut)} of {len(changed)} rows, where a time as 2150-12-24 18:30:00 belongs\. .* "
        r"Write the column again with its time of day\. .*: "
        r"t\.to_csv\(…, date_format='%Y-%m-%d %H:%M:%S'\)"
    )
    with pytest.raises(ValueError, match=said):
        loaded("mimic_iv", tmp_path, modalities=("demographics", "labs", "codes"))
    with pytest.raises(ValueError, match=said):
        ingest("mimic_iv", tmp_path, tmp_path / "out", tables=[table], threads=1)
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_few_days_are_not_counted(tmp_path):
    changed = MIMIC["labevents"].copy()
    changed.loc[2, "storetime"] = "2150-05-02"
    write("mimic_iv", tmp_path, {"labevents": changed})
    with pytest.raises(ValueError, match=r"line 4: .* in fewer than 10 of fewer than 10 rows"):
        loaded("mimic_iv", tmp_path)


def test_days_of_parquet_where_times_belong_are_refused_with_what_to_type(tmp_path):
    tables = typed_tables(labevents__storetime=lambda t: t.dt.date)
    write("mimic_iv", tmp_path, tables, "parquet")
    said = (
        r"^labevents\.parquet, row 1: storetime holds days without a clock in fewer than 10 of "
        r"fewer than 10 rows, .*: t\['storetime'\] = pd\.to_datetime\(t\['storetime'\]\)"
    )
    with pytest.raises(ValueError, match=said):
        loaded("mimic_iv", tmp_path)
    typed = typed_tables(labevents__storetime=lambda t: pd.to_datetime(t.dt.date))
    cohort, said = loaded("mimic_iv", write("mimic_iv", tmp_path / "b", typed, "parquet"))
    assert said == ""
    assert cohort.x["labs"].values[:, 0].tolist() == [16.0, 16.0, 16.0]  # the midnights meant


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_midnights_stay_midnights_and_are_told_where_there_is_no_other_time(tmp_path, form):
    def labs(midnights):
        table = many(MIMIC["labevents"]).assign(valuenum=np.arange(12.0))
        table["storetime"] = pd.to_datetime(table["storetime"])
        table.loc[midnights, "storetime"] = table["storetime"].dt.normalize()
        if form == "csv":
            table["storetime"] = table["storetime"].dt.strftime("%Y-%m-%d %H:%M:%S")
        return {"labevents": table}

    times = {}
    for n in (11, 12):
        tables = labs(range(n))
        if form == "parquet":
            tables = typed_tables() | tables
            tables["labevents"]["charttime"] = pd.to_datetime(tables["labevents"]["charttime"])
        cohort, said = loaded("mimic_iv", write("mimic_iv", tmp_path / str(n), tables, form))
        times[n] = sorted(cohort.x["labs"].values[:, 0].tolist())
        told = f"labevents.{form}: all 12 times of the cohort are at midnight, and count as such"
        assert said.startswith(told) if n == 12 else said == ""
    assert times[12] == [16.0] * 12
    assert times[11] == [16.0] * 11 + [25.0]


def test_stays_that_all_begin_and_end_at_midnight_are_told(tmp_path):
    admissions = many(MIMIC["admissions"], 3)
    admissions["hadm_id"] = np.arange(12) + 1
    for column in ("admittime", "dischtime"):
        admissions[column] = admissions[column].str.replace("08:00", "00:00")
    # as pandas writes a column of midnights, and as it has to be told to
    for column in ("admittime", "dischtime"):
        admissions[column] = pd.to_datetime(admissions[column])
    write("mimic_iv", tmp_path / "a", {"admissions": admissions})
    with pytest.raises(ValueError, match="admittime holds a date without a clock in 12 of 12"):
        flow("mimic_iv", tmp_path / "a")
    admissions.to_csv(tmp_path / "a" / "again.csv", index=False, date_format="%Y-%m-%d %H:%M:%S")
    again = pd.read_csv(tmp_path / "a" / "again.csv")
    _, said = loaded("mimic_iv", write("mimic_iv", tmp_path / "b", {"admissions": again}))
    for column in ("admittime", "dischtime"):
        assert f"admissions.csv: all 12 {column} of the cohort are at midnight" in said


def test_days_that_are_days_stay_so(tmp_path):
    """A procedure is known by its day: that of the discharge is of the stay, the next is not."""
    table = pd.DataFrame(
        [(1, 11, day, code, 9) for code, day in
         (("a", "2150-01-04"), ("b", "2150-01-05"), ("c", "2150-01-06"))],
        columns=["subject_id", "hadm_id", "chartdate", "icd_code", "icd_version"],
    )  # fmt: skip
    typed = table.assign(chartdate=pd.to_datetime(table["chartdate"]).dt.date)
    for form, tables in (
        ("csv", {"procedures_icd": table}),
        ("parquet", typed_tables() | {"procedures_icd": typed}),
    ):
        folder = write("mimic_iv", tmp_path / form, tables, form)
        cohort, said = loaded("mimic_iv", folder, modalities=("demographics", "codes"))
        words = set(cohort.x["codes"].words.values())
        assert {w for w in words if "procedures" in w} == {
            "procedures_icd: 9 a", "procedures_icd: 9 b",
        }  # fmt: skip
        assert "midnight" not in said


def test_offsets_of_eicu_may_be_durations_but_no_dates_and_no_fractions(tmp_path):
    lab = EICU["lab"]
    right, _ = loaded("eicu", write("eicu", tmp_path / "a", form="parquet"))
    for unit in ("s", "ms", "us", "ns"):
        spans = pd.to_timedelta(lab["labresultoffset"], "min").astype(f"timedelta64[{unit}]")
        changed = {"lab": lab.assign(labresultoffset=spans, labresultrevisedoffset=spans)}
        cohort, said = loaded("eicu", write("eicu", tmp_path / unit, changed, "parquet"))
        assert said == ""
        assert cohort.x["labs"].values.tolist() == right.x["labs"].values.tolist()
    dates = pd.Timestamp("2150-01-01") + pd.to_timedelta(lab["labresultoffset"], "min")
    for k, (column, what) in enumerate([
        (dates, "dates"), (lab["labresultoffset"] + 0.5, "numbers"), (lab["labname"], "a word"),
    ]):  # fmt: skip
        folder = tmp_path / f"wrong {k}"
        write("eicu", folder, {"lab": lab.assign(labresultoffset=column)}, "parquet")
        with pytest.raises(ValueError, match=rf"^lab\.parquet, .*labresultoffset holds {what}"):
            loaded("eicu", folder)


ZONES = """
import hashlib, sys, warnings
from dfdlib.data import load
from dfdlib.data.ingest import ingest
warnings.simplefilter("ignore")
raw, out = sys.argv[1:]
ingest("mimic_iv", raw, out, threads=1, progress=False, skip=["discharge"])
for root in (raw, out):
    for task in ("mortality", "readmission"):
        c = load("mimic_iv", root=root, task=task, modalities=("demographics", "codes", "labs"))
        values = [c.y.tolist(), c.to_frame().fillna(-1).values.tolist()]
        values += [c.x[m].values.tolist() for m in ("codes", "labs")]
        print(task, len(c), hashlib.sha256(repr(values).encode()).hexdigest())
"""


def test_the_zone_of_the_machine_does_not_enter(tmp_path):
    raw = made_up.write("mimic_iv", tmp_path / "raw", n=40, seed=2)
    said = set()
    for zone in ("UTC", "America/New_York", "Pacific/Auckland"):
        environment = os.environ | {"TZ": zone, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", ZONES, raw, tmp_path / zone.replace("/", " ")],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        lines = done.stdout.splitlines()
        assert lines[:2] == lines[2:]  # raw, ingested
        said.add(done.stdout)
    assert len(said) == 1


def test_nearly_all_rows_out_of_the_window_are_told(tmp_path):
    lab = EICU["lab"]
    seconds = lab.assign(labresultoffset=60 * lab["labresultoffset"],
                         labresultrevisedoffset=60 * lab["labresultoffset"])  # fmt: skip
    _, said = loaded("eicu", write("eicu", tmp_path / "a", {"lab": seconds}))
    assert "lab.csv: of 4 rows of stays in the cohort 4 are recorded after the cut, 4 of" in said
    shifted = MIMIC["labevents"].assign(charttime="2050-01-01 00:00:00", storetime=None)
    _, said = loaded("mimic_iv", write("mimic_iv", tmp_path / "b", {"labevents": shifted}))
    assert "labevents.csv: of 3 rows of stays in the cohort 0 are" in said
    assert "and 3 over a year before it" in said


# ---------------------------------------------------------------- rows that come twice, bad stays


@pytest.mark.parametrize("dataset", TABLES_OF)
def test_files_that_were_appended_to_themselves_give_the_same_cohort(tmp_path, dataset):
    once, _ = loaded(dataset, write(dataset, tmp_path / "a"))
    double = {name: pd.concat([table, table]) for name, table in TABLES_OF[dataset].items()}
    twice, said = loaded(dataset, write(dataset, tmp_path / "b", double))
    assert len(twice) == len(once)
    assert twice.y.tolist() == once.y.tolist()
    assert twice.x["labs"].values.tolist() == once.x["labs"].values.tolist()
    pd.testing.assert_frame_equal(twice.to_frame(), once.to_frame())
    name = {"eicu": "patient", "mimic_iv": "admissions"}[dataset]
    assert f"{name}.csv: 4 rows repeat another one" in said
    pd.testing.assert_series_equal(
        flow(dataset, tmp_path / "b", task="readmission"),
        flow(dataset, tmp_path / "a", task="readmission"),
    )


def test_a_stay_with_two_rows_that_differ_is_left_out_and_counted(tmp_path):
    patient = again(EICU["patient"], 2, unitdischargestatus="Expired")
    root = write("eicu", tmp_path / "a", {"patient": patient})
    cohort, said = loaded("eicu", root)
    assert cohort.groups["patient"].tolist() == ["a", "a", "c"]
    assert flow("eicu", root)["told once, or alike each time"] == 2
    assert "fewer than 10 not 'told once, or alike each time'" in said

    admissions = again(MIMIC["admissions"], 0, dischtime="2150-01-06 08:00:00")
    root = write("mimic_iv", tmp_path / "b", {"admissions": admissions})
    assert loaded("mimic_iv", root)[0].groups["patient"].tolist() == [1, 2, 3]
    assert flow("mimic_iv", root)["told once, or alike each time"] == 2
    # whether the other admission of this patient came back cannot be told
    assert loaded("mimic_iv", root, task="readmission")[0].groups["patient"].tolist() == [2, 3]

    people = again(MIMIC["patients"], 1, dod="2150-05-04")
    root = write("mimic_iv", tmp_path / "c", {"patients": people})
    assert loaded("mimic_iv", root)[0].groups["patient"].tolist() == [1, 1, 3]
    assert flow("mimic_iv", root)["told once, or alike each time"] == 2


def test_a_stay_that_ends_before_it_begins_is_left_out_and_counted(tmp_path):
    for column, moment in (
        ("dischtime", "2150-04-30 08:00:00"),
        ("deathtime", "2150-05-01 07:59:59"),
    ):
        admissions = MIMIC["admissions"].assign(deathtime=None)
        admissions.loc[2, column] = moment
        root = write("mimic_iv", tmp_path / column, {"admissions": admissions})
        cohort, said = loaded("mimic_iv", root)
        assert cohort.groups["patient"].tolist() == [1, 1, 3]
        assert flow("mimic_iv", root)["that ends no earlier than it begins"] == 1
        assert "fewer than 10 not 'that ends no earlier than it begins'" in said
    patient = EICU["patient"].copy()
    patient.loc[2, "unitdischargeoffset"] = -10
    cohort, said = loaded("eicu", write("eicu", tmp_path / "eicu", {"patient": patient}))
    assert cohort.groups["patient"].tolist() == ["a", "a", "c"]
    assert flow("eicu", tmp_path / "eicu")["that ends no earlier than it begins"] == 1
    assert "fewer than 10 not 'that ends no earlier than it begins'" in said


def test_readmission_needs_one_order_of_stays(tmp_path):
    """The visit numbers of a hospital stay against its offsets: neither is believed."""
    cohort, _ = loaded("eicu", write("eicu", tmp_path / "a"), task="readmission")
    assert cohort.y.tolist() == [1, 0, 0]  # stays 11, 21, 31; 12 did not leave alive
    patient = EICU["patient"].assign(unitvisitnumber=[2, 1, 1, 1])
    root = write("eicu", tmp_path / "b", {"patient": patient})
    cohort, said = loaded("eicu", root, task="readmission")
    assert cohort.groups["patient"].tolist() == ["b", "c"]
    assert flow("eicu", root, task="readmission").iloc[-1] == 1
    assert "not 'of a hospital stay with one order by number and by time'" in said
    assert len(loaded("eicu", root)[0]) == 4  # mortality does not read it


def test_stays_without_a_hospital_stay_do_not_belong_together(tmp_path):
    patient = EICU["patient"].assign(patienthealthsystemstayid=None)
    cohort, _ = loaded("eicu", write("eicu", tmp_path, {"patient": patient}), task="readmission")
    assert cohort.y.tolist() == [0, 0, 0]


def test_a_hospital_stay_of_two_patients_is_left_out(tmp_path):
    patient = EICU["patient"].assign(uniquepid=["a", "z", "b", "c"])
    root = write("eicu", tmp_path, {"patient": patient})
    assert loaded("eicu", root)[0].groups["patient"].tolist() == ["b", "c"]
    assert flow("eicu", root)["of a hospital stay of one patient"] == 2


def test_first_day_values_that_contradict_each_other_are_missing(tmp_path):
    apache = again(EICU["apacheapsvar"], 0, heartrate=95)
    root = write("eicu", tmp_path, {"apacheapsvar": apache})
    cohort, said = loaded("eicu", root, cut_hours=24, modalities=("demographics", "apache"))
    table = cohort.to_frame()
    np.testing.assert_array_equal(table["apache.heartrate"], [np.nan, np.nan, 80, np.nan])
    assert table["apache.eyes"][0] == 4  # both rows say so
    assert "heartrate: fewer than 10 rows of the cohort have two values in apacheapsvar.csv" in said


# ---------------------------------------------------------------- whose rows


def test_rows_that_are_nobodys_are_counted(tmp_path):
    labs = again(MIMIC["labevents"], 0, hadm_id=None)
    labs = again(labs, 0, hadm_id=99)
    labs = again(labs, 0, subject_id=2)
    labs = again(labs, 0, storetime=None, charttime=None)
    cohort, said = loaded("mimic_iv", write("mimic_iv", tmp_path / "a", {"labevents": labs}))
    assert values(cohort) == [1.0, 1.5, 2.0]
    for words in ("labevents.csv: of 7 rows", "1 name no hadm_id", "1 have a hadm_id that no row",
                  "1 name another patient than their hadm_id does", "1 have no time"):  # fmt: skip
        assert words in said
    alone = MIMIC["patients"][MIMIC["patients"]["subject_id"] != 2]
    root = write("mimic_iv", tmp_path / "b", {"patients": alone})
    assert loaded("mimic_iv", root)[0].groups["patient"].tolist() == [1, 1, 3]
    assert flow("mimic_iv", root)["of a patient who is in the table patients"] == 1
    lab = again(EICU["lab"], 0, patientunitstayid=77)
    _, said = loaded("eicu", write("eicu", tmp_path / "c", {"lab": lab}))
    assert "1 have a patientunitstayid that no row of the cohort's tables has" in said


def test_hospitals_that_do_not_fit_are_told(tmp_path):
    two = pd.DataFrame({"hospitalid": [5, 5], "region": ["South", "West"]})
    cohort, said = loaded("eicu", write("eicu", tmp_path, {"hospital": two}))
    assert len(cohort) == 4
    assert set(cohort.groups["region"]) == {"unknown"}
    assert "hospital.csv tells two regions of a hospital" in said
    other = pd.DataFrame({"hospitalid": [6], "region": ["South"]})
    _, said = loaded("eicu", write("eicu", tmp_path, {"hospital": other}))
    assert "fewer than 10 stays are in hospitals that hospital.csv does not have" in said


@pytest.mark.parametrize(
    ("written", "read"), [("011", True), ("11.0", True), (" 11", True), ("11.5", False)]
)
def test_identifiers_are_whole_numbers_however_they_are_written(tmp_path, written, read):
    labs = MIMIC["labevents"].astype({"hadm_id": object})
    labs.loc[0, "hadm_id"] = written
    root = write("mimic_iv", tmp_path, {"labevents": labs})
    if read:
        assert values(loaded("mimic_iv", root)[0]) == [1.0, 1.5, 2.0]
        return
    with pytest.raises(ValueError, match=r"line 2: hadm_id holds a number \(4 characters\)"):
        loaded("mimic_iv", root)


# ---------------------------------------------------------------- units, names, bounds


def test_an_item_in_two_units_keeps_the_one_that_counts(tmp_path):
    lab = again(EICU["lab"], 2, labresult=177.0, labmeasurenamesystem="µmol/L")
    lab = again(lab, 2, labresult=2.2, labmeasurenamesystem=None)
    cohort, said = loaded("eicu", write("eicu", tmp_path / "a", {"lab": lab}))
    assert 177.0 not in values(cohort)
    assert 2.2 in values(cohort)
    assert "lab.csv: name creatinine comes in 2 units; 1 of 4 values" in said
    assert "mol" not in said  # what stands in a cell

    labs = again(MIMIC["labevents"], 2, valuenum=177.0, valueuom="umol/L")
    cohort, said = loaded("mimic_iv", write("mimic_iv", tmp_path / "b", {"labevents": labs}))
    assert values(cohort) == [1.0, 1.5, 2.0]  # mg/dL and "mg/dl " are one unit
    assert "labevents.csv: itemid 50912 comes in 2 units; 1 of 4 values are not in the one" in said
    tie = MIMIC["labevents"].iloc[[0, 2]].assign(valueuom=["mg/dL", "umol/L"])
    cohort, said = loaded("mimic_iv", write("mimic_iv", tmp_path / "c", {"labevents": tie}))
    assert values(cohort) == []
    assert "2 of 2 values are not in one that most have" in said


def test_a_test_that_is_all_in_another_unit_is_told(tmp_path):
    lab = EICU["lab"].copy()
    lab.loc[:2, "labmeasurenamesystem"] = "mcmol/L"
    _, said = loaded("eicu", write("eicu", tmp_path, {"lab": lab}))
    assert "name creatinine is not in the unit that variables() lists" in said


def test_names_in_other_letters_are_read_or_told(tmp_path):
    assert len({name.lower() for name in LAB_UNITS}) == len(LAB_UNITS)
    lab = EICU["lab"].assign(labname=["Creatinine", "CREATININE ", "creatinine", "Sodium"])
    cohort, said = loaded("eicu", write("eicu", tmp_path / "a", {"lab": lab}))
    assert values(cohort) == [1.0, 1.5, 2.0, 140.0]
    assert "3 rows write the name of what was measured in other letters" in said
    items = pd.DataFrame({"itemid": [50912, 50983], "label": ["Creatinine", "SODIUM"]})
    _, said = loaded("mimic_iv", write("mimic_iv", tmp_path / "b", {"d_labitems": items}))
    assert "d_labitems.csv: 1 items have one of the names that are read, but in other" in said


def test_impossible_heights_and_weights_are_missing_and_told(tmp_path):
    patient = EICU["patient"].assign(admissionheight=[1.7, 170, 170, 170], admissionweight=7000)
    cohort, said = loaded("eicu", write("eicu", tmp_path, {"patient": patient}))
    table = cohort.to_frame()
    np.testing.assert_array_equal(table["demographics.height"], [np.nan, 170, 170, 170])
    assert table["demographics.weight"].isna().all()
    assert "height: 1 of 4 values lie outside 100 to 250 cm, and count as missing" in said
    assert "weight: 4 of 4 values" in said


def test_one_code_in_two_spellings_is_told(tmp_path):
    codes = pd.DataFrame(
        [(1, 11, "401.9", 9), (1, 11, "4019 ", 9), (2, 21, "A41", 10), (2, 21, "4019", 10)],
        columns=["subject_id", "hadm_id", "icd_code", "icd_version"],
    )
    root = write("mimic_iv", tmp_path, {"diagnoses_icd": codes})
    _, said = loaded("mimic_iv", root, modalities=("codes",))
    assert "codes: 2 codes differ only in points, blanks or capital letters" in said
    assert "4019" not in said


def test_codes_that_lost_their_zeros_are_refused(tmp_path):
    codes = MIMIC["diagnoses_icd"].assign(icd_code=[389])
    write("mimic_iv", tmp_path, typed_tables() | {"diagnoses_icd": codes}, "parquet")
    with pytest.raises(ValueError, match=r"diagnoses_icd\.parquet: icd_code is stored as .* zeros"):
        loaded("mimic_iv", tmp_path, modalities=("codes",))


def test_text_among_measurements_is_counted(tmp_path):
    labs = MIMIC["labevents"].astype({"valuenum": object})
    labs.loc[0, "valuenum"] = "<0.1"
    cohort, said = loaded("mimic_iv", write("mimic_iv", tmp_path, {"labevents": labs}))
    assert values(cohort) == [1.5, 2.0]
    assert "1 hold no number in valuenum" in said


def test_another_word_for_how_somebody_left_is_told(tmp_path):
    patient = EICU["patient"].assign(unitdischargestatus=["Alive", "EXPIRED", "Alive", "Alive"])
    cohort, said = loaded("eicu", write("eicu", tmp_path, {"patient": patient}))
    assert cohort.y.isnan().tolist() == [False, True, False, False]
    assert "fewer than 10 stays have a discharge status that is neither Alive nor Expired" in said


# ---------------------------------------------------------------- the files themselves


def test_a_folder_with_signs_of_a_pattern_is_read_as_it_is_called(tmp_path):
    for form in ("csv", "parquet"):
        here, beside = tmp_path / form / "eicu [2.0]*", tmp_path / form / "eicu 2"
        write("eicu", here, form=form)
        write("eicu", beside, {"patient": EICU["patient"].assign(uniquepid="nobody")}, form)
        assert loaded("eicu", here)[0].groups["patient"].tolist() == ["a", "a", "b", "c"]
    manifest = ingest("eicu", tmp_path / "csv" / "eicu [2.0]*", tmp_path / "out [1]",
                      tables=["patient"], threads=1)  # fmt: skip
    assert manifest["tables"]["patient"]["rows"] == 4
    assert (tmp_path / "out [1]" / "patient.parquet").is_file()


@pytest.mark.parametrize("where", ["load", "ingest"])
def test_a_wrong_checksum_is_damage(tmp_path, where):
    write("eicu", tmp_path)
    body = bytearray(gzip.compress((tmp_path / "lab.csv").read_bytes(), 0))
    body[body.index(b"1.5")] = ord("9")
    (tmp_path / "lab.csv").unlink()
    (tmp_path / "lab.csv.gz").write_bytes(body)
    calls = {
        "load": lambda: loaded("eicu", tmp_path),
        "ingest": lambda: ingest("eicu", tmp_path, tmp_path / "out", tables=["lab"], threads=1),
    }
    said = r"^lab\.csv\.gz is cut off or damaged \(the gzip checksum"
    with pytest.raises(ValueError, match=said):
        calls[where]()
    assert not list(tmp_path.glob("out/*.parquet"))


def test_two_files_for_one_table_are_refused(tmp_path):
    write("eicu", tmp_path / "2.0")
    write("eicu", tmp_path / "old")
    with pytest.raises(ValueError, match=r"two files for \w+: 2\.0/\w+\.csv and old/\w+\.csv"):
        loaded("eicu", tmp_path)


SECRET = "Zyzzyva"


@pytest.mark.parametrize("dataset", TABLES_OF)
@pytest.mark.parametrize("kind", ["word", "ragged", "quote", "no names", "latin-1"])
def test_no_message_shows_a_row_or_the_way_to_the_folder(tmp_path, dataset, kind):
    root = write(dataset, tmp_path / "raw")
    for name in TABLES_OF[dataset]:
        path = root / f"{name}.csv"
        whole = path.read_bytes()
        lines = whole.decode().splitlines()
        cells = lines[1].split(",")
        lines[1] = {
            "word": ",".join([SECRET] * len(cells)),
            "ragged": f"{lines[1]},{SECRET}",
            "quote": f'"{SECRET}{lines[1]}',
            "no names": lines[1],
            "latin-1": f"{SECRET}é{lines[1]}",
        }[kind]
        if kind == "no names":
            lines[0] = ",".join([SECRET] * len(cells))
        body = "\n".join(lines) + "\n"
        path.write_bytes(body.encode("latin-1" if kind == "latin-1" else "utf-8"))
        every = {"modalities": ["demographics", "codes", "labs"]}
        said, places = [], []
        for call in (
            lambda every=every: loaded(dataset, root, **every)[1],
            lambda name=name: ingest(dataset, root, tmp_path / "out", tables=[name], threads=1),
        ):
            try:
                said.append(str(call()))
            except (ValueError, OSError) as error:
                said.append("".join(traceback.format_exception(error)))
                places.append(str(error))
        assert SECRET not in "".join(said)
        assert str(tmp_path) not in "".join(places)
        path.write_bytes(whole)


def test_tables_that_no_cohort_reads_need_not_be_there(tmp_path):
    root = write("mimic_iv", tmp_path / "raw")
    with pytest.warns(UserWarning, match="without d_icd_diagnoses, d_icd_procedures: not below"):
        manifest = ingest("mimic-iv", root, tmp_path / "out", skip=["discharge"], threads=1)
    assert set(manifest["tables"]) == set(MIMIC)
    cohort = load("mimic-iv", root=tmp_path / "out", modalities="demographics")
    assert len(cohort) == 4


def test_messages_name_no_small_number_of_people(tmp_path):
    patient = EICU["patient"].assign(unitdischargeoffset=[2000, -1, -2, -3])
    _, said = loaded("eicu", write("eicu", tmp_path, {"patient": patient}))
    assert "fewer than 10" in said
    assert not re.search(r"\b3\b", said)


@pytest.mark.parametrize(
    ("dataset", "table", "column", "words", "name"),
    [
        ("eicu", "patient", "gender", "W", "male"),
        ("mimic_iv", "patients", "gender", "W", "male"),
        ("eicu", "patient", "admissionheight", "170,5", "height"),
        ("eicu", "patient", "admissionweight", "1_70", "weight"),
    ],
)
def test_what_stands_where_a_value_is_read_is_told(tmp_path, dataset, table, column, words, name):
    changed = {"eicu": EICU, "mimic_iv": MIMIC}[dataset][table].astype(object)
    changed[column] = words
    cohort, said = loaded(dataset, write(dataset, tmp_path, {table: changed}))
    assert f"hold something else where '{name}' is read, and count as missing there" in said
    assert words not in said
    place = cohort.schema.features["demographics"].index(name)
    assert not cohort.x_observed["demographics"][:, place].any()


@pytest.mark.parametrize(("dataset", "table"), [("eicu", "patient"), ("mimic_iv", "patients")])
def test_sex_is_read_in_any_letters(tmp_path, dataset, table):
    plain, _ = loaded(dataset, write(dataset, tmp_path / "plain", {}))
    changed = {"eicu": EICU, "mimic_iv": MIMIC}[dataset][table].copy()
    changed["gender"] = changed["gender"].str.lower() + " "
    cohort, said = loaded(dataset, write(dataset, tmp_path / "lower", {table: changed}))
    assert said == ""
    place = plain.schema.features["demographics"].index("male")
    assert plain.x_observed["demographics"][:, place].all()
    for each in ("x", "x_observed"):
        values, others = (getattr(c, each)["demographics"][:, place] for c in (plain, cohort))
        assert values.tolist() == others.tolist()


def test_an_underscore_is_no_part_of_a_number(tmp_path):
    changed = EICU["patient"].astype({"unitdischargeoffset": object})
    changed.loc[0, "unitdischargeoffset"] = "20_00"
    write("eicu", tmp_path, {"patient": changed})
    with pytest.raises(ValueError, match=r"line 2: unitdischargeoffset holds .* whole number"):
        loaded("eicu", tmp_path)


@pytest.mark.parametrize("dataset", ["eicu", "mimic_iv", "adni", "mimic_cxr"])
def test_a_folder_that_is_not_there_is_named_without_the_way_to_it(tmp_path, dataset):
    for call in (lambda root: load(dataset, root=root), lambda root: ingest(dataset, root, root)):
        with pytest.raises(FileNotFoundError, match="nowhere") as caught:
            call(tmp_path / "nowhere")
        assert str(tmp_path) not in str(caught.value)

"""Your own tables: against plain pandas, at the cut, and each refusal by the name of its key."""

import copy
import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from dfdlib.book import made_up
from dfdlib.data.tables import code_id, from_tables, template

NAN = np.nan
SUBSET = Path(__file__).resolve().parents[3] / "shared" / "data" / "eicu_demo_raw_subset"

STAYS = """stay,patient,hospital,admitted,age,sex,ward,bmi
007,p1,north,2031-03-01 10:00,61,female,medical,24.5
008,p1,north,2031-05-01 00:00,61,female,surgical,
009,p2,,2031-03-02 12:00,-999,male,NA,31
"""
OUTCOMES = "stay,outcome\n009,dead\n007,alive\n"
LABS = """stay,drawn,creatinine,sodium
007,2031-03-01 09:00,0.9,140
007,2031-03-02 10:00,1.5,
007,2031-03-02 10:00:01,9.9,9.9
008,2031-05-01,2.0,133
009,2031-03-03 11:59,1.1,-999.0
"""
DIAGNOSES = """stay,recorded,icd
007,2031-03-01 12:00,0389
007,2031-02-20 08:00,I21.4
007,2031-03-09 08:00,E11
009,2031-03-02 12:00,389
"""
VITALS = """stay,at,sign,reading
007,2031-03-01 10:30,pulse,80
007,2031-03-01 10:15,spo2,97
007,2031-03-01 10:15,pulse,90
007,2031-03-01 10:15,mood,3
008,2031-05-01 01:00,pulse,70
"""


@pytest.fixture
def folder(tmp_path):
    """The files that the template names, and the template beside them."""
    files = {
        "stays": STAYS, "outcomes": OUTCOMES, "labs": LABS,
        "diagnoses": DIAGNOSES, "vitals": VITALS,
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    genome = pd.DataFrame({"stay": ["007", "009"], "apoe4": [2.0, NAN]})
    genome.to_parquet(tmp_path / "genome.parquet")
    (tmp_path / "tables.yaml").write_text(template(), encoding="utf-8")
    return tmp_path


def changed(folder, **keys):
    """Write the template again with entries changed, given as path__to__key; None deletes."""
    config = yaml.safe_load(template())
    for path, value in keys.items():
        *parents, last = path.split("__")
        node = config
        for key in parents:
            node = node[key]
        if value is None:
            del node[last]
        else:
            node[last] = copy.deepcopy(value)
    (folder / "tables.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return folder / "tables.yaml"


def rows_of(ragged):
    return [row.tolist() for row in ragged.values.split(ragged.lengths.tolist())]


# ---------------------------------------------------------------- what comes out


def test_the_template_has_at_most_40_lines_and_a_comment_on_each_section():
    lines = template().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    config = yaml.safe_load(template())
    assert set(config) == {"patients", "time", "label", "missing", "modalities"}
    assert {m["kind"] for m in config["modalities"].values()} == {
        "vector", "categorical", "codes", "series"
    }  # fmt: skip


def test_the_template_works_as_it_stands(folder):
    cohort = from_tables(folder / "tables.yaml")
    assert cohort.names == ("background", "ward", "labs", "diagnoses", "vitals", "genome")
    assert cohort.task == "binary"
    np.testing.assert_array_equal(cohort.y, [0, NAN, 1])
    assert cohort.groups["patient"].tolist() == ["p1", "p1", "p2"]
    assert cohort.groups["site"].tolist() == ["north", "north", "unknown"]
    assert cohort.covariates["sex"].tolist() == ["female", "female", "male"]
    np.testing.assert_array_equal(cohort.covariates["age"], [61, 61, NAN])
    frame = cohort.to_frame()
    expected = {
        "background.age": [61, 61, NAN],
        "background.bmi": [24.5, NAN, 31],
        "ward.sex": [0, 0, 1],
        "ward.ward": [0, 1, NAN],
        "labs.creatinine": [1.5, 2.0, 1.1],
        "labs.sodium": [140, 133, NAN],
        "genome.apoe4": [2, NAN, NAN],
    }
    assert list(frame) == list(expected)
    np.testing.assert_array_equal(frame, np.float32(list(expected.values())).T)
    assert rows_of(cohort.x["diagnoses"]) == [
        [code_id("I21.4"), code_id("0389")], [], [code_id("389")]
    ]  # fmt: skip
    assert rows_of(cohort.x["vitals"]) == [
        [[0.25, 90, 0], [0.25, 97, 1], [0.5, 80, 0]], [[1, 70, 0]], []
    ]  # fmt: skip


def test_codes_and_items_keep_their_words(folder):
    cohort = from_tables(folder / "tables.yaml")
    codes, vitals = cohort.x["diagnoses"], cohort.x["vitals"]
    known = {code_id(word): word for word in ("I21.4", "0389", "389")}
    assert {code: codes.words[code] for code in codes.values.tolist()} == known
    assert vitals.words == {0: "pulse", 1: "spo2"}


def test_a_date_without_a_clock_counts_as_the_end_of_its_day(folder):
    """Stay 008 begins at midnight: its sample of that date may be 24 hours old, or none."""
    at_24 = from_tables(changed(folder, time__cut=24))
    before = from_tables(changed(folder, time__cut=23.9))
    assert at_24.x["labs"][1].tolist() == [2.0, 133.0]
    assert not before.observed[1, 2]


@pytest.mark.parametrize(
    ("take", "expected"),
    [("last", 1.5), ("first", 0.9), ("mean", 1.2), ("min", 0.9), ("max", 1.5)],
)
def test_of_several_values_one_is_taken(folder, take, expected):
    cohort = from_tables(changed(folder, modalities__labs__take=take))
    assert cohort.x["labs"][0, 0].item() == pytest.approx(expected)


def test_nothing_after_the_cut_enters(folder):
    """Events after the cut change nothing, whatever they hold; before it, they do."""
    before = from_tables(folder / "tables.yaml")
    late = {
        "labs.csv": "007,2031-03-02 10:00:00.5,77,77\n",
        "diagnoses.csv": "009,2031-03-03,I21.4\n007,2031-03-02 10:01,X\n",
        "vitals.csv": "007,2031-03-02 11:00,pulse,55\n008,2032-01-01 00:00,spo2,12\n",
    }
    for name, text in late.items():
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(text)
    after = from_tables(folder / "tables.yaml")
    for name in before.names:
        a, b = before.x[name], after.x[name]
        a, b = (a, b) if torch.is_tensor(a) else (a.values, b.values)
        assert torch.equal(a, b), name
    assert torch.equal(before.observed, after.observed)
    later = from_tables(changed(folder, time__cut=25))
    assert not torch.equal(before.x["labs"], later.x["labs"])
    everything = from_tables(changed(folder, time__cut="none"))
    assert everything.x["labs"][0, 0] == np.float32(9.9)


def test_times_may_be_numbers_since_time_zero(tmp_path):
    (tmp_path / "a.csv").write_text("id;x\n1;5\n2;6\n")
    (tmp_path / "b.csv").write_text("id;minute;k\n1;-30;3.5\n1;720;4\n1;721;9\n2;721;9\n")
    config = {
        "patients": {"file": str(tmp_path / "a.csv"), "id": "id"},
        "time": {"cut": 720, "unit": "minutes"},
        "modalities": {
            "age": {"kind": "vector", "columns": ["x"]},
            "labs": {
                "kind": "series", "file": str(tmp_path / "b.csv"), "time": "minute",
                "columns": ["k"],
            },
        },
    }  # fmt: skip
    cohort = from_tables(config)
    assert rows_of(cohort.x["labs"]) == [[[-30, 3.5, 0], [720, 4, 0]], []]
    assert (cohort.task, cohort.groups["patient"].tolist()) == (None, ["1", "2"])
    assert "site" not in cohort.groups


def test_csv_gz_and_parquet_read_alike(folder):
    expected = from_tables(folder / "tables.yaml")
    for suffix in ("csv.gz", "parquet"):
        for name in ("labs", "diagnoses", "vitals"):
            table = pd.read_csv(folder / f"{name}.csv", dtype={"stay": str, "icd": str})
            if suffix == "parquet":
                table.to_parquet(folder / f"{name}.parquet")
            else:
                table.to_csv(folder / f"{name}.csv.gz", index=False)
        files = {f"modalities__{n}__file": f"{n}.{suffix}" for n in ("labs", "diagnoses", "vitals")}
        cohort = from_tables(changed(folder, **files))
        assert torch.equal(cohort.x["labs"], expected.x["labs"])
        assert rows_of(cohort.x["diagnoses"]) == rows_of(expected.x["diagnoses"])
        assert rows_of(cohort.x["vitals"]) == rows_of(expected.x["vitals"])


def test_the_dialects_of_csv_read_alike(folder):
    """A byte-order mark, semicolons, Windows lines, and quotes around lines that go on."""
    expected = from_tables(folder / "tables.yaml")
    lines = (folder / "diagnoses.csv").read_text().splitlines()
    lines = [",".join(f'"{cell}"' for cell in line.split(",")) for line in lines]
    lines += ['"009","2031-03-09 12:00","after; the\r\n""cut"""']
    text = "\ufeff" + "\r\n".join(lines).replace('","', '";"') + "\r\n"
    (folder / "diagnoses.csv").write_bytes(text.encode())
    cohort = from_tables(folder / "tables.yaml")
    assert rows_of(cohort.x["diagnoses"]) == rows_of(expected.x["diagnoses"])
    everything = from_tables(changed(folder, time__cut="none"))
    assert rows_of(everything.x["diagnoses"])[2][-1] == code_id('after; the\r\n"cut"')


def test_rows_and_labels_that_are_missing_may_be_dropped(folder):
    assert len(from_tables(changed(folder, missing__labels="drop"))) == 2
    keep_vitals = {f"modalities__{name}": None for name in ("background", "ward", "labs", "genome")}
    path = changed(folder, missing__rows="drop", modalities__diagnoses=None, **keep_vitals)
    assert from_tables(path).groups["patient"].tolist() == ["p1", "p1"]
    path = changed(folder, modalities__diagnoses=None, **keep_vitals)
    with pytest.warns(UserWarning, match="1 of 3 rows have nothing observed"):
        assert len(from_tables(path)) == 3


def test_labels_may_be_numbers_several_or_none(folder):
    (folder / "outcomes.csv").write_text("stay,a,b\n007,1,0\n008,0,\n009,1,1\n")
    label = {"file": "outcomes.csv", "columns": ["a", "b"], "task": "multilabel"}
    cohort = from_tables(changed(folder, label=label))
    np.testing.assert_array_equal(cohort.y, [[1, 0], [0, NAN], [1, 1]])
    age = {"label": {"columns": ["age"], "task": "multiclass"}, "modalities__background": None}
    assert from_tables(changed(folder, **age)).schema.n_classes == 62
    assert from_tables(changed(folder, label=None)).task is None
    classes = {"columns": ["hospital"], "classes": ["south", "north", "east"]}
    assert from_tables(changed(folder, label=classes)).task == "multiclass"


def test_words_among_numbers_may_count_as_missing(folder):
    with (folder / "labs.csv").open("a", encoding="utf-8") as file:
        file.write("009,2031-03-02 13:00,hemolyzed,131\n")
    cohort = from_tables(changed(folder, missing__text="missing"))
    assert cohort.x["labs"][2].tolist() == [np.float32(1.1), 131]


def test_values_without_a_time_do_not_enter_and_are_counted(folder):
    with (folder / "labs.csv").open("a", encoding="utf-8") as file:
        file.write("007,,7.7,150\n")
    with pytest.warns(UserWarning, match=r"\['labs'\]: 2 values of labs.csv have no 'drawn'"):
        cohort = from_tables(folder / "tables.yaml")
    assert cohort.x["labs"][0].tolist() == [1.5, 140]


def test_a_code_has_the_same_number_everywhere():
    assert code_id("I21.4") == 4324346221408926571
    assert len({code_id(str(i)) for i in range(100_000)}) == 100_000


@pytest.fixture(params=["made up", "real"])
def eicu(request, tmp_path):
    """A folder of raw eICU tables: of made-up patients, and of 178 stays of the open demo."""
    if request.param == "made up":
        tables = ["patient", "lab", "diagnosis"]
        return made_up.write("eicu", tmp_path, n=40, seed=0, only=tables), ".csv.gz"
    if not SUBSET.is_dir():
        pytest.skip("the eICU demo subset is not in ../shared/data")
    return SUBSET, ".csv"


@pytest.mark.filterwarnings("ignore:.*nothing observed")
def test_raw_eicu_tables_give_what_pandas_gives(eicu):
    """Last laboratory values and diagnoses in the first 12 hours."""
    root, suffix = eicu
    items = ["creatinine", "potassium", "WBC x 1000"]
    config = {
        "patients": {
            "file": f"{root}/patient{suffix}", "id": "patientunitstayid",
            "patient": "uniquepid", "site": "hospitalid",
        },
        "time": {"unit": "minutes", "cut": 720},
        "missing": {"text": "missing"},
        "label": {"columns": ["unitdischargestatus"], "classes": ["Alive", "Expired"]},
        "modalities": {
            "labs": {
                "kind": "vector", "file": f"{root}/lab{suffix}", "time": "labresultoffset",
                "item": "labname", "value": "labresult", "columns": items,
            },
            "diagnoses": {
                "kind": "codes", "file": f"{root}/diagnosis{suffix}",
                "time": "diagnosisoffset", "columns": ["diagnosisstring"],
            },
        },
    }  # fmt: skip
    cohort = from_tables(config)
    stays, labs, diagnoses = (
        pd.read_csv(root / f"{name}{suffix}") for name in ("patient", "lab", "diagnosis")
    )
    order = stays["patientunitstayid"]
    labs = labs[(labs["labresultoffset"] <= 720) & labs["labname"].isin(items)]
    labs["labresult"] = pd.to_numeric(labs["labresult"], errors="coerce")
    labs = labs.dropna(subset="labresult").sort_values(["labresultoffset", "labresult"])
    last = labs.groupby(["patientunitstayid", "labname"])["labresult"].last().unstack()
    frame = cohort.to_frame()
    np.testing.assert_allclose(frame, last.reindex(index=order, columns=items), rtol=1e-6)
    assert frame.notna().sum().sum() > 50
    per_stay = diagnoses[diagnoses["diagnosisoffset"] <= 720].groupby("patientunitstayid").size()
    lengths = per_stay.reindex(order, fill_value=0)
    np.testing.assert_array_equal(cohort.x["diagnoses"].lengths, lengths)
    died = stays["unitdischargestatus"].map({"Alive": 0, "Expired": 1})
    np.testing.assert_array_equal(cohort.y, died)


# ---------------------------------------------------------------- refusals

LABS_KEY = r"config\['modalities'\]\['labs'\]"

REFUSED = {
    "unknown column": (
        {"modalities__labs__columns": ["creatinine", "sodium", "creatinin"]},
        LABS_KEY + r"\['columns'\]\[2\]: 'creatinin' is not a column of labs.csv \(stay, drawn, "
        r"creatinine, sodium\)\. Did you mean 'creatinine'\?",
    ),
    "unknown section": ({"modality": {}}, r"config: 'modality' is not a key.*mean 'modalities'"),
    "unknown key": (
        {"modalities__labs__colums": ["a"]},
        LABS_KEY + r": 'colums' is not a key \(kind, .*\)\. Did you mean 'columns'\?",
    ),
    "section that is a word": ({"time": 24}, r"config\['time'\] is 24, expected keys and values"),
    "no patients": ({"patients": None}, r"config has no 'patients'. Add patients: \n  file: stays"),
    "no modality": ({"modalities": {}}, r"config\['modalities'\] is None, expected keys"),
    "no id": ({"patients__id": None}, r"config\['patients'\] has no 'id'. Add id: stay"),
    "no kind": ({"modalities__labs__kind": None}, LABS_KEY + " has no 'kind'. Add kind: vector"),
    "unknown kind": (
        {"modalities__labs__kind": "vectr"},
        LABS_KEY + r"\['kind'\]: 'vectr' is not a kind .*Did you mean 'vector'\?",
    ),
    "unknown take": ({"modalities__labs__take": "lst"}, r"\['take'\]: 'lst' is not a take.*'last'"),
    "unknown task": ({"label__task": "binry"}, r"config\['label'\]\['task'\]: 'binry'.*'binary'"),
    "unknown unit": ({"time__unit": "hour"}, r"config\['time'\]\['unit'\]: 'hour'.*mean 'hours'"),
    "unknown policy": (
        {"missing__rows": "delete"},
        r"config\['missing'\]\['rows'\]: 'delete' is not a rows \(keep, drop\)",
    ),
    "columns in a word": (
        {"modalities__labs__columns": "sodium"},
        LABS_KEY + r"\['columns'\] is 'sodium', expected a list. Write \[sodium\]",
    ),
    "column twice": (
        {"modalities__labs__columns": ["sodium", "sodium"]},
        LABS_KEY + r"\['columns'\]\[1\]: 'sodium' is there twice",
    ),
    "a truth value": (
        {"label__classes": [False, True]},
        r"config\['label'\]\['classes'\]\[0\] is read as False by YAML.*in quotes: \"no\"",
    ),
    "a date in YAML": (
        {"missing__values": [pd.Timestamp("2031-01-01").date()]},
        r"config\['missing'\]\['values'\]\[0\] is .*expected a word",
    ),
    "levels of a vector": (
        {"modalities__labs__columns": {"sodium": ["low", "high"]}},
        LABS_KEY + r"\['columns'\] holds levels, but the kind is 'vector'.*columns: \[sodium\]",
    ),
    "cut that is no number": (
        {"time__cut": "24 hours"},
        r"config\['time'\]\['cut'\] is '24 hours', no number. Write cut: 24 and unit: hours",
    ),
    "no cut": ({"time__cut": None}, r"config\['time'\] has no 'cut'. Add cut: 24"),
    "time without a section": (
        {"time": None},
        LABS_KEY + r" has a time, but there is no config\['time'\]. Say when the prediction",
    ),
    "no time": (
        {"modalities__labs__time": None},
        LABS_KEY + " has no 'time', so nobody can tell what was recorded after the cut.*known_at_s",
    ),
    "series without time": (
        {"modalities__vitals__time": None},
        r"\['vitals'\] is a series without 'time'. Name the column: time: measured_at",
    ),
    "value without item": (
        {"modalities__vitals__item": None},
        r"\['vitals'\] has a 'value' and no 'item'",
    ),
    "item without value": ({"modalities__vitals__value": None}, r"has no 'value'. Add value: res"),
    "item of codes": (
        {"modalities__diagnoses__item": "icd", "modalities__diagnoses__value": "icd"},
        r"\['diagnoses'\]\['item'\] is for vector and series, not 'codes'",
    ),
    "mean of words": (
        {"modalities__ward__take": "mean"},
        r"\['ward'\]\['take'\] is 'mean'; of words take last or first",
    ),
    "unknown item": (
        {"modalities__vitals__columns": ["puls"]},
        r"\['vitals'\]\['columns'\]\[0\]: 'puls' is not a sign of vitals.csv, which holds others"
        ".*mean 'pulse'",
    ),
    "no such file": (
        {"modalities__labs__file": "lab.csv"},
        LABS_KEY + r"\['.*: .*lab\.csv is not there \(beside it: diagnoses.csv, .*labs.csv",
    ),
    "no table": ({"patients__file": "tables.yaml"}, "tables.yaml is no table. Save it as one of"),
    "unknown site": (
        {"patients__site": "hospitl"},
        r"config\['patients'\]\['site'\]: 'hospitl' is not a column of stays.csv.*'hospital'",
    ),
    "unknown covariate": (
        {"patients__covariates": ["age", "sexx"]},
        r"config\['patients'\]\['covariates'\]\[1\]: 'sexx' is not a column of stays.csv",
    ),
    "unknown start": ({"time__start": "admited"}, r"\['start'\]: 'admited' is not a.*'admitted'"),
    "unknown time": (
        {"modalities__labs__time": "dawn"},
        LABS_KEY + r"\['time'\]: 'dawn' is not a column of labs.csv.*mean 'drawn'",
    ),
    "id that repeats": (
        {"patients__id": "patient"},
        r"\['patients'\]\['id'\]: rows 1 and 2 of stays.csv have the same 'patient'.*under patient",
    ),
    "id that is empty": (
        {"patients__id": "hospital"},
        r"config\['patients'\]\['id'\]: row 3 of stays.csv has no 'hospital'",
    ),
    "id that is in no other file": (
        {"patients__id": "age"},
        r"config\['patients'\]\['id'\]: row 3 of stays.csv has no 'age'",
    ),
    "start that is no time": (
        {"time__start": "ward"},
        r"config\['time'\]\['start'\]: row 1 of stays.csv holds a word \(7 characters\), which "
        "is no time. Write times as 2031",
    ),
    "start that is missing": (
        {"time__start": "bmi"},
        r"config\['time'\]\['start'\]: row 2 of stays.csv has no 'bmi'",
    ),
    "times without a start": (
        {"time__start": None},
        LABS_KEY + r"\['time'\]: row 1 of labs.csv holds a date with a clock and no offset, and "
        "there is no time zero. Write hours since",
    ),
    "words as numbers": (
        {"modalities__background__columns": ["age", "sex"]},
        r"\['background'\]\['columns'\]\[1\]: 'sex' of stays.csv holds 3 values that are no "
        r"numbers: 3 times a word. Where these are categories, .*kind: categorical, columns: {sex",
    ),
    "words without levels": (
        {"modalities__ward__columns": ["sex"]},
        r"\['ward'\]\['columns'\]\[0\]: 'sex' .*Write its levels in an order that stays: \{s",
    ),
    "word that is no level": (
        {"modalities__ward__columns": {"sex": ["femal", "male"]}},
        r"\['ward'\]\['columns'\]\['sex'\]: 2 of 3 values of 'sex' of stays.csv are no level "
        r"\(femal, male\): 2 times a word \(6 characters\). Did you mean 'femal'\?",
    ),
    "label that is no class": (
        {"label__classes": ["alive", "died"]},
        r"config\['label'\]\['columns'\]\[0\]: 'outcome' of outcomes.csv holds 1 of 2 labels that "
        r"are no class \(alive, died\): a word \(4 characters\). Did you mean 'died'\?",
    ),
    "label in words": (
        {"label__classes": None},
        r"\['columns'\]\[0\]: 'outcome' of outcomes.csv holds 2 of 2 labels that are no number: "
        r"2 times a word. List the words in the order 0, 1, …: classes: \[alive, dead\]",
    ),
    "several labels": (
        {"label__columns": ["outcome", "age"]},
        r"config\['label'\]\['columns'\] names 2 columns. Write one, or task: multilabel",
    ),
    "label without columns": ({"label__columns": None}, r"config\['label'\] has no 'columns'"),
    "several rows without a time": (
        {"modalities__labs__time": None, "modalities__labs__known_at_start": True},
        LABS_KEY
        + r": labs.csv has several rows for one 'stay' \(2 times\), and no time to tell which "
        "is last",
    ),
}


@pytest.mark.parametrize(("keys", "message"), REFUSED.values(), ids=REFUSED)
def test_a_configuration_that_does_not_fit_is_refused(folder, keys, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        from_tables(changed(folder, **keys))


def test_ids_that_do_not_meet_are_refused(folder):
    table = pd.read_csv(folder / "labs.csv")  # 007 becomes 7
    table.to_csv(folder / "labs.csv", index=False)
    with pytest.raises(
        ValueError,
        match=r"no 'stay' of labs.csv is one of stays.csv: a number \(1 character\) there, a "
        r"number with leading zeros \(3 characters\) here; 5 of 5 rows would be without leading z",
    ):
        from_tables(folder / "tables.yaml")


def test_two_labels_of_one_row_are_refused(folder):
    (folder / "outcomes.csv").write_text("stay,outcome\n007,alive\n007,dead\n")
    with pytest.raises(
        ValueError, match=r"\['label'\]\['file'\]: rows 1 and 2 of outcomes.csv have the same 'st"
    ):
        from_tables(folder / "tables.yaml")


def test_labels_of_nobody_are_refused(folder):
    (folder / "outcomes.csv").write_text("stay,outcome\n7,alive\n,dead\n,dead\n")
    with pytest.raises(ValueError, match=r"\['label'\]: no row of stays.csv has a label in outc"):
        from_tables(folder / "tables.yaml")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", "its first line is empty, where column names belong"),
        ("stay,drawn,sodium,sodium", "columns 3 and 4 of its first line have one name. Rename one"),
        ("stay,drawn,sodium,Sodium", "columns 3 and 4 of its first line differ in upper case only"),
        (",stay,drawn,sodium", r"its first column has no name.*table.to_csv\(FILE, index=False\)"),
        ("stay,drawn,sodium,", "column 4 of 4 has no name, so a separator ends the first line"),
        ("stay,drawn,,sodium", r"column 3 of 4 has no name\."),
    ],
)
def test_a_header_that_is_none_is_refused(folder, header, message):
    (folder / "labs.csv").write_text(header + "\n")
    with pytest.raises(ValueError, match=f"labs.csv cannot be read: {message}"):
        from_tables(folder / "tables.yaml")


def test_a_truncated_file_is_refused(folder):
    whole = gzip.compress((folder / "labs.csv").read_bytes() * 100)
    (folder / "labs.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"labs.csv.gz cannot be read: .* ends early. Copy it"):
        from_tables(changed(folder, modalities__labs__file="labs.csv.gz"))


def test_a_broken_line_is_refused_by_file_and_line(folder):
    with (folder / "labs.csv").open("a", encoding="utf-8") as file:
        file.write("007,2031-03-01 09:00,1,2,3,4\n" * 3)
    with pytest.raises(ValueError, match=r"labs.csv cannot be read: .*[Ll]ine.*Save it anew"):
        from_tables(folder / "tables.yaml")


def test_a_configuration_that_is_no_yaml_is_refused(folder):
    with pytest.raises(ValueError, match=r"x.yaml is not there. Write one from the template"):
        from_tables(folder / "x.yaml")
    (folder / "x.yaml").write_text("patients: {file: [")
    with pytest.raises(ValueError, match=r"x.yaml is no YAML: .*line 1"):
        from_tables(folder / "x.yaml")
    (folder / "x.yaml").write_text("# nothing yet")
    with pytest.raises(ValueError, match="config is None, expected keys and values"):
        from_tables(folder / "x.yaml")


def test_an_amount_of_memory_that_is_none_is_refused(folder):
    with pytest.raises(ValueError, match=r"memory='much' is no amount. Pass for example '4GB'"):
        from_tables(folder / "tables.yaml", memory="much")


def test_a_limit_on_memory_is_kept_or_told(folder):
    n = 100_000
    with (folder / "vitals.csv").open("a", encoding="utf-8") as file:
        file.writelines(f"007,2031-03-01 10:30,spo2,{i}\n" for i in range(n))
    cohort = from_tables(folder / "tables.yaml", memory="50MB")
    assert cohort.x["vitals"].lengths.tolist() == [n + 3, 1, 0]
    with pytest.raises(ValueError, match=r"more working memory than memory='4MB'. Pass more"):
        from_tables(folder / "tables.yaml", memory="4MB")

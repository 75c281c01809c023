"""Nobody's data: a marked patient is planted, everything is provoked, and all that is said is read.

One made-up patient bears marks that stand nowhere else: an identifier, a value, a time, a word.
This patient's cells are then broken in the ways in which files of hospitals are broken. Whatever
is said (message, whole traceback, warning, log, print) and written (model, checkpoint, report,
results of a user's own) is searched for the marks, and for the folder in which the data lie.
"""

import contextlib
import gzip
import io
import logging
import struct
import traceback
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from dfdlib import data
from dfdlib.book import made_up
from dfdlib.book.own import on_your_own
from dfdlib.causal import AIPW, IPW, BackdoorAdjustment
from dfdlib.data import Cohort, mimic_cxr
from dfdlib.data.ingest import ingest
from dfdlib.evaluation import audit_leaks, compare, evaluate
from dfdlib.models import DFD, GRAPE, Classifier, M3Care
from dfdlib.training import Stage, fit

ID, VALUE, WORD = "86420864", "31337.125", "quuxomycin"
TIME, DAY = "2149-07-13 03:17:42", "20490713"
MARKS = (ID, "31337", WORD, "2149-07-13", "13/07/2149", DAY, "03:17:42", "nobody-s-data")

#: What a cell of the marked patient becomes; a column of numbers, of times or of words.
BROKEN = {
    "a decimal comma": "31337,125",
    "a detection limit": "<31337.125",
    "a unit": "31337.125 mg/dL",
    "a word": WORD,
    "an open quotation mark": f'"{WORD}',
    "one cell too many": f"{WORD},{ID}",
    "a day first": "13/07/2149 03:17",
    "a time with a zone": "2149-07-13T03:17:42-05:00",
    "a number for a day": DAY,
    "a huge number": "31337" * 20,
    "no UTF-8": "quuxomycin\xe9".encode("latin-1"),
}


def all_of(action, *folders):
    """Everything that an action says, and that it writes into folders, as one text and as bytes."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            warnings.catch_warnings(record=True) as told,
        ):
            warnings.simplefilter("always")
            try:
                said.write(repr(action()))
            except Exception as error:
                said.write("".join(traceback.format_exception(error)))
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    said.write("".join(f"\n{warning.message}" for warning in told))
    files = [path for folder in folders for path in sorted(Path(folder).rglob("*"))]
    written = b"\n".join(
        str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes()
        for folder in folders
        for path in files
        if path.is_file() and path.is_relative_to(folder)
    )
    return said.getvalue(), written


def assert_nobody(said, written=b"", marks=MARKS):
    for mark in marks:
        at = said.find(mark)
        assert at < 0, f"{mark!r} is said: …{said[max(at - 300, 0) : at + 200]}"
        at = written.find(mark.encode())
        assert at < 0, f"{mark!r} is written: …{written[max(at - 300, 0) : at + 200]!r}"
    number = float(VALUE)
    for form in ("<f", "<d"):
        assert struct.pack(form, number) not in written, "the marked value is written as a number"


def lines_of(path):
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "rb") as file:
        return file.read().split(b"\n")


def write_lines(path, lines):
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "wb") as file:
        file.write(b"\n".join(lines))


def broken(path, column, cell):
    """Put a cell into the fourth row of a CSV file, as it stands."""
    lines = lines_of(path)
    header = lines[0].decode().lower().split(",")
    row = lines[4].split(b",")
    row[header.index(column.lower())] = cell if isinstance(cell, bytes) else cell.encode()
    lines[4] = b",".join(row)
    write_lines(path, lines)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A folder of each data set, small; tests break copies of single files and put them back."""
    made = {}
    for name in ("eicu", "mimic_iv", "adni"):
        folder = tmp_path_factory.mktemp("nobody-s-data") / name
        made[name] = made_up.write(name, folder, n=40, seed=0)
    return made


CELLS = [
    ("eicu", "patient.csv.gz", "patientunitstayid"),
    ("eicu", "patient.csv.gz", "age"),
    ("eicu", "patient.csv.gz", "unitdischargeoffset"),
    ("eicu", "patient.csv.gz", "hospitaldischargestatus"),
    ("eicu", "lab.csv.gz", "labresult"),
    ("eicu", "lab.csv.gz", "labresultoffset"),
    ("eicu", "diagnosis.csv.gz", "diagnosisstring"),
    ("mimic_iv", "hosp/admissions.csv.gz", "admittime"),
    ("mimic_iv", "hosp/admissions.csv.gz", "hadm_id"),
    ("mimic_iv", "hosp/patients.csv.gz", "anchor_age"),
    ("mimic_iv", "hosp/patients.csv.gz", "dod"),
    ("mimic_iv", "hosp/labevents.csv.gz", "charttime"),
    ("mimic_iv", "hosp/labevents.csv.gz", "valueuom"),
    ("mimic_iv", "hosp/prescriptions.csv.gz", "drug"),
    ("adni", "TADPOLE_D1_D2.csv", "RID"),
    ("adni", "TADPOLE_D1_D2.csv", "EXAMDATE"),
    ("adni", "TADPOLE_D1_D2.csv", "AGE"),
]


@pytest.mark.parametrize(("name", "file", "column"), CELLS)
def test_a_broken_cell_of_a_raw_table_is_not_shown(raw, name, file, column):
    path = raw[name] / file
    whole = path.read_bytes()
    try:
        # every third kind of fault, another third for each column: one load takes a second
        for cell in list(BROKEN.values())[CELLS.index((name, file, column)) % 3 :: 3]:
            broken(path, column, cell)
            said, _ = all_of(lambda: data.load(name, root=raw[name]))
            assert_nobody(said)
            path.write_bytes(whole)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(("name", "file", "column"), CELLS[::3])
def test_a_broken_cell_is_not_shown_while_tables_are_ingested(raw, name, file, column, tmp_path):
    path = raw[name] / file
    whole = path.read_bytes()
    table = path.name.split(".")[0].lower() if name != "adni" else "visits"
    try:
        first = CELLS.index((name, file, column)) % 4
        for i, cell in enumerate(list(BROKEN.values())[first::4]):
            broken(path, column, cell)
            out = tmp_path / f"out-{i}"
            said, _ = all_of(lambda out=out: ingest(name, raw[name], out, tables=[table]))
            manifest = out / "manifest.json"
            assert_nobody(said, manifest.read_bytes() if manifest.exists() else b"")
            path.write_bytes(whole)
    finally:
        path.write_bytes(whole)


# ---------------------------------------------------------------- a user's own tables

STAYS = ["stay", "person", "site", "age", "start", "died"]
LABS = ["stay", "at", "item", "result", "drug"]


def tables(folder, kind="csv", n=60):
    """A folder of two files, and what `from_tables` takes for them."""
    rng = np.random.default_rng(0)
    ids = [str(1000 + i) for i in range(n)]
    ids[3] = ID
    stays = pd.DataFrame(
        {
            "stay": ids,
            "person": ids,
            "site": rng.choice(["north", "south"], size=n),
            "age": rng.integers(20, 90, size=n).astype(float),
            "start": "2150-01-01 08:00:00",
            "died": rng.integers(0, 2, size=n),
        }
    )
    labs = pd.DataFrame(
        {
            "stay": np.repeat(ids, 3),
            "at": ["2150-01-01 09:00:00", "2150-01-01 10:00:00", "2150-01-01 11:00:00"] * n,
            "item": ["sodium", "lactate", "urea"] * n,
            "result": rng.normal(5, 1, size=3 * n).round(3),
            "drug": rng.choice(["aspirin", "heparin"], size=3 * n),
        }
    )
    stays.loc[3, ["age"]] = float(VALUE)
    labs.loc[labs["stay"] == ID, "result"] = float(VALUE)
    labs.loc[labs["stay"] == ID, "drug"] = WORD
    folder.mkdir(parents=True, exist_ok=True)
    for frame, name in ((stays, "stays"), (labs, "labs")):
        if kind == "csv":
            frame.to_csv(folder / f"{name}.csv", index=False)
        else:
            frame.to_parquet(folder / f"{name}.parquet", index=False)
    labs_file = f"labs.{kind}"
    return {
        "patients": {
            "file": str(folder / f"stays.{kind}"), "id": "stay", "patient": "person",
            "site": "site", "covariates": ["age"],
        },
        "time": {"start": "start", "cut": 24, "unit": "hours"},
        "label": {"columns": ["died"], "task": "binary"},
        "modalities": {
            "labs": {
                "kind": "vector", "file": str(folder / labs_file), "time": "at", "item": "item",
                "value": "result", "columns": ["sodium", "lactate", "urea"],
            },
            "course": {
                "kind": "series", "file": str(folder / labs_file), "time": "at", "item": "item",
                "value": "result", "columns": ["sodium", "lactate"],
            },
            "drugs": {
                "kind": "codes", "file": str(folder / labs_file), "time": "at",
                "columns": ["drug"],
            },
        },
    }  # fmt: skip


@pytest.mark.parametrize("file", ["stays", "labs"])
def test_a_broken_cell_of_own_tables_is_not_shown(tmp_path, file):
    folder = tmp_path / "nobody-s-data"
    config = tables(folder)
    path = folder / f"{file}.csv"
    whole = path.read_bytes()
    for i, column in enumerate(STAYS if file == "stays" else LABS):
        # every third kind of fault, another third for each column, once to train and once to score
        for k, cell in enumerate([*BROKEN.values(), ""][i % 3 :: 3]):
            broken(path, column, cell)
            purpose = ("train", "score")[(i + k) % 2]
            said, _ = all_of(lambda p=purpose: data.from_tables(config, purpose=p))
            assert_nobody(said)
            path.write_bytes(whole)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_own_tables_that_do_not_fit_are_refused_without_a_patient(tmp_path, kind):
    """Rows twice, identifiers that differ in form, a line of names that is missing."""
    folder = tmp_path / "nobody-s-data"
    config = tables(folder, kind)

    def read(name):
        path = folder / f"{name}.{kind}"
        return pd.read_csv(path, dtype={"stay": str}) if kind == "csv" else pd.read_parquet(path)

    def put(frame, name):
        if kind == "csv":
            frame.to_csv(folder / f"{name}.csv", index=False)
        else:
            frame.to_parquet(folder / f"{name}.parquet", index=False)

    stays, labs = read("stays"), read("labs")
    marked = stays[stays["stay"] == ID]
    changes = {
        "a stay twice": (pd.concat([stays, marked]), labs),
        "a stay twice that differs": (pd.concat([stays, marked.assign(died=-1)]), labs),
        "zeros before all": (stays, labs.assign(stay="00" + labs["stay"])),
        "nobody fits": (stays, labs.assign(stay="x" + labs["stay"])),
        "a blank identifier": (stays.assign(stay=stays["stay"].replace("1005", None)), labs),
        "a label that is none": (stays.assign(died=[*["yes"] * 3, WORD, *["no"] * 56]), labs),
        "a label of many": (stays.assign(died=stays["age"]), labs),
        "only one label": (stays.assign(died=1), labs),
        "values twice": (stays, pd.concat([labs, labs])),
    }
    for first, second in changes.values():
        put(first, "stays")
        put(second, "labs")
        said, _ = all_of(lambda: data.from_tables(config))
        assert_nobody(said)
    put(stays, "stays")
    if kind == "csv":
        lines = lines_of(folder / "stays.csv")
        write_lines(folder / "stays.csv", [lines[4], *lines[1:]])
        said, _ = all_of(lambda: data.from_tables(config))
        assert_nobody(said)


# ---------------------------------------------------------------- arrays


def cohort_of(n=240, sites=2):
    """A cohort of which one patient is marked in every modality and group."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, size=n)
    labs = rng.normal(5, 1, size=(n, 3))
    labs[7] = float(VALUE)
    level = rng.integers(0, 3, size=(n, 1))
    level[7] = 31337
    return Cohort(
        x={
            "labs": labs,
            "ward": level,
            "ecg": rng.normal(size=(n, 4)) + y[:, None],
        },
        kinds={"ward": "categorical"},
        y=y,
        covariates={"age": np.where(np.arange(n) == 7, float(VALUE), 60.0)},
        groups={
            "patient": np.where(np.arange(n) == 7, ID, np.arange(n).astype(str)),
            "site": np.array(["north", "south", "east"])[np.arange(n) % sites],
        },
    )


def wrong_uses(cohort):
    """Calls that are refused, or that warn."""
    train, test = cohort.split((0.8, 0.2), by="patient", seed=0)
    model = Classifier(backbone=GRAPE(d=8), schema=cohort.schema)
    wrong = np.random.default_rng(0).random(len(test))
    odd = test.groups["patient"]
    return {
        "leave out somebody": lambda: cohort.leave_out("patient", "nobody"),
        "leave out a site": lambda: cohort.leave_out("site", "west"),
        "parts that share somebody": lambda: fit(model, train, train.select(range(20))),
        "another size": lambda: evaluate(wrong[:-1], test),
        "by patient": lambda: evaluate(wrong, test, by="patient", n_boot=20),
        "words as scores": lambda: evaluate(odd, test),
        "values as scores": lambda: evaluate(wrong * float(VALUE), test),
        "labels of a patient": lambda: Cohort(x=dict(cohort.x), y=cohort.covariates["age"]),
        "words as values": lambda: Cohort(x={"a": cohort.groups["patient"]}),
        "an infinite value": lambda: Cohort(
            x={"a": np.where(np.arange(8) == 7, np.inf, float(VALUE))[:, None]}
        ),
        "patients of two sites": lambda: Cohort(
            x={"a": np.ones((2, 1))}, groups={"patient": [ID, ID], "site": ["a", "b"]}
        ).split((0.5, 0.5), by="patient"),
        "other patients": lambda: compare(
            evaluate(wrong, test, n_boot=20), evaluate(np.ones(len(train)) / 2, train, n_boot=20)
        ),
        "levels of an integer": lambda: Cohort(
            x={"a": np.array([[31337], [-1]])}, kinds={"a": "categorical"}
        ),
        "the audit": lambda: audit_leaks(cohort),
        "the summary": lambda: cohort.summary().to_string(),
        "the cohort": lambda: repr(cohort) + repr(cohort.schema),
        "no treatment": lambda: IPW().fit(
            outcome=cohort.y.numpy(), treatment=cohort.covariates["age"], adjust=None
        ),
        "a word among numbers": lambda: AIPW().fit(
            outcome=np.array([WORD] * 8), treatment=[0, 1] * 4, adjust=np.ones(8)
        ),
        "an adjustment by words": lambda: BackdoorAdjustment().fit(
            outcome=np.ones(8), treatment=[0, 1] * 4, adjust=np.array([ID] * 8)
        ),
    }


def test_wrong_uses_of_arrays_name_nobody():
    cohort = cohort_of()
    for name, action in wrong_uses(cohort).items():
        said, _ = all_of(action)
        # the schema may name a level only where enough patients have it
        assert_nobody(f"{name}: {said}")


MODELS = {
    "ERM": lambda schema: Classifier(backbone=GRAPE(d=8), schema=schema),
    "DFD": lambda schema: DFD(backbone=GRAPE(d=8), schema=schema),
    "M3Care": lambda schema: Classifier(backbone=M3Care(backbone=GRAPE(d=8)), schema=schema),
    "hospital-aware": lambda schema: DFD(
        backbone=GRAPE(d=8), schema=schema, environment="site", predict="marginal"
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_and_its_checkpoints_hold_nobody(name, tmp_path):
    cohort = cohort_of()
    train, val = cohort.split((0.8, 0.2), by="patient", seed=1)
    if ID not in train.groups["patient"]:
        train, val = val, train
    model = MODELS[name](cohort.schema)

    def use():
        run = fit(model, train, val, stages=[Stage(epochs=2)], batch_size=64, folder=tmp_path / "c")
        run.save(tmp_path / "model")
        evaluate(run.model, val, by="site", n_boot=20).save(
            tmp_path / "report.json", claim="dfd-gain", parameters={}
        )

    said, written = all_of(use, tmp_path)
    assert_nobody(said, written)
    assert b"model.safetensors" in written


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_own_results_hold_nobody(kind, tmp_path, monkeypatch):
    """The table that a chapter shows and the files that it writes, of tables and of raw files."""
    folder = tmp_path / "nobody-s-data"
    config = tables(folder, kind, n=240)
    (folder / "own.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("DFDLIB_OWN_RESULTS", str(tmp_path / "out"))

    def use():
        return on_your_own(
            {"ERM": MODELS["ERM"], "DFD": MODELS["DFD"]},
            dataset=str(folder / "own.yaml"), root="", chapter="09-nobody", epochs=(0, 1),
            n_boot=20,
        )  # fmt: skip

    said, written = all_of(use, tmp_path / "out")
    assert_nobody(said, written)
    assert b'"rows"' in written


def test_pictures_name_nobody(tmp_path):
    root = made_up.write("mimic_cxr", tmp_path / "nobody-s-data", n=30, seed=0, pixels=20)
    subject, study = (
        str(pd.read_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz")[name].iloc[3])
        for name in ("subject_id", "study_id")
    )
    for table in ("metadata", "chexpert", "split"):
        path = root / f"mimic-cxr-2.0.0-{table}.csv.gz"
        whole = path.read_bytes()
        for cell in BROKEN.values():
            broken(path, "subject_id", cell)
            said, _ = all_of(lambda: mimic_cxr.load(mimic_cxr.convert(root, size=8)))
            assert_nobody(said, marks=(*MARKS, subject, study))
            path.write_bytes(whole)

"""Faulty files and awkward names: the right value, or a refusal that shows nobody's data."""

import gzip
import warnings
import zlib
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from dfdlib.data import Cohort, from_tables
from dfdlib.data.tables import code_id
from dfdlib.evaluation import predict_proba
from dfdlib.models import GRAPE, Classifier
from dfdlib.training import Stage, fit, load_model

ODD_NAMES = [
    ("s[1]", "s1"), ("a*", "ab"), ("q?", "qx"), ("**", "xy"), ("[!a]", "b"), ("a[[]b", "a[b"),
    ("{a,b}", "a"), ("site=a", "b"), ("v=7", "b"), ("~", "b"), ("é ü 'q' \"d\"", "b"),
    ("$HOME", "b"), ("50%20", "50 "), ("h#1", "h"), ("http:", "b"), ("back\\slash", "b"),
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
@pytest.mark.parametrize(("name", "other"), ODD_NAMES)
def test_the_file_that_is_named_is_the_one_that_is_read(tmp_path, name, other, suffix):
    """As the name of a file and of its folder; beside it lies one that a pattern would match."""
    for where in ("file", "folder"):
        places = [Path(n + suffix) if where == "file" else Path(n, "x" + suffix)
                  for n in (name, other)]  # fmt: skip
        for place, who in zip(places, ("ME", "OTHER"), strict=True):
            (tmp_path / place).parent.mkdir(exist_ok=True)
            frame = pd.DataFrame({"id": [who], "v": [2.5]})
            if suffix == ".parquet":
                frame.to_parquet(tmp_path / place)
            else:
                frame.to_csv(tmp_path / place, index=False)
        cohort = from_tables(
            {
                "patients": {"file": str(tmp_path / places[0]), "id": "id"},
                "modalities": {"m": {"kind": "vector", "columns": ["v"]}},
            }
        )
        assert cohort.groups["patient"].tolist() == ["ME"]
        assert cohort.x["m"].tolist() == [[2.5]]


# ---------------------------------------------------------------- what is told, and what is not

SECRET = "Zyx"  # stands in every cell that a message could repeat


def told(run, tmp_path, monkeypatch):
    """Everything that a call says: the error, and the warnings."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run()
            error = ""
        except ValueError as raised:
            error = str(raised)
    return error, [str(warning.message) for warning in caught]


def write(folder, files):
    for name, content in files.items():
        if isinstance(content, pd.DataFrame):
            content.to_parquet(folder / name)
        else:
            data = content if isinstance(content, bytes) else content.encode()
            (folder / name).write_bytes(data)


def config(columns=("v",), *, file="p.csv", kind="vector", **keys):
    """A configuration of one modality, in the patients' file or in another one."""
    modality = {"kind": kind, "columns": columns if isinstance(columns, dict) else list(columns)}
    patients = {"file": "p.csv", "id": "id"}
    if file.startswith("p."):
        patients["file"] = file
    else:
        modality["file"] = file
    for key in ("time", "item", "value", "take", "known_at_start"):
        if key in keys:
            modality[key] = keys.pop(key)
    return {"patients": patients, "modalities": {"m": modality}, **keys}


def one(cell):
    return {"p.csv": f"id;v\n1;{cell}\n2;3\n"}


TWO = {"p.csv": "id\n1\n2\n"}
LABELLED = config(label={"columns": ["y"]})

REFUSED = {
    "too many cells": (
        {**TWO, "l.csv": f"id,v,n\n1,1,{SECRET}, {SECRET} 1950-02-03\n"},
        config(file="l.csv"),
        "l.csv cannot be read: line 2: 4 cells where the header has 3. Save it anew",
    ),
    "too few cells": (
        {**TWO, "l.csv": f"id,v,n\n1,1,{SECRET}\n{SECRET}\n"},
        config(file="l.csv"),
        "line 3: 1 cells where the header has 3",
    ),
    "open quote": (
        {"p.csv": f'id,v\n1,2\n2,"{SECRET}\n3,4\n'},
        config(),
        "line 3: a quotation mark is opened and never closed",
    ),
    "text after a quote": (
        {"p.csv": f'id,v\n1,"{SECRET}" {SECRET}\n'},
        config(),
        "line 2: a quotation mark is opened and never closed, or text follows",
    ),
    "lines that end in two ways": (
        {"p.csv": f"id,v\r\n1,{SECRET}\n2,{SECRET}\r\n"},
        config(),
        "its lines do not all end alike",
    ),
    "Windows-1252": (
        {"p.csv": f"id,v,n\n1,2,{SECRET}ü\n".encode("cp1252")},
        config(),
        "it is not UTF-8 text",
    ),
    "Windows-1252 later": (
        {
            "p.csv": "".join(["id,v\n", *(f"{i},2\n" for i in range(9000))]).encode()
            + b"9007,\xfcZyx\n"
        },
        config(),
        "line 9002: it is not UTF-8 text",
    ),
    "UTF-16": ({"p.csv": f"id,v\n1,{SECRET}\n".encode("utf-16")}, config(), "it is UTF-16 text"),
    "UTF-16 without a mark": (
        {"p.csv": f"id,v\n1,{SECRET}\n".encode("utf-16-le")},
        config(),
        "it is no text, or UTF-16 text",
    ),
    "no header but numbers": (
        {"p.csv": f"17,2.5,{SECRET}\n18,3.5,{SECRET}\n"},
        config(),
        "'id' is not a column of p.csv: its first line has 3 cells, 2 of them numbers or dates, "
        "and none is a name that the configuration knows. A file begins with one line of column",
    ),
    "no header but words": (
        {"p.csv": f"{SECRET},female\nabc,male\n"},
        config(),
        "its first line has 2 cells, and none is a name that the configuration knows",
    ),
    "header with two of one name": (
        {"p.csv": f"{SECRET},{SECRET}\n1,2\n"},
        config(),
        "columns 1 and 2 of its first line have one name",
    ),
    "no parquet": (
        {"p.parquet": f"{SECRET},{SECRET} no parquet at all".encode()},
        config(file="p.parquet"),
        "p.parquet cannot be read: it is no parquet file, or it is cut off or damaged. Copy it",
    ),
    "lists": (
        {"p.parquet": pd.DataFrame({"id": ["1"], "v": [[SECRET]]})},
        config(file="p.parquet"),
        "'v' of p.parquet holds lists or tables in its cells. Save a column, or a row, for each",
    ),
    "structs": (
        {"p.parquet": pd.DataFrame({"id": ["1"], "v": [{"a": SECRET}]})},
        config(file="p.parquet"),
        "'v' of p.parquet holds lists or tables in its cells",
    ),
    "bytes": (
        {"p.parquet": pd.DataFrame({"id": ["1"], "v": [SECRET.encode()]})},
        config(file="p.parquet"),
        "'v' of p.parquet holds bytes",
    ),
    "words in parquet": (
        {"p.parquet": pd.DataFrame({"id": ["1", "2"], "v": [SECRET, "abc"]})},
        config(file="p.parquet"),
        "'v' of p.parquet holds 2 values that are no numbers: 2 times a word. Where these are",
    ),
    "a word": (one(SECRET), config(), "holds 1 value that is no number: a word (3 characters)."),
    "decimal comma": (
        one("1,5"),
        config(),
        "a number with a decimal comma (3 characters). Save the file with decimal points: 1.5",
    ),
    "thousands and a decimal comma": (one("1.234,5"), config(), "a number with a decimal comma"),
    "a comma": (
        one("1,500"),
        config(),
        "a number with a comma (5 characters). Write 1.5 or 1500, as it is meant",
    ),
    "thousands": (one("1,234,567.8"), config(), "thousands apart (11 characters). Write numbers"),
    "limit": (one("<0.1"), config(), "a limit (< or > before a number) (4 characters). A limit is"),
    "upper limit": (one("≥ 100"), config(), "['text']: missing would lose it"),
    "per cent": (one("5 %"), config(), "a number with a per cent sign (3 characters). Write the"),
    "unit": (one("5 mg/dl"), config(), "a number and a word (7 characters). Write numbers alone"),
    "date": (one("2031-12-24"), config(), "a date (10 characters). A date is no number"),
    "clock": (one("12:30"), config(), "a time of day (5 characters). A time of day is no number"),
    "two numbers": (one("120/80"), config(), "two numbers (6 characters). Write a column for each"),
    "infinite": (one("inf"), config(), "an infinite number (3 characters). Write the largest"),
    "words of a category": (
        {"p.csv": f"id,v\n1,{SECRET}\n2,abc\n"},
        config(kind="categorical"),
        "Write its levels in an order that stays: {v: [one, other]}",
    ),
    "numbers that are no category": (
        {"p.csv": "id,v\n1,2.7182\n2,-3\n"},
        config(kind="categorical"),
        "2 of 2 values of 'v' are no whole numbers from 0 on, so no categories",
    ),
    "word that is no level": (
        {"p.csv": f"id,v\n1,{SECRET}\n2,low\n"},
        config({"v": ["low", "high"]}, kind="categorical"),
        "1 of 2 values of 'v' of p.csv are no level (low, high): a word (3 characters). Add them",
    ),
    "id twice": (
        {"p.csv": f"id,v\n1,1\n{SECRET},1\n{SECRET},2\n"},
        config(),
        "rows 2 and 3 of p.csv have the same 'id'",
    ),
    "label twice": (
        {"p.csv": f"id,v\n{SECRET},1\n", "o.csv": f"id,y\nabc,0\n{SECRET},0\n{SECRET},1\n"},
        config(label={"file": "o.csv", "columns": ["y"]}),
        "rows 2 and 3 of o.csv have the same 'id'. Keep one label per row",
    ),
    "ids of other people": (
        {"p.csv": "id\n1\n2\n", "l.csv": f"id,v\n{SECRET},1\n"},
        config(file="l.csv"),
        "no 'id' of l.csv is one of p.csv: a word (3 characters) there, a number (1 character) he",
    ),
    "several rows and no time": (
        {"p.csv": f"id\n{SECRET}\n", "l.csv": f"id,v\n{SECRET},1\n{SECRET},2\n"},
        config(file="l.csv"),
        "l.csv has several rows for one 'id' (1 times), and no time to tell which is last",
    ),
    "no row": ({"p.csv": "id,v\n"}, config(), "p.csv has no row below its column names"),
    "no row of values": (
        {**TWO, "l.csv": "id,v\n"},
        config(file="l.csv"),
        "l.csv has no row. Leave what is read of it out, or fill it",
    ),
    "item that is not there": (
        {**TWO, "l.csv": f"id,i,v\n1,{SECRET},1\n"},
        config(["sodium"], file="l.csv", item="i", value="v"),
        "'sodium' is not a i of l.csv, which holds others (1). Leave it out, or name another",
    ),
    "label that is a word": (
        {"p.csv": f"id,v,y\n1,2,{SECRET}\n2,3,abc\n"},
        LABELLED,
        "'y' of p.csv holds 2 of 2 labels that are no number: 2 times a word. List the words in",
    ),
    "label that is no class": (
        {"p.csv": f"id,v,y\n1,2,{SECRET}\n2,3,dead\n"},
        config(label={"columns": ["y"], "classes": ["alive", "dead"]}),
        "'y' of p.csv holds 1 of 2 labels that are no class (alive, dead): a word (3 characters).",
    ),
    "label that is a length of stay": (
        {"p.csv": "id,v,y\n1,2,2.7182\n2,3,7\n"},
        LABELLED,
        "2 different numbers, not all whole and from 0 on, so no classes. A length of stay",
    ),
    "label of -1 and 1": (
        {"p.csv": "id,v,y\n1,2,-1\n2,3,1\n"},
        config(label={"columns": ["y"], "task": "binary"}),
        "2 different numbers, others than 0 and 1, and the task is 'binary'",
    ),
    "label with a gap": (
        {"p.csv": "id,v,y\n1,2,1\n2,3,2\n"},
        LABELLED,
        "leave some of 0, 1, 2, … out, so the task is not clear. Write classes: in the order",
    ),
}


@pytest.mark.parametrize(("files", "given", "expected"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_names_file_row_and_shape_and_shows_no_cell(
    tmp_path, monkeypatch, files, given, expected
):
    write(tmp_path, files)
    error, notes = told(lambda: from_tables(given), tmp_path, monkeypatch)
    assert expected in error
    for text in (error, *notes):
        assert SECRET not in text
        assert "2.7182" not in text
        assert str(tmp_path.parent) not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"id,name\n1,{SECRET}\n", "config is text, expected keys and values"),
        (SECRET, "config is text, expected keys and values"),
        (f"id,t: x\n1,{SECRET}: 2: 3\n", "t.yaml is no YAML: line 2, column "),
        (f"a: *{SECRET}", "t.yaml is no YAML: line 1, column 4"),
        (f"a: !{SECRET} b", "t.yaml is no YAML: line 1, column 4"),
        (f"patients:\n\tfile: {SECRET}\n", "t.yaml is no YAML: line 2, column 1"),
        (f"- {SECRET}\n- b", "config is a list, expected keys and values"),
        ("a: 2031-13-45", "t.yaml is no YAML: it cannot be understood"),
        ("[" * 3000, "t.yaml is no YAML: it cannot be understood"),
    ],
)
def test_a_configuration_that_is_a_table_is_not_repeated(tmp_path, monkeypatch, text, expected):
    write(tmp_path, {"t.yaml": text})
    error, _ = told(lambda: from_tables(tmp_path / "t.yaml"), tmp_path, monkeypatch)
    assert expected in error
    assert SECRET not in error
    assert str(tmp_path) not in error


def test_a_configuration_in_cp1252_or_a_folder_is_refused(tmp_path, monkeypatch):
    write(tmp_path, {"t.yaml": b"n: M\xfcller"})
    error, _ = told(lambda: from_tables("t.yaml"), tmp_path, monkeypatch)
    assert error == "t.yaml is no YAML: it is not UTF-8 text. Compare it with the template"
    with pytest.raises(ValueError, match=r"is a folder. Pass the YAML file in it: tables.yaml"):
        from_tables(tmp_path)


def test_aliases_that_multiply_are_not_written_out(tmp_path):
    """Nine levels of nine aliases: 400 million words, were they repeated."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    (tmp_path / "t.yaml").write_text("\n".join([*lines, "patients: *a8"]))
    with pytest.raises(ValueError, match="'a0' is not a key"):
        from_tables(tmp_path / "t.yaml")
    (tmp_path / "t.yaml").write_text(
        "patients:\n  " + "\n  ".join(line for line in lines) + "\nmodalities: *a8"
    )
    with pytest.raises(ValueError, match="'a0' is not a key"):
        from_tables(tmp_path / "t.yaml")


# ---------------------------------------------------------------- compressed files


def flipped(text, old, new):
    """A gzip file of which one byte is another, while its checksum is that of the text."""
    packer = zlib.compressobj(0, zlib.DEFLATED, 31)
    packed = bytearray(packer.compress(text) + packer.flush())
    packed[packed.index(old)] = new
    return bytes(packed)


PACKED = gzip.compress(b"id\tv\n1\t20\n2\t30\n", mtime=0)


@pytest.mark.parametrize("suffix", [".csv.gz", ".tsv.gz", ".txt.gz", ".CSV.GZ"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (flipped(b"id\tv\n1\t20\n2\t30\n", b"20", ord("9")), "the gzip checksum does not fit"),
        (PACKED[:-4] + b"\1\0\0\0", "the gzip length does not fit"),
        (PACKED[:-8], "the gzip stream ends early"),
        (PACKED + b"something else", "it is no gzip file, or something else follows"),
        (PACKED + PACKED[:-9], "the gzip stream ends early"),
        (b"id\tv\n1\t20\n2\t30\n", "it is cut off, damaged, or no gzip file"),
        (b"", "it is empty"),
    ],
    ids=["flipped", "length", "cut off", "followed", "two, one cut off", "text", "empty"],
)
def test_a_damaged_gzip_file_is_refused(tmp_path, monkeypatch, suffix, content, expected):
    """As the patients' file, as that of values, and as that of labels."""
    packed, plain = f"x{suffix}", {"plain.csv": "id,v\n1,1\n2,2\n"}
    write(tmp_path, {packed: content, **plain})
    values = {"kind": "vector", "columns": ["v"]}
    for patients, given, label in (
        (packed, {}, None),
        ("plain.csv", {"file": packed}, None),
        ("plain.csv", {}, {"file": packed, "columns": ["v"], "task": "multiclass"}),
    ):
        asked = {
            "patients": {"file": patients, "id": "id"},
            "label": label,
            "modalities": {"m": {**values, **given}},
        }
        error, _ = told(lambda asked=asked: from_tables(asked), tmp_path, monkeypatch)
        assert f"{packed} cannot be read: {expected}" in error
        assert error.endswith("Copy it, or compress it, once more") or not content


def test_a_gzip_file_of_several_members_is_one_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = gzip.compress(b"id,v\n1,20\n") + gzip.compress(b"") + gzip.compress(b"2,30\n")
    write(tmp_path, {"p.csv.gz": whole})
    assert from_tables(config(file="p.csv.gz")).x["m"].tolist() == [[20], [30]]


# ---------------------------------------------------------------- who is meant


@pytest.mark.parametrize(
    ("here", "there", "way"),
    [
        ("7", "007", "leading zeros"),
        ("007", "7", "leading zeros"),
        ("7", "7.0", "a decimal part of zeros"),
        ("7.0", "7", "a decimal part of zeros"),
        ("a7", "A7", "a difference of upper and lower case"),
        ("A 7", "A7", "blanks"),
        ("a7", "A 7.0", "differences in writing (zeros, case, blanks)"),
    ],
)
@pytest.mark.parametrize("purpose", ["train", "score"])
def test_ids_that_match_in_part_are_counted_with_the_reason(
    tmp_path, monkeypatch, here, there, way, purpose
):
    write(
        tmp_path,
        {
            "p.csv": f"id,y\n{here},0\n8,1\n",
            "l.csv": f"id,v\n{there},1\n8,2\n99,3\n",
            "o.csv": f"id,y\n{there},1\n8,0\n",
        },
    )
    asked = config(file="l.csv", label={"file": "o.csv", "columns": ["y"]})
    _, notes = told(lambda: from_tables(asked, purpose=purpose), tmp_path, monkeypatch)
    expected = (
        "config['modalities']['m']['file']: 2 of 3 rows of l.csv have an 'id' that is not in "
        f"p.csv; 1 of them would be without {way}. Write 'id' alike in both files"
    )
    assert expected in notes
    labels = [note for note in notes if "['label']['file']: 1 of 2 rows of o.csv" in note]
    assert len(labels) == (purpose == "train")


def test_blanks_around_ids_and_whole_numbers_in_parquet_match(tmp_path, monkeypatch):
    """A mark of byte order, a blank that does not break, 7.0 where another row has no id."""
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"id": [7.0, np.nan, 8.0], "v": [1.5, 2, 3]})
    write(
        tmp_path,
        {
            "p.csv": "\ufeffid\n7\u00a0\n\u200b 8\t\n",
            "l.parquet": table,
            "i.parquet": table[["v"]].assign(id=pd.array([7, 8, 9], dtype="uint16")),
        },
    )
    with pytest.warns(UserWarning, match="1 of 3 rows of l.parquet have no 'id' and do not enter"):
        cohort = from_tables(config(file="l.parquet"))
    assert cohort.x["m"].tolist() == [[1.5], [3]]
    assert cohort.groups["patient"].tolist() == ["7", "8"]
    assert from_tables(config(file="i.parquet")).x["m"].tolist() == [[1.5], [2]]


def test_other_people_of_the_hospital_are_no_matter_of_a_warning(tmp_path, monkeypatch):
    """A table of laboratory values holds everybody; hardly anybody of the cohort is one."""
    ids = range(30)
    write(
        tmp_path,
        {
            "p.csv": "id\n" + "".join(f"{i}\n" for i in ids),
            "all.csv": "id,v\n" + "".join(f"{i},1\n" for i in range(3000)),
            "few.csv": "id,v\n" + "".join(f"{i},1\n" for i in range(29, 300)),
        },
    )
    error, notes = told(lambda: from_tables(config(file="all.csv")), tmp_path, monkeypatch)
    assert (error, notes) == ("", [])
    _, notes = told(lambda: from_tables(config(file="few.csv")), tmp_path, monkeypatch)
    assert notes[-1] == (
        "config['modalities']['m']['file']: 270 of 271 rows of few.csv have an 'id' that is not in "
        "p.csv, and 1 of 30 have a row there. Are both files of one extract?"
    )


@pytest.mark.parametrize("name", ["unread", "e", "r", "row"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_row_that_stands_there_twice_counts_once(tmp_path, monkeypatch, suffix, name):
    """The same in every column; a row that differs in a column that is not read stays."""
    monkeypatch.chdir(tmp_path)
    rows = [("1", 5.0, "x", "a"), ("1", 5.0, "x", "a"), ("1", 2.0, "x", "a"), ("1", 2.0, "y", "a")]
    table = pd.DataFrame(rows, columns=["id", "v", name, "code"])
    table.to_csv("l.csv", index=False)
    table.to_parquet("l.parquet")
    write(tmp_path, {"p.csv": "id\n1\n"})
    match = "1 values of l.* stand there once more, in rows that are the same in every column. Each"
    with pytest.warns(UserWarning, match=match):
        cohort = from_tables(config(file=f"l{suffix}", take="mean"))
    assert cohort.x["m"].tolist() == [[3.0]]
    with pytest.warns(UserWarning, match=match):
        codes = from_tables(config(["code"], file=f"l{suffix}", kind="codes"))
    assert codes.x["m"].lengths.tolist() == [3]


# ---------------------------------------------------------------- values


def test_what_parquet_holds_is_read_by_its_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    large = 2**53 + 1
    table = pd.DataFrame(
        {
            "id": [large, large + 1],
            "truth": pd.array([True, None], dtype="boolean"),
            "decimal": [Decimal("7.00"), Decimal("1.25")],
            "unsigned": np.array([2**64 - 2**40, 3], dtype="uint64"),
            "single": np.array([7, 0.1], dtype="float32"),
            "nothing": [np.nan, 2.0],
            "word": pd.Categorical(["low", "high"]),
            "whole": [0.0, 1.0],
        }
    )
    write(tmp_path, {"p.parquet": table})
    asked = config(["truth", "decimal", "unsigned", "single", "nothing"], file="p.parquet")
    asked["modalities"]["w"] = {
        "kind": "categorical",
        "columns": {"word": ["high", "low"], "whole": ["0", "1"], "truth": ["false", "true"]},
    }
    cohort = from_tables(asked)
    assert cohort.groups["patient"].tolist() == [str(large), str(large + 1)]
    expected = [[1, 7, 2**64 - 2**40, 7, np.nan], [np.nan, 1.25, 3, np.float32(0.1), 2]]
    frame = cohort.to_frame()
    np.testing.assert_array_equal(frame.iloc[:, :5], np.float32(expected))
    np.testing.assert_array_equal(frame.iloc[:, 5:], [[1, 0, 1], [0, 1, np.nan]])


def test_truth_values_are_numbers_and_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"p.csv": "id,v,y\n1,True,False\n2,false,TRUE\n3,,\n"})
    with pytest.warns(UserWarning, match="nothing observed"):
        cohort = from_tables(LABELLED)
    np.testing.assert_array_equal(cohort.to_frame()["m.v"], [1, 0, np.nan])
    np.testing.assert_array_equal(cohort.y, [0, 1, np.nan])


def test_a_name_may_run_over_two_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"p.csv": 'id,"v\nin, mg"\n1,2\n2,3\n'})
    assert from_tables(config(["v\nin, mg"])).x["m"].tolist() == [[2], [3]]


def test_what_becomes_missing_is_counted_by_its_kind(tmp_path, monkeypatch):
    cells = ["1,5", "2,5", SECRET, "3", ""]
    write(tmp_path, {"p.csv": "id;v\n" + "".join(f"{i};{c}\n" for i, c in enumerate(cells))})
    asked = config(missing={"text": "missing"})
    error, notes = told(lambda: from_tables(asked), tmp_path, monkeypatch)
    assert error == ""
    assert notes[-1] == (
        "config['modalities']['m']['columns'][0]: 'v' of p.csv holds 3 values that are no numbers: "
        "2 times a number with a decimal comma, a word. They are missing. Save the file with "
        "decimal points: 1.5, not a comma; or, where all its numbers have them, say so: files: "
        "{decimal: ','}"
    )


# ---------------------------------------------------------------- the answer among the features


def test_the_label_is_refused_as_a_feature(tmp_path, monkeypatch):
    write(tmp_path, {"p.csv": "id,y,v\n1,0,5\n2,1,6\n"})
    (tmp_path / "link.csv").symlink_to(tmp_path / "p.csv")
    asked = config(["v", "y"], label={"columns": ["y"]})
    linked = {
        **asked,
        "modalities": {"m": {"kind": "codes", "file": "link.csv", "columns": ["y"]}},
    }
    for given, place in ((asked, "['columns'][1]"), (linked, "['columns'][0]")):
        for purpose in ("train", "score"):
            error, _ = told(
                lambda g=given, p=purpose: from_tables(g, purpose=p), tmp_path, monkeypatch
            )
            assert error == (
                f"config['modalities']['m']{place}: 'y' is the label, "
                "config['label']['columns'][0]. A model that reads it knows the answer. Leave it "
                "out of the modality"
            )


@pytest.mark.parametrize(
    ("events", "columns", "keys"),
    [
        ("id,dead\n1,no\n2,yes\n3,yes\n", {"dead": ["yes", "no"]}, {"kind": "categorical"}),
        ("id,dead\n1,0\n2,1\n3,1\n", ["dead"], {}),
        ("id,i,r\n1,dead,0\n2,dead,1\n", ["dead"], {"item": "i", "value": "r"}),
        (
            "id,t,i,r\n1,1,dead,0\n2,1,dead,0\n2,2,dead,1\n",
            ["dead"],
            {"kind": "series", "item": "i", "value": "r", "time": "t"},
        ),
    ],
)
def test_the_label_under_its_name_in_another_file_is_refused(
    tmp_path, monkeypatch, events, columns, keys
):
    write(tmp_path, {"p.csv": "id,Dead\n1,alive\n2,died\n3,died\n", "l.csv": events})
    asked = config(columns, file="l.csv", known_at_start=True, **keys)
    asked |= {"label": {"columns": ["Dead"], "classes": ["alive", "died"]}, "time": {"cut": 9}}
    error, _ = told(lambda: from_tables(asked), tmp_path, monkeypatch)
    assert "'dead' of l.csv holds the label, config['label']['columns'][0], of all " in error


def test_what_says_the_same_as_the_label_is_told_and_ids_too(tmp_path, monkeypatch):
    rows = [(i, "p", i % 2, 7 - i % 2, i % 3) for i in range(40)]
    table = "id,who,y,v,w\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
    write(tmp_path, {"p.csv": table})
    asked = config(["v", "w", "id"], label={"columns": ["y"]})
    asked["patients"]["covariates"] = ["y"]
    error, notes = told(lambda: from_tables(asked), tmp_path, monkeypatch)
    assert error == ""
    assert [note.partition(". ")[0] for note in notes] == [
        "config['modalities']['m']['columns'][2]: 'id' tells whose row it is",
        "config['patients']['covariates'][0]: 'y' is the label",
        "config['modalities']['m']['columns'][0]: 'v' of p.csv tells the label 'y' of all 40 rows "
        "that have both",
    ]
    asked = config(label={"columns": ["id"]})
    with pytest.raises(ValueError, match=r"'id' tells whose row it is. Name the column that h"):
        from_tables(asked)


# ---------------------------------------------------------------- new patients

WARD = {
    "patients": {"file": "p.csv", "id": "id", "site": "ward", "covariates": ["age"]},
    "time": {"cut": 24},
    "label": {"file": "o.csv", "columns": ["died"]},
    "missing": {"rows": "drop", "labels": "drop"},
    "modalities": {
        "base": {"kind": "vector", "columns": ["age", "bmi"]},
        "sex": {"kind": "categorical", "columns": {"sex": ["f", "m"]}},
        "labs": {
            "kind": "vector", "file": "l.csv", "time": "t", "item": "i", "value": "r",
            "columns": ["sodium", "lactate"],
        },
        "codes": {"kind": "codes", "file": "c.csv", "columns": ["icd"], "known_at_start": True},
        "pulse": {"kind": "series", "file": "s.csv", "time": "t", "columns": ["pulse"]},
    },
}  # fmt: skip


def ward(folder, n):
    rng = np.random.default_rng(0)
    age = rng.integers(20, 90, n)
    frames = {
        "p": pd.DataFrame({"id": range(n), "ward": "a", "age": age, "bmi": 25.5, "sex": "f"}),
        "o": pd.DataFrame({"id": range(n), "died": (age + rng.normal(0, 10, n) > 60).astype(int)}),
        "l": pd.DataFrame(
            {"id": np.repeat(range(n), 2), "t": 1, "i": ["sodium", "lactate"] * n,
             "r": rng.normal(140, 3, 2 * n)}
        ),
        "c": pd.DataFrame({"id": range(n), "icd": rng.choice(["I21", "E11"], n)}),
        "s": pd.DataFrame({"id": range(n), "t": 2, "pulse": rng.normal(80, 5, n)}),
    }  # fmt: skip
    for name, frame in frames.items():
        frame.to_csv(folder / f"{name}.csv", index=False)


def test_a_saved_model_scores_a_new_patient_through_the_training_configuration(
    tmp_path, monkeypatch
):
    """No label, no lactate, an unseen diagnosis and sex, no file of the pulse."""
    home, new = tmp_path / "home", tmp_path / "new"
    home.mkdir()
    new.mkdir()
    ward(home, 60)
    write(
        new,
        {
            "p.csv": "id,age,bmi,sex\n900,71,,x\n901,,,\n",
            "l.csv": "id,t,i,r\n900,2,sodium,133\n900,25,sodium,99\n",
            "c.csv": "id,icd\n900,Q99\n",
        },
    )
    for folder in (home, new):
        (folder / "tables.yaml").write_text(yaml.safe_dump(WARD, sort_keys=False))
    train = from_tables(home / "tables.yaml")
    model = Classifier(backbone=GRAPE(d=8), schema=train.schema)
    run = fit(model, *train.split((0.7, 0.3)), stages=[Stage(epochs=2)], seed=0)
    run.save(tmp_path / "model")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cohort = from_tables(new / "tables.yaml", purpose="score")
    notes = [str(warning.message) for warning in caught]
    assert any("p.csv has no column 'ward'. No model needs it to score" in note for note in notes)
    assert any("s.csv is not there, so 'pulse' is missing for everybody" in note for note in notes)
    assert any("1 of 1 values of 'sex' of p.csv are no level (f, m)" in note for note in notes)
    assert (cohort.y, cohort.task, len(cohort)) == (None, None, 2)
    train.schema.check(cohort.schema)
    assert cohort.schema.names == train.schema.names
    assert cohort.schema.features == train.schema.features
    assert cohort.observed.tolist() == [[True, False, True, True, False], [False] * 5]
    assert cohort.to_frame().iloc[0].to_dict() == pytest.approx(
        {"base.age": 71, "base.bmi": np.nan, "sex.sex": np.nan, "labs.sodium": 133,
         "labs.lactate": np.nan}, nan_ok=True,
    )  # fmt: skip
    loaded = load_model(tmp_path / "model")
    scores = predict_proba(loaded, cohort)
    by_hand = Cohort(
        x={
            "base": pd.DataFrame({"age": [71.0], "bmi": [np.nan]}),
            "sex": pd.DataFrame({"sex": [np.nan]}),
            "labs": pd.DataFrame({"sodium": [133.0], "lactate": [np.nan]}),
            "codes": [[code_id("Q99")]],
            "pulse": [np.zeros((0, 3))],
        },
        kinds=train.schema.kinds,
    )
    np.testing.assert_allclose(scores[:1], predict_proba(run.model, by_hand), atol=1e-6)
    assert np.isfinite(scores).all()


def test_a_column_that_is_not_there_is_an_error_in_scoring_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"p.csv": "id,age,sex\n900,71,f\n"})
    with pytest.raises(ValueError, match=r"\['base'\]\['columns'\]\[1\]: 'bmi' is not a column of"):
        from_tables(WARD, purpose="score")
    with pytest.raises(ValueError, match=r"'scoring' is not a purpose \(train, score\)"):
        from_tables(WARD, purpose="scoring")


def test_training_needs_what_it_names(tmp_path, monkeypatch):
    """An item that was never measured, a file or a label that is not there."""
    monkeypatch.chdir(tmp_path)
    ward(tmp_path, 12)
    (tmp_path / "s.csv").unlink()
    with pytest.raises(ValueError, match=r"s.csv is not there"):
        from_tables(WARD)
    ward(tmp_path, 12)
    table = pd.read_csv("l.csv")
    table[table["i"] == "sodium"].to_csv("l.csv", index=False)
    with pytest.raises(
        ValueError, match=r"'lactate' is not a i of l.csv \(sodium\). Leave it out, or name another"
    ):
        from_tables(WARD)
    (tmp_path / "o.csv").unlink()
    with pytest.raises(ValueError, match=r"config\['label'\]\['file'\]: o.csv is not there"):
        from_tables(WARD)


# ---------------------------------------------------------------- what parquet holds


def _in_both(tmp_path, labs, config):
    """One cohort of the same rows through CSV, and one through parquet."""
    text = pd.DataFrame({"id": ["1", "2", "3"], "y": ["0", "1", "1"]})
    text.to_csv(tmp_path / "p.csv", index=False)
    made = []
    for suffix in ("csv", "parquet"):
        file = tmp_path / f"l.{suffix}"
        if suffix == "csv":
            file.write_text("id,crea\n" + "\n".join(f"{a},{b}" for a, b in labs), encoding="utf-8")
        else:
            columns = zip(*labs, strict=True)
            arrays = [pa.array([np.nan if v == "" else float(v) for v in c]) for c in columns]
            pq.write_table(pa.table(arrays, names=["id", "crea"]), file)
        labs_of = {**config, "kind": "vector", "file": str(file), "columns": ["crea"]}
        made.append(
            from_tables(
                {
                    "patients": {"file": str(tmp_path / "p.csv"), "id": "id"},
                    "modalities": {"labs": labs_of},
                }
            )
        )
    return made


@pytest.mark.filterwarnings("ignore:1 of 3 rows have nothing observed")
def test_nan_among_whole_numbers_of_parquet_is_missing_as_an_empty_cell_is(tmp_path):
    # pandas writes a null where others, such as Spark or pyarrow, write NaN itself
    text, parquet = _in_both(tmp_path, [("1", "4"), ("2", ""), ("3", "7")], {})
    assert text.x["labs"].tolist() == parquet.x["labs"].tolist() == [[4], [0], [7]]
    assert parquet.observed.tolist() == text.observed.tolist() == [[True], [False], [True]]


def test_nan_as_an_id_of_parquet_is_nobody(tmp_path):
    with pytest.warns(UserWarning, match="1 of 4 rows of l.parquet have no 'id'"):
        text, parquet = _in_both(tmp_path, [("1", "4"), ("2", "5"), ("3", "7"), ("", "9")], {})
    assert text.x["labs"].tolist() == parquet.x["labs"].tolist() == [[4], [5], [7]]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("where", ["feature", "covariate", "item"])
def test_a_duration_of_parquet_is_no_number(tmp_path, unit, where):
    stay = pa.array([3, 4, 5], type=pa.duration(unit))
    pq.write_table(pa.table({"id": [1, 2, 3], "stay": stay, "age": [50, 60, 70],
                             "name": ["a", "a", "b"]}), tmp_path / "p.parquet")  # fmt: skip
    config = {
        "patients": {"file": str(tmp_path / "p.parquet"), "id": "id"},
        "modalities": {"b": {"kind": "vector", "columns": ["age"]}},
    }
    if where == "feature":
        config["modalities"]["b"]["columns"] = ["age", "stay"]
    elif where == "covariate":
        config["patients"]["covariates"] = ["stay"]
    else:
        config["modalities"]["b"] |= {"item": "name", "value": "stay", "columns": ["a"]}
    with pytest.raises(ValueError, match=r"'stay' of p.parquet holds durations.*total_seconds\(\)"):
        from_tables(config)


# ---------------------------------------------------------------- what text holds


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (
            gzip.compress(b"id,age\n1,50\n", mtime=0),
            "compressed, so its name has to end in .csv.gz",
        ),
        (b"PK\x03\x04" + b"\x00" * 40, "a zip file or a workbook of Excel"),
        (b"PAR1" + b"\x00" * 40, "parquet, so its name has to end in .parquet"),
    ],
)
def test_a_file_whose_name_says_something_else_is_told_by_what_it_is(tmp_path, content, match):
    (tmp_path / "p.csv").write_bytes(content)
    config = {
        "patients": {"file": str(tmp_path / "p.csv"), "id": "id"},
        "modalities": {"b": {"kind": "vector", "columns": ["age"]}},
    }
    with pytest.raises(ValueError, match=match):
        from_tables(config)


def _background(tmp_path, rows, columns=("age",)):
    (tmp_path / "p.csv").write_text(f"id,age,sex\n{rows}\n", encoding="utf-8")
    return from_tables(
        {
            "patients": {"file": str(tmp_path / "p.csv"), "id": "id"},
            "modalities": {"b": {"kind": "vector", "columns": list(columns)}},
        }
    )


@pytest.mark.parametrize("cell", ["1_5", "1_000"])
def test_an_underscore_is_no_part_of_a_number(tmp_path, cell):
    with pytest.raises(ValueError, match="1 value that is no number") as told:
        _background(tmp_path, f"1,{cell},F\n2,60,M")
    assert cell not in str(told.value)


def test_a_column_of_words_is_not_advised_away_as_missing(tmp_path):
    with pytest.raises(ValueError, match=r"kind: categorical, columns: \{sex: ") as told:
        _background(tmp_path, "1,50,Y\n2,60,N", columns=("sex",))
    assert "missing" not in str(told.value)
    with pytest.raises(ValueError, match="List it in config"):
        _background(tmp_path, "1,50,Y\n2,unknown,N")


def test_an_item_written_in_two_ways_is_told(tmp_path):
    (tmp_path / "p.csv").write_text("id\n1\n2\n", encoding="utf-8")
    (tmp_path / "l.csv").write_text("id,item,value\n1,Na,140\n2,NA ,150\n", encoding="utf-8")
    labs = {"kind": "vector", "file": str(tmp_path / "l.csv"), "item": "item", "value": "value"}
    config = {"patients": {"file": str(tmp_path / "p.csv"), "id": "id"}}
    with pytest.warns(UserWarning, match="'Na' is written in 2 ways in l.csv"):
        cohort = from_tables({**config, "modalities": {"labs": {**labs, "columns": ["Na"]}}})
    assert cohort.x["labs"].tolist() == [[140], [0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cohort = from_tables({**config, "modalities": {"labs": {**labs, "columns": ["Na", "NA"]}}})
    assert cohort.x["labs"].tolist() == [[140, 0], [0, 150]]

"""Faulty files and awkward names: the right value, or a refusal that shows nobody's data."""

import warnings
from pathlib import Path

import pandas as pd
import pytest

from dfdlib.data import from_tables

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
            + b"7,\xfcZyx\n"
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
        "'v' of p.parquet holds 2 values that are no numbers: 2 times a word. List it in",
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

"""Files of a user's own tables: how DuckDB is told to read them, and expressions over text."""

import csv
import gzip
import math
from pathlib import Path
from typing import Any

from dfdlib.data._duckdb import csv_source, parquet_source

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".parquet")


def open_file(file: Path, connection: Any) -> tuple[str, tuple[str, ...]]:
    """The expression that reads a file, and its columns."""
    if file.name.lower().endswith(".parquet"):
        source = parquet_source(file)
        described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
        return source, tuple(row[0] for row in described)
    opened = gzip.open if file.suffix.lower() == ".gz" else open
    with opened(file, "rt", encoding="utf-8-sig", newline="") as lines:
        line = next(lines, "")
    # nothing is left to guess: a guess that a line is no data loses it without a word
    mark = max(",;\t|", key=line.count)
    names = tuple(name.strip() for name in next(csv.reader([line], delimiter=mark), ()))
    if not names or "" in names or len(set(names)) < len(names):
        raise ValueError(f"its first line is {line.strip()[:60]!r}, no list of column names")
    source = csv_source(file, columns=dict.fromkeys(names, "VARCHAR"), delimiter=mark)
    return source, names


def number(text: str) -> str:
    """The expression of a number written as text, NULL where it is none."""
    value = f"try_cast({text} AS DOUBLE)"
    return f"(CASE WHEN isfinite({value}) THEN {value} END)"


def readable(file: Path) -> bool:
    return file.name.lower().endswith(SUFFIXES)


def is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False

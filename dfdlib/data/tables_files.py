"""Files of a user's own tables: how DuckDB reads them, and expressions over text."""

import csv
import gzip
import math
import zlib
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

from dfdlib.data.shapes import kind_of
from dfdlib.data.sql import csv_source, parquet_source, quoted

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".parquet")

_LONGEST_HEADER = 1 << 20
# What a file is that begins with these bytes, whatever its name says.
_BEGINNINGS = {
    b"\xff\xfe": "it is UTF-16 text, which files: {encoding: utf-16} reads",
    b"\xfe\xff": "it is UTF-16 text, which files: {encoding: utf-16} reads",
    b"\x1f\x8b": "it is compressed, so its name has to end in .csv.gz",
    b"PK\x03\x04": "it is a zip file or a workbook of Excel",
    b"PAR1": "it is parquet, so its name has to end in .parquet",
}
# What surrounds a cell and is no part of it; the last two have no width.
BLANKS = " \t\r\n\u00a0\ufeff\u200b"


def open_file(
    file: Path, connection: Any, encoding: str, folder: Path
) -> tuple[str, dict[str, str]]:
    """The expression that reads a file, and the DuckDB types of its columns.

    Args:
        file: The file.
        connection: Of DuckDB.
        encoding: Of a text file.
        folder: Where a copy may be written: DuckDB reads hardly anything but UTF-8.
    """
    if file.name.lower().endswith(".parquet"):
        source = parquet_source(file)
        described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
        types = {row[0]: row[1] for row in described}
        whole = [f"{_whole(name, kind)} AS {quoted(name)}" for name, kind in types.items()
                 if kind in ("DOUBLE", "FLOAT") or kind.startswith("DECIMAL")]  # fmt: skip
        if whole:
            source = f"(SELECT * REPLACE ({', '.join(whole)}) FROM {source})"
        return source, types
    if encoding != "utf-8":
        file = _as_utf8(file, encoding, folder)
    # nothing is left to guess: a guess that a line is no data loses it without a word
    mark, names = _header(file)
    types = dict.fromkeys(names, "VARCHAR")
    return csv_source(file, columns=types, delimiter=mark), types


def _whole(name: str, kind: str) -> str:
    """A number as text, without ".0" where it is whole: 7.0 is written where an id is missing."""
    column = quoted(name)
    if kind.startswith("DECIMAL"):
        return f"regexp_replace(CAST({column} AS VARCHAR), '\\.0+$', '')"
    # TRY_CAST: DuckDB may ask the statistics of the file whether all are small, which leave NaN out
    return (
        f"CASE WHEN isnan({column}) THEN NULL "
        f"WHEN {column} = trunc({column}) AND abs({column}) < 9007199254740992 "
        f"THEN CAST(TRY_CAST({column} AS BIGINT) AS VARCHAR) ELSE CAST({column} AS VARCHAR) END"
    )


def _as_utf8(file: Path, encoding: str, folder: Path) -> Path:
    """Copy a text file into a folder, in UTF-8 and not compressed."""
    copy = folder / f"{uuid4().hex}.csv"
    opened = gzip.open if file.name.lower().endswith(".gz") else open
    lines = 0
    try:
        with (
            opened(file, "rt", encoding=encoding, newline="") as old,
            copy.open("w", encoding="utf-8", newline="") as new,
        ):
            for line in old:
                new.write(line)
                lines += 1
    except UnicodeError:
        raise ValueError(f"it is not {encoding} text beyond line {max(lines, 1)}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise ValueError("it is cut off, damaged, or no gzip file") from None
    return copy


def _header(file: Path) -> tuple[str, tuple[str, ...]]:
    """The sign between cells, and the names of the columns."""
    compressed = file.name.lower().endswith(".gz")
    opened = gzip.open if compressed else open
    try:
        with opened(file, "rb") as stream:
            begin = stream.read(4)
            for sign, held in _BEGINNINGS.items():
                if begin.startswith(sign):
                    raise ValueError(held)
        with opened(file, "rt", encoding="utf-8-sig", newline="") as lines:
            line = next(lines, "")
            while line.count('"') % 2 and len(line) < _LONGEST_HEADER and (more := next(lines, "")):
                line += more  # a name in quotes may go on in the next line
    except UnicodeDecodeError:
        raise ValueError(
            "it is not UTF-8 text, but perhaps Windows-1252: files: {encoding: cp1252} reads that"
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise ValueError("it is cut off, damaged, or no gzip file") from None
    if not line:
        raise ValueError("it is empty")
    try:
        read = {mark: next(csv.reader(StringIO(line, newline=""), delimiter=mark), [])
                for mark in ",;\t|"}  # fmt: skip
    except csv.Error:
        raise ValueError("its first line is no list of column names") from None
    mark = max(read, key=lambda mark: len(read[mark]))
    names = tuple(name.strip() for name in read[mark])
    _refuse_header(names)
    return mark, names


def _refuse_header(names: tuple[str, ...]) -> None:
    """Refuse names that cannot be told apart; the line is not repeated: it may be a patient's."""
    if not any(names):
        raise ValueError("its first line is empty, where column names belong")
    if not names[0]:
        raise ValueError(
            "its first column has no name, as where pandas wrote its row numbers: "
            "table.to_csv(FILE, index=False) leaves them out"
        )
    if "" in names:
        place = names.index("") + 1
        end = ", so a separator ends the first line" if place == len(names) else ""
        raise ValueError(f"column {place} of {len(names)} has no name{end}")
    if "\0" in "".join(names):
        raise ValueError("it is no text, or UTF-16 text")
    seen: dict[str, int] = {}
    for i, name in enumerate(names, start=1):
        before = seen.setdefault(name.casefold(), i)
        if before < i:
            how = "have one name" if names[before - 1] == name else "differ in upper case only"
            raise ValueError(f"columns {before} and {i} of its first line {how}. Rename one")


def looks_like_cells(names: tuple[str, ...]) -> int:
    """How many cells of a line are numbers, dates or empty, as names of columns rarely are."""
    return sum(kind_of(name) not in ("a word", "text", "signs") for name in names)


def number(text: str, decimal: str = ".") -> str:
    """The expression of a number written as text, NULL where it is none.

    Among decimal commas a full stop stands between thousands, or else nobody knows what it is.
    """
    if decimal == ",":
        text = (
            f"(CASE WHEN NOT contains({text}, '.') THEN replace({text}, ',', '.') "
            f"WHEN regexp_full_match({text}, '[-+]?\\d{{1,3}}(\\.\\d{{3}})+,\\d+') "
            f"THEN replace(replace({text}, '.', ''), ',', '.') END)"
        )
    value = f"try_cast({text} AS DOUBLE)"
    # DuckDB reads 1_5 as 15
    return f"(CASE WHEN isfinite({value}) AND NOT contains({text}, '_') THEN {value} END)"


def measure(text: str, decimal: str = ".") -> str:
    """The expression of a number or a truth value, NULL where it is neither."""
    truth = f"CASE lower({text}) WHEN 'true' THEN 1.0 WHEN 'false' THEN 0.0 END"
    return f"coalesce({number(text, decimal)}, {truth})"


_LIMIT = "^(<=?|>=?|≤|≥|=<|=>)\\s*"


def limited(text: str, decimal: str = ".") -> tuple[str, str]:
    """The expressions of a number that may be a limit, and of its side: -1 below, 1 above, else 0.

    `<0.01` and `> 500` are limits: the number stands for what could not be measured.
    """
    bare = f"regexp_replace({text}, '{_LIMIT}', '')"
    side = (
        f"CASE WHEN regexp_matches({text}, '^(<|≤|=<)') THEN -1 "
        f"WHEN regexp_matches({text}, '^(>|≥|=>)') THEN 1 ELSE 0 END"
    )
    return measure(bare, decimal), side


def readable(file: Path) -> bool:
    """Whether its name is that of a file of a form that can be read."""
    return file.name.lower().endswith(SUFFIXES)


def is_number(word: str) -> bool:
    """Whether the word is a finite number."""
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False

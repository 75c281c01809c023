"""How a cell becomes what was declared of its column: as it stands, missing, or refused.

Nothing is guessed. A time is one that a clock on a wall showed, which is what these data sets hold:
an offset, a zone, or a number where a date belongs is refused. So is a day where a time belongs:
read as its midnight, what was measured in the evening would be known in the morning. A whole number
is never rounded.
"""

import re
from typing import Any, NamedTuple

from dfdlib.data.shapes import count_of, shape_of
from dfdlib.data.sql import text_of
from dfdlib.data.times import shape as shape_of_time

# The first is what these data sets use. DuckDB's own cast would drop an offset without a word.
_CLOCKS = (" %H:%M:%S", " %H:%M", "T%H:%M:%S", " %H:%M:%S.%f", "T%H:%M:%S.%f", "T%H:%M")
_FORMATS = {
    kind: ", ".join(text_of(f"%Y-%m-%d{clock}") for clock in clocks)
    for kind, clocks in {"TIMESTAMP": _CLOCKS, "DATE": ("", *_CLOCKS)}.items()
}
#: As nearly all files write times and days; given these, DuckDB's own reader refuses all else.
USUAL_TIMES = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d")
_YEARS = "BETWEEN TIMESTAMP '1900-01-02' AND TIMESTAMP '2400-01-01'"
_MINUTE = {"s": 60, "ms": 60_000, "us": 60_000_000, "ns": 60_000_000_000}
_WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_WALL = ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "DATE")

# What has no time of day: in text, in parquet, and as messages name it.
_DAYS = {"a date without a clock": "a date without a clock", "days": "days without a clock"}

# What stands in DuckDB's error where a cell is refused: no word of the cell, and no other text.
_MARK = re.compile(r"dfdlib cannot read ([a-z_]+)\.(\d+)")

_WANTED = {
    "INTEGER": "a whole number",
    "DOUBLE": "a number",
    "BOOLEAN": "true or false",
    "VARCHAR": "text",
    "DATE": "a day as 2150-12-24",
    "TIMESTAMP": "a time as 2150-12-24 18:30:00",
}


class Cell(NamedTuple):
    """How a cell is read, as SQL.

    Args:
        value: what it is; NULL where it is missing or cannot be read.
        bad: whether something is there that cannot be read.
    """

    value: str
    bad: str


def cell(column: str, kind: str, stored: str) -> Cell:
    """Write how the cells of a column are read.

    Args:
        column: the column, quoted.
        kind: the DuckDB type that was declared.
        stored: the type that the file has; text in .csv files.
    """
    nothing = Cell(f"CAST(NULL AS {kind})", f"{column} IS NOT NULL")
    plain = Cell(f"CAST({column} AS {kind})", "false")
    if stored == "VARCHAR" or stored.startswith("ENUM"):
        return _of_text(column, kind)
    if stored == '"NULL"' or stored == kind == "INTEGER":
        return plain
    if stored.startswith("DURATION[") or stored == "INTERVAL":
        if kind != "INTEGER":
            return nothing
        if stored == "INTERVAL":
            minutes = f"epoch_us({column}) / {_MINUTE['us']}"
        else:
            minutes = f"{column} / {_MINUTE[stored[9:-1]]}"
        return _whole(column, minutes)
    if stored in _WHOLE or stored.removeprefix("U") in _WHOLE:
        if kind == "INTEGER":
            value = f"TRY_CAST({column} AS INTEGER)"
            return Cell(value, f"{column} IS NOT NULL AND {value} IS NULL")
        return plain if kind in ("DOUBLE", "VARCHAR", "BOOLEAN") else nothing
    if stored in ("FLOAT", "DOUBLE") or stored.startswith("DECIMAL"):
        number = f"CAST({column} AS DOUBLE)"
        if kind == "INTEGER":
            return _whole(column, number)
        if kind == "DOUBLE":
            return Cell(f"CASE WHEN isfinite({number}) THEN {number} END", f"isinf({number})")
        missing = f"{column} IS NOT NULL AND NOT isnan({number})"
        if kind == "VARCHAR":  # the number of a patient, from a column with holes
            whole, bad = _whole(column, number, "BIGINT")
            return Cell(f"CAST({whole} AS VARCHAR)", bad)
        return Cell(nothing.value, missing)
    if stored == "BOOLEAN":
        return plain if kind in ("BOOLEAN", "INTEGER", "VARCHAR") else nothing
    if stored in _WALL:
        fits = kind == "DATE" or (kind == "TIMESTAMP" and stored != "DATE")
        return plain if fits else nothing
    return nothing


def _whole(column: str, number: str, kind: str = "INTEGER") -> Cell:
    """A number without a fraction; it is missing where it is none at all."""
    value = f"CASE WHEN {number} = round({number}) THEN TRY_CAST({number} AS {kind}) END"
    return Cell(value, f"{column} IS NOT NULL AND NOT isnan({number}) AND ({value}) IS NULL")


def _of_text(column: str, kind: str) -> Cell:
    there = f"{column} IS NOT NULL"
    if kind == "VARCHAR":
        return Cell(column, "false")
    if kind in ("DATE", "TIMESTAMP"):
        moment = f"TRY_STRPTIME({column}, [{_FORMATS[kind]}])"
        bad = f"{there} AND trim({column}) <> '' AND ({moment} {_YEARS}) IS NOT TRUE"
        return Cell(moment if kind == "TIMESTAMP" else f"CAST({moment} AS DATE)", bad)
    value = f"TRY_CAST(trim({column}) AS {kind})"
    if kind in ("DOUBLE", "INTEGER"):  # DuckDB reads 1_5 as 15
        value = f"CASE WHEN NOT contains({column}, '_') THEN {value} END"
    if kind == "DOUBLE":
        finite = f"CASE WHEN isfinite({value}) THEN {value} END"
        return Cell(finite, f"{there} AND trim({column}) <> '' AND ({finite}) IS NULL")
    bad = f"{value} IS NULL"
    if kind == "INTEGER":  # DuckDB would round, and reads 1e-1 and 1E-1 too
        lost = f"TRY_CAST(trim({column}) AS DOUBLE) <> {value}"
        signs = " OR ".join(f"contains({column}, '{sign}')" for sign in ".eE")
        bad = f"({bad} OR (({signs}) AND {lost}))"
    return Cell(value, f"{there} AND trim({column}) <> '' AND {bad}")


def read(column: str, kind: str, stored: str, *, table: str, place: int) -> str:
    """Write the SQL of a column's cells; it fails where one is refused.

    Text among measurements (DOUBLE) is missing: whoever reads them counts it.

    Args:
        column: the column, quoted.
        kind: the type that was declared.
        stored: the type that the file has.
        table: of which table it is, to be named when it fails.
        place: which column of those declared it is.
    """
    value, bad = cell(column, kind, stored)
    if kind == "DOUBLE" or bad == "false":
        return value
    refused = f"CAST(error('dfdlib cannot read {table}.{place}') AS {kind})"
    return f"CASE WHEN {bad} THEN {refused} ELSE {value} END"


def read_usual(column: str, kind: str, *, table: str, place: int) -> str:
    """Write the SQL of a column's cells as nearly all files have them, in a third of the time.

    It fails at other cells, which may be fine: then the file has to be read with `read`.

    Args:
        column: the column, quoted: times as DuckDB read them in the formats of `USUAL_TIMES`,
            the rest as text.
        kind: the type that was declared.
        table: of which table it is, to be named when it fails.
        place: which column of those declared it is.
    """
    if kind not in ("INTEGER", "DOUBLE", "TIMESTAMP", "DATE"):
        return read(column, kind, "VARCHAR", table=table, place=place)
    unusual = f"CAST(error('dfdlib cannot read {table}.{place}') AS {kind})"
    if kind == "DOUBLE":
        return f"CASE WHEN contains({column}, '_') THEN {unusual} ELSE CAST({column} AS DOUBLE) END"
    fine = f"{column} {_YEARS}"
    if kind == "INTEGER":  # written as DuckDB writes it: not rounded, and no other notation
        fine = f"CAST(TRY_CAST({column} AS INTEGER) AS VARCHAR) = {column}"
    return (
        f"CASE WHEN {fine} THEN CAST({column} AS {kind}) WHEN {column} IS NOT NULL THEN {unusual} "
        "END"
    )


def refused(error: Exception) -> tuple[str, int] | None:
    """Which table and column `read` failed at; None where the error is another one."""
    mark = _MARK.search(str(error))
    return (mark[1], int(mark[2])) if mark else None


def complaint(connected: Any, source: str, name: str, column: str, kind: str, stored: str) -> str:
    """Say which row of a column was refused, and why, without what stands in it.

    Args:
        connected: a connection to DuckDB.
        source: what stands behind FROM.
        name: of the column, for people.
        column: the column, quoted.
        kind: the type that was declared.
        stored: the type that the file has.
    """
    text = stored == "VARCHAR"
    shown = column if text else "NULL"  # DuckDB needs another package to hand out a time with zone
    first = connected.execute(
        f"SELECT row, {shown} FROM (SELECT row_number() OVER () AS row, {column} FROM {source}) "
        f"WHERE {cell(column, kind, stored).bad} ORDER BY row LIMIT 1"
    ).fetchone()
    row, value = first if first is not None else (0, None)
    if text:
        timely = kind in ("DATE", "TIMESTAMP")
        what = shape_of_time(str(value)) if timely else shape_of(value)
    else:
        what = _stored(stored)
    advice = _advice(kind, what, name)
    if kind == "TIMESTAMP" and what in _DAYS:
        day = f"{column} IS NOT NULL" + (f" AND NOT contains({column}, ':')" if text else "")
        days, rows = connected.execute(
            f"SELECT count(*) FILTER ({day}), count(*) FROM {source}"
        ).fetchone() or (0, 0)
        what = f"{_DAYS[what]} in {count_of(days)} of {count_of(rows)} rows"
    where = f"line {row + 1}" if text else f"row {row}"
    return f"{where}: {name} holds {what}, where {_WANTED[kind]} belongs{advice}"


def _stored(stored: str) -> str:
    """What a column of parquet holds, in words."""
    if "TIME ZONE" in stored or stored in ("TIMESTAMP IN UTC", "TIMESTAMPTZ_NS"):
        return "times with a zone"
    if stored.startswith("DURATION") or stored == "INTERVAL":
        return "durations"
    if stored == "DATE":
        return "days"
    if stored in _WALL:
        return "dates"
    if stored in _WHOLE or stored.removeprefix("U") in (*_WHOLE, "FLOAT", "DOUBLE"):
        return "numbers"
    return "numbers" if stored.startswith("DECIMAL") else "another type"


def _advice(kind: str, what: str, name: str) -> str:
    if kind not in ("DATE", "TIMESTAMP"):
        return ""
    column = f"t[{name!r}]"
    if kind == "TIMESTAMP" and what in _DAYS:
        midnights = (
            f"{column} = pd.to_datetime({column})"
            if what == "days"
            else "t.to_csv(…, date_format='%Y-%m-%d %H:%M:%S')"
        )
        return (
            ". As midnight, what was recorded later that day would be known too early. Write the "
            "column again with its time of day. Where midnight is meant, with pandas: " + midnights
        )
    if ("offset" in what and "no offset" not in what) or "zone" in what:
        local = "tz_convert('America/New_York').dt.tz_localize(None)"
        return (
            ". These data have the hospital's own clock, without an offset; with pandas: "
            f"{column} = pd.to_datetime({column}, utc=True).dt.{local}"
        )
    return f". With pandas: {column} = pd.to_datetime({column}, format=…), then write it again"

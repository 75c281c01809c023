"""Columns of times: what each cell means, as SQL for DuckDB, whatever the machine's own zone.

A cell is one of four things. A *zoned* time ("2031-12-24 18:30-05:00", a parquet timestamp with a
zone, seconds since 1970) is a moment: it becomes microseconds of UTC. A *naive* time ("2031-12-24
18:30", a date) is what a clock on a wall showed: microseconds too, of nobody knows where, unless a
zone is declared; then it becomes UTC. A *duration* ("1 days 02:00:00", an Arrow duration) and a
plain *number* say how long after some zero. Nothing else is a time, and nothing is guessed: a
date that begins with its day or month, or a number that stands for a date, needs a format.

No expression here asks for the session's zone, so none depends on the machine's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal
from zoneinfo import available_timezones

from dfdlib.data.shapes import shape_of
from dfdlib.data.sql import text_of
from dfdlib.data.tables_files import number
from dfdlib.errors import nearest, unknown

#: Of what a cell may mean, the first moment or the last: a date without a clock is a whole day, and
#: an hour that the clocks show twice, or never, may be either.
Edge = Literal["first", "last"]

#: What a format may be beside a pattern such as %d.%m.%Y: days since 1899-12-30; seconds, milli-,
#: micro- or nanoseconds since 1970 in UTC; numbers or durations since time zero.
FORMATS = ("excel", "epoch", "epoch_ms", "epoch_us", "epoch_ns", "number", "duration")

_EPOCH = {"epoch": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1, "epoch_ns": 0.001}
_ARROW = {"s": 1_000_000, "ms": 1_000, "us": 1}
_DAY = 86_400_000_000

_DATE = r"\d{4}[-/]\d{1,2}[-/]\d{1,2}"
_CLOCK = r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?"
_OFFSET = r" ?(Z|UTC|GMT|[-+](0\d|1[0-4])(:?[0-5]\d)?)"
_DAYS = r"(-?\d+) DAYS?(?:,? [+]?(\d{1,2}:\d{2}:\d{2}(?:\.\d+)?))?"
_ISO = r"-?P(?:(\d+)D)?(?:T(?:(\d+(?:\.\d+)?)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?"
_HOURS = r"[-+]?(\d+):([0-5]\d)(?::([0-5]\d(?:\.\d+)?))?"

# How else dates may be written that name their year or their month first.
_WRITTEN = {
    r"\d{4}-\d\d-\d\d \d\d?:\d\d [ap]m": "%Y-%m-%d %I:%M %p",
    r"\d{4}-\d\d-\d\d \d\d?:\d\d:\d\d [ap]m": "%Y-%m-%d %I:%M:%S %p",
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+": "%Y-%m-%d %H:%M:%S,%f",
    r"\d{4}\.\d\d?\.\d\d?": "%Y.%m.%d",
    r"\d{4}\.\d\d?\.\d\d? \d\d?:\d\d": "%Y.%m.%d %H:%M",
    r"\d{4}\.\d\d?\.\d\d? \d\d?:\d\d:\d\d": "%Y.%m.%d %H:%M:%S",
    r"\d{8}T\d{4}": "%Y%m%dT%H%M",
    r"\d{8}T\d{6}": "%Y%m%dT%H%M%S",
    r"\d{8} \d{4}": "%Y%m%d %H%M",
    r"\d{8} \d{6}": "%Y%m%d %H%M%S",
    r"\d{8} \d\d:\d\d": "%Y%m%d %H:%M",
    r"\d{8} \d\d:\d\d:\d\d": "%Y%m%d %H:%M:%S",
    r"[a-z]{3} \d\d? \d{4}": "%b %d %Y",
    r"[a-z]{3} \d\d?, \d{4}": "%b %d, %Y",
}

# Outside these years a date is a stand-in for "unknown" or "never", or was read wrongly; those of
# people who were made unrecognisable lie well inside.
_YEARS = f"BETWEEN {-8_520_336_000_000_000} AND {10_413_792_000_000_000}"


@dataclass(frozen=True)
class Clock:
    """What the configuration says of a column of times.

    Args:
        format: One of `FORMATS`, or a pattern as of `strptime`; None where the cells say it.
        zone: Where the clocks hung that wrote times without an offset; None where nobody said.
    """

    format: str | None = None
    zone: str | None = None


@dataclass(frozen=True)
class Times:
    """SQL of what the cells of a column mean; each is NULL where a cell means nothing of the kind.

    Args:
        moment: BIGINT, microseconds since 1970: of UTC where `zoned`, else by a clock on a wall.
        zoned: BOOLEAN, of use only where `moment` is not NULL.
        number: DOUBLE, a plain number.
        duration: BIGINT, microseconds.
    """

    moment: str = "CAST(NULL AS BIGINT)"
    zoned: str = "false"
    number: str = "CAST(NULL AS DOUBLE)"
    duration: str = "CAST(NULL AS BIGINT)"


def column_types(connection: Any, source: str, file: Path) -> dict[str, str]:
    """Name the types of columns as DuckDB does, but as Arrow wrote them where it cannot know.

    DuckDB reads an Arrow duration as whole numbers.

    Args:
        connection: Of DuckDB.
        source: What stands behind FROM.
        file: The file that is read.
    """
    described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    types = {str(row[0]): str(row[1]) for row in described}
    if file.name.lower().endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        for field in pq.read_schema(file):
            if pa.types.is_duration(field.type):
                types[field.name] = f"DURATION[{field.type.unit}]"
    return types


def read_times(
    column: str, cell: str, kind: str, *, clock: Clock | None = None, edge: Edge = "last"
) -> Times:
    """Write the SQL that reads a column of times.

    Args:
        column: The column, quoted.
        cell: The column as text, trimmed, NULL where it is missing.
        kind: Its type, from `column_types`.
        clock: What was declared of it.
        edge: Which moment counts where a cell may mean several.

    Raises:
        ValueError: A column of this type holds no times, or none that the format fits; the message
            says what it is, and goes behind the name of the column.
    """
    clock = clock or Clock()
    there = f"CASE WHEN {cell} IS NOT NULL THEN {{}} END"
    typed = _typed(column, kind, edge)
    if typed is not None:
        by_type = clock.format is None or (clock.format == "duration" and "duration" in typed)
        if not by_type:
            raise ValueError(
                f"is stored as {_plain(kind)}, so format: {_shown(clock.format)} does not fit. "
                "Leave the format out"
            )
        if "duration" in typed:
            return Times(duration=there.format(typed["duration"]))
        moment, zoned = typed["moment"], typed["zoned"]
        return _placed(there.format(moment), zoned, clock, edge)
    if kind != "VARCHAR" and not kind.startswith(("ENUM", '"NULL"')) and not _numeric(kind):
        raise ValueError(f"is stored as {_plain(kind)}, which is no time")
    text = f"nullif(upper({cell}), 'NAT')"
    if clock.format is None:
        moment, zoned = _iso(cell, text, clock, edge)
        return Times(moment, zoned, number(cell), _spans(text))
    if clock.format == "number":
        return Times(number=number(cell))
    if clock.format == "duration":
        return Times(duration=f"coalesce({_spans(text)}, {_hours(text)})")
    if clock.format in _EPOCH:
        factor = _EPOCH[clock.format]
        return Times(_plausible(f"TRY_CAST(round({number(cell)} * {factor}) AS BIGINT)"), "true")
    if clock.format == "excel":
        return _placed(_excel(number(cell), edge), "false", clock, edge)
    return _placed(*_pattern(cell, clock.format, edge), clock, edge)


def _typed(column: str, kind: str, edge: Edge) -> dict[str, str] | None:
    """What a column is by its type alone; None for text and numbers."""
    if kind.startswith("DURATION["):
        unit = kind[9:-1]
        if unit == "ns":
            return {"duration": _thousandth(column, edge)}
        return {"duration": f"{column} * {_ARROW[unit]}"}
    if kind == "INTERVAL":  # a month is no number of hours
        whole = f"datepart('year', {column}) = 0 AND datepart('month', {column}) = 0"
        return {"duration": f"CASE WHEN {whole} THEN epoch_us({column}) END"}
    if kind == "DATE":
        moment, zoned = f"epoch_us({column})" + (f" + {_DAY}" if edge == "last" else ""), "false"
    elif kind == "TIMESTAMP_NS":
        moment, zoned = _thousandth(f"epoch_ns({column})", edge), "false"
    elif kind == "TIMESTAMPTZ_NS":
        moment, zoned = _thousandth(f"epoch_ns({column})", edge), "true"
    elif kind in ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS"):
        moment, zoned = f"epoch_us(CAST({column} AS TIMESTAMP))", "false"
    elif kind == "TIMESTAMP WITH TIME ZONE":
        moment, zoned = f"epoch_us({column})", "true"
    else:
        return None
    whole = "TIMESTAMP" if zoned == "false" else "TIMESTAMP WITH TIME ZONE"
    finite = f"CASE WHEN isfinite(CAST({column} AS {whole})) THEN {moment} END"
    return {"moment": _plausible(finite), "zoned": zoned}


def _thousandth(value: str, edge: Edge) -> str:
    """Microseconds of nanoseconds, rounded away from the side that would let something in."""
    value = f"({value} + {999 if edge == 'last' else 0})"
    return f"(({value} - (({value} % 1000) + 1000) % 1000) // 1000)"


def _iso(cell: str, text: str, clock: Clock, edge: Edge) -> tuple[str, str]:
    """Dates that begin with their year, with or without a clock, with or without an offset."""
    # nearly every cell of a large file looks like this; a regular expression costs three times more
    usual = (
        f"(length({cell}) = 19 AND {cell} LIKE '____-__-__ __:__:__' AND substr({cell}, 18, 1) "
        f"BETWEEN '0' AND '5' AND substr({cell}, 19, 1) BETWEEN '0' AND '9')"
    )
    naive = f"regexp_full_match({text}, '{_DATE}([T ]{_CLOCK})?')"
    zoned = f"regexp_full_match({text}, '{_DATE}[T ]{_CLOCK}{_OFFSET}')"
    glued = f"substr({text}, 1, 11) || replace(substr({text}, 12), ' ', '')"
    utc = f"replace(replace({glued}, 'UTC', 'Z'), 'GMT', 'Z')"
    more = ""
    if edge == "last":
        more = (
            f" + (CASE WHEN NOT contains({text}, ':') THEN {_DAY} "
            f"WHEN regexp_matches({text}, '\\.\\d{{6}}\\d*[1-9]') THEN 1 ELSE 0 END)"
        )
    plain = _plausible(f"epoch_us(TRY_CAST({cell} AS TIMESTAMP))")
    wall = _plausible(f"epoch_us(TRY_CAST({text} AS TIMESTAMP)){more}")
    moment = _plausible(f"epoch_us(TRY_CAST({utc} AS TIMESTAMP WITH TIME ZONE)){more}")
    if clock.zone is not None:
        plain, wall = _in_zone(plain, clock.zone, edge), _in_zone(wall, clock.zone, edge)
    parsed = (
        f"CASE WHEN {usual} THEN {plain} WHEN {naive} THEN {wall} WHEN {zoned} THEN {moment} END"
    )
    # of what was read as a time, a sign or a letter behind the first colon is an offset
    offset = f"CASE WHEN {usual} THEN false ELSE regexp_matches({text}, ':.*([-+]|[A-Z]$)') END"
    return parsed, "true" if clock.zone is not None else f"({offset})"


def _spans(text: str) -> str:
    """Durations that say so: "1 days 02:00:00" as pandas writes, "P1DT2H" of ISO 8601."""
    clock = f"epoch_us(TRY_CAST(nullif({_part(text, _DAYS, 2)}, '') AS INTERVAL))"
    days = f"TRY_CAST({_part(text, _DAYS, 1)} AS BIGINT) * {_DAY} + coalesce({clock}, 0)"
    seconds = {1: 86400, 2: 3600, 3: 60, 4: 1}
    return (
        f"CASE WHEN regexp_full_match({text}, '{_DAYS}') THEN {days} "
        f"WHEN regexp_full_match({text}, '{_ISO}') AND regexp_matches({text}, '\\d') "
        f"THEN {_sum(text, _ISO, seconds)} END"
    )


def _hours(text: str) -> str:
    """Durations that look like a clock: "26:00:00"; read only where a format says so."""
    total = _sum(text, _HOURS, {1: 3600, 2: 60, 3: 1})
    return f"CASE WHEN regexp_full_match({text}, '{_HOURS}') THEN {total} END"


def _sum(text: str, pattern: str, seconds: Mapping[int, int]) -> str:
    """Microseconds of the groups of a pattern, of which each has its seconds."""
    parts = (
        f"coalesce(TRY_CAST({_part(text, pattern, group)} AS DOUBLE), 0) * {each}"
        for group, each in seconds.items()
    )
    sign = f"CASE WHEN starts_with({text}, '-') THEN -1000000 ELSE 1000000 END"
    return f"TRY_CAST(round(({' + '.join(parts)}) * {sign}) AS BIGINT)"


def _part(text: str, pattern: str, group: int) -> str:
    return f"regexp_extract({text}, '{pattern}', {group})"


def _excel(value: str, edge: Edge) -> str:
    """Microseconds of Excel's days; it knows times to the millisecond, and no 1900-02-29."""
    day = f" + CASE WHEN {value} = floor({value}) THEN {_DAY} ELSE 0 END" if edge == "last" else ""
    return _plausible(
        f"CASE WHEN {value} BETWEEN 61 AND 1000000 "
        f"THEN CAST(round(({value} - 25569) * 86400000) AS BIGINT) * 1000{day} END"
    )


def _pattern(cell: str, form: str, edge: Edge) -> tuple[str, str]:
    """Microseconds of what a pattern reads, and whether they are of UTC."""
    # a whole number from a column with holes is written 20240304.0
    text = f"regexp_replace({cell}, '^(\\d+)\\.0+$', '\\1')"
    zoned = "%z" in form
    if zoned:
        text = f"regexp_replace({text}, ' ?[Zz]$', '{' ' if ' %z' in form else ''}+00:00')"
    read = f"TRY_STRPTIME({text}, {text_of(form)})"
    moment = f"epoch_us(CAST({read} AS {'TIMESTAMP WITH TIME ZONE' if zoned else 'TIMESTAMP'}))"
    if edge == "last" and not re.search(r"%-?[HIMScXT]", form):
        moment += f" + {_DAY}"
    width = _width(form)
    if width is not None:  # digits without marks between them: a lost zero would move them all
        moment = f"CASE WHEN length({text}) = {width} THEN {moment} END"
    return _plausible(moment), "true" if zoned else "false"


def _width(form: str) -> int | None:
    """How many digits a pattern without marks between them reads."""
    if not re.fullmatch(r"(%[YymdHIMSj])+", form):
        return None
    return sum({"Y": 4, "j": 3}.get(sign, 2) for sign in form[1::2])


def _placed(moment: str, zoned: str, clock: Clock, edge: Edge) -> Times:
    """Times of which the whole column is zoned or naive."""
    if clock.zone is not None and zoned == "false":
        return Times(_in_zone(moment, clock.zone, edge), "true")
    return Times(moment, zoned)


def _in_zone(wall: str, zone: str, edge: Edge) -> str:
    """Microseconds of UTC of what a clock in a zone shows.

    An hour that comes twice in autumn is read as the second of the two, and one that is left out in
    spring by the clock before it was set: the later moment of two. `edge` first takes the earlier.
    """
    shown = f"make_timestamp({wall})"
    last = f"epoch_us({shown} AT TIME ZONE {text_of(zone)})"
    if edge == "last":
        return last

    def local(moment: str) -> str:
        return (
            f"epoch_us((make_timestamp({moment}) AT TIME ZONE 'UTC') AT TIME ZONE {text_of(zone)})"
        )

    again = "".join(
        f" WHEN {local(f'{last} - {minutes * 60_000_000}')} = {wall} "
        f"THEN {last} - {minutes * 60_000_000}"
        for minutes in (120, 60, 30)
    )
    return (
        f"(CASE WHEN {local(last)} <> {wall} THEN {last} - ({local(last)} - {wall}){again} "
        f"ELSE {last} END)"
    )


def _plausible(moment: str) -> str:
    return f"(CASE WHEN {moment} {_YEARS} THEN {moment} END)"


def _numeric(kind: str) -> bool:
    return kind.endswith("INT") or kind.startswith(
        ("INTEGER", "UINTEGER", "FLOAT", "DOUBLE", "DEC")
    )


def _plain(kind: str) -> str:
    """A type in words."""
    if kind.startswith("DURATION") or kind == "INTERVAL":
        return "durations"
    if kind.startswith("TIMESTAMP"):
        return "times"
    words = {"DATE": "dates", "BOOLEAN": "truth values", "BLOB": "bytes"}
    return words.get(kind, "clocks without a date" if kind.startswith("TIME") else kind.lower())


def _shown(form: str | None) -> str:
    return form if form in FORMATS else f'"{form}"'


# ---------------------------------------------------------------- what was declared


def check_zone(zone: str, where: str) -> str:
    """Refuse what is no zone of the IANA list, or one that does not know its summers.

    Raises:
        ValueError: The name is none.
    """
    if zone == "UTC" or ("/" in zone and zone in _zones()):
        return zone
    if "/" not in zone:  # EST is five hours behind all year, and IST is three different things
        raise ValueError(
            f"{where}: {zone!r} is no zone by its city. Write for example Europe/Berlin, "
            "America/New_York or UTC"
        )
    near = nearest(zone, sorted(_zones()))
    hint = f"Did you mean {near!r}?" if near else "Write for example Europe/Berlin"
    raise ValueError(f"{where}: {zone!r} is no zone of the IANA list. {hint}")


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def check_format(form: str, where: str) -> str:
    """Refuse what is no format.

    Raises:
        ValueError: It is neither a word that is known nor a pattern of a whole date.
    """
    if form in FORMATS:
        return form
    if "%" not in form:
        raise ValueError(
            f'{where}: {unknown(form, FORMATS, "format")} Or write a pattern: "%d.%m.%Y %H:%M"'
        )
    import duckdb

    try:
        with duckdb.connect() as connection:
            connection.execute("SELECT CAST(TRY_STRPTIME('', ?) AS VARCHAR)", [form])
    except duckdb.Error:
        raise ValueError(
            f"{where} is {form!r}, no pattern that can be read. Write %Y for the year, %m, %d, %H, "
            'and so on: "%d.%m.%Y %H:%M"'
        ) from None
    if "%Z" in form:
        raise ValueError(
            f"{where} is {form!r}, and names of zones in cells can mean several. Write the zone "
            "here, zone: Europe/Berlin, or offsets in the cells: %z"
        )
    day = re.search(r"%-?[dj]|%[cx]", form), re.search(r"%-?[mj]|%[bBcx]", form)
    if not re.search(r"%-?[Yy]|%[cx]", form) or not all(day):
        raise ValueError(
            f"{where} is {form!r}, which does not say year, month and day. Write all three: "
            '"%d.%m.%Y"'
        )
    if re.search(r"%-?I", form) and "%p" not in form:
        raise ValueError(
            f"{where} is {form!r}, and twelve hours come twice a day. Write %H, or %p behind %I"
        )
    return form


# ---------------------------------------------------------------- what a cell looks like


def shape(text: str) -> str:
    """Say what a cell looks like, without showing it.

    Example:
        >>> shape("20310304"), shape("03/04/2031"), shape("2031-03-04 10:00Z")
        ('8 digits', 'a date that does not begin with its year', 'a date with an offset')
    """
    text = text.strip()
    year = re.match(r"(\d{4})[-/]\d", text)
    if year is not None and not 1700 <= int(year[1]) < 2300:
        return "a date in a year far away"
    kinds = {
        r"\d{2,}": f"{len(text)} digits",
        r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?": "a number",
        rf"(?i){_DATE}[T ]{_CLOCK}{_OFFSET}": "a date with an offset",
        rf"(?i){_DATE}[T ]{_CLOCK}": "a date with a clock and no offset",
        _DATE: "a date without a clock",
        r"(?i).*\d ?[ap]\.?m\.?": "a clock with AM or PM",
        r"\d{1,2}[-./ ]\w{1,9}[-./ ]\d{2,4}.*": "a date that does not begin with its year",
        r"\d{5,}-\d{1,2}-\d{1,2}.*|-\d+-\d.*": "a date in a year far away",
        r"[-+]?\d+:\d{2}(:\d{2}(\.\d+)?)?": "a clock without a date",
        r"(?i)-?\d+ days?.*|-?P[\dT].*": "a duration",
    }
    shapes = (kind for pattern, kind in kinds.items() if re.fullmatch(pattern, text, re.DOTALL))
    return next(shapes, shape_of(text))


def format_for(text: str) -> str | None:
    """A format that a cell which looks like this could have, as it is typed; None where none is.

    Example:
        >>> format_for("20310304"), format_for("45355.5"), format_for("24.12.2031")
        ('"%Y%m%d"', 'excel', '"%d.%m.%Y"')
    """
    text = text.strip()
    digits = {8: "%Y%m%d", 10: "epoch", 12: "%Y%m%d%H%M", 13: "epoch_ms", 14: "%Y%m%d%H%M%S",
              16: "epoch_us", 19: "epoch_ns"}  # fmt: skip
    if re.fullmatch(r"\d+(\.\d*)?", text):
        whole = text.split(".")[0]
        form = digits.get(len(whole), "excel" if len(whole) in (5, 6) else None)
        return form if form is None or form in FORMATS else f'"{form}"'
    if re.fullmatch(r"[-+]?\d+:\d{2}(:\d{2}(\.\d+)?)?", text):
        return "duration"
    for pattern, form in _WRITTEN.items():
        if re.fullmatch(pattern, text, re.IGNORECASE):
            return f'"{form}"'
    parts = re.fullmatch(
        r"(?i)\d{1,2}([-./ ])(\d{1,2}|[^\W\d_]+)[-./ ](\d{4}|\d{2})"
        r"(?:([ T,]+)\d{1,2}:\d{2}(:\d{2})?( ?)([ap]m)?)?",
        text,
    )
    if parts is None:
        return None
    mark, month, year, gap, seconds, space, half = parts.groups()
    month = "%m" if month.isdigit() else ("%b" if len(month) == 3 else "%B")
    form = f"%d{mark}{month}{mark}{'%Y' if len(year) == 4 else '%y'}"
    if mark == "/" and month == "%m" and (half or int(text.split("/")[1]) > 12):
        form = form.replace("%d/%m", "%m/%d")
    if gap is not None:
        clock = ("%I" if half else "%H") + ":%M" + (":%S" if seconds else "")
        form += gap + clock + (f"{space}%p" if half else "")
    return f'"{form}"'

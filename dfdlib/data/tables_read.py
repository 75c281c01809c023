"""Reading a user's own tables with DuckDB: streaming, as text first, so that nothing is guessed."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pandas as pd

from dfdlib.data.shapes import shape_of
from dfdlib.data.sql import fault, quoted, set_threads, text_of, verified
from dfdlib.data.tables_config import ModalityConfig, TablesConfig
from dfdlib.data.tables_files import (
    BLANKS,
    SUFFIXES,
    is_number,
    limited,
    looks_like_cells,
    measure,
    number,
    open_file,
    readable,
)
from dfdlib.data.times import (
    FORMATS,
    Clock,
    Edge,
    Times,
    column_types,
    format_for,
    read_times,
    shape,
)
from dfdlib.errors import nearest, suggestion, unknown

#: What is counted of each modality: rows of its file, then values.
FLOW = (
    *("rows", "unmatched", "without time", "late", "early", "in time"),
    *("unreadable", "other unit", "out of bounds", "limits", "values", "patients"),
)

_MICROSECONDS = {"minutes": 60_000_000, "hours": 3_600_000_000, "days": 86_400_000_000}

# What the time zeros are: there is none, a moment of UTC, what a wall clock showed, or a number.
Zero = Literal["none", "moment", "wall", "offset"]

_ZONE = (
    "Say where the clocks hung that wrote the times without an offset: time: {zone: Europe/Berlin, "
    "…}, or for one column time: {column: …, zone: …}"
)

_AGES = 50 * 365.25 * 86_400_000_000  # hardly anything was recorded longer before, or after

# Numbers that can be nothing but dates: 20240304, and seconds or less since 1970.
_DATED = (
    "CASE WHEN abs({0}) >= 1e8 THEN true WHEN {0} BETWEEN 18000101 AND 22001231 "
    "THEN TRY_STRPTIME(CAST(TRY_CAST({0} AS BIGINT) AS VARCHAR), '%Y%m%d') IS NOT NULL "
    "ELSE false END"
)


def _line(key: str, column: str, form: str) -> str:
    """The line of the configuration that declares a format."""
    return f"{key}: {{column: {column}, format: {form}}}"


# How one id may be written in two ways: in words, and what makes both alike.
_WAYS = {
    "leading zeros": "regexp_replace({}, '^0+([0-9])', '\\1')",
    "a decimal part of zeros": "regexp_replace({}, '\\.0+$', '')",
    "a difference of upper and lower case": "lower({})",
    "blanks": "regexp_replace({}, '\\s', '', 'g')",
}
_SMALL = 0.05  # a share of rows, or of patients, that hardly any are


class Tables:
    """An open set of files: which columns they have, and what enters of them.

    Args:
        config: What was read from the YAML file.
        connection: DuckDB, with its memory limit set.
        folder: For what does not fit into memory, and for copies of files in another encoding.

    Attributes:
        notes: Messages for the reader of the cohort, in the order in which they arose.
        marks: What is to be said of some rows of the cohort: their positions, and what.
        flow: How many rows and values of each modality went where.
    """

    # not annotated as DuckDB's class, which type checkers at run time keep past its shutdown
    def __init__(self, config: TablesConfig, connection: Any, folder: Path) -> None:
        self.config, self.connection, self.folder = config, connection, folder
        self.notes: list[str] = []
        self.marks: list[tuple[np.ndarray, str]] = []
        self.flow: dict[str, dict[str, int]] = {}
        self._types: dict[Path, dict[str, str]] = {}
        self._verified: set[Path] = set()
        self._sources: dict[Path, str] = {}
        self._kinds: dict[Path, dict[str, str]] = {}
        self._places = {m.file: f"{m.where}['file']" for m in config.modalities}
        self._places[config.label_file] = "config['label']['file']"
        self._places[config.file] = "config['patients']['file']"
        self._met: set[Path] = {config.file}

    def patients(self, columns: Sequence[tuple[str, str]]) -> pd.DataFrame:
        """Read columns of the patients' file as text, None where missing, in the file's order.

        Args:
            columns: Each with its place in the configuration.
        """
        return self._frame(self.config.file, columns)

    def labels(self) -> pd.DataFrame:
        """Read the labels as text, with the id of their row."""
        place = "config['label']['columns']"
        columns = [(name, f"{place}[{i}]") for i, name in enumerate(self.config.label)]
        file = self.config.label_file
        return self._frame(file, [*self._id_columns, *columns])

    @property
    def _id_columns(self) -> list[tuple[str, str]]:
        return [(name, "config['patients']['id']") for name in self.config.id]

    def _id(self, of: str = "") -> str:
        """The expression of a row's id, as `joined` makes it; NULL where a column is empty."""
        cells = (self._cell(of + quoted(name)) for name in self.config.id)
        return " || chr(31) || ".join(cells)

    def decimal(self, file: Path) -> str:
        """The sign before decimals in a file; types of parquet have none."""
        return "." if _is_parquet(file) else self.config.text_files[file].decimal

    def mark(self, where: str, what: str) -> None:
        """Keep that something is to be said of the rows of the cohort that have such a cell."""
        positions = self.fetch(f"SELECT DISTINCT position FROM cell WHERE {where}")["position"]
        self.marks.append((np.asarray(positions, dtype=np.int64), what))

    def open_rows(self, ids: Sequence[str]) -> None:
        """Number the rows of the cohort, and find their time zero.

        Raises:
            ValueError: A row without a time zero, or one that is neither a time nor a number.
        """
        rows = pd.DataFrame({"id": ids, "position": np.arange(len(ids)), "start": 0.0})
        self._zero: Zero = "none"
        self._declared: str | None = None
        if self.config.start is not None:
            self._zero, rows["start"] = self._starts(self.config.start)
            self._declared = self._clock(
                self.config.start_clock, self.config.file, self.config.start
            ).format
        self.connection.register("given_rows", rows)
        self.connection.execute("CREATE TEMP TABLE row_of AS SELECT * FROM given_rows")
        # from here on rows are known by their position, so files may be read out of order
        self.connection.execute("SET preserve_insertion_order = false")

    def open_cells(self, modality: ModalityConfig) -> None:
        """Put what enters of a modality into a table `cell`: position, t, flag, text.

        `flag` is the place of the column, or of the item. Nothing after the cut stands in it. A
        row that stands in the file twice, the same in every column, enters once.

        `value` is the number that a cell holds, in the unit of the file, and `side` says whether it
        is a limit: -1 below, 1 above, else 0.

        Raises:
            ValueError: A column that is not there, a time that is none, ids that do not meet.
        """
        time, decimal = modality.time, self.decimal(modality.file)
        self.flow[modality.name] = dict.fromkeys(FLOW, 0)
        if self.config.scoring and not modality.file.is_file():
            self.notes.append(
                f"{modality.where}['file']: {modality.file.name} is not there, so "
                f"{modality.name!r} is missing for everybody"
            )
            self.connection.execute(
                "CREATE OR REPLACE TEMP TABLE cell "
                "(position BIGINT, t DOUBLE, flag BIGINT, text VARCHAR, value DOUBLE, "
                "side INTEGER, unit VARCHAR)"
            )
            return
        self._check(modality.file, self._id_columns)
        if modality.unit is not None:
            self._check(modality.file, [(modality.unit, f"{modality.where}['unit']")])
        if time is not None:
            self._check(modality.file, [(time, f"{modality.where}['time']")], times=True)
        self._look(modality)
        if modality.item is None:
            flag, text = f"unnest(range({len(modality.columns)}))", "unnest(text)"
        else:
            if not self.config.scoring:
                self._refuse_unmeasured(modality)
            listed = ", ".join(text_of(name) for name in modality.columns)
            flag, text = f"list_position([{listed}], item) - 1", "text"
        late, early = self._outside(modality)
        theirs = f"FROM seen WHERE position IS NOT NULL AND NOT ({late} OR {early})"
        rows, different = self._one(f"SELECT count(*), count(DISTINCT row) {theirs}")
        if rows == different:  # nearly always; to group by text takes long
            counted, grouped = "1 AS times, bad_time, unit", ""
        else:
            counted = "count(*) AS times, any_value(bad_time) AS bad_time, any_value(unit) AS unit"
            grouped = "GROUP BY position, t, flag, text, row"
        value, side = measure("text", decimal), "0"
        if modality.kind == "codes" or modality.levels is not None:
            value = "CAST(NULL AS DOUBLE)"  # words; to ask whether they are numbers takes long
        elif modality.limits != "error":
            value, side = limited("text", decimal)
        self.connection.execute(
            "CREATE OR REPLACE TEMP TABLE cell AS SELECT position, t, flag, text, "
            f"{value} AS value, {side} AS side, {counted} FROM (SELECT position, t, "
            f"{flag} AS flag, {text} AS text, row, bad_time, unit {theirs}) "
            f"WHERE text IS NOT NULL AND flag IS NOT NULL {grouped}"
        )
        without, twice, bad = self._one(
            "SELECT count(*) FILTER (WHERE t IS NULL), coalesce(sum(times - 1), 0), "
            "count(*) FILTER (WHERE bad_time) FROM cell"
        )
        if bad:
            raise ValueError(self._bad_time(modality))
        if without:
            self.notes.append(
                f"{modality.where}: {without} values of {modality.file.name} have no {time!r} and "
                "do not enter"
            )
        if twice:
            self.notes.append(
                f"{modality.where}: {int(twice)} values of {modality.file.name} stand there once "
                "more, in rows that are the same in every column. Each counts once"
            )
        self._meet_seen(modality.file)
        if time is not None:
            self._look_at_window(modality)
        self._count(modality, late, early)
        self.connection.execute("DROP TABLE seen")
        self.connection.execute("DELETE FROM cell WHERE t IS NULL")

    def _outside(self, modality: ModalityConfig) -> tuple[str, str]:
        """The conditions of a row's time to lie after the cut, and before the window."""
        cut, lookback = self.config.cut, modality.lookback
        if modality.time is None or cut is None:
            return "false", "false"
        early = "false" if lookback is None else f"coalesce(t < {cut - lookback!r}, false)"
        return f"coalesce(t > {cut!r}, false)", early

    def _count(self, modality: ModalityConfig, late: str, early: str) -> None:
        """Count where the rows of a file went: each is in one of the five counts behind the first.

        A row without a time or an id is known to nobody's window.
        """
        counts = self._one(
            "SELECT count(*), count(*) FILTER (position IS NULL), "
            "count(*) FILTER (position IS NOT NULL AND t IS NULL), "
            f"count(*) FILTER (position IS NOT NULL AND {late}), "
            f"count(*) FILTER (position IS NOT NULL AND {early}) FROM seen"
        )
        rows, unmatched, without, late_rows, early_rows = map(int, counts)
        self.flow[modality.name] |= {
            "rows": rows,
            "unmatched": unmatched,
            "without time": without,
            "late": late_rows,
            "early": early_rows,
            "in time": rows - unmatched - without - late_rows - early_rows,
        }

    def _look(self, modality: ModalityConfig) -> None:
        """Read what is needed of a modality's file, once, into a table `seen`: a row for each row.

        `position` is missing where it is nobody's of the cohort, and `id` where it is somebody's.
        """
        time, source = modality.time, self._sources[modality.file]
        item, text = self._item_and_text(modality)
        unit = "NULL" if modality.unit is None else self._cell(f"dfdlib_e.{quoted(modality.unit)}")
        t, number, bad, midnight = "0.0", "NULL", "false", "false"
        if time is not None:
            source, times = self._times(modality)
            if not self._stamped or times.moment == Times.moment:
                number = times.number  # else what is a number is no time
            times = replace(times, number="dfdlib_e.dfdlib_number")
            t = self._since_zero(times)
            bad = "t IS NULL AND told IS NOT NULL"
            midnight = (  # a regular expression takes long
                "CASE WHEN contains(told, '0:00') "
                "THEN regexp_matches(told, '[T ]00?:00(:00([.]0+)?)?$') ELSE false END"
            )
        written = "NULL" if time is None else "dfdlib_e.dfdlib_told"
        in_cohort = "r.position IS NOT NULL"
        with self._reading(modality.file):
            self.connection.execute(f"""
                CREATE OR REPLACE TEMP TABLE seen AS
                SELECT position, id, row, t, number, {bad} AS bad_time, {midnight} AS midnight,
                    item, text, unit
                FROM (
                    SELECT r.position,
                        CASE WHEN r.position IS NULL THEN dfdlib_e.dfdlib_id END AS id,
                        dfdlib_e.dfdlib_row AS row, CASE WHEN {in_cohort} THEN {t} END AS t,
                        CASE WHEN {in_cohort} THEN dfdlib_e.dfdlib_number END AS number,
                        {written} AS told,
                        {item} AS item, CASE WHEN {in_cohort} THEN {text} END AS text,
                        CASE WHEN {in_cohort} THEN {unit} END AS unit
                    FROM (
                        SELECT *, hash(dfdlib_e) AS dfdlib_row,
                            {self._id()} AS dfdlib_id,
                            {number} AS dfdlib_number
                        FROM {source} dfdlib_e
                    ) dfdlib_e LEFT JOIN row_of r ON r.id = dfdlib_e.dfdlib_id
                )
            """)

    def meet(self, file: Path) -> None:
        """Count the rows of a file that belong to nobody in the patients' file.

        An extract may well hold more patients than the cohort. It is said where ids are written in
        two ways, where a row has no id, and where hardly anybody is found.

        Raises:
            ValueError: In training, nobody is found.
        """
        if file in self._met:
            return
        ids = f"SELECT {self._id()} AS id FROM {self._sources[file]}"
        with self._reading(file):
            self.connection.execute(
                "CREATE OR REPLACE TEMP TABLE seen AS SELECT r.position, "
                "CASE WHEN r.position IS NULL THEN dfdlib_e.id END AS id "
                f"FROM ({ids}) dfdlib_e LEFT JOIN row_of r ON r.id = dfdlib_e.id"
            )
        self._meet_seen(file)

    def _meet_seen(self, file: Path) -> None:
        """Count the rows of a file whose rows stand in `seen`, as `meet` says."""
        if file in self._met:
            return
        where, column = self._places[file], self.config.id_told
        rows, matched, patients, others = map(
            int,
            self._one(
                "SELECT count(*), count(position), count(DISTINCT position), count(id) FROM seen"
            ),
        )
        self._met.add(file)
        empty = rows - matched - others
        self.connection.execute(
            "CREATE OR REPLACE TEMP TABLE theirs AS "
            "SELECT id, count(*) AS n FROM seen WHERE id IS NOT NULL GROUP BY id"
        )
        ours = int(self._one("SELECT count(*) FROM row_of")[0])
        mismatch = f"{others} of {rows} rows of {file.name} have an {column} that is not in "
        mismatch += self.config.file.name
        way, alike = self._written_alike() if others else ("", 0)
        if not matched and not self.config.scoring:
            raise ValueError(self._no_one(file, rows, way, alike))
        if alike:
            self.notes.append(
                f"{where}: {mismatch}; {alike} of them would be without {way}. Write {column} "
                "alike in both files"
            )
        elif others and ours >= 20 and max(matched / rows, patients / ours) < _SMALL:
            self.notes.append(
                f"{where}: {mismatch}, and {patients} of {ours} have a row there. Are both files "
                "of one extract?"
            )
        if empty:
            self.notes.append(
                f"{where}: {empty} of {rows} rows of {file.name} have no {column} and do not enter"
            )

    def _written_alike(self) -> tuple[str, int]:
        """How ids of two files differ in writing, and how many rows have such an id."""
        whole = "{}"
        for form in _WAYS.values():
            whole = form.format(whole)
        forms = {**_WAYS, "differences in writing (zeros, case, blanks)": whole}
        counts = ", ".join(
            f"coalesce(sum(n) FILTER (WHERE {form.format('id')} IN "
            f"(SELECT {form.format('id')} FROM row_of)), 0)"
            for form in forms.values()
        )
        matches = [int(n) for n in self._one(f"SELECT {counts} FROM theirs")]
        most = max(matches)
        return list(forms)[matches.index(most)], most

    def _no_one(self, file: Path, rows: int, way: str, alike: int) -> str:
        """The refusal of a file in which no id is one of the patients' file."""
        column, start = self.config.id_told, f"{self._places[file]}: "
        if not rows:
            return f"{start}{file.name} has no row. Leave what is read of it out, or fill it"
        theirs = self._one("SELECT min(id) FROM theirs")[0]
        ours = self._one("SELECT min(id) FROM row_of")[0]
        shapes = f"{shape_of(theirs or '')} there, {shape_of(ours)} here"
        hint = f"; {alike} of {rows} rows would be without {way}" if alike else ""
        return (
            f"{start}no {column} of {file.name} is one of {self.config.file.name}: "
            f"{shapes}{hint}. Write both alike, leading zeros too"
        )

    def fetch(self, query: str) -> dict[str, np.ndarray]:
        """Run a query; one array per column."""
        return self.connection.execute(query).fetchnumpy()

    def _item_and_text(self, modality: ModalityConfig) -> tuple[str, str]:
        """The expressions of what was measured, and of its value; without items, of all columns."""
        if modality.item is None:
            names = [(name, modality.at(i)) for i, name in enumerate(modality.columns)]
            self._check(modality.file, names)
            cells = ", ".join(
                self._cell(f"dfdlib_e.{quoted(name)}", self.decimal(modality.file))
                for name in modality.columns
            )
            return "NULL", f"[{cells}]"
        keys = [(modality.item, "item"), (str(modality.value), "value")]
        self._check(modality.file, [(name, f"{modality.where}[{key!r}]") for name, key in keys])
        item, value = (
            self._cell(f"dfdlib_e.{quoted(name)}", self.decimal(modality.file)) for name, _ in keys
        )
        return item, value

    def _refuse_unmeasured(self, modality: ModalityConfig) -> None:
        """Refuse an item that the file never holds; others are shown where ten ids have them."""
        items = self.fetch("SELECT DISTINCT item FROM seen")
        known = {str(name) for name in items["item"] if isinstance(name, str)}
        absent = [(i, name) for i, name in enumerate(modality.columns) if name not in known]
        self._tell_of_spelling(modality, known)
        if not absent:
            return
        common = self.fetch(
            "SELECT item FROM seen WHERE item IS NOT NULL GROUP BY item "
            "HAVING count(DISTINCT position) + count(DISTINCT id) >= 10 ORDER BY item"
        )["item"]
        i, name = absent[0]
        near = nearest(name, known)
        listed = f" ({', '.join(map(str, common[:20]))}{', …' if len(common) > 20 else ''})"
        raise ValueError(
            f"{modality.at(i)}: {name!r} is not a {modality.item} of {modality.file.name}"
            f"{listed if len(common) else f', which holds others ({len(known)})'}. "
            + (
                f"Did you mean {near!r}?"
                if near
                else "Leave it out, or name another; purpose='score' is for new patients"
            )
        )

    def _tell_of_spelling(self, modality: ModalityConfig, known: set[str]) -> None:
        """Say where an item that is read is also written in another way, which is not read."""
        for i, name in enumerate(modality.columns):
            alike = [
                word
                for word in known.difference(modality.columns)
                if "".join(word.split()).casefold() == "".join(name.split()).casefold()
            ]
            if name in known and alike:
                self.notes.append(
                    f"{modality.at(i)}: {name!r} is written in {len(alike) + 1} ways in "
                    f"{modality.file.name} (upper case, blanks), and only this one is read. Write "
                    "them alike, or list each"
                )

    # ------------------------------------------------------------ time

    def _starts(self, start: str) -> tuple[Zero, np.ndarray]:
        """What the time zeros are, and their microseconds where these are times, else numbers."""
        where, file = "config['time']['start']", self.config.file
        self._check(file, [(start, where)], times=True)
        column, clock = quoted(start), self.config.start_clock
        times = self._read(file, start, column, "dfdlib_told", clock, where, edge="first")
        with self._reading(file):
            read = self.fetch(
                f"SELECT dfdlib_told AS text, {times.moment} AS moment, {times.zoned} AS zoned, "
                f"{times.number} AS number, {times.duration} / {self._unit} AS duration FROM "
                f"(SELECT {column}, {self._written(column, file)} AS dfdlib_told FROM "
                f"{self._sources[file]})"
            )
        texts = np.ma.asarray(read["text"]).tolist()  # None where there is none
        moment, number, duration = (
            np.ma.filled(read[name].astype(float), np.nan)
            for name in ("moment", "number", "duration")
        )
        zoned = np.ma.filled(read["zoned"], False).astype(bool)
        stamped = np.isfinite(moment)
        offsets = np.where(np.isfinite(number), number, duration)
        # one that is a time among numbers, or a number among times, is refused
        zero = moment if stamped.any() else offsets
        bad = ~np.isfinite(zero)
        if bad.any():
            row = int(bad.argmax())
            written = texts[row]
            if written is None:
                raise ValueError(
                    f"{where}: row {row + 1} of {file.name} has no {start!r}. Leave the row out, "
                    "or fill its time zero in"
                )
            others = " beside dates" if stamped.any() and is_number(written) else ""
            raise ValueError(
                f"{where}: row {row + 1} of {file.name} holds {shape(written)}{others}, which is "
                f"no time{self._advice(written, start, 'start', stamped=True)}"
            )
        if stamped.any():
            if zoned.any() and not zoned.all():
                with_, without = int(zoned.argmax()), int((~zoned).argmax())
                raise ValueError(
                    f"{where}: row {with_ + 1} of {file.name} has an offset, and row {without + 1} "
                    f"has none. {_ZONE}"
                )
            return ("moment" if zoned.all() else "wall"), zero
        form = self._clock(clock, file, start).format
        if form != "number" and np.isfinite(number).any():
            self._refuse_dates(number[np.isfinite(number)], texts, start)
        return "offset", zero

    def _refuse_dates(self, numbers: np.ndarray, texts: Sequence[str | None], start: str) -> None:
        """Refuse time zeros that look like dates written as numbers."""
        years = (numbers >= 1800) & (numbers <= 2200) & (numbers == np.floor(numbers))
        large = (numbers >= 10_000).all()  # since a plain zero, somebody comes early
        # of a single patient to score nothing follows
        doubtful = not self.config.scoring and (large or years.all())
        self.connection.register("given_numbers", pd.DataFrame({"x": numbers}))
        dated = self.fetch(f"SELECT bool_or({_DATED.format('x')}) AS any FROM given_numbers")["any"]
        if not (dated[0] or doubtful):
            return
        written = str(texts[0])
        form = format_for(written)
        advice = "Write whole dates" if form is None else f"Say so: {_line('start', start, form)}"
        raise ValueError(
            f"config['time']['start']: {start!r} of {self.config.file.name} holds numbers "
            f"({shape(written)} in row 1) that may be dates. {advice}, or format: number where "
            f"they are {self.config.unit} since some zero (formats: {', '.join(FORMATS)}, or a "
            'pattern such as "%d.%m.%Y")'
        )

    def _kind(self, file: Path, column: str) -> str:
        if file not in self._kinds:
            self._kinds[file] = column_types(self.connection, self._sources[file], file)
        return self._kinds[file][column]

    def _clock(self, clock: Clock, file: Path, column: str) -> Clock:
        """What is declared of a column, or else of all; types say more than formats of all."""
        kind = self._kind(file, column)
        typed = kind.startswith(("TIMESTAMP", "DATE", "DURATION", "INTERVAL"))
        form = None if typed else self.config.clock.format
        return Clock(clock.format or form, clock.zone or self.config.clock.zone)

    def _read(
        self, file: Path, name: str, column: str, cell: str, clock: Clock, where: str, *, edge: Edge
    ) -> Times:
        kind = self._kind(file, name)
        try:
            return read_times(column, cell, kind, clock=self._clock(clock, file, name), edge=edge)
        except ValueError as error:
            raise ValueError(f"{where}: {name!r} of {file.name} {error}") from None

    def _times(self, modality: ModalityConfig) -> tuple[str, Times]:
        """What to read a modality's rows from, and the expressions of what their times mean.

        The rows have one more column, `dfdlib_told`: their time as text. It is put together once,
        for DuckDB takes seconds to plan a query in which it stands dozens of times.
        """
        assert modality.time is not None
        column = quoted(modality.time)
        source = (
            f"(SELECT *, {self._written(column, modality.file)} AS dfdlib_told "
            f"FROM {self._sources[modality.file]})"
        )
        return source, self._read(
            modality.file,
            modality.time,
            f"dfdlib_e.{column}",
            "dfdlib_e.dfdlib_told",
            modality.clock,
            f"{modality.where}['time']",
            edge="last",
        )

    @property
    def _stamped(self) -> bool:
        return self._zero in ("moment", "wall")

    @property
    def _unit(self) -> int:
        return _MICROSECONDS[self.config.unit]

    def _since_zero(self, times: Times) -> str:
        """The expression of a time, counted from the row's time zero in the chosen unit."""
        if not self._stamped:
            return f"(coalesce({times.number}, {times.duration} / {self._unit}) - r.start)"
        # a plain number is no date, unless a format says that it counts from time zero
        plain = times.number if times.moment == Times.moment else "NULL"
        same = times.zoned if self._zero == "moment" else f"NOT {times.zoned}"
        return (
            f"coalesce((CASE WHEN {same} THEN {times.moment} END - CAST(r.start AS BIGINT)) / "
            f"{self._unit}, {times.duration} / {self._unit}, {plain})"
        )

    def _bad_time(self, modality: ModalityConfig) -> str:
        """Say what is wrong with the first time that cannot be read, in which row."""
        source, times = self._times(modality)
        where, file = f"{modality.where}['time']", modality.file
        item, text = self._item_and_text(modality)
        holds = f"list_any_value({text}) IS NOT NULL"
        if modality.item is not None:
            listed = ", ".join(text_of(name) for name in modality.columns)
            holds = f"{text} IS NOT NULL AND {item} IN ({listed})"
        rows = f"(SELECT *, row_number() OVER () AS dfdlib_row FROM {source})"
        self.connection.execute("SET preserve_insertion_order = true")
        row, cell, moment, zoned = self._one(f"""
            SELECT dfdlib_row, told, moment, zoned FROM (
                SELECT dfdlib_row, dfdlib_e.dfdlib_told AS told, {holds} AS holds,
                    {self._since_zero(times)} AS t, {times.moment} AS moment, {times.zoned} AS zoned
                FROM {rows} dfdlib_e
                JOIN row_of r ON r.id = {self._id("dfdlib_e.")}
            ) WHERE t IS NULL AND told IS NOT NULL AND holds
            ORDER BY dfdlib_row LIMIT 1
        """)
        start = f"{where}: row {row} of {file.name}"
        if moment is not None and self._stamped:
            form = self._clock(modality.clock, file, str(modality.time)).format or ""
            here, there = ("an", "none") if zoned else ("no", "one")
            has = "counts from 1970 in UTC" if form.startswith("epoch") else f"has {here} offset"
            return (
                f"{start} {has}, and {self.config.start!r} of {self.config.file.name} has "
                f"{there}. {_ZONE}"
            )
        advice = self._advice(cell, str(modality.time), "time", stamped=self._stamped)
        why = "which is no time"
        if moment is not None:
            zero = self.config.start
            why = "and there is no time zero" if zero is None else f"and {zero!r} holds numbers"
        return f"{start} holds {shape(cell)}, {why}{advice}"

    def _advice(self, text: str, column: str, key: str, *, stamped: bool) -> str:
        """What to type where a cell is no time: the end of a message."""
        form = format_for(text)
        since = f"format: number where they are {self.config.unit} since time zero"
        if form is not None and (stamped or form == "duration"):
            swapped = ", or with %m before %d" if form.startswith('"%d') and "%m" in form else ""
            more = f", or {since}" if is_number(text) else ""
            return f" without a format. Write {_line(key, column, form)}{swapped}{more}"
        if stamped and is_number(text):
            return f". Write times as 2031-12-24 18:30, or {since}"
        if stamped and re.search(r"\d.*\d", text):  # as missing, what was recorded then is lost
            return ". Write times as 2031-12-24 18:30, or say how they are written: " + _line(
                key, column, '"%d.%m.%Y %H:%M"'
            )
        if stamped:
            return ". Write times as 2031-12-24 18:30, or list it in config['missing']['values']"
        return (
            f". Write {self.config.unit} since time zero, or name the column that holds time zero: "
            "config['time']['start']"
        )

    def _look_at_window(self, modality: ModalityConfig) -> None:
        """Refuse dates written as numbers, and say where nearly all rows lie outside the window."""
        file, cut = modality.file, self.config.cut
        late = "false" if cut is None else f"t > {cut!r}"
        rows, outside, dated, numbers, midnight, inside = self._one(f"""
            SELECT coalesce(sum(n), 0), coalesce(sum(n - inside), 0), coalesce(sum(dated), 0),
                coalesce(sum(numbers), 0), coalesce(sum(midnight), 0), coalesce(median(inside), 0)
            FROM (
                SELECT position, count(*) AS n,
                    count(*) FILTER (NOT ({late} OR abs(t) > {_AGES / self._unit})) AS inside,
                    count(*) FILTER ({_DATED.format("number")}) AS dated,
                    count(number) AS numbers, count(*) FILTER (midnight) AS midnight
                FROM seen WHERE position IS NOT NULL AND t IS NOT NULL GROUP BY position
            )
        """)
        declared = self._clock(modality.clock, file, str(modality.time)).format
        if numbers and dated == numbers and "number" not in (declared, self._declared):
            raise ValueError(
                f"{modality.where}['time']: {modality.time!r} of {file.name} holds numbers that "
                f"are dates, or seconds since 1970, and no {self.config.unit} since time zero. "
                "Name the column of time zero, config['time']['start'], and say what they are: "
                f'time: {{column: {modality.time}, format: "%Y%m%d"}}, or format: epoch'
            )
        if rows >= 10 and midnight == rows:
            self.notes.append(
                f"{modality.where}: every {modality.time!r} of {file.name} is at midnight, and "
                "counts as known then. Where these are dates, write them without a clock "
                "(2031-12-24): each then counts as the end of its day"
            )
        # a monitor goes on for days after an early cut, but then everybody has rows before it
        if rows >= 10 and outside >= 0.9 * rows and (outside >= 0.98 * rows or inside < 3):
            window = "over 50 years from time zero"
            if cut is not None:
                window = f"after the cut ({cut:g} {self.config.unit}), or {window}"
            self.notes.append(
                f"{modality.where}: {int(100 * outside / rows)} % of the rows of {file.name} that "
                f"belong to the cohort lie {window}. Check unit: {self.config.unit}, and the "
                f"format and zone of {modality.time!r}"
            )

    def _frame(self, file: Path, columns: Sequence[tuple[str, str]]) -> pd.DataFrame:
        self._check(file, columns)
        names = list(dict.fromkeys(name for name, _ in columns))
        decimal = self.decimal(file)
        cells = ", ".join(
            f"{self._cell(quoted(name), decimal)} AS {quoted(name)}" for name in names
        )
        with self._reading(file):
            return self.connection.execute(f"SELECT {cells} FROM {self._sources[file]}").df()[names]

    def _check(
        self, file: Path, columns: Sequence[tuple[str, str]], *, times: bool = False
    ) -> None:
        """Refuse names that are no columns of a file, and columns that hold no single values."""
        for name, where in columns:
            types = self.types(file)
            if name not in types:
                raise ValueError(f"{where}: {self._no_column(file, name)}")
            if types[name].endswith("]") or types[name].startswith(("STRUCT", "MAP", "BLOB")):
                held = "bytes" if types[name] == "BLOB" else "lists or tables in its cells"
                raise ValueError(
                    f"{where}: {name!r} of {file.name} holds {held}. Save a column, or a row, for "
                    "each value"
                )
            # DuckDB takes those of Arrow for whole numbers, of whatever unit they were written in
            if not times and self._kind(file, name).startswith(("DURATION", "INTERVAL")):
                raise ValueError(
                    f"{where}: {name!r} of {file.name} holds durations, which are no numbers "
                    f"without a unit. Save them in one: t[{name!r}].dt.total_seconds() / 3600"
                )

    def _no_column(self, file: Path, name: str) -> str:
        """Say that a column is not there; a first line that may be a patient's is not repeated."""
        header = tuple(self.types(file))
        known = _is_parquet(file) or self.config.words.intersection(header)
        if known:
            return str(unknown(name, header, f"column of {file.name}"))
        hint = suggestion(name, [n for n in header if n.isidentifier()])
        cells = looks_like_cells(header)
        doubt = f", {cells} of them numbers or dates" if cells else ""
        return (
            f"{name!r} is not a column of {file.name}: its first line has {len(header)} cells"
            f"{doubt}, and none is a name that the configuration knows.{hint} A file begins with "
            "one line of column names"
        )

    def types(self, file: Path) -> dict[str, str]:
        """The columns of a file with their DuckDB types.

        Raises:
            ValueError: The file is not there, or cannot be read.
        """
        where = self._places[file]
        if file not in self._types:
            if file.is_dir():
                raise ValueError(
                    f"{where}: {file.name} is a folder. Name a table in it, such as "
                    f"{file.name}/stays.csv"
                )
            if not file.is_file():
                near = ", ".join(sorted(p.name for p in file.parent.glob("*") if readable(p)))
                raise ValueError(
                    f"{where}: {file.name} is not there (beside it: {near or 'no table'}). Paths "
                    "are relative to the YAML file"
                )
            if not readable(file):
                raise ValueError(
                    f"{where}: {file.name} is no table. Save it as one of {', '.join(SUFFIXES)}"
                )
            with self._explained(file):
                self._sources[file], self._types[file] = open_file(
                    file, self.connection, self.config.text_files[file].encoding, self.folder
                )
        return self._types[file]

    def _written(self, column: str, file: Path) -> str:
        """The expression of a time as text; a number with a decimal comma becomes one without."""
        cell = self._cell(column, self.decimal(file), timely=True)
        if self.decimal(file) == ".":
            return cell
        comma = f"regexp_full_match({cell}, '[-+]?\\d+,\\d+')"
        return f"(CASE WHEN {comma} THEN replace({cell}, ',', '.') ELSE {cell} END)"

    def _cell(self, column: str, decimal: str = ".", *, timely: bool = False) -> str:
        """The expression of a cell as text, NULL where it is empty or stands for missing.

        Among times "NaT" does too, as pandas writes that there is none.
        """
        text = f"nullif(bare(CAST({column} AS VARCHAR)), '')"
        numbers = [repr(float(word)) for word in self.config.missing if is_number(word)]
        tests = [f"lower({text}) IN ('nan', 'nat')" if timely else f"lower({text}) = 'nan'"]
        if self.config.missing:
            tests.append(f"{text} IN ({', '.join(map(text_of, self.config.missing))})")
        if numbers:  # -999.0 is missing too where -999 is
            read = f"try_cast({text} AS DOUBLE)" if decimal == "." else number(text, decimal)
            tests.append(f"{read} IN ({', '.join(numbers)})")
        return f"(CASE WHEN {' OR '.join(tests)} THEN NULL ELSE {text} END)"

    def _one(self, query: str) -> tuple:
        row = self.connection.execute(query).fetchone()
        assert row is not None  # an aggregate has one row
        return row

    @contextmanager
    def _reading(self, file: Path) -> Iterator[None]:
        """Name the file in what goes wrong, and verify its checksum when it is read first."""
        with self._explained(file):
            if file in self._verified:
                yield
            else:
                with verified(file):
                    yield
                self._verified.add(file)

    @contextmanager
    def _explained(self, file: Path) -> Iterator[None]:
        """Name the file in what DuckDB says of it, and leave out what it repeats of the file."""
        import duckdb

        try:
            yield
        except duckdb.OutOfMemoryException:
            raise
        except (duckdb.Error, OSError, ValueError) as error:
            how = "Save it anew: UTF-8, one line of column names, the same number of cells in each"
            reason = str(error)  # ours; the others repeat a line, or a path
            if isinstance(error, duckdb.Error):
                reason = str(fault(error))
            elif isinstance(error, OSError):
                reason, how = error.strerror or type(error).__name__, "See whether it may be read"
            if "gzip" in reason:
                how = "Copy it, or compress it, once more"
            elif _is_parquet(file):
                how = "Copy it, or write it, once more"
            raise ValueError(
                f"{self._places[file]}: {file.name} cannot be read: {reason}. {how}"
            ) from None


def joined(columns: pd.DataFrame) -> pd.Series:
    """One id of the columns that make it up; missing where one of them is."""
    first, *others = (columns[name] for name in columns)
    for other in others:
        first = first + "\x1f" + other  # a sign that stands in no cell
    return first


def _is_parquet(file: Path) -> bool:
    return file.name.lower().endswith(".parquet")


@contextmanager
def open_tables(config: TablesConfig, memory: str) -> Iterator[Tables]:
    """Open the files; what does not fit into memory waits in a temporary folder."""
    import duckdb

    with TemporaryDirectory(prefix="dfdlib-") as folder, duckdb.connect() as connection:
        connection.execute(f"SET temp_directory = {text_of(folder)}")
        # a moment is written as text in this zone, and may be compared with a word for missing
        connection.execute("SET TimeZone = 'UTC'")
        # trimming is slow, and few cells need it: those with a blank at an end, or beyond ASCII
        connection.execute(
            "CREATE TEMP MACRO bare(x) AS CASE WHEN x[1] <= ' ' OR x[-1] <= ' ' OR "
            f"strlen(x) > length(x) THEN trim(x, {text_of(BLANKS)}) ELSE x END"
        )
        set_threads(connection)
        try:
            connection.execute(f"SET memory_limit = {text_of(memory)}")
        except duckdb.Error:
            raise ValueError(f"memory={memory!r} is no amount. Pass for example '4GB'") from None
        try:
            yield Tables(config, connection, Path(folder))
        except duckdb.OutOfMemoryException:
            raise ValueError(
                f"the tables need more working memory than memory={memory!r}. Pass more: '8GB'"
            ) from None
        except duckdb.Error as error:  # its own words may hold a cell
            raise ValueError(f"the tables cannot be read: {fault(error)}") from None

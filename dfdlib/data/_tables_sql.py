"""Reading a user's own tables with DuckDB: streaming, as text first, so that nothing is guessed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from dfdlib.data._duckdb import quoted, set_threads, text_of
from dfdlib.data._tables_config import ModalityConfig, TablesConfig
from dfdlib.data._tables_files import (
    SUFFIXES,
    is_number,
    number,
    open_file,
    readable,
)
from dfdlib.data._validate import unknown

_SECONDS = {"minutes": 60, "hours": 3600, "days": 86400}


class Tables:
    """An open set of files: which columns they have, and what enters of them.

    Args:
        config: What was read from the YAML file.
        connection: DuckDB, with its memory limit set.
    """

    # not annotated as DuckDB's class, which type checkers at run time keep past its shutdown
    def __init__(self, config: TablesConfig, connection: Any) -> None:
        self.config, self.connection = config, connection
        self._columns: dict[Path, tuple[str, ...]] = {}
        self._sources: dict[Path, str] = {}
        self._places = {m.file: f"{m.where}['file']" for m in config.modalities}
        self._places[config.label_file] = "config['label']['file']"
        self._places[config.file] = "config['patients']['file']"

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
        return self._frame(file, [(self.config.id, "config['patients']['id']"), *columns])

    def open_rows(self, ids: Sequence[str]) -> None:
        """Number the rows of the cohort, and find their time zero.

        Raises:
            ValueError: A row without a time zero, or one that is neither a time nor a number.
        """
        rows = pd.DataFrame({"id": ids, "position": np.arange(len(ids)), "start": 0.0})
        self._stamped = False
        if self.config.start is not None:
            rows["start"] = self._starts(self.config.start, ids)
        self.connection.register("given_rows", rows)
        self.connection.execute("CREATE TEMP TABLE row_of AS SELECT * FROM given_rows")
        # from here on rows are told by their position, so files may be read out of order
        self.connection.execute("SET preserve_insertion_order = false")

    def open_cells(self, modality: ModalityConfig) -> int:
        """Put what enters of a modality into a table `cell`: position, t, flag, text.

        `flag` is the place of the column, or of the item. Nothing after the cut stands in it.

        Returns:
            How many rows of the file have no time; they do not enter.

        Raises:
            ValueError: A column that is not there, a time that is none, ids that do not meet.
        """
        time = modality.time
        self._check(modality.file, [(self.config.id, "config['patients']['id']")])
        if time is not None:
            self._check(modality.file, [(time, f"{modality.where}['time']")])
        flag, text = self._flag_and_text(modality)
        t, told, early = "0.0", "NULL", "TRUE"
        if time is not None:
            told = self._cell(f"e.{quoted(time)}")
            t = self._time(told)
            early = "TRUE" if self.config.cut is None else f"t <= {self.config.cut!r}"
        entering = f"""
            FROM {self._sources[modality.file]} e
            JOIN row_of r ON r.id = {self._cell("e." + quoted(self.config.id))}
        """
        with self._told(modality.file):
            self.connection.execute(f"""
                CREATE OR REPLACE TEMP TABLE cell AS
                SELECT * FROM (
                    SELECT r.position, {t} AS t, {flag} AS flag, {text} AS text,
                           CASE WHEN {t} IS NULL THEN {told} END AS bad_time
                    {entering}
                ) WHERE text IS NOT NULL AND flag IS NOT NULL AND (t IS NULL OR {early})
            """)
        n, without, bad = self._one("SELECT count(*), count(*) - count(t), min(bad_time) FROM cell")
        if bad is not None:
            raise ValueError(self._bad_time(f"{modality.where}['time']", modality.file, bad))
        if n == 0:
            self._refuse_strangers(modality, entering)
        self.connection.execute("DELETE FROM cell WHERE t IS NULL")
        return int(without)

    def fetch(self, query: str) -> dict[str, np.ndarray]:
        """Run a query; one array per column."""
        return self.connection.execute(query).fetchnumpy()

    def _flag_and_text(self, modality: ModalityConfig) -> tuple[str, str]:
        """The expressions of what a cell is, and of what it holds."""
        if modality.item is None:
            names = [(name, modality.at(i)) for i, name in enumerate(modality.columns)]
            self._check(modality.file, names)
            cells = ", ".join(self._cell(f"e.{quoted(name)}") for name in modality.columns)
            return f"unnest(range({len(names)}))", f"unnest([{cells}])"
        keys = [(modality.item, "item"), (str(modality.value), "value")]
        self._check(modality.file, [(name, f"{modality.where}[{key!r}]") for name, key in keys])
        item, value = (self._cell(f"e.{quoted(name)}") for name, _ in keys)
        known = self._items(modality, item)
        for i, name in enumerate(modality.columns):
            if name not in known:
                what = f"{modality.item} of {modality.file.name}"
                raise ValueError(f"{modality.at(i)}: {unknown(name, known, what)}")
        listed = ", ".join(text_of(name) for name in modality.columns)
        return f"list_position([{listed}], {item}) - 1", value

    def _items(self, modality: ModalityConfig, item: str) -> list[str]:
        with self._told(modality.file):
            found = self.fetch(
                f"SELECT DISTINCT {item} AS item FROM {self._sources[modality.file]} e"
            )
        return sorted(str(name) for name in found["item"] if isinstance(name, str))

    def _starts(self, start: str, ids: Sequence[str]) -> np.ndarray:
        """Seconds of the time zeros where these are times, or the numbers that they are."""
        where, file = "config['time']['start']", self.config.file
        texts = self.patients([(start, where)])[start]
        given = pd.DataFrame({"text": texts})
        self.connection.register("given_starts", given)
        read = self.fetch(
            "SELECT try_cast(text AS DOUBLE) AS number, "
            "epoch(try_cast(text AS TIMESTAMP)) AS stamp FROM given_starts"
        )
        number, stamp = (np.ma.filled(read[name], np.nan) for name in ("number", "stamp"))
        self._stamped = not np.isfinite(number).any()
        starts = stamp if self._stamped else number
        bad = ~np.isfinite(starts)
        if bad.any():
            row = int(bad.argmax())
            if pd.isna(texts[row]):
                raise ValueError(
                    f"{where}: row {ids[row]!r} of {file.name} has no {start!r}. Leave the row "
                    "out, or fill its time zero in"
                )
            raise ValueError(self._bad_time(where, file, str(texts[row])))
        return starts

    def _time(self, cell: str) -> str:
        """The expression of a time, counted from the row's time zero in the chosen unit."""
        if not self._stamped:
            return f"({number(cell)} - r.start)"
        # a date without a clock may mean any moment of its day: the last, so that nothing leaks
        day = f"CASE WHEN length({cell}) <= 10 THEN 86400 ELSE 0 END"
        unit = _SECONDS[self.config.unit]
        return f"((epoch(try_cast({cell} AS TIMESTAMP)) + {day} - r.start) / {unit})"

    def _bad_time(self, where: str, file: Path, text: str) -> str:
        if self._stamped or where.endswith("['start']"):
            advice = "Write times as 2031-12-24 18:30, or list it in config['missing']['values']"
        else:
            advice = (
                f"Write {self.config.unit} since time zero, or name the column that holds time "
                "zero: config['time']['start']"
            )
        return f"{where}: {text!r} in {file.name} is no time. {advice}"

    def _refuse_strangers(self, modality: ModalityConfig, entering: str) -> None:
        """Refuse a file in which no id is one of the patients' file."""
        if self._one(f"SELECT count(*) {entering}")[0]:
            return
        column = self._cell(f"e.{quoted(self.config.id)}")
        theirs = self._one(f"SELECT min({column}) FROM {self._sources[modality.file]} e")[0]
        ours = self._one("SELECT min(id) FROM row_of")[0]
        raise ValueError(
            f"{modality.where}['file']: no {self.config.id!r} of {modality.file.name} is one of "
            f"{self.config.file.name}: {theirs!r} there, {ours!r} here. Write both alike, leading "
            "zeros too"
        )

    def _frame(self, file: Path, columns: Sequence[tuple[str, str]]) -> pd.DataFrame:
        self._check(file, columns)
        names = list(dict.fromkeys(name for name, _ in columns))
        cells = ", ".join(f"{self._cell(quoted(name))} AS {quoted(name)}" for name in names)
        with self._told(file):
            return self.connection.execute(f"SELECT {cells} FROM {self._sources[file]}").df()[names]

    def _check(self, file: Path, columns: Sequence[tuple[str, str]]) -> None:
        """Refuse names that are no columns of a file."""
        for name, where in columns:
            header = self._header(file)
            if name not in header:
                raise ValueError(f"{where}: {unknown(name, header, f'column of {file.name}')}")

    def _header(self, file: Path) -> tuple[str, ...]:
        where = self._places[file]
        if file not in self._columns:
            if not file.is_file():
                near = ", ".join(sorted(p.name for p in file.parent.glob("*") if readable(p)))
                raise ValueError(
                    f"{where}: {file} is not there (beside it: {near or 'no table'}). Paths are "
                    "relative to the YAML file"
                )
            if not readable(file):
                raise ValueError(
                    f"{where}: {file.name} is no table. Save it as one of {', '.join(SUFFIXES)}"
                )
            with self._told(file):
                self._sources[file], self._columns[file] = open_file(file, self.connection)
        return self._columns[file]

    def _cell(self, column: str) -> str:
        """The expression of a cell as text, NULL where it is empty or stands for missing."""
        text = f"nullif(trim(CAST({column} AS VARCHAR)), '')"
        numbers = [repr(float(word)) for word in self.config.missing if is_number(word)]
        tests = [f"lower({text}) = 'nan'"]
        if self.config.missing:
            tests.append(f"{text} IN ({', '.join(map(text_of, self.config.missing))})")
        if numbers:  # -999.0 is missing too where -999 is
            tests.append(f"try_cast({text} AS DOUBLE) IN ({', '.join(numbers)})")
        return f"(CASE WHEN {' OR '.join(tests)} THEN NULL ELSE {text} END)"

    def _one(self, query: str) -> tuple:
        row = self.connection.execute(query).fetchone()
        assert row is not None  # an aggregate has one row
        return row

    @contextmanager
    def _told(self, file: Path) -> Iterator[None]:
        """Name the file in what DuckDB says of it."""
        try:
            yield
        except duckdb.OutOfMemoryException:
            raise
        except (duckdb.Error, OSError, EOFError, ValueError) as error:
            told = " ".join(str(error).split("\n\n")[0].split())[:300]
            raise ValueError(
                f"{file.name} cannot be read: {told}. Save it anew: UTF-8, one line of column "
                "names, the same number of cells in each line"
            ) from None


@contextmanager
def open_tables(config: TablesConfig, memory: str) -> Iterator[Tables]:
    """Open the files; what does not fit into memory waits in a temporary folder."""
    with TemporaryDirectory(prefix="dfdlib-") as folder, duckdb.connect() as connection:
        connection.execute(f"SET temp_directory = {text_of(folder)}")
        set_threads(connection)
        try:
            connection.execute(f"SET memory_limit = {text_of(memory)}")
        except duckdb.Error:
            raise ValueError(f"memory={memory!r} is no amount. Pass for example '4GB'") from None
        try:
            yield Tables(config, connection)
        except duckdb.OutOfMemoryException:
            raise ValueError(
                f"the tables need more working memory than memory={memory!r}. Pass more: '8GB'"
            ) from None

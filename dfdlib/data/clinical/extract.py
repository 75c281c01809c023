"""The tables of a clinical data set as DuckDB views: ingested parquet, or the raw files."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from dfdlib.data import typed
from dfdlib.data.clinical.files import damaged, read_header
from dfdlib.data.clinical.schemas import SOURCES, TABLES, DatasetName
from dfdlib.data.sql import (
    DamagedError,
    csv_source,
    fault,
    parquet_source,
    quoted,
    set_threads,
    verified,
)
from dfdlib.data.times import column_types
from dfdlib.errors import require

# Parquet first: it is typed and ten times faster to read.
_SUFFIXES = ((".parquet",), (".csv", ".csv.gz"))
_HERE = str(Path(__file__).parents[1])
# A leading zero is part of these; as a number it is lost.
_NOT_NUMBERS = ("icd_code",)


@dataclass(frozen=True)
class Table:
    """A table that is open.

    Args:
        place: where its file lies below the root.
        file: the file.
        source: what stands behind FROM.
        columns: name, quoted column of the file, type that was declared, type of the file.
    """

    place: str
    file: Path
    source: str
    columns: tuple[tuple[str, str, str, str], ...]


class Extract:
    """The declared columns of a data set, ready for SQL.

    Args:
        dataset: which data set.
        root: the folder that `dfdlib data ingest` wrote, or that of the raw files. They may lie in
            folders below, as MIMIC-IV ships them; table and column names are in either case.

    Raises:
        FileNotFoundError: the folder holds none of the tables.
        ValueError: a table has two files of one kind.
    """

    def __init__(self, dataset: DatasetName, root: Path) -> None:
        self.dataset, self.root = dataset, root
        self.files = _files(dataset, root)
        if not self.files:
            source = SOURCES[dataset]
            raise FileNotFoundError(
                f"the folder given as root holds no table of {source.title} (expected "
                f"{_listed(TABLES[dataset])} as .parquet, .csv or .csv.gz). Access is asked for at "
                f"{source.page}"
            )
        import duckdb

        self.connection = duckdb.connect()
        self.opened: dict[str, Table] = {}
        self.checks = ExitStack()  # checksums that are verified while DuckDB reads

    def open(self, tables: Sequence[str], why: str, *, once: bool = False) -> None:
        """Make views of some tables; beside each measurement x stands x_unread, where it is text.

        Args:
            tables: which.
            why: what they are for, for the message.
            once: whether rows that are alike in all that is declared are one row; a warning
                counts them.

        Raises:
            FileNotFoundError: one is not there.
            ValueError: one lacks a column that is declared, or is damaged.
        """
        for table in tables:
            if table in self.opened:
                continue
            if table not in self.files:
                raise FileNotFoundError(
                    f"the folder given as root has no table {table!r}, which {why} needs (there "
                    f"are: {_listed(self.files)}). Copy it there, or leave that out of modalities="
                )
            opened = self.opened[table] = self._described(table)
            self.checks.enter_context(self._verified(opened))
            read = []
            for place, (name, column, kind, stored) in enumerate(opened.columns):
                read.append(
                    f"{typed.read(column, kind, stored, table=table, place=place)} AS {name}"
                )
                if kind == "DOUBLE":
                    read.append(f"({typed.cell(column, kind, stored).bad}) AS {name}_unread")
            query = f"SELECT {', '.join(read)} FROM {opened.source}"
            if not once:
                self.run(f"CREATE TEMP VIEW {table} AS {query}")
                continue
            self.run(
                f"CREATE TEMP TABLE {table} AS SELECT *, count(*) AS copies FROM ({query}) "
                "GROUP BY ALL"
            )
            more = int(self.fetch(f"SELECT coalesce(sum(copies - 1), 0) AS n FROM {table}")["n"][0])
            if more:
                self.say(
                    f"{opened.place}: {more:,} {'rows repeat' if more > 1 else 'row repeats'} "
                    "another one in all that is read, and counts once with it"
                )

    def columns(self, source: str) -> list[str]:
        """The names of the columns of a table or of a query's result."""
        with self._explained():
            described = self.connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
        return [row[0] for row in described]

    def places(self, tables: Sequence[str]) -> str:
        """Name the files of tables, below the root."""
        return ", ".join(self.opened[table].place for table in tables)

    def run(self, query: str) -> None:
        """Run a statement."""
        with self._explained():
            self.connection.execute(query)

    def register(self, name: str, table: pd.DataFrame) -> None:
        """Give SQL a small table."""
        self.connection.register(name, table)

    def fetch(self, query: str) -> dict[str, np.ndarray]:
        """Run a query; one array per column, NaN or None where a value is missing."""
        with self._explained():
            arrays = self.connection.execute(query).fetchnumpy()
        return {name: _unmasked(column) for name, column in arrays.items()}

    def chunks(self, query: str, size: int) -> Iterator[pd.DataFrame]:
        """Run a query and give its rows some at a time, so that large text never lies together."""
        with self._explained():
            for batch in self.connection.sql(query).to_arrow_reader(size):
                yield batch.to_pandas()

    def say(self, message: str) -> None:
        """Warn, as of the line outside these modules that asked for the cohort."""
        level, frame = 1, sys._getframe()
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
            level, frame = level + 1, frame.f_back
        warnings.warn(message, UserWarning, stacklevel=level)

    def _described(self, table: str) -> Table:
        """Find the declared columns of a table's file, and the types that it has."""
        file, declared = self.files[table], TABLES[self.dataset][table]
        place, of = file.relative_to(self.root).as_posix(), SOURCES[self.dataset]
        if file.suffix.lower() != ".parquet":
            raw = read_header(file, table, declared, of, root=self.root)
            source = csv_source(
                file,
                columns={f"c{i}": "VARCHAR" for i in range(raw.width)},
                delimiter=raw.delimiter,
                null=("", " ", "NA"),
            )
            columns = tuple((name, f"c{i}", kind, "VARCHAR") for name, i, kind in raw.columns)
            return Table(place, file, source, columns)
        source = parquet_source(file)
        try:
            with self._explained():
                types = column_types(self.connection, source, file)
        except ValueError:
            raise ValueError(
                f"{place} is no parquet file, or is cut off or damaged. Ingest the raw file again: "
                f"dfdlib data ingest {self.dataset}"
            ) from None
        names = {name.lower(): name for name in types}
        lacking = [name for name in declared if name.lower() not in names]
        if lacking:
            raise ValueError(
                f"{place} has no column {lacking[0]!r}, which {of.title} has. Ingest the raw file "
                f"again: dfdlib data ingest {self.dataset}"
            )
        described = []
        for name, kind in declared.items():
            stored = types[names[name.lower()]]
            if name in _NOT_NUMBERS and stored not in ("VARCHAR", '"NULL"'):
                raise ValueError(
                    f"{place}: {name} is stored as {stored}, and its leading zeros are lost. Write "
                    "it as text, read with dtype=str"
                )
            described.append((name, quoted(names[name.lower()]), kind, stored))
        return Table(place, file, source, tuple(described))

    @contextmanager
    def _verified(self, table: Table) -> Iterator[None]:
        try:
            with verified(table.file):
                yield
        except DamagedError as error:
            source = SOURCES[self.dataset]
            raise ValueError(damaged(table.place, str(error), source)) from None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in our words what DuckDB said, without the line itself, which is a patient's."""
        import duckdb

        try:
            yield
        except (duckdb.BinderException, duckdb.ParserException, duckdb.CatalogException):
            raise  # a fault of ours, not of the files
        except duckdb.Error as error:
            raise self._error_of(error) from None

    def _error_of(self, error: Exception) -> Exception:
        page = SOURCES[self.dataset].page
        if at := typed.refused(error):
            opened = self.opened[at[0]]
            name, column, kind, stored = opened.columns[at[1]]
            what = typed.complaint(self.connection, opened.source, name, column, kind, stored)
            return ValueError(f"{opened.place}, {what}. The data set as it is: {page}")
        problem, message = fault(error), str(error)
        if problem.kind == "memory":
            return ValueError("memory= is too small for this cohort. Pass more, such as '8GB'")
        if problem.kind == "space":
            return OSError("no space is left in the folder for temporary files. Set TMPDIR")
        # the file that DuckDB names, where it names one of ours
        places = [t.place for t in self.opened.values() if str(t.file.absolute()) in message]
        where = places[0] if len(places) == 1 else ", ".join(t.place for t in self.opened.values())
        line = "" if problem.line is None else f", line {problem.line}"
        return ValueError(f"{where}{line}: {problem.reason}. Get the file again: {page}")


@contextmanager
def open_extract(dataset: DatasetName, root: Any, memory: str) -> Iterator[Extract]:
    """Open a data set; what does not fit into memory waits in a temporary folder.

    Raises:
        ImportError: without the packages of `dfdlib[clinical]`.
        ValueError: no folder, or an amount of memory that is none.
        FileNotFoundError: there is no such folder, or none of the tables in it.
    """
    require("reading tables", "duckdb", "pyarrow")
    import duckdb

    if root is None:
        raise ValueError(
            f"{dataset!r} needs root=, the folder that holds {SOURCES[dataset].title}. It is not "
            f"packaged: access is asked for at {SOURCES[dataset].page}"
        )
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder.name} is no folder. Pass the one that `dfdlib data ingest {dataset}` wrote"
        )
    extract = Extract(dataset, folder)
    with TemporaryDirectory(prefix="dfdlib-") as spill, extract.connection as connection:
        connection.execute("SET temp_directory = ?", [spill])
        connection.execute("SET enable_progress_bar = false")
        set_threads(connection)
        try:
            connection.execute("SET memory_limit = ?", [memory])
        except duckdb.Error:
            raise ValueError(f"memory={memory!r} is no amount. Pass for example '4GB'") from None
        with extract.checks:
            yield extract


def _files(dataset: DatasetName, root: Path) -> dict[str, Path]:
    """The best file of each declared table."""
    files = [file for depth in ("*", "*/*", "*/*/*") for file in sorted(root.glob(depth))]
    best: dict[str, Path] = {}
    for suffixes in _SUFFIXES:
        alike: dict[str, list[Path]] = {}
        for file in files:
            name = file.name.lower()
            for suffix in suffixes:
                table = name.removesuffix(suffix)
                if name.endswith(suffix) and table in TABLES[dataset]:
                    alike.setdefault(table, []).append(file)
        for table, paths in alike.items():
            if table not in best and len(paths) > 1:
                places = " and ".join(path.relative_to(root).as_posix() for path in paths[:3])
                raise ValueError(
                    f"two files for {table}: {places}. Pass root= of one version, or remove one"
                )
            best.setdefault(table, paths[0])
    return best


def _unmasked(column: Any) -> np.ndarray:
    if not isinstance(column, np.ma.MaskedArray):
        return column
    if column.dtype.kind in "biu":
        column = column.astype(np.float64)
    if column.dtype.kind == "f":
        return column.filled(np.nan)
    values = column.data.astype(object)
    values[np.ma.getmaskarray(column)] = None  # filled(None) would write "?"
    return values


def _listed(names: Any) -> str:
    return ", ".join(sorted(names)) or "nothing"

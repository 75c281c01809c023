"""The tables of a clinical data set as DuckDB views: ingested parquet, or the raw files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from dfdlib.data._duckdb import set_threads
from dfdlib.data._ingest_sources import SOURCES
from dfdlib.data._tables import TABLES, DatasetName

# Parquet first: it is typed and ten times faster to read.
_SUFFIXES = (".parquet", ".csv", ".csv.gz")


class Extract:
    """The declared columns of a data set, ready for SQL.

    Args:
        dataset: which data set.
        root: the folder that `dfdlib data ingest` wrote, or that of the raw files. They may lie in
            folders below, as MIMIC-IV ships them; table and column names are in either case.

    Raises:
        FileNotFoundError: the folder holds none of the tables.
    """

    def __init__(self, dataset: DatasetName, root: Path) -> None:
        self.dataset, self.root = dataset, root
        self.files = _files(dataset, root)
        if not self.files:
            source = SOURCES[dataset]
            raise FileNotFoundError(
                f"{root} holds no table of {source.title} (expected {_listed(TABLES[dataset])} as "
                f".parquet, .csv or .csv.gz). Access is asked for at {source.page}"
            )
        self.connection = duckdb.connect()

    def open(self, tables: Sequence[str], why: str) -> None:
        """Make views of some tables.

        Args:
            tables: which.
            why: what they are for, for the message.

        Raises:
            FileNotFoundError: one is not there.
            ValueError: one lacks a column that is declared.
        """
        for table in tables:
            if table not in self.files:
                raise FileNotFoundError(
                    f"{self.root} has no table {table!r}, which {why} needs (there are: "
                    f"{_listed(self.files)}). Copy it there, or leave that out of modalities="
                )
            file, declared = self.files[table], TABLES[self.dataset][table]
            source = _source(file)
            there = {name.lower() for name in self.columns(source)}
            lacking = [name for name in declared if name.lower() not in there]
            if lacking:
                raise ValueError(
                    f"{file.name} has no column {lacking[0]!r}, which "
                    f"{SOURCES[self.dataset].title} has. Ingest the raw file again: "
                    f"dfdlib data ingest {self.dataset}"
                )
            read = ", ".join(f"{_cast(name, kind)} AS {name}" for name, kind in declared.items())
            self.connection.execute(
                f"CREATE OR REPLACE TEMP VIEW {table} AS SELECT {read} FROM {source}"
            )

    def columns(self, source: str) -> list[str]:
        """The names of the columns of a table or of a query's result."""
        described = self.connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
        return [row[0] for row in described]

    def run(self, query: str) -> None:
        """Run a statement."""
        self.connection.execute(query)

    def register(self, name: str, table: pd.DataFrame) -> None:
        """Give SQL a small table."""
        self.connection.register(name, table)

    def fetch(self, query: str) -> dict[str, np.ndarray]:
        """Run a query; one array per column, NaN or None where a value is missing."""
        found = self.connection.execute(query).fetchnumpy()
        return {name: _unmasked(column) for name, column in found.items()}

    def chunks(self, query: str, size: int) -> Iterator[pd.DataFrame]:
        """Run a query and give its rows some at a time, so that large text never lies together."""
        for batch in self.connection.sql(query).to_arrow_reader(size):
            yield batch.to_pandas()


@contextmanager
def open_extract(dataset: DatasetName, root: Any, memory: str) -> Iterator[Extract]:
    """Open a data set; what does not fit into memory waits in a temporary folder.

    Raises:
        ValueError: no folder, or an amount of memory that is none.
        FileNotFoundError: there is no such folder, or none of the tables in it.
    """
    if root is None:
        raise ValueError(
            f"{dataset!r} needs root=, the folder that holds {SOURCES[dataset].title}. It is not "
            f"packaged: access is asked for at {SOURCES[dataset].page}"
        )
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no folder. Pass the one that `dfdlib data ingest {dataset}` wrote"
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
        yield extract


def _files(dataset: DatasetName, root: Path) -> dict[str, Path]:
    """The best file of each declared table."""
    files = [file for depth in ("*", "*/*", "*/*/*") for file in sorted(root.glob(depth))]
    found: dict[str, Path] = {}
    for suffix in _SUFFIXES:
        for file in files:
            table = file.name.lower().removesuffix(suffix)
            if file.name.lower().endswith(suffix) and table in TABLES[dataset]:
                found.setdefault(table, file)
    return found


def _source(file: Path) -> str:
    path = str(file).replace("'", "''")
    if file.suffix == ".parquet":
        return f"read_parquet('{path}')"
    return f"read_csv('{path}', all_varchar = true, header = true, nullstr = ['', 'NA'])"


def _cast(name: str, kind: str) -> str:
    # text among measurements ("<0.1") is no measurement; elsewhere it is an error
    how = "try_cast" if kind == "DOUBLE" else "cast"
    return f'{how}("{name}" AS {kind})'


def _unmasked(column: Any) -> np.ndarray:
    if not isinstance(column, np.ma.MaskedArray):
        return column
    if column.dtype.kind in "biu":
        column = column.astype(np.float64)
    return column.filled(np.nan if column.dtype.kind == "f" else None)


def _listed(names: Any) -> str:
    return ", ".join(sorted(names)) or "nothing"

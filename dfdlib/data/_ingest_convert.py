"""One raw file to one parquet file, with DuckDB."""

import os
import re
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from dfdlib.data._duckdb import csv_source, quoted, set_threads, text_of
from dfdlib.data._ingest_files import DELIMITERS, Raw, damaged
from dfdlib.data._ingest_sources import Source

#: A DuckDB connection. Its own class in an annotation makes duckdb 2.0 report leaks at exit.
Connection = Any

Progress = Callable[[float], object]


@contextmanager
def connection(*, memory: str, threads: int | None) -> Iterator[Connection]:
    """Connect to a database in memory, with a limit.

    Raises:
        ValueError: A limit that DuckDB cannot read.
    """
    with duckdb.connect() as connected:
        try:
            connected.execute("SET memory_limit = ?", [memory])
        except duckdb.Error:
            raise ValueError(
                f"memory={memory!r} is not a size. Write a number and a unit: memory='4GB'"
            ) from None
        set_threads(connected, threads)
        # a table is streamed, and nothing is sorted: what does not fit is an error, not a file
        connected.execute("SET temp_directory = ''")
        connected.execute("SET enable_progress_bar = true")
        connected.execute("SET enable_progress_bar_print = false")
        yield connected


def convert(
    raw: Raw,
    target: Path,
    *,
    connected: Connection,
    source: Source,
    progress: Progress = lambda _: None,
) -> tuple[int, dict[str, int]]:
    """Write the wanted columns of a raw file as parquet.

    Numbers are read as they are. Where a measurement (DOUBLE) turns out to hold text, the file is
    read once more, with NULL in its place.

    Args:
        raw: the file.
        target: what to write; nothing stays there when this fails.
        connected: a connection to DuckDB.
        source: where the file came from.
        progress: called now and then with the share that is done.

    Returns:
        The number of rows, and per measurement how many values could not be read.

    Raises:
        ValueError: What the file holds cannot be read; the line is named.
        OSError: The target cannot be written, as when the disk is full.
    """
    measured = {place for _, place, kind in raw.columns if kind == "DOUBLE"}
    try:
        try:
            rows = _copy(raw, target, connected, progress)
            return rows, {}
        except duckdb.ConversionException as error:
            if _column(str(error)) not in measured:
                raise
        rows = _copy(raw, target, connected, progress, lenient=measured)
        return rows, _unreadable(raw, connected, measured)
    except duckdb.Error as error:
        target.unlink(missing_ok=True)
        raise _explained(error, raw, target, source) from None
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _copy(
    raw: Raw,
    target: Path,
    connected: Connection,
    progress: Progress,
    *,
    lenient: Collection[int] = (),
) -> int:
    values = ", ".join(
        f"{_number(place) if place in lenient else f'c{place}'} AS {quoted(name)}"
        for name, place, _ in raw.columns
    )
    with _watched(connected, progress):
        (rows,) = connected.execute(
            f"COPY (SELECT {values} FROM {_scan(raw, lenient)}) TO {text_of(str(target))} "
            "(FORMAT parquet, COMPRESSION zstd)"
        ).fetchone() or (0,)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return int(rows)


def _unreadable(raw: Raw, connected: Connection, measured: Collection[int]) -> dict[str, int]:
    names = {place: name for name, place, _ in raw.columns if place in measured}
    counts = ", ".join(
        f"count(*) FILTER (c{place} IS NOT NULL AND {_number(place)} IS NULL)" for place in names
    )
    found = connected.execute(f"SELECT {counts} FROM {_scan(raw, measured)}").fetchone() or ()
    return {name: n for name, n in zip(names.values(), found, strict=True) if n}


def _number(place: int) -> str:
    return f"TRY_CAST(trim(c{place}) AS DOUBLE)"


def _scan(raw: Raw, lenient: Collection[int]) -> str:
    """The file as a relation with columns c0, c1, …; those not wanted are not even converted."""
    kinds = {place: kind for _, place, kind in raw.columns if place not in lenient}
    columns = {f"c{i}": kinds.get(i, "VARCHAR") for i in range(raw.width)}
    return csv_source(raw.path, columns=columns, delimiter=raw.delimiter, null=("", " "))


@contextmanager
def _watched(connected: Connection, progress: Progress) -> Iterator[None]:
    """Report what DuckDB says of its progress, from a thread, as long as the block runs."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            progress(max(connected.query_progress(), 0) / 100)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


# ---------------------------------------------------------------- what went wrong


def _column(message: str) -> int | None:
    found = re.search(r'column "c(\d+)"', message)
    return int(found[1]) if found else None


def _explained(error: duckdb.Error, raw: Raw, target: Path, source: Source) -> Exception:
    """Say in our words what DuckDB said, without the line itself, which is a patient's."""
    message = str(error)
    if re.search(r"gzip", message, re.IGNORECASE):
        return ValueError(damaged(raw.path, "the gzip stream ends early", source))
    if re.search(r"No space left|File too large|Disk quota", message):
        return OSError(
            f"{target.parent} is full: {raw.table} could not be written, and was removed. Free "
            "some space and repeat the command; the tables that are done are kept"
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return ValueError(
            f"{raw.path} does not fit in the memory allowed. Pass more (--memory 8GB), or "
            "threads=1 (--threads 1)"
        )
    found = re.search(r"CSV Error on Line: (\d+)", message)
    where = f"{raw.path}, line {found[1]}" if found else str(raw.path)
    again = f"Get the file again: {source.page}"
    if found := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message):
        return ValueError(
            f"{where}: {found[2]} values where the header has {found[1]}, so a delimiter is "
            f"missing, doubled, or not {raw.delimiter!r}. {again}"
        )
    if found := re.search(r'Could not convert string "(.*?)" to \'(\w+)\'', message, re.DOTALL):
        others = [mark for mark in DELIMITERS if mark in found[1]]
        if others:
            return ValueError(f"{where}: {others[0]!r} where {raw.delimiter!r} separates. {again}")
        place = _column(message)
        name = next((name for name, i, _ in raw.columns if i == place), "a value")
        return ValueError(f"{where}: {name} is {found[1]!r}, which is no {found[2]}. {again}")
    if "quote" in message.lower() and "unterminated" in message:
        return ValueError(f"{where}: a quotation mark is opened and never closed. {again}")
    if "utf-8" in message:
        return ValueError(f"{where} is not UTF-8 text. {again}")
    return ValueError(f"{where} cannot be read: {message.splitlines()[0]}. {again}")

"""One raw file to one parquet file, with DuckDB."""

import os
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dfdlib.data import typed
from dfdlib.data.clinical.files import Raw, damaged
from dfdlib.data.clinical.schemas import Source
from dfdlib.data.sql import DamagedError, csv_source, fault, quoted, set_threads, text_of, verified

#: A DuckDB connection. Its own class in an annotation makes duckdb 2.0 report leaks at exit.
Connection = Any

Progress = Callable[[float], object]


@contextmanager
def connection(*, memory: str, threads: int | None) -> Iterator[Connection]:
    """Connect to a database in memory, with a limit.

    Raises:
        ValueError: A limit that DuckDB cannot read.
    """
    import duckdb

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

    Cells are read as the data sets write them. Where a whole number or a time is written in another
    way, the file is read once more, each such cell as text; where a measurement (DOUBLE) turns out
    to hold text, with NULL in its place. The checksums of a compressed file are verified beside.

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
    import duckdb

    measured = {place for _, place, kind in raw.columns if kind == "DOUBLE"}
    usual, lenient = True, False
    try:
        with verified(raw.path):
            while True:
                slowly = {p for _, p, _ in raw.columns if (lenient if p in measured else not usual)}
                try:
                    rows = _copy(raw, target, connected, progress, slowly=slowly)
                    return rows, _unreadable(raw, connected, measured) if lenient else {}
                except (duckdb.ConversionException, duckdb.InvalidInputException) as error:
                    at = typed.refused(error)
                    if at is None and not isinstance(error, duckdb.ConversionException):
                        raise
                    column = f"c{at[1]}" if at else fault(error).column
                    if column in {f"c{place}" for place in measured} and not lenient:
                        lenient = True
                    elif usual:
                        usual = False
                    else:
                        raise
    except (duckdb.Error, DamagedError) as error:
        target.unlink(missing_ok=True)
        raise _explained(error, raw, source, connected) from None
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _copy(
    raw: Raw, target: Path, connected: Connection, progress: Progress, *, slowly: Collection[int]
) -> int:
    values = ", ".join(
        f"{_value(raw, place, kind, slowly)} AS {quoted(name)}" for name, place, kind in raw.columns
    )
    with _watched(connected, progress):
        (rows,) = connected.execute(
            f"COPY (SELECT {values} FROM {_scan(raw, slowly)}) TO {text_of(str(target))} "
            "(FORMAT parquet, COMPRESSION zstd)"
        ).fetchone() or (0,)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return int(rows)


def _value(raw: Raw, place: int, kind: str, slowly: Collection[int]) -> str:
    if place in slowly:
        return typed.read(f"c{place}", kind, "VARCHAR", table=raw.table, place=place)
    return typed.read_usual(f"c{place}", kind, table=raw.table, place=place)


def _unreadable(raw: Raw, connected: Connection, measured: Collection[int]) -> dict[str, int]:
    names = {place: name for name, place, _ in raw.columns if place in measured}
    counts = ", ".join(
        f"count(*) FILTER ({typed.cell(f'c{place}', 'DOUBLE', 'VARCHAR').bad})" for place in names
    )
    numbers = connected.execute(f"SELECT {counts} FROM {_scan(raw)}").fetchone() or ()
    return {name: n for name, n in zip(names.values(), numbers, strict=True) if n}


def _scan(raw: Raw, slowly: Collection[int] | None = None) -> str:
    """The file as a relation with columns c0, c1, …; those not wanted are not even converted.

    All are text, but where `slowly` is given, times that are not in it.
    """
    columns = {f"c{i}": "VARCHAR" for i in range(raw.width)}
    if slowly is not None:
        for _, place, kind in raw.columns:
            if kind in ("TIMESTAMP", "DATE") and place not in slowly:
                columns[f"c{place}"] = kind
    return csv_source(
        raw.path,
        columns=columns,
        delimiter=raw.delimiter,
        null=("", " "),
        times=typed.USUAL_TIMES,
    )


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


def _explained(error: Exception, raw: Raw, source: Source, connected: Connection) -> Exception:
    """Say in our words what DuckDB said, without the line itself, which is a patient's."""
    if not isinstance(error, DamagedError) and (at := typed.refused(error)):
        name, place, kind = next(column for column in raw.columns if column[1] == at[1])
        what = typed.complaint(connected, _scan(raw), name, f"c{place}", kind, "VARCHAR")
        return ValueError(f"{raw.place}, {what}. Get the file again: {source.page}")
    problem = fault(error)
    if problem.kind == "gzip":
        return ValueError(damaged(raw.place, problem.reason, source))
    if problem.kind == "space":
        return OSError(
            f"the folder to write to is full: {raw.table} could not be written, and was removed. "
            "Free some space and repeat the command; the tables that are done are kept"
        )
    if problem.kind == "memory":
        return ValueError(
            f"{raw.place} does not fit in the memory allowed. Pass more (--memory 8GB), or "
            "threads=1 (--threads 1)"
        )
    where = raw.place if problem.line is None else f"{raw.place}, line {problem.line}"
    reason = problem.reason
    if problem.kind == "width":
        reason += f", so a delimiter is missing, doubled, or not {raw.delimiter!r}"
    return ValueError(f"{where}: {reason}. Get the file again: {source.page}")

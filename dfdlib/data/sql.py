"""What all that reads files with DuckDB shares: paths, names, checksums, and what it said."""

import os
import re
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dfdlib.data.shapes import shape_of

_AFFINITY = hasattr(os, "sched_getaffinity")  # not everywhere
_CHUNK = 1 << 15  # as it is stored; it may become a thousand times as much


def text_of(word: str) -> str:
    """Write a word as SQL writes text."""
    return "'" + word.replace("'", "''") + "'"


def quoted(column: str) -> str:
    """Write the name of a column as SQL writes names."""
    return '"' + column.replace('"', '""') + '"'


def literal(file: Path) -> str:
    """Write the path of one file so that DuckDB reads this file and no other.

    DuckDB takes `*`, `?` and `[…]` in a path for a pattern, and what begins with `~`, `s3:` or
    `file:` for another place. The path is made absolute, and what is a pattern stands for itself.

    Raises:
        ValueError: A path with both a backslash and one of these signs, which DuckDB cannot take.
    """
    path = os.path.abspath(file)
    if os.sep != "\\" and "\\" in path and re.search(r"[*?\[]", path):
        raise ValueError(
            f"{file.name}: a backslash and one of * ? [ in one path. Rename the file or its folder"
        )
    return text_of(re.sub(r"[*?\[]", lambda sign: f"[{sign[0]}]", path))


def csv_source(
    file: Path,
    *,
    columns: Mapping[str, str],
    delimiter: str,
    null: Sequence[str] = ("",),
    times: tuple[str, str] | None = None,
) -> str:
    """Write how DuckDB reads a .csv or .csv.gz file of which nothing is left to guess.

    Args:
        file: With one line of column names.
        columns: The name and the DuckDB type of each of its columns, in their order.
        delimiter: Between cells.
        null: Cells that are NULL.
        times: How columns of type TIMESTAMP and DATE are written, as of `strptime`; all else in
            them is refused. Without it DuckDB drops offsets without a word.
    """
    types = ", ".join(f"{text_of(name)}: {text_of(kind)}" for name, kind in columns.items())
    compression = "gzip" if file.name.lower().endswith(".gz") else "none"
    written = ""
    if times is not None:
        written = f"timestampformat = {text_of(times[0])}, dateformat = {text_of(times[1])}, "
    return (
        f"read_csv({literal(file)}, columns = {{{types}}}, delim = {text_of(delimiter)}, "
        "header = true, auto_detect = false, quote = '\"', escape = '\"', "
        f"nullstr = [{', '.join(map(text_of, null))}], compression = '{compression}', {written}"
        # else a folder called site=a is a column, or takes the place of one
        "hive_partitioning = false)"
    )


def parquet_source(file: Path) -> str:
    """Write how DuckDB reads a parquet file."""
    return f"read_parquet({literal(file)}, hive_partitioning = false)"


def set_threads(connected: Any, threads: int | None = None) -> None:
    """Use so many threads; by default no more than this process may use cores.

    DuckDB keeps to the limits of a container, but not to a process's affinity.
    """
    if threads is None:
        (allowed,) = connected.execute("SELECT current_setting('threads')").fetchone()
        threads = min(allowed, len(os.sched_getaffinity(0))) if _AFFINITY else allowed
    connected.execute("SET threads = ?", [threads])


# ---------------------------------------------------------------- checksums


class DamagedError(ValueError):
    """A compressed file is cut off or not what was written; the message says how."""


@contextmanager
def verified(file: Path) -> Iterator[None]:
    """Verify a .gz file's checksums and lengths beside what is done in the block.

    DuckDB reads past a wrong checksum. The file is read a second time by a thread, which costs
    little where there is a second core. Files that are not compressed are left alone. What the
    block raises counts for less than damage: a damaged file has lines that nobody wrote.

    Raises:
        DamagedError: A checksum or length that does not fit, an early end, or other bytes after
            the end. Several members, one after the other, are one file.
    """
    if not file.name.lower().endswith(".gz"):
        yield
        return
    stop = threading.Event()
    damage: list[str | None] = []
    checker = threading.Thread(
        target=lambda: damage.append(_damage(file, stop)), name="dfdlib-gzip", daemon=True
    )
    checker.start()
    try:
        yield
    except Exception:
        checker.join()
        if damage and damage[0]:
            raise DamagedError(damage[0]) from None
        raise
    except BaseException:
        stop.set()
        checker.join()
        raise
    checker.join()
    if damage and damage[0]:
        raise DamagedError(damage[0])


def _damage(file: Path, stop: threading.Event) -> str | None:
    """What is wrong with a compressed file."""
    other = "it is no gzip file, or something else follows the gzip stream"
    member, begun = None, False
    try:
        if file.stat().st_size == 0:
            return "it is empty, not even compressed"
        with file.open("rb") as stream:
            while not stop.is_set() and (data := stream.read(_CHUNK)):
                while data:
                    if member is None:
                        data = data.lstrip(b"\0") if begun else data  # zeros may fill it up
                        if not data:
                            break
                        if not b"\x1f\x8b".startswith(data[:2]):
                            return other
                        # zlib compares checksum and length itself: a quarter less than gzip.open
                        member, begun = zlib.decompressobj(wbits=31), True
                    member.decompress(data)
                    data, member = member.unused_data, None if member.eof else member
    except zlib.error as error:
        message = str(error)
        if "data check" in message:
            return "the gzip checksum does not fit what is in it"
        if "length check" in message:
            return "the gzip length does not fit what is in it"
        return other if "compression method" in message else "the gzip stream is damaged"
    except OSError as error:
        return f"it cannot be read ({error.strerror or type(error).__name__})"
    return None if member is None else "the gzip stream ends early"


# ---------------------------------------------------------------- errors of DuckDB


@dataclass(frozen=True)
class Fault:
    """What DuckDB could not do, without the line of the file, which is a patient's.

    Args:
        kind: Which kind of fault it is.
        reason: In our words; no cell stands in it.
        line: Of the file, where DuckDB names it. A row that runs over several lines counts as one.
        column: As DuckDB calls it, where a cell could not be converted.
        shape: What that cell looks like.
    """

    kind: Literal[
        "memory", "space", "gzip", "parquet", "width", "cell", "quote", "encoding", "newline",
        "long", "other",
    ]  # fmt: skip
    reason: str
    line: int | None = None
    column: str | None = None
    shape: str | None = None

    def __str__(self) -> str:
        """Give the line, where it is known, and the reason."""
        return self.reason if self.line is None else f"line {self.line}: {self.reason}"


def fault(error: BaseException) -> Fault:
    """Explain an error of DuckDB; a message that is not known is not repeated."""
    import duckdb

    message = str(error)
    if isinstance(error, DamagedError):
        return Fault("gzip", message)
    if isinstance(error, duckdb.OutOfMemoryException):
        return Fault("memory", "it does not fit in the memory allowed")
    if re.search(r"No space left|File too large|Disk quota", message):
        return Fault("space", "there is no space left to write")
    numbered = re.search(r"CSV Error on Line: (\d+)", message)
    line = int(numbered[1]) if numbered else None
    # what follows the line itself: a cell may hold any of the words below
    text = message if numbered is None else _after_line(message)
    if match := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text):
        return Fault("width", f"{match[2]} cells where the header has {match[1]}", line)
    if match := _CELL.search(message) or _MOMENT.search(message):
        shape = shape_of(match["cell"])
        wanted = _WANTED.get(match["type"].upper(), "another type")
        column = match["before"] or match["after"]
        return Fault("cell", f"{shape} where {wanted} belongs", line, column, shape)
    if "unterminated quote" in text:
        return Fault(
            "quote",
            "a quotation mark is opened and never closed, or text follows a closed one",
            line,
        )
    if "unicode" in text or "utf-8" in text:
        return Fault("encoding", "it is not UTF-8 text", line)
    if "Maximum line size" in text:
        return Fault("long", "a line of over 2 million characters", line)
    if numbered is None:
        if "state machine" in message:
            return Fault("newline", "its lines do not all end alike, or a quotation mark is open")
        if re.search(r"\bGZIP\b", message):
            early = "Unexpected end" in message
            return Fault(
                "gzip",
                "the gzip stream ends early" if early
                else "it is no gzip file, or something else follows the gzip stream",
            )  # fmt: skip
        if re.search(r"magic bytes|parquet|thrift", message, re.IGNORECASE):
            return Fault("parquet", "it is no parquet file, or it is cut off or damaged")
    return Fault("other", f"DuckDB gave up ({type(error).__name__})", line)


# Only words of this list are repeated: what looks like a type may stand in a cell.
_WANTED = {
    **dict.fromkeys(("BIGINT", "INTEGER", "SMALLINT", "INT64", "INT32"), "a whole number"),
    **dict.fromkeys(("DOUBLE", "FLOAT"), "a number"),
    **dict.fromkeys(("TIMESTAMP", "DATE"), "a date as 2031-12-24 or 2031-12-24 18:30"),
    "TIME": "a time of day",
    "BOOLEAN": "a truth value",
}
_CELL = re.compile(
    r"""(?:column\ "(?P<before>[^"\n]*)"\.\ )?
    Could\ not\ convert\ string\ (?P<mark>["'])(?P<cell>.*?)(?P=mark)\ to\ '?(?P<type>[A-Z]+\d*)'?
    (?:\ when\ casting\ from\ source\ column\ (?P<after>\S+))?""",
    re.VERBOSE | re.DOTALL,
)
_MOMENT = re.compile(
    r"""(?P<before>(?!))?(?P<type>timestamp|date|time)\ field\ (?:format|value\ out\ of\ range):
    \ "(?P<cell>.*?)",\ expected(?:.*?\ source\ column\ (?P<after>\S+))?""",
    re.VERBOSE | re.DOTALL,
)


def _after_line(message: str) -> str:
    """The last part of a message about a line: what DuckDB says after it has repeated the line."""
    before_advice = re.split(r"\n\s*(?:Possible (?:fixes|Solution)|Column .* is being)", message)[0]
    return "\n".join(before_advice.splitlines()[-2:])

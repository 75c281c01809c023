"""The raw files of a data set: where they lie, and which of their columns are wanted."""

import csv
import gzip
import os
import re
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from dfdlib.data.clinical.schemas import Source

_DEPTH = 3  # physionet.org/files holds mimiciv/2.2/hosp/
_IMAGES = re.compile(r"p\d\d")  # MIMIC-CXR-JPG: p10/ to p19/ hold no table, but very many folders
_SUFFIXES = (".csv", ".csv.gz")
DELIMITERS = (",", ";", "\t", "|")
_NAMES_RUN_ON = 20  # lines at most


@dataclass(frozen=True)
class Raw:
    """A raw file with what is wanted of it.

    Args:
        table: the name that it gets.
        path: the file.
        place: where it lies below the folder of the data set, which is all that messages say of it.
        delimiter: between its values.
        width: number of columns in the file.
        columns: name that a column gets, its place in the file, and its DuckDB type.
    """

    table: str
    path: Path
    place: str
    delimiter: str
    width: int
    columns: tuple[tuple[str, int, str], ...]


def find(
    root: Path,
    tables: Mapping[str, Mapping[str, str]],
    source: Source,
    *,
    optional: Collection[str] = (),
) -> dict[str, Raw]:
    """Find the files of tables below a folder, by names in either case, and read their headers.

    Args:
        root: the folder.
        tables: which, with the columns that are wanted.
        source: of the data set.
        optional: tables that need not be there.

    Raises:
        FileNotFoundError: No such folder, or no file for a table.
        ValueError: Two files for a table, a column that is missing, or another data set.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root.name!r}. Pass root= where the .csv.gz files are")
    there = _files(root)
    by_table = {table: there.get(source.stem.format(table).lower(), []) for table in tables}
    by_table = {table: paths for table, paths in by_table.items() if paths or table not in optional}
    missing = [table for table, paths in by_table.items() if not paths]
    if missing:
        name = source.stem.format(missing[0])
        raise FileNotFoundError(
            f"{', '.join(missing)} of {source.title} missing: no {name}.csv or {name}.csv.gz below "
            f"the folder given as root. Access is asked for at {source.page}; to go on without, "
            f"pass skip={missing!r} (--skip {' --skip '.join(missing)})"
        )
    for table, paths in by_table.items():
        if len(paths) > 1:
            names = " and ".join(path.relative_to(root).as_posix() for path in paths)
            raise ValueError(
                f"two files for {table}: {names}. Pass root= of one version, or remove one"
            )
    return {
        table: read_header(by_table[table][0], table, tables[table], source, root=root)
        for table in by_table
    }


def _files(root: Path) -> dict[str, list[Path]]:
    """List the .csv and .csv.gz files below a folder by their names in lower case."""
    by_name: dict[str, list[Path]] = {}
    for folder, folders, names in os.walk(root, followlinks=True):
        here = Path(folder)
        deep = len(here.relative_to(root).parts) >= _DEPTH
        folders[:] = [] if deep else sorted(f for f in folders if not _IMAGES.fullmatch(f))
        for name in sorted(names):
            for suffix in _SUFFIXES:
                if name.lower().endswith(suffix) and not name.startswith("."):
                    by_name.setdefault(name.lower().removesuffix(suffix), []).append(here / name)
    return by_name


def read_header(
    path: Path, table: str, declared: Mapping[str, str], source: Source, *, root: Path
) -> Raw:
    """Read the first line of a file, and find the columns that are declared.

    Raises:
        ValueError: It is damaged or empty, a column is missing, or it is of another data set.
    """
    place = path.relative_to(root).as_posix()
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
            line = _first_line(file)
    except (EOFError, OSError, zlib.error) as error:
        # an OSError of the system repeats the whole path
        why = getattr(error, "strerror", None) or str(error)
        raise ValueError(damaged(place, why, source)) from None
    if not line.strip():
        raise ValueError(f"{place} is empty. Get the file again: {source.page}")
    counts = {d: sum(_split(line, d).count(n.lower()) for n in declared) for d in DELIMITERS}
    delimiter = max(counts, key=lambda d: counts[d])
    header = _split(line, delimiter)
    for (of, column), other in source.foreign.items():
        if of == table and column in header:
            raise ValueError(
                f"{place} has the column {column}: this is {other}, not {source.title}. "
                f"That one is at {source.page}"
            )
    columns = _resolve(place, header, declared, source)
    return Raw(table, path, place, delimiter, len(header), columns)


def _first_line(file: Iterable[str]) -> str:
    """The line of column names; a name in quotation marks may go on in the next line."""
    lines = []
    for line in file:
        lines.append(line)
        if "".join(lines).count('"') % 2 == 0 or len(lines) == _NAMES_RUN_ON:
            break
    return "".join(lines)


def _split(line: str, delimiter: str) -> list[str]:
    return [name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter), [])]


def _resolve(
    place: str, header: list[str], declared: Mapping[str, str], source: Source
) -> tuple[tuple[str, int, str], ...]:
    """Find the place of each declared column; a pattern stands for those not declared by name."""
    named = {name.lower() for name in declared}
    columns, missing = [], []
    for name, kind in declared.items():
        if any(sign in name for sign in "*["):
            places = [
                i
                for i, column in enumerate(header)
                if fnmatchcase(column, name.lower()) and column not in named
            ]
            columns += [(header[i].upper(), i, kind) for i in places]
        else:
            places = [i for i, column in enumerate(header) if column == name.lower()]
            columns += [(name, i, kind) for i in places]
            if len(places) > 1:
                raise ValueError(
                    f"{place} has the column {name} {len(places)} times. Get the file again: "
                    f"{source.page}"
                )
        missing += [] if places else [name]
    if missing:
        # what stands there is not shown: where the names are missing, it is the first patient
        raise ValueError(
            f"{place}, line 1: no column {', '.join(missing)}. It has {len(header)}, of which "
            f"{len(columns)} are known. Is this {source.title}, as it is at {source.page}, and is "
            "the line of column names there?"
        )
    return tuple(columns)


def damaged(place: str, why: str, source: Source) -> str:
    """Say that a compressed file is damaged."""
    return f"{place} is cut off or damaged ({why.rstrip('.')}). Get the file again: {source.page}"

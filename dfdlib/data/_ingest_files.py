"""The raw files of a data set: where they lie, and which of their columns are wanted."""

import csv
import gzip
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from dfdlib.data._ingest_sources import Source

_DEPTH = 3  # physionet.org/files holds mimiciv/2.2/hosp/
_IMAGES = re.compile(r"p\d\d")  # MIMIC-CXR-JPG: p10/ to p19/ hold no table, but very many folders
_SUFFIXES = (".csv", ".csv.gz")
DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class Raw:
    """A raw file with what is wanted of it.

    Args:
        table: the name that it gets.
        path: the file.
        delimiter: between its values.
        width: number of columns in the file.
        columns: name that a column gets, its place in the file, and its DuckDB type.
    """

    table: str
    path: Path
    delimiter: str
    width: int
    columns: tuple[tuple[str, int, str], ...]


def find(root: Path, tables: Mapping[str, Mapping[str, str]], source: Source) -> dict[str, Raw]:
    """Find the files of tables below a folder, by names in either case, and read their headers.

    Raises:
        FileNotFoundError: No such folder, or no file for a table.
        ValueError: Two files for a table, a column that is missing, or another data set.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {str(root)!r}. Pass root= where the .csv.gz files are")
    there = _files(root)
    found = {table: there.get(source.stem.format(table).lower(), []) for table in tables}
    missing = [table for table, paths in found.items() if not paths]
    if missing:
        name = source.stem.format(missing[0])
        raise FileNotFoundError(
            f"{', '.join(missing)} of {source.title} missing: no {name}.csv or {name}.csv.gz below "
            f"{str(root)!r}. Access is asked for at {source.page}; to go on without, pass "
            f"skip={missing!r} (--skip {' --skip '.join(missing)})"
        )
    for table, paths in found.items():
        if len(paths) > 1:
            names = " and ".join(str(path.relative_to(root)) for path in paths)
            raise ValueError(
                f"two files for {table}: {names}. Pass root= of one version, or remove one"
            )
    return {table: _read_header(found[table][0], table, tables[table], source) for table in tables}


def _files(root: Path) -> dict[str, list[Path]]:
    """List the .csv and .csv.gz files below a folder by their names in lower case."""
    found: dict[str, list[Path]] = {}
    for folder, folders, names in os.walk(root, followlinks=True):
        here = Path(folder)
        deep = len(here.relative_to(root).parts) >= _DEPTH
        folders[:] = [] if deep else sorted(f for f in folders if not _IMAGES.fullmatch(f))
        for name in sorted(names):
            for suffix in _SUFFIXES:
                if name.lower().endswith(suffix) and not name.startswith("."):
                    found.setdefault(name.lower().removesuffix(suffix), []).append(here / name)
    return found


def _read_header(path: Path, table: str, declared: Mapping[str, str], source: Source) -> Raw:
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", errors="replace") as file:
            line = file.readline()
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(damaged(path, str(error), source)) from None
    if not line.strip():
        raise ValueError(f"{path} is empty. Get the file again: {source.page}")
    counts = {d: sum(_split(line, d).count(n.lower()) for n in declared) for d in DELIMITERS}
    delimiter = max(counts, key=lambda d: counts[d])
    header = _split(line, delimiter)
    for (of, column), other in source.foreign.items():
        if of == table and column in header:
            raise ValueError(
                f"{path} has the column {column}: this is {other}, not {source.title}. "
                f"That one is at {source.page}"
            )
    return Raw(table, path, delimiter, len(header), _resolve(path, header, declared, source))


def _split(line: str, delimiter: str) -> list[str]:
    return [name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter))]


def _resolve(
    path: Path, header: list[str], declared: Mapping[str, str], source: Source
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
                    f"{path} has the column {name} {len(places)} times. Get the file again: "
                    f"{source.page}"
                )
        missing += [] if places else [name]
    if missing:
        shown = ", ".join(header[:8]) + (", …" if len(header) > 8 else "")
        raise ValueError(
            f"{path}, line 1: no column {', '.join(missing)}. It has {len(header)}: {shown}. "
            f"Is this {source.title}, as it is at {source.page}?"
        )
    return tuple(columns)


def damaged(path: Path, why: str, source: Source) -> str:
    """Say that a compressed file is damaged."""
    return f"{path} is cut off or damaged ({why.rstrip('.')}). Get the file again: {source.page}"

"""What was ingested: a manifest beside the parquet files, with hashes, and the version."""

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dfdlib.data._ingest_files import Raw
from dfdlib.data._ingest_sources import Source

SCHEMA = 1
NAME = "manifest.json"


def read(out: Path) -> dict[str, Any]:
    """Read a manifest; an empty one where nothing was ingested yet.

    Raises:
        ValueError: It is no JSON, or of another version of the library.
    """
    path = out / NAME
    if not path.is_file():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{NAME} is no JSON ({error}). Delete it and ingest again") from None
    except UnicodeDecodeError:
        raise ValueError(f"{NAME} is no text in UTF-8. Delete it and ingest again") from None
    if not isinstance(stored, dict) or stored.get("schema") != SCHEMA:
        raise ValueError(f"{NAME} is not of schema {SCHEMA}. Delete it and ingest again")
    if not isinstance(stored.get("tables", {}), dict):
        raise ValueError(f"{NAME} lists no tables. Delete it and ingest again")
    return stored


def write(out: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest; it changes as a whole or not at all."""
    part = out / f".{NAME}.part"
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(out / NAME)
    finally:
        part.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hash a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def entry(raw: Raw, root: Path) -> dict[str, Any]:
    """Describe what a table is made of: equal descriptions make equal tables."""
    return {
        "source": raw.path.relative_to(root).name,
        "source_bytes": raw.path.stat().st_size,
        "source_sha256": sha256(raw.path),
        "columns": {name: kind for name, _, kind in raw.columns},
        "duckdb": version("duckdb"),
    }


def is_done(table: Mapping[str, Any] | None, described: Mapping[str, Any], parquet: Path) -> bool:
    """Whether a table was made of the same content, in the same way, and is still what it was."""
    return (
        isinstance(table, Mapping)
        and all(table.get(key) == value for key, value in described.items())
        and parquet.is_file()
        and sha256(parquet) == table.get("sha256")
    )


def check_shipped(raw: Raw, root: Path, digest: str, source: Source) -> None:
    """Compare a file with the SHA256SUMS.txt that lies with it, where there is one.

    Raises:
        ValueError: The hashes differ.
    """
    folder = raw.path.parent
    while True:
        sums = folder / "SHA256SUMS.txt"
        if sums.is_file():
            name = raw.path.relative_to(folder).as_posix()
            expected = checksums(sums).get(name)
            if expected not in (None, digest):
                raise ValueError(
                    f"{raw.place} is not the file that SHA256SUMS.txt lists: its SHA-256 is "
                    f"{digest[:12]}…, expected {expected[:12]}…. Get it again: {source.page}"
                )
            return
        if folder == root or folder == folder.parent:
            return
        folder = folder.parent


def checksums(path: Path) -> dict[str, str]:
    """Read lines of `hash path` as PhysioNet ships them."""
    pairs = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines())
    return {pair[1].strip().lstrip("*"): pair[0].lower() for pair in pairs if len(pair) == 2}


def identify(rows: Mapping[str, int], source: Source) -> str:
    """Tell the version from the number of rows: of a subset it is unknown.

    >>> patients = Source("s", "p", counts={"1": {"a": 5, "b": 7}, "2": {"a": 6}})
    >>> identify({"a": 6}, patients), identify({"a": 5}, patients), identify({"a": 4}, patients)
    ('2', 'unknown', 'unknown')
    """
    for name, counts in source.counts.items():
        if all(rows.get(table) == count for table, count in counts.items()):
            return name
    return "unknown"


def check_version(table: str, rows: int, raw: Raw, source: Source, *, wanted: str | None) -> None:
    """Refuse a table of another version than the cohorts were written for, or than is wanted.

    Raises:
        ValueError: The number of rows is that of another version, or not that of the wanted one.
    """
    expected = source.counts.get(wanted or "", {}).get(table, rows)
    if expected != rows:
        raise ValueError(
            f"{raw.place} has {rows:,} rows; version {wanted} of {source.title} has {expected:,}. "
            f"Get it at {source.page}, or leave version out"
        )
    if wanted is not None:
        return
    for name, counts in source.counts.items():
        if counts.get(table) == rows and name not in source.versions:
            raise ValueError(
                f"{raw.place} has {rows:,} rows, as version {name} has, and cohorts are written "
                f"for {', '.join(source.versions)} ({source.page}). To take it all the same, pass "
                f"version={name!r} (--version {name})"
            )

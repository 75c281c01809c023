"""Raw .csv and .csv.gz files of data sets under access control, to typed parquet files.

`ingest` converts what is new, and keeps a manifest: what each table was made of, with hashes.
"""

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dfdlib.data.clinical.convert import connection, convert
from dfdlib.data.clinical.files import Raw, find
from dfdlib.data.clinical.schemas import SOURCES, TABLES, UNREAD, Source
from dfdlib.errors import require, unknown
from dfdlib.files import write_whole

NAME = "manifest.json"

SCHEMA = 1


def ingest(
    dataset: str,
    root: str | Path,
    out: str | Path,
    *,
    memory: str = "4GB",
    threads: int | None = None,
    tables: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    version: str | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Turn the raw tables of a data set into typed parquet files, one per table.

    Only the tables and columns that the cohorts read are kept
    (`dfdlib.data.clinical.schemas.TABLES`). Each file is streamed, so the largest ones need no
    more memory than small ones. A table takes its name when it is complete, with its hash in
    `manifest.json`: call again after an interruption, and what is done is not done again, unless
    the raw file or the declaration has changed.

    Where a measurement holds text instead of a number it becomes NULL, and the manifest counts it
    under `unreadable`. A time with an offset, or a number where a time belongs, is refused. The
    checksums in .gz files are verified. Tables that no cohort reads need not be there. Where
    PhysioNet's SHA256SUMS.txt lies beside the files, they are compared with it.

    Args:
        dataset: `eicu`, `mimic_iv`, `adni` or `mimic_cxr`; `mimic-iv` is `mimic_iv`.
        root: the folder that holds the raw files, at most three levels down, in the names that
            their owners gave them, in either case.
        out: the folder to write to; it is made if it does not exist.
        memory: what DuckDB may use, such as "4GB".
        threads: how many it may use; by default as many as there are cores for this process.
        tables: these tables only.
        skip: tables to do without.
        version: the version that this must be; by default any that the cohorts are written for,
            or a subset of patients, whose version cannot be told.
        progress: whether to show a progress bar; by default where there is a terminal.

    Returns:
        The manifest: data set, title, version ("unknown" for a subset), and per table source,
        size and SHA-256 of the source, columns with their types, rows, unreadable values, size
        and SHA-256 of the parquet file.

    Raises:
        ImportError: Without the packages of `dfdlib[clinical]`.
        FileNotFoundError: No such folder, or a table that is missing.
        ValueError: An unknown name; a column that is missing; a file that is cut off, of another
            version, or that cannot be read. File, line and what to do are named; a row whose
            values run over several lines counts as one.
        OSError: The output cannot be written.

    Example:
        >>> import tempfile
        >>> from dfdlib.book import made_up
        >>> raw = made_up.write("eicu", tempfile.mkdtemp(), n=20, seed=0, only=["hospital"])
        >>> done = ingest("eicu", raw, tempfile.mkdtemp(), tables=["hospital"], threads=1)
        >>> done["version"], done["tables"]["hospital"]["rows"]
        ('unknown', 60)
    """
    require("ingesting tables", "duckdb")
    dataset = dataset.replace("-", "_")
    if dataset not in TABLES:
        raise unknown(dataset, TABLES, "data set that can be ingested")
    source, root, out = SOURCES[dataset], Path(root), Path(out)
    if version is not None and version not in source.counts:
        raise unknown(version, source.counts, f"known version of {source.title}")
    wanted = _chosen(TABLES[dataset], tables, skip)
    files = find(
        root,
        {table: TABLES[dataset][table] for table in wanted},
        source,
        optional=() if tables is not None else UNREAD.get(dataset, ()),
    )
    if absent := [table for table in wanted if table not in files]:
        warnings.warn(
            f"without {', '.join(absent)}: not below root, and no cohort reads them",
            UserWarning,
            stacklevel=2,
        )

    manifest = stored_manifest(out)
    if manifest.get("dataset", dataset) != dataset:
        raise ValueError(
            f"{str(out)!r} holds {manifest['dataset']}, not {dataset}. Pass another folder as out"
        )
    manifest |= {
        "schema": SCHEMA,
        "dataset": dataset,
        "title": source.title,
        "dfdlib": installed("dfdlib"),
    }
    manifest.setdefault("tables", {})
    out.mkdir(parents=True, exist_ok=True)
    with (
        connection(memory=memory, threads=threads) as connected,
        _Bar(files.values(), shown=progress) as bar,
    ):
        for raw in files.values():
            target = out / f"{raw.table}.parquet"
            part = out / f".{raw.table}.parquet.part"
            described = entry(raw, root)
            check_shipped(raw, root, described["source_sha256"], source)
            bar.start(raw)
            if not is_done(manifest["tables"].get(raw.table), described, target):
                rows, unreadable = convert(
                    raw, part, connected=connected, source=source, progress=bar.update
                )
                try:
                    check_version(raw.table, rows, raw, source, wanted=version)
                    written = {"bytes": part.stat().st_size, "sha256": sha256(part)}
                    part.replace(target)
                finally:
                    part.unlink(missing_ok=True)
                manifest["tables"][raw.table] = {
                    **described,
                    "rows": rows,
                    "unreadable": unreadable,
                    **written,
                }
            counted = {name: table["rows"] for name, table in manifest["tables"].items()}
            manifest["version"] = identify(counted, source)
            write_manifest(out, manifest)
            bar.update(1.0)
    return manifest


def read_manifest(out: str | Path) -> dict[str, Any]:
    """Read what a folder of ingested tables holds, as `ingest` returned it.

    Raises:
        FileNotFoundError: Nothing was ingested there.
        ValueError: The manifest cannot be read.
    """
    manifest = stored_manifest(Path(out))
    if not manifest:
        raise FileNotFoundError(
            f"no {NAME} in {str(out)!r}. Run: dfdlib data ingest DATASET --root "
            f"RAW_FILES --out {out}"
        )
    return manifest


def _chosen(
    declared: Iterable[str], tables: Sequence[str] | None, skip: Sequence[str]
) -> list[str]:
    """Tables in the order of their declaration; those by which a version is known come first."""
    names = list(declared)
    for name in (*(tables or ()), *skip):
        if name.lower() not in names:
            raise unknown(name, names, "declared table")
    only = names if tables is None else [name.lower() for name in tables]
    without = [name.lower() for name in skip]
    chosen = [name for name in names if name in only and name not in without]
    if not chosen:
        raise ValueError(f"no table is left. Leave out skip=, or name others of {names}")
    return chosen


class _Bar:
    """A progress bar over the bytes of all files."""

    def __init__(self, files: Iterable[Raw], *, shown: bool | None) -> None:
        total = sum(raw.path.stat().st_size for raw in files)
        disable = None if shown is None else not shown  # None: where there is a terminal
        self.bar = tqdm(total=total, unit="B", unit_scale=True, disable=disable)
        self.before = self.size = 0

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def start(self, raw: Raw) -> None:
        """Go on to another file."""
        self.before += self.size
        self.size = raw.path.stat().st_size
        self.bar.set_description(raw.table, refresh=False)

    def update(self, share: float) -> None:
        """Tell which share of the file is done."""
        self.bar.update(self.before + int(share * self.size) - self.bar.n)


# ---------------- the manifest: what each table was made of


def stored_manifest(out: Path) -> dict[str, Any]:
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


def write_manifest(out: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest; it changes as a whole or not at all."""
    write_whole(out / NAME, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def entry(raw: Raw, root: Path) -> dict[str, Any]:
    """Describe what a table is made of: equal descriptions make equal tables."""
    return {
        "source": raw.path.relative_to(root).name,
        "source_bytes": raw.path.stat().st_size,
        "source_sha256": sha256(raw.path),
        "columns": {name: kind for name, _, kind in raw.columns},
        "duckdb": installed("duckdb"),
    }


def is_done(table: Mapping[str, Any] | None, described: Mapping[str, Any], parquet: Path) -> bool:
    """Whether a table was made of the same content, in the same way, and is still what it was."""
    return (
        isinstance(table, Mapping)
        and all(table.get(key) == value for key, value in described.items())
        and parquet.is_file()
        and sha256(parquet) == table.get("sha256")
    )


def sha256(path: Path) -> str:
    """Hash a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------- whether the files are those of the version that is wanted


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

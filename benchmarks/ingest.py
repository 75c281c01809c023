"""Ingest against chunked pandas: laboratory rows from .csv.gz to typed parquet.

    OMP_NUM_THREADS=1 python benchmarks/ingest.py

All read the same made-up file of eICU's table `lab` (`dfdlib.data.made_up`), keep the same seven of
its ten columns in the same types, and write parquet with the same compression. Pandas reads a
million rows at a time and is told the types, the fastest that it does in bounded memory; it would
stop at a missing integer or at text among measurements, which ours writes as NULL. Ours also
hashes the source and what it wrote. Each runs in a process of its own, and they take turns.

Ratios are of CPU time on one thread, and of seconds on the clock where ours may use all cores
(pandas uses one); the latter means something on an idle machine only. Memory is the peak of the
process, less what it held after its imports.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS = (3_000_000, 10_000_000, 30_000_000)
TURNS = 3
ROWS_PER_PATIENT = 83.6  # of made-up patients
METHODS = ("dfdlib", "dfdlib, all cores", "pandas")
LIMIT = "4GB"
RESULT = Path(__file__).parents[1] / "results" / "benchmarks" / "ingest.json"


def resident_mib(key: str) -> float:
    """A line of this process's status: VmRSS is memory now, VmHWM its peak."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{key}:")[1].split()[0]) / 1024


# ---------------------------------------------------------------- one process per run


def work(name: str, raw: Path, out: Path) -> None:
    """Convert one file, and print rows, time and memory."""
    if name == "pandas":
        convert = chunked_pandas()
    else:
        convert = ours(threads=1 if name == "dfdlib" else None)
    imports = resident_mib("VmRSS")
    clock, cpu = time.perf_counter(), time.process_time()
    rows = convert(raw, out)
    result = {
        "rows": rows,
        "cpu_seconds": time.process_time() - cpu,
        "seconds": time.perf_counter() - clock,
        "mib_above_imports": resident_mib("VmHWM") - imports,
    }
    print(json.dumps(result))


def ours(*, threads: int | None) -> Any:
    """Import what ingest needs; what is returned converts a file."""
    from dfdlib.data.ingest import ingest

    def convert(raw: Path, out: Path) -> int:
        manifest = ingest("eicu", raw, out, tables=["lab"], memory=LIMIT, threads=threads)
        return manifest["tables"]["lab"]["rows"]

    return convert


def chunked_pandas() -> Any:
    """The same with pandas, a million rows at a time."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dfdlib.data._tables import TABLES

    pa.set_cpu_count(1)
    declared = TABLES["eicu"]["lab"]
    pandas_types = {"INTEGER": "int32", "DOUBLE": "float64", "VARCHAR": "str"}
    arrow_types = {"INTEGER": pa.int32(), "DOUBLE": pa.float64(), "VARCHAR": pa.string()}
    types = {name: pandas_types[kind] for name, kind in declared.items()}
    schema = pa.schema([(name, arrow_types[kind]) for name, kind in declared.items()])

    def convert(raw: Path, out: Path) -> int:
        rows = 0
        out.mkdir()
        with pq.ParquetWriter(out / "lab.parquet", schema, compression="zstd") as writer:
            for chunk in pd.read_csv(
                raw / "lab.csv.gz", usecols=list(types), dtype=types, chunksize=1_000_000
            ):
                table = pa.Table.from_pandas(chunk[list(types)], schema, preserve_index=False)
                writer.write_table(table)
                rows += len(chunk)
        return rows

    return convert


# ---------------------------------------------------------------- the driver


def run(name: str, raw: Path, folder: Path) -> dict[str, Any]:
    """Convert a file in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, __file__, "--work", name, "--raw", raw, "--out", f"{out}/out"]
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)


def measure(rows: int, turns: int, folder: Path) -> dict[str, Any]:
    """Let both take turns on a file of about so many rows."""
    from dfdlib.data import made_up

    n = round(rows / ROWS_PER_PATIENT)
    raw = made_up.write("eicu", folder / f"{n}", n=n, seed=0, only=["lab"])
    runs = [{name: run(name, raw, folder) for name in METHODS} for _ in range(turns)]
    found = {turn[name]["rows"] for turn in runs for name in METHODS}
    if len(found) != 1:
        raise RuntimeError(f"not the same work: {sorted(found)} rows")

    def ratio(key: str, ours: str) -> dict[str, Any]:
        ratios = [turn["pandas"][key] / turn[ours][key] for turn in runs]
        return {"median": statistics.median(ratios), "range": [min(ratios), max(ratios)]}

    return {
        "rows": found.pop(),
        "mib_of_csv_gz": (raw / "lab.csv.gz").stat().st_size / 2**20,
        "turns": turns,
        **{
            key: {name: statistics.median(turn[name][key] for turn in runs) for name in METHODS}
            for key in ("cpu_seconds", "seconds", "mib_above_imports")
        },
        "pandas / dfdlib, cpu_seconds": ratio("cpu_seconds", "dfdlib"),
        "pandas / dfdlib on all cores, seconds": ratio("seconds", "dfdlib, all cores"),
    }


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="other sizes than all")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--work", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--raw", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.raw, given.out)
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        sizes = [measure(rows, TURNS, Path(folder)) for rows in given.rows]
    everything = tuple(given.rows) == ROWS
    packages = ("dfdlib", "duckdb", "pandas", "pyarrow")
    result = {
        "benchmark": "ingest of eICU's lab table against chunked pandas: time, and peak memory",
        "setting": {
            "memory_limit": LIMIT,
            "chunk": 1_000_000,
            "columns": 7,
            "cores": os.cpu_count(),
        },
        "load_before": load,
        "sizes": sizes,
        "cpu_seconds_per_million_rows": [
            size["cpu_seconds"]["dfdlib"] / size["rows"] * 1e6 for size in sizes
        ],
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "command": "OMP_NUM_THREADS=1 python benchmarks/ingest.py"
        + ("" if everything else " --rows " + " ".join(map(str, given.rows))),
    }
    print(json.dumps(result, indent=1))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    part = given.out.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.rename(given.out)


if __name__ == "__main__":
    main()

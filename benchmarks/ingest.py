"""Laboratory rows from .csv.gz to typed parquet to a cohort, against chunked pandas.

    OMP_NUM_THREADS=1 python benchmarks/ingest.py

All read the same made-up files of eICU (`dfdlib.book.made_up`) and do the same work: they hash the
table `lab`, keep the same seven of its ten columns in the same types, with text among measurements
made missing and counted, write parquet with the same compression, hash that, and make of it the
cohort at 12 hours: who is in it, labels, and each stay's results up to then, without those that
stand twice, in order. What comes out is compared to the last bit. Pandas reads a million rows at a
time, in two ways:

- pandas: measurements as text and then to numbers, missing integers allowed, as ours.
- pandas, told the types: numbers at once; it stops at text and at a missing integer. The fastest
  that it does in bounded memory.

Each runs in a process of its own, and they take turns. Ratios are of CPU time, each process held to
one core; and of seconds on the clock, each free to use all cores as it does by default. The clock
means something on an idle machine only: where others work too, more threads also get a larger share
of the machine. Memory is the peak of the process.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROWS = (3_000_000, 10_000_000, 30_000_000)
ROWS_PER_PATIENT = 82.0  # of made-up patients
OURS, PANDAS, TYPED = METHODS = ("dfdlib", "pandas", "pandas, told the types")
TURNS, LIMIT, CHUNK, HOURS = 3, "4GB", 1_000_000, 12
KEYS = (
    *("cpu_seconds", "cpu_seconds_of_conversion", "seconds"),
    *("peak_mib", "mib_above_imports"),
)
PACKAGES = ("dfdlib", "duckdb", "pandas", "pyarrow")
RESULT = Path(__file__).parents[1] / "results" / "benchmarks" / "ingest.json"


def resident_mib(key: str) -> float:
    """A line of this process's status: VmRSS is memory now, VmHWM its peak."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{key}:")[1].split()[0]) / 1024


# ---------------------------------------------------------------- one process per run


def work(name: str, raw: Path, out: Path, cores: int | None) -> None:
    """Convert, make the cohort, and print rows, time and memory."""
    if cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    convert, cohort = ours() if name == OURS else chunked_pandas(typed=name == TYPED)
    imports = resident_mib("VmRSS")
    clock, cpu = [time.perf_counter()], [time.process_time()]
    rows = convert(raw, out)
    clock.append(time.perf_counter())
    cpu.append(time.process_time())
    arrays = cohort(raw, out)
    clock.append(time.perf_counter())
    cpu.append(time.process_time())
    peak = resident_mib("VmHWM")
    result = {
        "rows": rows,
        "came_out": hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest(),
        "cpu_seconds": cpu[2] - cpu[0],
        "cpu_seconds_of_conversion": cpu[1] - cpu[0],
        "seconds": clock[2] - clock[0],
        "peak_mib": peak,
        "mib_above_imports": peak - imports,
    }
    print(json.dumps(result))


def ours() -> tuple[Any, Any]:
    """Import what is needed; what is returned converts a file, and makes the cohort."""
    from dfdlib.data import eicu
    from dfdlib.data.ingest import ingest

    def convert(raw: Path, out: Path) -> int:
        tables = ["patient", "hospital", "lab"]
        manifest = ingest("eicu", raw, out, tables=tables, memory=LIMIT, progress=False)
        return manifest["tables"]["lab"]["rows"]

    def cohort(_: Path, out: Path) -> list[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some stays have no result
            made = eicu.load(out, cut_hours=HOURS, modalities=["labs"], memory=LIMIT)
        labs = made.x["labs"]
        return [labs.values.numpy(), labs.offsets.numpy(), made.y.numpy()]

    return convert, cohort


def chunked_pandas(*, typed: bool) -> tuple[Any, Any]:
    """The same with pandas, a million rows at a time."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dfdlib.data.clinical.schemas import TABLES
    from dfdlib.data.eicu import LAB_UNITS

    if len(os.sched_getaffinity(0)) == 1:
        pa.set_cpu_count(1)
    declared = TABLES["eicu"]["lab"]
    number = {"INTEGER": "int32", "DOUBLE": "float64"} if typed else {"INTEGER": "Int32"}
    types = {name: number.get(kind, "str") for name, kind in declared.items()}
    arrow = {"INTEGER": pa.int32(), "DOUBLE": pa.float64(), "VARCHAR": pa.string()}
    schema = pa.schema([(name, arrow[kind]) for name, kind in declared.items()])
    blank = {"keep_default_na": False, "na_values": ["", " "]}
    stay, drawn, revised = "patientunitstayid", "labresultoffset", "labresultrevisedoffset"

    def sha256(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def convert(raw: Path, out: Path) -> int:
        rows = unreadable = 0
        out.mkdir()
        source, target = raw / "lab.csv.gz", out / "lab.parquet"
        hashes = [sha256(source)]
        with pq.ParquetWriter(target, schema, compression="zstd") as writer:
            for chunk in pd.read_csv(
                source, usecols=list(types), dtype=types, chunksize=CHUNK, **blank
            ):
                if not typed:
                    value = pd.to_numeric(chunk["labresult"], errors="coerce")
                    unreadable += int((value.isna() & chunk["labresult"].notna()).sum())
                    chunk["labresult"] = value
                table = pa.Table.from_pandas(chunk[list(types)], schema, preserve_index=False)
                writer.write_table(table)
                rows += len(chunk)
        hashes.append(sha256(target))
        manifest = {"rows": rows, "unreadable": unreadable, "sha256": hashes}
        (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        return rows

    def cohort(raw: Path, out: Path) -> list[Any]:
        stays = pd.read_csv(
            raw / "patient.csv.gz",
            usecols=[stay, "age", "unitdischargeoffset", "unitdischargestatus"],
        )
        age = pd.to_numeric(stays["age"], errors="coerce")
        minutes = stays["unitdischargeoffset"]
        stays = stays[minutes.between(60 * HOURS, 14_400) & age.between(18, 89)].sort_values(stay)
        y = stays["unitdischargestatus"].map({"Expired": 1, "Alive": 0}).to_numpy(np.float32)
        position = pd.Series(np.arange(len(stays)), index=stays[stay])
        flag = pd.Series(np.arange(len(LAB_UNITS)), index=list(LAB_UNITS))
        parts = []
        columns = [stay, drawn, revised, "labname", "labresult"]
        for batch in pq.ParquetFile(out / "lab.parquet").iter_batches(CHUNK, columns=columns):
            chunk = batch.to_pandas()
            chunk = chunk[chunk[[drawn, revised]].max(axis=1) <= 60 * HOURS]
            part = {
                "position": chunk[stay].map(position),
                "t": chunk[drawn] / 60,
                "flag": chunk["labname"].map(flag),
                "value": chunk["labresult"],
            }
            parts.append(pd.DataFrame(part).dropna())
        events = pd.concat(parts).drop_duplicates()
        events = events.sort_values(["position", "t", "flag", "value"])
        values = events[["t", "value", "flag"]].to_numpy(np.float32)
        return [values, np.searchsorted(events["position"], np.arange(len(stays) + 1)), y]

    return convert, cohort


# ---------------------------------------------------------------- the driver


def run(name: str, raw: Path, folder: Path, cores: int | None) -> dict[str, Any]:
    """Do the work in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, __file__, "--work", name, "--raw", raw, "--out", f"{out}/out"]
        command += [] if cores is None else ["--cores", cores]
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)


def compare(
    raw: Path, methods: Sequence[str], turns: int, folder: Path, cores: int | None
) -> dict[str, Any]:
    """Let all take turns on the same files."""
    runs = [{name: run(name, raw, folder, cores) for name in methods} for _ in range(turns)]
    found = {(done["rows"], done["came_out"]) for turn in runs for done in turn.values()}
    if len(found) != 1:
        raise RuntimeError(f"not the same work: {sorted(found)}")
    rows, key = found.pop()[0], "seconds" if cores is None else "cpu_seconds"
    result: dict[str, Any] = {"rows": rows, "turns": turns, "load": os.getloadavg()[0]}
    for each in KEYS:
        result[each] = {
            name: statistics.median(turn[name][each] for turn in runs) for name in methods
        }
    for name in methods:
        if name != OURS:
            ratios = [turn[name][key] / turn[OURS][key] for turn in runs]
            middle = {"median": statistics.median(ratios), "range": [min(ratios), max(ratios)]}
            result[f"{name} / {OURS}, {key}"] = middle
    result[f"{key}_per_million_rows"] = {
        name: 1e6 * taken / rows for name, taken in result[key].items()
    }
    return result


def measure(rows: int, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compare on a data set of about so many laboratory rows."""
    from dfdlib.book import made_up

    n = round(rows / ROWS_PER_PATIENT)
    raw = (given.raw or folder) / f"{n}"
    if not raw.exists():
        made_up.write("eicu", raw, n=n, seed=0, only=["patient", "hospital", "lab"])
    small = rows == min(ROWS)
    turns = given.turns if small else 1
    return {
        "about": rows,
        "mib_of_csv_gz": (raw / "lab.csv.gz").stat().st_size / 2**20,
        "one core": compare(raw, given.methods, turns, folder, 1),
        **({"all cores": compare(raw, given.methods, turns, folder, None)} if small else {}),
    }


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="these sizes anew")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--turns", type=int, default=TURNS, help="at the smallest size, else 1")
    parser.add_argument("--raw", type=Path, help="keep the made-up files in this folder")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--work", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.raw, given.out, given.cores)
        return
    sizes = {}
    if given.out.exists() and set(given.rows) != set(ROWS):
        before = json.loads(given.out.read_text(encoding="utf-8"))["sizes"]
        sizes = {size["about"]: size for size in before if size.get("about") not in given.rows}
    with tempfile.TemporaryDirectory() as folder:
        for rows in sorted(given.rows):
            sizes[rows] = measure(rows, given, Path(folder))
            # a large size takes long: what is measured by then is kept
            write(given.out, [sizes[rows] for rows in sorted(sizes)])
    print(given.out.read_text(encoding="utf-8"))


def write(path: Path, sizes: list[dict[str, Any]]) -> None:
    """Write the result; it changes as a whole or not at all."""
    result: dict[str, Any] = {
        "benchmark": "eICU's lab table, .csv.gz to parquet to a cohort, against chunked pandas",
        "setting": {
            "memory_limit": LIMIT,
            "chunk": CHUNK,
            "columns": 7,
            "cut_hours": HOURS,
            "cores": os.cpu_count(),
        },
        "sizes": sizes,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "command": "OMP_NUM_THREADS=1 python benchmarks/ingest.py",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.rename(path)


if __name__ == "__main__":
    main()

"""The phantom's generator against the sketch that it grew from, and its memory against n.

    OMP_NUM_THREADS=1 python benchmarks/phantom.py

Both draw as many pairs of 64 px, in one process on one thread, and take turns; what is compared is
CPU time, so the ratio is not that of two different moments of a busy machine. The sketch is not
part of this repository: it is read from ../shared/reference, and without it only our own time is
measured. It draws 87 ellipsoids a patient, all of them on all pixels; ours draws about 130 bodies.
Memory is the peak of a process of its own, less what it held after its imports and less the images
that it returns.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import dfdlib
from dfdlib.data import phantom

ROOT = Path(__file__).parents[1]
SKETCH = ROOT.parent / "shared" / "reference" / "phantom_sketch.py"
RESULT = ROOT / "results" / "benchmarks" / "phantom.json"
SIZES = (32, 64, 128)
MEMORY = (500, 1_000, 4_000)


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU time of the process, which a busy neighbour does not lengthen as it does wall time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def sketch() -> Callable[[int, int, int], Any] | None:
    """The sketch's function (pairs, size, seed), if the sketch is there."""
    if not SKETCH.exists():
        return None
    spec = importlib.util.spec_from_file_location("phantom_sketch", SKETCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make


def speed(n: int, size: int, repeats: int) -> dict[str, Any]:
    """Time n pairs by both, in turns."""
    theirs = sketch()
    phantom.load(n=64, size=size)
    ours_s, theirs_s = [], []
    for seed in range(repeats):
        ours_s.append(cpu_seconds(lambda seed=seed: phantom.load(n=n, size=size, seed=seed)))
        if theirs is not None:
            theirs_s.append(cpu_seconds(lambda seed=seed: theirs(n, size, seed)))
    result: dict[str, Any] = {
        "size": size,
        "pairs": n,
        "repeats": repeats,
        "images_per_cpu_second": 2 * n / statistics.median(ours_s),
    }
    if theirs_s:
        ratios = [slow / fast for fast, slow in zip(ours_s, theirs_s, strict=True)]
        result |= {
            "sketch_images_per_cpu_second": 2 * n / statistics.median(theirs_s),
            "ratio_median": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
        }
    return result


def resident_mib(key: str) -> float:
    """A line of this process's status: VmRSS is memory now, VmHWM its peak."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{key}:")[1].split()[0]) / 1024


def memory(n: int, size: int = 64) -> None:
    """Draw a cohort and print its peak."""
    phantom.load(n=1, size=size)
    before = resident_mib("VmRSS")
    cohort = phantom.load(n=n, size=size)
    images = sum(cohort.x[view].nbytes for view in phantom.VIEWS) / 2**20
    peak = resident_mib("VmHWM") - before
    print(json.dumps({"n": n, "images_mib": images, "peak_beyond_images_mib": peak - images}))


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", type=int, help="measure the memory of one cohort only")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory:
        memory(given.memory)
        return
    runs = [
        subprocess.run(
            [sys.executable, __file__, "--memory", str(n)],
            capture_output=True, text=True, check=True,
        )
        for n in MEMORY
    ]  # fmt: skip
    result = {
        "benchmark": "Pairs of phantom X-rays: our generator against the sketch, one thread",
        "speed": [speed(given.n, size, given.repeats) for size in SIZES],
        "memory": [json.loads(run.stdout) for run in runs],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "dfdlib": dfdlib.__version__,
        },
        "command": "OMP_NUM_THREADS=1 python benchmarks/phantom.py",
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    part = given.out.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.rename(given.out)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

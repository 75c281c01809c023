"""GRAPE on the dense grid against its edge-list twin in PyTorch Geometric, and memory against n.

    OMP_NUM_THREADS=1 python benchmarks/grape.py

Both forms get the same tokens, mask and weights, in one process on one thread, and take turns; what
is compared is the time of forward and backward over all patients, so the ratio is not that of two
different moments of a busy machine. The twin is `dfdlib.graph.EdgeListGRAPE`: gather and scatter as
PyTorch Geometric does them, no Python loop, and the same pruned last layer. Memory is the peak of a
process of its own that trains one epoch on raw values, less what it held after its imports.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import dfdlib
from dfdlib.data import Cohort
from dfdlib.graph import EdgeListGRAPE
from dfdlib.models import GRAPE, Classifier
from dfdlib.training import Stage, fit

M, D, BATCH, SHARE = 5, 128, 512, 0.6
RESULT = Path(__file__).parents[1] / "results" / "benchmarks" / "grape.json"


def epoch(network: nn.Module, tokens: Tensor, observed: Tensor) -> None:
    """Forward and backward over all patients in batches."""
    for t, o in zip(tokens.split(BATCH), observed.split(BATCH), strict=True):
        network(t.requires_grad_(), o).square().mean().backward()
        network.zero_grad()


def cpu_seconds(work: Callable[[], None]) -> float:
    """CPU time of the process, which a busy neighbour does not lengthen as it does wall time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def profile(work: Callable[[], None], top: int = 8) -> list[dict[str, float | str]]:
    """The operators that take most of the time, and their share of it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        work()
    rows = sorted(profiler.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    return [
        {"operator": row.key, "share": round(row.self_cpu_time_total / total, 3)}
        for row in rows[:top]
    ]


def speed(n: int, repeats: int) -> dict[str, object]:
    """Time the two forms in turns; the ratio of each pair, and profiles."""
    torch.manual_seed(0)
    tokens, observed = torch.randn(n, M, D), torch.rand(n, M) < SHARE
    dense = GRAPE(d=D, n_modalities=M)
    twin = EdgeListGRAPE(d=D, n_modalities=M)
    state = {k: v for k, v in dense.state_dict().items() if k != "modality_states"}
    twin.load_state_dict(state)
    with torch.no_grad():
        apart = (
            dense(tokens[:BATCH], observed[:BATCH]) - twin(tokens[:BATCH], observed[:BATCH])
        ).abs()
    works = [lambda: epoch(dense, tokens, observed), lambda: epoch(twin, tokens, observed)]
    for work in works:
        work()
    pairs = [[cpu_seconds(work) for work in works] for _ in range(repeats)]
    ratios = [slow / fast for fast, slow in pairs]
    return {
        "n": n,
        "largest_difference": float(apart.max()),
        "dense_cpu_seconds": statistics.median(fast for fast, _ in pairs),
        "edge_list_cpu_seconds": statistics.median(slow for _, slow in pairs),
        "ratio_median": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "pairs": repeats,
        "profile_dense": profile(works[0]),
        "profile_edge_list": profile(works[1]),
    }


def resident_mib(key: str) -> float:
    """A line of this process's status: VmRSS is memory now, VmHWM its peak."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{key}:")[1].split()[0]) / 1024


def memory(n: int) -> None:
    """Train one epoch on n patients and print the peak above what the imports took."""
    before = resident_mib("VmRSS")
    generator = torch.Generator().manual_seed(0)
    x = {f"m{j}": torch.randn(n, 8, generator=generator) for j in range(M)}
    observed = torch.rand(n, M, generator=generator) < SHARE
    observed[:, 0] = True
    cohort = Cohort(x=x, observed=observed, y=torch.arange(n) % 2)
    data = resident_mib("VmRSS") - before
    model = Classifier(backbone=GRAPE(d=D), schema=cohort.schema)
    fit(model, cohort, stages=[Stage(epochs=1)], batch_size=BATCH)
    print(json.dumps({"n": n, "cohort_mib": data, "peak_mib": resident_mib("VmHWM") - before}))


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory", type=int, help="measure the memory of one training run only")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory:
        memory(given.memory)
        return
    sizes = (2_000, 10_000, 50_000, 200_000)
    runs = [
        subprocess.run(
            [sys.executable, __file__, "--memory", str(n)],
            capture_output=True, text=True, check=True,
        )
        for n in sizes
    ]  # fmt: skip
    result = {
        "benchmark": "GRAPE, dense grid against edge list: forward and backward over all patients",
        "setting": {"modalities": M, "d": D, "batch": BATCH, "share_observed": SHARE, "threads": 1},
        "speed": speed(given.n, given.repeats),
        "memory": [json.loads(run.stdout) for run in runs],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "dfdlib": dfdlib.__version__,
        },
        "command": "OMP_NUM_THREADS=1 python benchmarks/grape.py",
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    part = given.out.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.rename(given.out)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

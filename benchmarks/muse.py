"""MUSE and DFD against the MUSE of the PyPI package imml: whole training epochs, and memory.

    python -m venv peers && peers/bin/pip install -r benchmarks/requirements-peers.txt
    OMP_NUM_THREADS=1 python benchmarks/muse.py --peer peers/bin/python

All methods get the same patients, in a file that each reads: five modalities of 16 numbers, three
of five observed. All have width 128, two layers, the same two-layer encoders, dropout of 1/4, and
batches of 512 in random order. Each runs in a process of its own on one thread, and they take
turns, epoch by epoch, so that a ratio is not that of two different moments of a busy machine. An
epoch is forward, backward and the optimiser's step for every patient, in CPU time of the process.
`imml, own encoders` is the peer as it comes; `imml` has ours, and is the one to compare with.
Memory is the peak of a process that trains one epoch, less what it held after its imports.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

M, K, D, BATCH, SHARE, DROPOUT = 5, 16, 128, 512, 0.6, 0.25
OURS = ("MUSE", "DFD on GRAPE")
PEERS = ("imml", "imml, own encoders")
SIZES = {2_000: 9, 10_000: 7, 50_000: 5}  # patients: turns
RESULT = Path(__file__).parents[1] / "results" / "benchmarks" / "muse.json"

Data = dict[str, np.ndarray]
Epoch = Callable[[], None]


def write_patients(path: Path, n: int) -> None:
    """Draw patients, each with at least one modality, 15 % of them positive."""
    rng = np.random.default_rng(0)
    observed = rng.random((n, M)) < SHARE
    observed[~observed.any(1), 0] = True
    x = rng.standard_normal((M, n, K)).astype(np.float32)
    np.savez(path, x=x, observed=observed, y=(rng.random(n) < 0.15).astype(np.float32))


# ---------------------------------------------------------------- one process per method


def ours(name: str) -> Callable[[Data], Epoch]:
    """Import what a method of ours needs; what is returned makes its training epoch."""
    from dfdlib.data import Cohort
    from dfdlib.models import DFD, GRAPE, MUSE, Classifier

    def make(data: Data) -> Epoch:
        x = {f"m{j}": torch.from_numpy(values) for j, values in enumerate(data["x"])}
        cohort = Cohort(x=x, observed=torch.from_numpy(data["observed"]), y=data["y"])
        options = {"schema": cohort.schema, "flags": False, "dropout": DROPOUT}
        if name == "MUSE":
            model = Classifier(backbone=MUSE(d=D, dropout=DROPOUT), **options)
        else:
            model = DFD(backbone=GRAPE(d=D, dropout=DROPOUT), **options)
        model.prepare(cohort)
        model.train()
        # as in `fit`
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        order = iter(range(1_000))

        def epoch() -> None:
            for batch in cohort.batches(BATCH, seed=next(order)):
                model.loss(batch)["total"].backward()
                optimizer.step()
                optimizer.zero_grad()

        return epoch

    return make


def peer(name: str) -> Callable[[Data], Epoch]:
    """The same for the peer, driven as Lightning's Trainer would, without the Trainer's cost."""
    import lightning  # noqa: F401 - before the stand-ins, since it looks for torchvision

    # imml imports these at once, for its other models
    for module in ("torchvision", "torchvision.models", "torchvision.transforms", "transformers"):
        if module.partition(".")[0] in sys.modules or importlib.util.find_spec(module) is None:
            sys.modules[module] = _StandIn(module)
    from imml.classify import MUSE
    from imml.load import MUSEDataset

    def make(data: Data) -> Epoch:
        there = np.where(data["observed"].T[..., None], data["x"], np.nan)
        dataset = MUSEDataset(Xs=list(there), y=data["y"])
        # it knows a missing modality by its NaN; but training on these gives a loss of NaN
        dataset.Xs = [values.nan_to_num() for values in dataset.Xs]
        encoders = [nn.Sequential(nn.Linear(K, D), nn.ReLU(), nn.Linear(D, D)) for _ in range(M)]
        model = MUSE(
            modalities=["tabular"] * M,
            input_dim=[K] * M,
            hidden_dim=D,
            extractors=encoders if name == "imml" else None,
            dropout=DROPOUT,
        )
        model.train()
        optimizer = model.configure_optimizers()
        loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True)

        def epoch() -> None:
            for i, batch in enumerate(loader):
                loss = model.training_step(batch, i)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return epoch

    return make


class _StandIn(types.ModuleType):
    """A module from which anything may be imported."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


def resident_mib(key: str) -> float:
    """A line of this process's status: VmRSS is memory now, VmHWM its peak."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{key}:")[1].split()[0]) / 1024


def work(name: str, path: Path) -> None:
    """Train one epoch for every line of stdin; answer with its time, and the memory so far."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make = (ours if name in OURS else peer)(name)
    imports = resident_mib("VmRSS")
    with np.load(path) as file:
        epoch = make(dict(file))
    for _ in sys.stdin:
        start = time.process_time()
        epoch()
        seconds = time.process_time() - start
        print(json.dumps({"cpu_seconds": seconds, "mib": resident_mib("VmHWM") - imports}))
        sys.stdout.flush()


# ---------------------------------------------------------------- the driver


class Worker:
    """A method in a process of its own."""

    def __init__(self, name: str, python: str, path: Path) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [python, __file__, "--work", name, "--patients", str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def epoch(self) -> dict[str, float]:
        """Let it train one epoch, and wait."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} stopped; what it said stands above.")
        return json.loads(answer)

    def close(self) -> None:
        """Let it end."""
        self.process.communicate()


def speed(n: int, turns: int, pythons: dict[str, str]) -> dict[str, Any]:
    """Let all methods take turns on n patients, after one epoch each that is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "patients.npz"
        write_patients(path, n)
        workers = [Worker(name, python, path) for name, python in pythons.items()]
        for worker in workers:
            worker.epoch()
        times = [{w.name: w.epoch()["cpu_seconds"] for w in workers} for _ in range(turns)]
        for worker in workers:
            worker.close()
    result: dict[str, Any] = {"n": n, "turns": turns}
    result["cpu_seconds"] = {k: statistics.median(t[k] for t in times) for k in pythons}
    for other in PEERS:
        if other in pythons:
            ratios = {k: [t[other] / t[k] for t in times] for k in OURS}
            result[f"{other} / ours"] = {
                k: {"median": statistics.median(r), "range": [min(r), max(r)]}
                for k, r in ratios.items()
            }
    return result


def memory(n: int, pythons: dict[str, str]) -> dict[str, Any]:
    """Peak above imports of each method, one after the other."""
    peak = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "patients.npz"
        write_patients(path, n)
        for name, python in pythons.items():
            worker = Worker(name, python, path)
            peak[name] = worker.epoch()["mib"]
            worker.close()
    return {"n": n, "peak_mib_above_imports": peak}


def versions(python: str, *names: str) -> dict[str, str]:
    """Versions of packages in another interpreter's environment."""
    code = (
        "import importlib.metadata as m, json, sys;"
        "print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    )
    done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"{python} lacks what the peer needs. Make its environment:\n"
            "  python -m venv peers && peers/bin/pip install -r benchmarks/requirements-peers.txt\n"
            f"{done.stderr}"
        )
    return json.loads(done.stdout)


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="the interpreter of the environment that imml is in")
    parser.add_argument("--n", type=int, help="this number of patients only, for a quick look")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--work", choices=OURS + PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--patients", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.patients)
        return
    pythons = dict.fromkeys(OURS, sys.executable)
    other: dict[str, str] = {}
    if given.peer is None:
        print("no --peer: imml is left out, so there are no ratios; see the top of this file")
    else:
        other = versions(given.peer, "imml", "torch", "lightning", "torch-geometric")
        pythons |= dict.fromkeys(PEERS, given.peer)
    sizes = SIZES if given.n is None else {given.n: 3}
    result = {
        "benchmark": "MUSE and DFD against imml's MUSE: training epochs, and peak memory",
        "setting": {
            "modalities": M, "features": K, "d": D, "layers": 2, "batch": BATCH,
            "share_observed": SHARE, "dropout": DROPOUT, "threads": 1,
        },
        "speed": [speed(n, turns, pythons) for n, turns in sizes.items()],
        "memory": memory(max(sizes), pythons),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "dfdlib": importlib.metadata.version("dfdlib"),
            "peer": other,
        },
        "command": "OMP_NUM_THREADS=1 python benchmarks/muse.py --peer peers/bin/python",
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if given.n is not None or given.peer is None:
        print("not written: this is not the whole comparison")
        return
    given.out.parent.mkdir(parents=True, exist_ok=True)
    part = given.out.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.rename(given.out)


if __name__ == "__main__":
    main()

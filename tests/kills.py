"""What a kill -9 leaves behind: not part of the default run, since it takes some minutes.

    .venv/bin/python tests/kills.py                       # everything, 20 random moments each
    .venv/bin/python tests/kills.py save fit --times 100  # some of it, more often

Each piece of work is first done undisturbed, which gives its time and the bytes that it writes.
Then it is begun anew, killed at a random moment of that time, and called again with the same
arguments: it must end, and in the same bytes. `save` replaces an earlier model, and after each kill
one of the two must load. `grid` runs two methods of chapter 3's grid by `make results` in a copy of
the checkout, cut down to few epochs; kills hit make, Snakemake and the jobs at once.
"""

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from dfdlib import data
from dfdlib.book import made_up
from dfdlib.data import mimic_cxr
from dfdlib.data.ingest import ingest
from dfdlib.models import GRAPE, Classifier
from dfdlib.training import Run, Stage, fit, load_model

ROOT = Path(__file__).resolve().parents[1]


def bytes_below(folder: Path) -> str:
    """A hash of the names and bytes of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def trained(seed: int, folder: Path | None = None) -> Run:
    cohort = data.load("synthetic", n=600, seed=0)
    train, val = cohort.split((0.8, 0.2), by="patient", seed=0)
    model = Classifier(backbone=GRAPE(d=8), schema=train.schema)
    stages = [Stage(epochs=12)]
    return fit(model, train, val, stages=stages, batch_size=64, seed=seed, folder=folder)


class Fit:
    """A run with checkpoints ends in the same weights."""

    def begin(self, folder: Path) -> None:
        pass

    def work(self, folder: Path) -> None:
        run = trained(0, folder / "checkpoints")
        weights = b"".join(v.numpy().tobytes() for v in run.model.state_dict().values())
        (folder / "weights").write_bytes(weights)

    def after(self, folder: Path) -> None:
        pass

    def told(self, folder: Path) -> str:
        left = sorted(p.name for p in (folder / "checkpoints").iterdir())
        return f"{left} {hashlib.sha256((folder / 'weights').read_bytes()).hexdigest()}"


class Save:
    """`Run.save` over an earlier model: one of the two is there at every moment."""

    def __init__(self) -> None:
        self.runs = [trained(0), trained(1)]

    def begin(self, folder: Path) -> None:
        self.runs[0].save(folder / "model")

    def work(self, folder: Path) -> None:
        self.runs[1].save(folder / "model")

    def after(self, folder: Path) -> None:
        found = load_model(folder / "model").state_dict()
        known = [run.model.state_dict() for run in self.runs]
        assert any(all(torch.equal(found[k], v) for k, v in state.items()) for state in known)

    def told(self, folder: Path) -> str:
        return bytes_below(folder)


class Ingest:
    """Raw tables become the same parquet files and manifest."""

    def __init__(self) -> None:
        self.raw = Path(tempfile.mkdtemp(prefix="kills-")) / "raw"
        made_up.write("eicu", self.raw, n=400, seed=0)

    def begin(self, folder: Path) -> None:
        pass

    def work(self, folder: Path) -> None:
        ingest("eicu", self.raw, folder / "out", threads=1, progress=False)

    def after(self, folder: Path) -> None:
        pass

    def told(self, folder: Path) -> str:
        return bytes_below(folder)


class Convert:
    """JPEG files become the same array."""

    def __init__(self) -> None:
        self.raw = Path(tempfile.mkdtemp(prefix="kills-")) / "raw"
        made_up.write("mimic_cxr", self.raw, n=400, seed=0)

    def begin(self, folder: Path) -> None:
        pass

    def work(self, folder: Path) -> None:
        mimic_cxr.convert(self.raw, folder / "out", size=32, progress=False)

    def after(self, folder: Path) -> None:
        pass

    def told(self, folder: Path) -> str:
        return bytes_below(folder)


class Grid:
    """`make results` of a grid ends in the same results, without a word from anybody."""

    TARGETS = "results/next-hospital"

    def begin(self, folder: Path) -> None:
        files = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for name in filter(None, files.split("\0")):
            if name.startswith(("chapters/", "results/", "tests/")):
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        (folder / ".venv").symlink_to(sys.prefix)
        settings = folder / "workflow" / "experiments" / "next-hospital.yaml"
        told = yaml.safe_load(settings.read_text())
        told |= {"methods": ["Logistic regression", "GRAPE"], "seeds": [0, 1], "n_boot": 50}
        told["network"] |= {"epochs": 3}
        settings.write_text(yaml.safe_dump(told, sort_keys=False))

    def work(self, folder: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        environment["PYTHONPATH"] = str(folder)
        done = subprocess.run(
            ["make", "results", f"TARGET={self.TARGETS}", "INSTALLED="],
            cwd=folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(done.stdout[-2000:] + done.stderr[-4000:])

    def after(self, folder: Path) -> None:
        pass

    def told(self, folder: Path) -> str:
        return bytes_below(folder / "results")


WORK: dict[str, Callable[[], object]] = {
    kind.__name__.lower(): kind for kind in (Save, Fit, Ingest, Convert, Grid)
}


def started(task: object, folder: Path) -> int:
    """Begin the work in a process group of its own, and return its number."""
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        status = 1
        try:
            task.work(folder)
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(status)
    return pid


def ended(task: object, folder: Path) -> None:
    """Do the work to its end."""
    _, status = os.waitpid(started(task, folder), 0)
    if status:
        sys.exit(f"{type(task).__name__} did not end when it was called again")


def killed(task: object, folder: Path, seconds: float) -> bool:
    """Begin the work and kill it after so many seconds; whether it was still at work."""
    pid = started(task, folder)
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(WORK))
    parser.add_argument("--times", type=int, default=20, help="moments for each")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments")
    chosen = parser.parse_args()
    for name in chosen.names:
        if name not in WORK:
            parser.error(f"{name!r} is none of {', '.join(WORK)}")
    torch.set_num_threads(1)
    draw = random.Random(chosen.seed)
    for name in chosen.names or WORK:
        task = WORK[name]()
        with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
            folder = Path(scratch) / "undisturbed"
            folder.mkdir()
            task.begin(folder)
            start = time.monotonic()
            ended(task, folder)
            seconds, right = time.monotonic() - start, task.told(folder)
            hit = 0
            for i in range(chosen.times):
                folder = Path(scratch) / f"killed-{i}"
                folder.mkdir()
                task.begin(folder)
                hit += killed(task, folder, draw.uniform(0, seconds))
                task.after(folder)
                ended(task, folder)
                if task.told(folder) != right:
                    sys.exit(f"{name}: kill {i + 1} ends in other bytes")
                shutil.rmtree(folder)
        print(
            f"{name}: {chosen.times} moments, {hit} of them while it worked, the same bytes",
            flush=True,
        )


if __name__ == "__main__":
    main()

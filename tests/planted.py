"""Plant a fault in a copy of the library, and see a chapter fail: `python tests/planted.py`.

Chapters compare what every processor agrees on. This shows that they still compare: a fault that
trains well and scores well, such as a swap of the streams' weights, is caught by an equation.
Not part of `make test`, since it executes chapters: some minutes.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "_build", "runs", "__pycache__", ".*_cache")

#: what is planted: file, old and new text, and the chapters of which each must fail
PLANTED = {
    "nothing": ("dfdlib/models/dfd.py", {}, []),
    "τ and 1 − τ swapped": (
        "dfdlib/models/dfd.py",
        {
            "edges(tau, n_layers": "edges(OTHER, n_layers",
            "edges(1 - tau, n_layers": "edges(tau, n_layers",
            "edges(OTHER, n_layers": "edges(1 - tau, n_layers",
        },
        ["07-two-streams", "17-from-graphs-to-tokens"],
    ),
    "τ in both streams": (
        "dfdlib/models/dfd.py",
        {"edges(1 - tau, n_layers": "edges(tau, n_layers"},
        ["07-two-streams", "17-from-graphs-to-tokens"],
    ),
    "1 − τ given out for τ": (
        "dfdlib/models/gate.py",
        {"return tau if self.channels": "tau = 1 - tau\n        return tau if self.channels"},
        ["07-two-streams", "08-what-the-gate-sees"],
    ),
    "1 − q for q": (
        "dfdlib/models/dfd.py",
        {
            'terms["bias_gce"] = gce(bias_logits, y, q=self.gce_q)': 'terms["bias_gce"] = gce('
            "bias_logits, y, q=1 - self.gce_q)"
        },
        ["07-two-streams"],
    ),
    "another q than that of the paper": (
        "dfdlib/models/dfd.py",
        {"gce_q: float | int = 0.7": "gce_q: float | int = 0.07"},
        ["07-two-streams"],
    ),
    "the sign of the KL": (
        "dfdlib/models/fusion.py",
        {"return 0.5 * (mean.square()": "return -0.5 * (mean.square()"},
        ["18-six-ways-to-share-a-latent"],
    ),
    "the KL taken off the loss": (
        "dfdlib/models/vae.py",
        {'total = self.beta * terms["kl"]': 'total = -self.beta * terms["kl"]'},
        ["18-six-ways-to-share-a-latent"],
    ),
    "the label among the inputs": (
        "dfdlib/data/eicu.py",
        {
            '    apache = x.get("apache")\n': '    x["demographics"].iloc[:, 0] = unit["y"]\n'
            '    apache = x.get("apache")\n'
        },
        ["22-from-tables-to-tokens"],
    ),
    "the world as trained and the shifted one swapped": (
        "dfdlib/data/synthetic_model.py",
        {'options.world == "shifted"': 'options.world == "id"'},
        ["05-missing-is-information"],
    ),
}
#: without a fault these first cells pass, so that a failure is that of the fault
CELLS = 9


def plant(copy: Path, file: str, changes: dict[str, str]) -> None:
    """Change the text of a file, or say that the file has changed since."""
    path = copy / file
    text = path.read_text(encoding="utf8")
    for old, new in changes.items():
        if text.count(old) != 1:
            raise SystemExit(f"{file} holds {old!r} {text.count(old)} times, not once: plant anew")
        text = text.replace(old, new)
    path.write_text(text, encoding="utf8")


def failing(copy: Path, chapter: str, *, until: int | None = None) -> str | None:
    """Run a chapter as `make notebooks` does; return its first failing cell."""
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-x", "-q"]
    command += ["--nbval-cell-timeout", "300", "-p", "no:cacheprovider"]
    path = f"chapters/{chapter}.ipynb"
    command += [path] if until is None else [f"{path}::Cell {k}" for k in range(until)]
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    if ran.returncode == 0:
        return None
    found = re.search(
        r"FAILED .*::(Cell \d+)|Notebook cell execution failed.*?(Cell \d+)", ran.stdout
    )
    if ran.returncode != 1 or not found:
        raise SystemExit(f"{chapter} could not be run:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    return found[1] or found[2]


def main() -> int:
    """Plant each fault; return 1 where a chapter does not see it."""
    missed = 0
    for fault, (file, changes, chapters) in PLANTED.items():
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
            plant(copy, file, changes)
            wanted = chapters or [c for _, _, each in PLANTED.values() for c in each]
            for chapter in sorted(set(wanted)):
                cell = failing(copy, chapter, until=None if chapters else CELLS)
                missed += bool(chapters) != bool(cell)
                print(f"{fault}: {chapter}: {f'fails in {cell}' if cell else 'passes'}", flush=True)
    print(f"{missed} not as it should be" if missed else "each fault was found")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())

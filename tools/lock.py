"""Resolve every dependency and write the locks and environment.yml (`make lock`).

requirements.lock holds all pins; of these, requirements-book.lock, -grid.lock and -dev.lock hold
what one extra needs, which is what the targets of the Makefile install. Pins that the lock already
holds are kept where they still fit; `--upgrade` lets them move. Run it on Python 3.11, the version
that the locks are for.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements.lock"
ENVIRONMENT = ROOT / "environment.yml"
# A CUDA build of torch pins these itself, and exactly. In the lock they would force gigabytes on
# machines whose torch is a CPU build.
WITH_TORCH = re.compile(r"(nvidia|cuda)-|triton$")

LOCK_HEADER = """\
# Every dependency of dfdlib[book,clinical,dev,grid] on Python 3.11, pinned. Written by `make lock`.
# torch is either build, CPU or CUDA: what a CUDA build needs on top, torch pins itself.
"""
PART_HEADER = """\
# Of requirements.lock, what {of} needs. Written by `make lock`.
"""
#: the extras that each lock is for, by its name: chapters, grids and tests read tables of hospitals
PARTS = {
    "book": ("book", "clinical"),
    "grid": ("grid", "clinical"),
    "dev": ("dev",),
}
ENVIRONMENT_HEADER = """\
# conda env create --file environment.yml
# Written by `make lock`: the pins are those of requirements.lock. Python is conda's; packages are
# pip's, because the lock was tested with them.
name: dfdlib
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - pip:
      - --constraint requirements.lock
"""


def canonical(name: str) -> str:
    """Spell a project's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def asked_for(*extras: str) -> list[Requirement]:
    """List what pyproject.toml asks for, with some extras; what builds the package is installed."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = told["project"]
    groups = [project["dependencies"], told["build-system"]["requires"]]
    groups += [project["optional-dependencies"][extra] for extra in extras]
    return [Requirement(text) for group in groups for text in group]


def resolve(*, upgrade: bool) -> dict[str, dict]:
    """Ask pip what it would install into an empty environment; return metadata by name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--report", str(report)]
        command += [f"{ROOT}[book,clinical,dev,grid]"]
        if LOCK.exists() and not upgrade:
            command += ["--constraint", str(LOCK)]
        subprocess.run(command, check=True)
        packages = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    found = {canonical(package["name"]): package for package in packages}
    return {
        name: found[name]
        for name in sorted(found)
        if name != "dfdlib" and not WITH_TORCH.match(name)
    }


def needed(wanted: list[Requirement], packages: dict[str, dict]) -> set[str]:
    """Name what requirements need, directly or not, extras of dependencies included."""
    seen: set[tuple[str, str]] = set()
    todo = [(canonical(r.name), extra) for r in wanted for extra in ("", *r.extras)]
    while todo:
        name, extra = todo.pop()
        if name not in packages or (name, extra) in seen:
            continue  # what torch's CUDA build pins is in no lock
        seen.add((name, extra))
        for text in packages[name].get("requires_dist", ()):
            other = Requirement(text)
            if other.marker is None or other.marker.evaluate({"extra": extra}):
                todo += [(canonical(other.name), each) for each in ("", *other.extras)]
    return {name for name, _ in seen}


def main() -> None:
    """Write all of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--upgrade", action="store_true", help="let pins move to newer versions")
    packages = resolve(upgrade=parser.parse_args().upgrade)
    pins = {name: f"{name}=={p['version'].split('+')[0]}\n" for name, p in packages.items()}
    LOCK.write_text(LOCK_HEADER + "".join(pins.values()))
    for name, extras in PARTS.items():
        those = needed(asked_for(*extras), packages)
        head = PART_HEADER.format(of=f"dfdlib[{','.join(extras)}]")
        lines = "".join(pin for package, pin in pins.items() if package in those)
        (ROOT / f"requirements-{name}.lock").write_text(head + lines)
    direct = sorted({canonical(r.name) for r in asked_for("book", "clinical", "dev", "grid")})
    lines = "".join(f"      - {pins[name]}" for name in direct)
    ENVIRONMENT.write_text(ENVIRONMENT_HEADER + lines + "      - --editable .\n")


if __name__ == "__main__":
    main()

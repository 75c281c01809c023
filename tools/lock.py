"""Resolve every dependency and write requirements.lock and environment.yml (`make lock`).

Pins that the lock already holds are kept where they still fit; `--upgrade` lets them move. Run it
on Python 3.11, the version that the lock is for.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

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


def direct_dependencies() -> list[str]:
    """Name what pyproject.toml asks for, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return sorted({canonical(re.split(r"[\s<>=!~;\[]", r)[0]) for group in groups for r in group})


def resolve(*, upgrade: bool) -> dict[str, str]:
    """Ask pip which versions it would install into an empty environment."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--report", str(report)]
        command += [f"{ROOT}[book,clinical,dev,grid]"]
        if LOCK.exists() and not upgrade:
            command += ["--constraint", str(LOCK)]
        subprocess.run(command, check=True)
        packages = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    pins = {canonical(p["name"]): p["version"].split("+")[0] for p in packages}
    return {
        name: version
        for name, version in sorted(pins.items())
        if name != "dfdlib" and not WITH_TORCH.match(name)
    }


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="let pins move to newer versions")
    pins = resolve(upgrade=parser.parse_args().upgrade)
    LOCK.write_text(LOCK_HEADER + "".join(f"{n}=={v}\n" for n, v in pins.items()))
    direct = "".join(f"      - {name}=={pins[name]}\n" for name in direct_dependencies())
    ENVIRONMENT.write_text(ENVIRONMENT_HEADER + direct + "      - --editable .\n")


if __name__ == "__main__":
    main()

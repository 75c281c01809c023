"""`make results`: run the grids, one run at a time, and go on by itself after a kill.

    python workflow/results.py --cores 2 [any option of snakemake]

Snakemake leaves its lock behind when it is killed and then asks for `--unlock`. Here a lock that
the system itself takes back (`flock`) says whether a run is alive; only where none is, what an
earlier one left is removed.
"""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile"]


def others(folder: Path) -> list[int]:
    """Find what works in a folder as `snakemake` and was started by hand: it holds no flock."""
    found = []
    for process in psutil.process_iter():
        try:
            words, here = process.cmdline(), process.cwd()
        except (psutil.Error, OSError):  # another user's, or gone
            continue
        runs = any(Path(word).name == "snakemake" for word in words[:3])
        # a job of a run that was killed is no run: it writes its file whole, and ends
        if runs and "--mode" not in words and Path(here) == folder:
            found.append(process.pid)
    return found


def main() -> None:
    """Take the lock, clear what a killed run left, and become snakemake, which keeps the lock."""
    os.chdir(ROOT)
    Path("runs").mkdir(exist_ok=True)
    lock = os.open("runs/.results.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alive = others(ROOT)
    except OSError:
        alive = [int(os.read(lock, 20) or 0)]
    if alive:
        sys.exit(
            f"Another run computes results in this folder (process {alive[0]}). Wait until it is "
            "done, or end it, and type `make results` again: it goes on where that one stopped."
        )
    os.truncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    os.set_inheritable(lock, True)
    if any(Path(".snakemake/locks").glob("*")):
        subprocess.run([*SNAKEMAKE, "--unlock"], check=True)
    os.execv(sys.executable, [*SNAKEMAKE, "--rerun-incomplete", *sys.argv[1:]])


if __name__ == "__main__":
    main()

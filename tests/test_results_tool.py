"""workflow/results.py: one run at a time, and a run that was killed goes on by itself."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("snakemake")
ROOT = Path(__file__).parents[1]
GRID = """\
workdir: workflow.basedir + "/.."

rule all:
    input: expand("runs/{number}.txt", number=range(2))

rule one:
    output: "runs/{number}.txt"
    shell: "touch started; while [ ! -e go ]; do sleep 0.05; done; echo done > '{output}'"
"""


@pytest.fixture
def folder(tmp_path):
    """A book, in a folder with a blank, whose two jobs wait for a file."""
    folder = tmp_path / "my book"
    (folder / "workflow").mkdir(parents=True)
    shutil.copy(ROOT / "workflow" / "results.py", folder / "workflow")
    (folder / "workflow" / "Snakefile").write_text(GRID)
    return folder


def start(folder):
    command = [sys.executable, folder / "workflow" / "results.py", "--cores", "1"]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def begun(folder, process):
    """Wait until the first job works."""
    for _ in range(1200):
        if (folder / "started").exists():
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    pytest.fail("no job began")


def test_a_run_goes_on_after_a_kill_and_no_two_run_at_once(folder):
    killed = start(folder)
    begun(folder, killed)
    assert list((folder / ".snakemake" / "locks").iterdir())
    second = start(folder)
    said, _ = second.communicate()
    assert second.returncode == 1
    assert f"Another run computes results in this folder (process {killed.pid})" in said
    assert killed.poll() is None
    assert list((folder / ".snakemake" / "locks").iterdir()), "a live run keeps its lock"

    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert list((folder / ".snakemake" / "locks").iterdir()), "as a kill leaves it"
    (folder / "go").touch()
    again = start(folder)
    said, _ = again.communicate()
    assert again.returncode == 0, said
    texts = [(folder / "runs" / f"{number}.txt").read_text() for number in range(2)]
    assert texts == ["done\n"] * 2
    assert not list((folder / ".snakemake").glob("locks/*"))


def test_a_run_started_by_hand_is_not_unlocked(folder):
    command = [sys.executable, "-m", "snakemake", "-s", "workflow/Snakefile", "--cores", "1"]
    by_hand = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    begun(folder, by_hand)
    ours = start(folder)
    said, _ = ours.communicate()
    assert ours.returncode == 1
    assert f"(process {by_hand.pid})" in said
    (folder / "go").touch()
    said, _ = by_hand.communicate()
    assert by_hand.returncode == 0, said


def test_all_that_results_holds_is_computed(tmp_path):
    """`make results` makes every entry of results/, but for the benchmarks: those are timed."""
    for name in ("workflow", "dfdlib"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("requirements.lock", "claims.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    command = [sys.executable, "-m", "snakemake", "-s", "workflow/Snakefile", "--cores", "1"]
    plan = subprocess.run(
        [*command, "--dry-run", "--nolock"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"EICU_DEMO": str(tmp_path)}, check=False,
    )  # fmt: skip
    assert plan.returncode == 0, plan.stderr
    said = plan.stdout + plan.stderr
    made = {
        re.match(r"results/([^/\s,]+)", path)[1]
        for outputs in re.findall(r"(?m)^ +output: (.*)$", said)
        for path in outputs.split(", ")
        if path.startswith("results/")
    }
    kept = {path.name for path in (ROOT / "results").iterdir() if not path.name.startswith(".")}
    assert made == kept - {"benchmarks"}

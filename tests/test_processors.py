"""The script that runs the checks under four kinds of arithmetic, with something quick to run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "processors"
#: stands for .ci/run: it leaves a file behind, and fails where there is one, or without vectors
RUN = """\
set -e
[ ! -e left-behind ]
touch left-behind .venv/installed
echo "=== make test"
echo "== 7 passed, 1 skipped in 2.51s =="
echo "=== make notebooks"
case "$ATEN_CPU_CAPABILITY$MKL_CBWR" in
default) echo "== 1 failed, 2 passed in 0.41s (0:00:41) =="; exit 3 ;;
*) echo "== 3 passed in 0.41s =="; echo "with <$ATEN_CPU_CAPABILITY$MKL_CBWR>" ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A repository that holds the script, and a quick .ci/run."""
    place = tmp_path / "origin"
    (place / ".ci").mkdir(parents=True)
    shutil.copy(SCRIPT, place / ".ci")
    (place / ".ci" / "run").write_text(RUN)
    (place / ".venv").mkdir()
    (place / ".venv" / ".keep").touch()
    git = ["git", "-C", str(place), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "All there is"], check=True)
    return place


def run(clone, *settings, **environment):
    script = [str(clone / ".ci" / "processors"), *settings]
    return subprocess.run(
        script, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_each_kind_runs_on_a_clean_clone_and_is_reported(clone):
    ran = run(clone, ATEN_CPU_CAPABILITY="avx512", MKL_CBWR="AVX2")
    report = ran.stdout[ran.stdout.rindex("All there is") :].splitlines()[2:]
    assert report == [
        "own: passed, 0 min",
        "    test       7 passed, 1 skipped",
        "    notebooks  3 passed",
        "ATEN_CPU_CAPABILITY=default: FAILED (3), 0 min",
        "    test       7 passed, 1 skipped",
        "    notebooks  1 failed, 2 passed",
        "ATEN_CPU_CAPABILITY=avx2: passed, 0 min",
        "    test       7 passed, 1 skipped",
        "    notebooks  3 passed",
        "MKL_CBWR=COMPATIBLE: passed, 0 min",
        "    test       7 passed, 1 skipped",
        "    notebooks  3 passed",
    ]
    said = [line for line in ran.stdout.splitlines() if line.startswith("with ")]
    assert said == ["with <>", "with <avx2>", "with <COMPATIBLE>"]
    assert ran.returncode == 1
    assert not (clone / "left-behind").exists()


def test_one_kind_can_be_run_and_another_command(clone):
    ran = run(clone, "MKL_CBWR=COMPATIBLE", COMMAND='echo "<$MKL_CBWR>"')
    assert "<COMPATIBLE>\n" in ran.stdout
    assert ran.returncode == 0
    assert "own" not in ran.stdout


def test_a_kind_that_is_none_is_refused(clone):
    ran = run(clone, "own", "OMP_NUM_THREADS=2")
    assert ran.returncode == 2
    assert "'OMP_NUM_THREADS=2' is none of: own, ATEN_CPU_CAPABILITY=" in ran.stderr
    assert ran.stdout == ""

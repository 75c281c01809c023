"""What plain `pip install dfdlib` brings, and each extra: `python tests/installed.py`.

Builds the wheel and installs it twice, each time into an environment of its own: alone, and with
`[clinical]`. There it runs the README's example, loads the cohorts that come with the package, and
sees that whatever needs the extra works with it, and says so without it. Not part of `make test`,
since it installs torch: minutes, and gigabytes where torch carries CUDA. `make test` runs `check`
with the extra's packages hidden instead.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from importlib.abc import MetaPathFinder
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETS = {"none": "", "clinical": "[clinical]"}
#: what `[clinical]` brings; pillow comes with matplotlib, too
CLINICAL = ("duckdb", "pyarrow", "pooch", "requests", "urllib3")


class Hidden(MetaPathFinder):
    """Hides packages from imports, as though they were not installed."""

    def __init__(self, names):
        self.names = set(names)

    def find_spec(self, fullname, path=None, target=None):
        """Refuse what is hidden, and leave the rest to other finders."""
        if fullname.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)

    def hide(self, name):
        """Hide a package that was imported before."""
        self.names.add(name)
        for module in [m for m in sys.modules if m.partition(".")[0] == name]:
            del sys.modules[module]


def example(readme):
    """Run the README's example as it stands."""
    (code,) = re.findall(r"^```python\n(.*?)^```", readme.read_text(encoding="utf8"), re.M | re.S)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["scores"].shape == (len(names["test"]), 2)


def packaged_cohorts():
    """Load what needs no file of anybody's."""
    for module in ("models", "training", "evaluation", "plots", "causal", "book"):
        import_module(f"dfdlib.{module}")
    from dfdlib import data

    assert len(data.load("heart")) == 920
    assert len(data.load("synthetic", n=50)) == 50
    assert len(data.load("phantom", n=4)) == 4
    assert len(data.load("digits")) > 0


def entries(folder):
    """Name each way in that needs the extra, how it is called, and what it says without it."""
    from dfdlib import data
    from dfdlib.data import adni, download, eicu, ingest, mimic_cxr, mimic_iv

    (folder / "visits.parquet").write_bytes(b"")
    return {
        "from_tables": (lambda: data.from_tables({}), "reading tables needs duckdb"),
        "eicu": (lambda: data.load("eicu", root=folder), "reading tables needs duckdb"),
        "eicu.flow": (lambda: eicu.flow(root=folder), "reading tables needs duckdb"),
        "mimic_iv": (lambda: data.load("mimic_iv", root=folder), "reading tables needs duckdb"),
        "mimic_iv.flow": (lambda: mimic_iv.flow(root=folder), "reading tables needs duckdb"),
        "adni": (lambda: data.load("adni", root=folder), "reading parquet files needs pyarrow"),
        "adni.flow": (lambda: adni.flow(root=folder), "reading parquet files needs pyarrow"),
        "mimic_cxr": (
            lambda: data.load("mimic_cxr", root=folder), "reading parquet files needs pyarrow"
        ),
        "mimic_cxr.convert": (
            lambda: mimic_cxr.convert(folder), "converting images needs pyarrow"
        ),
        "ingest": (
            lambda: ingest.ingest("eicu", folder, folder / "out"), "ingesting tables needs duckdb"
        ),
        "download": (
            lambda: download.download("no-demo", folder / "out"),
            "downloading needs pooch",
        ),
    }  # fmt: skip


def commands(folder):
    """Name each command that needs the extra, and what it says without it."""
    there = ["--root", str(folder), "--out", str(folder / "out")]
    return {
        ("data", "ingest", "eicu", *there): "ingesting tables needs duckdb",
        ("data", "convert", "mimic-cxr", *there): "converting images needs pyarrow",
        ("data", "download", "no-demo", "--out", str(folder / "out")): "downloading needs pooch",
    }  # fmt: skip


HOW = ', which is not installed. Type: pip install "dfdlib[clinical]"'


def refusal(call):
    """What a call raises, as text."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def refused_without(folder, hidden):
    """See that each way in says what to install."""
    from typer.testing import CliRunner

    from dfdlib.cli import app

    for name, (call, begin) in entries(folder).items():
        assert refusal(call) == f"ImportError: {begin}{HOW}", f"{name}: {refusal(call)}"
    for words, begin in commands(folder).items():
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 1, f"{words}: {done.output}"
        assert done.stderr == f"Error: {begin}{HOW}\n", f"{words}: {done.stderr}"
    assert not (folder / "out").exists()
    if hidden is not None:
        from dfdlib.data.mimic_cxr import convert

        hidden.hide("PIL")
        told = refusal(lambda: convert(folder))
        assert told == f"ImportError: converting images needs pillow{HOW}", told


def works_with(folder):
    """See that nothing asks for a package, and that tables are read."""
    from dfdlib import data

    for name, (call, begin) in entries(folder).items():
        told = refusal(call)
        assert not told.startswith("ImportError"), f"{name}: {told}"
        assert "not installed" not in told, f"{name}: {told}"
        assert begin not in told
    rows = "".join(f"{i},{20 + i},{i % 2}\n" for i in range(40))
    (folder / "stays.csv").write_text("stay,age,died\n" + rows)
    cohort = data.from_tables(
        {
            "patients": {"file": str(folder / "stays.csv"), "id": "stay"},
            "label": {"file": str(folder / "stays.csv"), "columns": ["died"]},
            "modalities": {
                "basics": {
                    "kind": "vector", "file": str(folder / "stays.csv"), "columns": ["age"],
                },
            },
        }
    )  # fmt: skip
    assert len(cohort) == 40
    assert float(cohort.y.sum()) == 20


def outside_a_checkout():
    """`dfdlib run` says that it needs one; the made-up patients stay there, too."""
    from importlib.util import find_spec

    from typer.testing import CliRunner

    from dfdlib.cli import app

    done = CliRunner().invoke(app, ["run", "3"])
    assert done.exit_code == 2, done.output
    assert "git clone" in done.stderr or "clone" in done.stderr, done.stderr
    assert find_spec("dfdlib.book.made_up") is None


def check(extras, readme, *, hide):
    """See that this environment holds what the set promises."""
    hidden = None
    if hide:
        hidden = Hidden(CLINICAL)
        sys.meta_path.insert(0, hidden)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        example(readme)
        packaged_cohorts()
        (folder / "raw").mkdir()
        if extras == "clinical":
            works_with(folder / "raw")
        else:
            refused_without(folder / "raw", hidden)
        if not hide:
            outside_a_checkout()
        os.chdir(ROOT.anchor)
    print(f"{extras}: as promised")


def build(folder):
    """Build the wheel from a copy, so that nothing of an older build is in it."""
    source = folder / "source"
    shutil.copytree(ROOT / "dfdlib", source / "dfdlib")
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-CC-BY-4.0"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True)


def install(extras, folder):
    """Make an environment of the wheel and a set of extras; return its Python."""
    python = folder / extras / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder / extras], check=True)
    (wheel,) = folder.glob("*.whl")
    lock = ROOT / "requirements.lock"
    command = [python, "-m", "pip", "install", "--quiet", "--constraint", lock]
    # by its pin, so that it may come from a folder of wheels
    (torch,) = (line for line in lock.read_text().splitlines() if line.startswith("torch=="))
    subprocess.run([*command, torch, f"{wheel}{SETS[extras]}"], check=True)
    return python


def main():
    """Install each set and check it, or check the environment that this runs in."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", choices=SETS, help="check this environment, install nothing")
    parser.add_argument("--hide", action="store_true", help="hide the packages of [clinical]")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    options = parser.parse_args()
    if options.check:
        check(options.check, options.readme.resolve(), hide=options.hide)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        for extras in SETS:
            python = install(extras, folder)
            size = sum(f.lstat().st_size for f in (folder / extras).rglob("*") if f.is_file())
            print(f"{extras}: {size / 1e6:,.0f} MB installed", flush=True)
            command = [python, "-W", "ignore", ROOT / "tests" / "installed.py", "--check", extras]
            subprocess.run(command, check=True, cwd=folder, env=environment)


if __name__ == "__main__":
    main()

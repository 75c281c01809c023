"""What a stranger relies on before reading a line: installation, commands, documents."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from email.parser import Parser
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dfdlib.errors import require

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(*groups):
    return {canonicalize_name(r.name): r for group in groups for r in map(Requirement, group)}


def run(*command, **options):
    """Run a program in the checkout, away from the `make` that may run the tests."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    environment |= options.pop("env", {})
    return subprocess.run(
        [str(part) for part in command],
        **({"cwd": ROOT, "env": environment} | options),
        capture_output=True,
        text=True,
        check=False,
    )


def pip(*arguments):
    done = run(sys.executable, "-m", "pip", *arguments, "--no-index", "--quiet")
    assert done.returncode == 0, done.stderr


RUNTIME = requirements(PROJECT["dependencies"])
DIRECT = requirements(PROJECT["dependencies"], *EXTRAS.values())


BUILD = requirements(
    tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
)
#: what each lock is for: all of them, and what targets of the Makefile install
LOCKS = {
    "requirements.lock": DIRECT,
    "requirements-book.lock": RUNTIME | BUILD | requirements(EXTRAS["book"], EXTRAS["clinical"]),
    "requirements-grid.lock": RUNTIME | BUILD | requirements(EXTRAS["grid"], EXTRAS["clinical"]),
    "requirements-dev.lock": RUNTIME | BUILD | requirements(EXTRAS["dev"]),
}


def pins_of(name):
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.fixture(scope="module")
def lock():
    return pins_of("requirements.lock")


# ---------------------------------------------------------------- dependencies


@pytest.mark.parametrize("name", LOCKS)
def test_lock_is_exact_sorted_and_portable(name):
    lock = pins_of(name)
    lines = (ROOT / name).read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    for pin in pins:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin), pin  # no marker, URL or +cpu
    assert list(lock) == sorted(lock)
    assert len(lock) == len(pins)


def test_lock_satisfies_every_direct_dependency(lock):
    for name, requirement in DIRECT.items():
        assert name in lock, f"{name} is not in requirements.lock. Run: make lock"
        assert requirement.specifier.contains(lock[name]), f"{requirement} but {name}=={lock[name]}"


def test_the_lock_of_an_extra_pins_as_the_whole_lock(lock):
    for name in LOCKS:
        assert pins_of(name).items() <= lock.items()
    assert {pin for name in list(LOCKS)[1:] for pin in pins_of(name)} == set(lock)


@pytest.mark.parametrize("of", LOCKS)
def test_lock_is_closed(of):
    """Follow the installed packages' own metadata: whatever they need is pinned, and fits."""
    lock = pins_of(of)
    todo = [(name, extra) for name, r in LOCKS[of].items() for extra in {"", *r.extras}]
    seen = set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for text in metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker and not needed.marker.evaluate({"extra": extra}):
                continue
            other = canonicalize_name(needed.name)
            if name == "torch" and re.match(r"(nvidia|cuda)-|triton$", other):
                continue  # a CUDA build pins these itself
            assert other in lock, f"{name} needs {needed}, which is not in {of}"
            assert needed.specifier.contains(lock[other], prereleases=True), f"{name}: {needed}"
            todo += [(other, extra) for extra in {"", *needed.extras}]
    unreached = set(lock) - {name for name, _ in seen}
    assert not unreached, f"pinned, and needed by nothing: {sorted(unreached)}. Run: make lock"


def test_environment_has_the_pins_of_the_lock(lock):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    pins = dict(line.split("==") for line in pip["pip"] if not line.startswith("-"))
    assert pins == {name: lock[name] for name in DIRECT}
    assert "--constraint requirements.lock" in pip["pip"], "and so does what they depend on"
    assert "--editable ." in pip["pip"]
    assert "python=3.11" in conda
    assert PROJECT["requires-python"] == ">=3.11"


def source(path):
    """Read a module, or the code cells of a notebook."""
    if path.suffix == ".py":
        return path.read_text()
    return "\n".join(
        re.sub(r"^[%!].*$", "", cell.source, flags=re.MULTILINE)
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
    )


def imported(folder):
    """Map each installed distribution that a folder's code imports to one of the files."""
    owners = metadata.packages_distributions()
    found = {}
    # how chapters are compared is no part of what a reader of the book needs
    modules = [p for p in (ROOT / folder).rglob("*.py") if p.parent.name != "chapters"]
    for path in [*modules, *(ROOT / folder).glob("*.ipynb")]:
        for node in ast.walk(ast.parse(source(path))):
            match node:
                case ast.Import(names=names):
                    modules = [alias.name for alias in names]
                case ast.ImportFrom(module=str(module), level=0):
                    modules = [module]
                case _:
                    continue
            for module in modules:
                for owner in owners.get(module.split(".")[0], ()):
                    found.setdefault(canonicalize_name(owner), path.relative_to(ROOT))
    found.pop("dfdlib", None)
    return found


CLINICAL = requirements(EXTRAS["clinical"])
BOOK = RUNTIME | CLINICAL | requirements(EXTRAS["book"])


def test_every_runtime_dependency_is_imported():
    unused = set(RUNTIME | CLINICAL) - set(imported("dfdlib"))
    assert not unused, f"declared, and imported nowhere in dfdlib: {sorted(unused)}"


@pytest.mark.parametrize(
    ("folder", "declared"),
    [
        ("dfdlib", BOOK),  # its command wraps papermill
        ("chapters", BOOK),
        ("tools", DIRECT),
        ("workflow", DIRECT),
        ("benchmarks", DIRECT),
        ("tests", DIRECT),
    ],
)
def test_every_import_is_declared(folder, declared):
    used = imported(folder)
    undeclared = set(used) - set(declared)
    assert not undeclared, {name: str(used[name]) for name in undeclared}


# ---------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy, without a network, and return its path."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ["pyproject.toml", "README.md", "LICENSE", "LICENSE-CC-BY-4.0"]:
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "dfdlib", source / "dfdlib", ignore=shutil.ignore_patterns("__pycache__")
    )
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_the_package_its_data_and_the_licences(wheel):
    with ZipFile(wheel) as archive:
        files = set(archive.namelist())
        (info,) = {name.split("/")[0] for name in files if ".dist-info/" in name}
        header = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        scripts = archive.read(f"{info}/entry_points.txt").decode()
    package = {
        str(path.relative_to(ROOT))
        for pattern in ["**/*.py", "py.typed", "data/*.csv"]
        for path in (ROOT / "dfdlib").glob(pattern)
        if "made_up" not in path.parts
    }
    assert package <= files
    assert not [name for name in files if "made_up" in name], "made-up patients stay in a checkout"
    assert {name.split("/")[0] for name in files} == {"dfdlib", info}
    assert header.get_all("License-File") == ["LICENSE", "LICENSE-CC-BY-4.0"]
    assert header["License-Expression"] == "Apache-2.0 AND CC-BY-4.0"
    assert "dfdlib = dfdlib.cli:app" in scripts


def test_data_loads_from_the_installed_wheel(wheel, tmp_path):
    site = tmp_path / "site"
    pip("install", "--no-deps", "--target", site, wheel)
    code = """
import dfdlib, dfdlib.cli
from dfdlib import data
heart = data.load("heart")
print(dfdlib.__file__)
print(len(heart), *(int((heart.groups["site"] == s).sum()) for s in
      ["cleveland", "hungary", "switzerland", "va"]))
"""
    done = run(
        *(sys.executable, "-W", "ignore", "-c", code), cwd=tmp_path, env={"PYTHONPATH": str(site)}
    )
    assert done.returncode == 0, done.stderr
    where, counts = done.stdout.splitlines()
    assert Path(where).is_relative_to(site), "the checkout was imported, not the wheel"
    assert counts == "920 303 294 123 200"


def test_without_the_clinical_extra_the_readme_runs_and_the_rest_says_what_to_install():
    """With the extra's packages hidden; `make installed` installs each set for real."""
    done = run(sys.executable, "-W", "ignore", "tests/installed.py", "--check", "none", "--hide")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("none: as promised\n")


def test_a_package_that_lacks_something_itself_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="'not_there_at_all'"):
        require("reading tables", "half_there")


# ---------------------------------------------------------------- commands


MAKEFILE = (ROOT / "Makefile").read_text()
PHONY = set(re.search(r"^\.PHONY:(.*)$", MAKEFILE, re.MULTILINE)[1].split())
needs_make = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


@needs_make
def test_make_lists_every_target():
    listed = dict(re.findall(r"^  (\w+) +(\S.*)$", run("make").stdout, re.MULTILINE))
    assert set(listed) == PHONY
    assert run("make", "help").stdout == run("make").stdout


@needs_make
def test_make_refuses_an_old_python_and_says_what_to_type(tmp_path):
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1\nexit 1\n')
    old.chmod(0o755)
    refused = run("make", "test", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert refused.returncode != 0
    assert "needs Python 3.11 or newer" in refused.stderr
    assert "is Python 3.9.1" in refused.stderr
    assert "make PYTHON=/path/to/python3.11" in refused.stderr
    assert not (tmp_path / "venv").exists()


@needs_make
@pytest.mark.parametrize(
    ("target", "extras"),
    [
        ("lint", ["book", "dev"]),
        ("test", ["book", "grid", "dev"]),
        ("notebooks", ["book", "dev"]),
        ("results", ["grid"]),
    ],
)
def test_make_installs_what_a_target_uses(tmp_path, target, extras):
    plan = run("make", "--dry-run", target, f"VENV={tmp_path / 'venv'}")
    assert plan.returncode == 0, plan.stderr
    locks = re.findall(r"pip install --requirement requirements-(\w+)\.lock", plan.stdout)
    assert locks == extras


@needs_make
def test_make_book_works_in_a_folder_with_a_space(tmp_path):
    folder = tmp_path / "my book"
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / "pyproject.toml").touch()
    for extra in ("book", "dev"):
        (folder / f"requirements-{extra}.lock").touch()
        (folder / ".venv" / f".installed-{extra}").touch()
    (folder / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("python", "jupyter-book", "pytest"):
        program = folder / ".venv" / "bin" / name
        program.write_text('#!/bin/sh\necho "$(basename "$0") of [$DFDLIB_HTML]"\n')
        program.chmod(0o755)
    done = run("make", "-C", str(folder), "book")
    assert done.returncode == 0, done.stderr
    assert f"pytest of [{folder}/_build/html]" in done.stdout


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", ".pre-commit-config.yaml"])
def test_documents_name_targets_that_exist(document):
    text = (ROOT / document).read_text()
    commands = re.findall(r"(?:^\$ |`)make ([a-z]+)", text, re.MULTILINE)
    assert commands
    assert set(commands) <= PHONY


def ci(make):
    """Run .ci/run with a shell function in the place of make; return its code and the calls."""
    done = run("bash", "-c", f'make() {{ echo "make $*"; {make}; }}; source .ci/run')
    calls = [line for line in done.stdout.splitlines() if line.startswith("make ")]
    return done.returncode, calls


def test_ci_runs_the_four_checks_in_order_and_stops_at_a_failure():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    four = ["make lint", "make test", "make notebooks", "make book EXECUTE=off"]
    assert ci("true") == (0, four)
    code, calls = ci('[ "$1" != test ]')
    assert code != 0
    assert calls == four[:2]


def test_results_can_be_planned():
    pytest.importorskip("snakemake")
    plan = run(
        *(sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile"),
        *("--cores", "1", "--dry-run", "--forceall", "--nolock", "--quiet", "rules"),
    )
    assert plan.returncode == 0, plan.stderr
    grid = yaml.safe_load((ROOT / "workflow/experiments/next-hospital.yaml").read_text())
    said = plan.stdout + plan.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE))
    assert jobs["collect_next_hospital"] == "1"
    assert int(jobs["run"]) > len(grid["methods"])


def workflow(name):
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())["jobs"]
    return {
        job: " ".join(step.get("run", "") for step in jobs[job].get("steps", ())) for job in jobs
    }


def test_workflows_run_what_they_are_there_for():
    assert "bash .ci/run" in workflow("ci.yml")["check"]
    matrix = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert matrix["jobs"]["check"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    weekly = workflow("weekly.yml")
    assert "make lock UPGRADE=1" in weekly["newest"]
    assert "env create --file environment.yml" in weekly["conda"]
    assert all("make test" in commands for commands in weekly.values())


def test_pre_commit_hooks_run_offline_from_the_environment():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    for hook in repos[0]["hooks"]:
        assert hook["language"] == "system"
        program = hook["entry"].split()[0]
        assert program.startswith(".venv/bin/")
        assert shutil.which(Path(program).name, path=str(Path(sys.executable).parent)), program


# ---------------------------------------------------------------- documents


def test_readme_example_runs(tmp_path, monkeypatch, capsys):
    """The example on one's own arrays runs as it stands, and ends in a usable saved model."""
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["scores"].shape == (len(names["test"]), 2)
    assert (tmp_path / "my-model").is_dir()
    printed = capsys.readouterr().out
    assert "north" in printed
    assert "ecg+labs" in printed


def test_links_and_paths_in_documents_exist():
    for document in ["README.md", "CONTRIBUTING.md"]:
        text = (ROOT / document).read_text()
        paths = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
        paths += [p for p in re.findall(r"(chapters/\S+?\.ipynb)", text) if "NN-" not in p]
        missing = [path for path in paths if not (ROOT / path).exists()]
        assert not missing, f"{document} names {missing}"


def test_contributing_is_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 60


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == metadata.version("dfdlib")


SLOW = (
    "sklearn",
    "scipy",
    "networkx",
    "matplotlib",
    "torch_geometric",
    "duckdb",
    "lightning_fabric",
)


@pytest.mark.parametrize("package", ["dfdlib.data", "dfdlib.models"])
def test_what_takes_longer_than_torch_is_imported_where_it_is_used(package):
    """Who loads a cohort or builds a model waits for torch and pandas, and for nothing else."""
    code = f"import sys, {package}; print(*set({SLOW}) & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []

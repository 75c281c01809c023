"""What chapters share, the configuration with its cache key, and the generated pages."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from nbclient import NotebookClient
from nbformat import v4

from dfdlib import book

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools" / "book.py"

spec = importlib.util.spec_from_file_location("book_tool", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


@pytest.fixture
def small_book(tmp_path):
    """A book with one library file, one table, one result, one lock, one page."""
    for name, text in {
        "_toc.yml": "format: jb-book\n",
        "_config.yml": "title: A book\nexecute: {timeout: 300}\nlogo: _static/logo.svg\n",
        "dfdlib/a.py": "x = 1\n",
        "dfdlib/data/heart.csv": "1,2\n",
        "results/one/b.json": "{}\n",
        "requirements-book.lock": "torch==1\n",
        "chapters/page.md": "# Text\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def execute(*sources):
    """Outputs of code cells run in a notebook."""
    notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    nbformat.validate(notebook)
    return [cell.outputs for cell in notebook.cells]


# ------------------------------------------------------------------ glue


def test_glue_stores_what_myst_nb_stores_and_what_is_plain():
    ours, theirs = execute(
        "import numpy as np\nfrom dfdlib.book import glue\n"
        "glue('a', np.float64(0.25))\nglue('b', 'text')\nglue('c', np.int64(3))",
        "from myst_nb import glue\n"
        "for name, value in {'a': 0.25, 'b': 'text', 'c': 3}.items():\n"
        "    glue(name, value, display=False)",
    )
    assert ours == theirs


def test_glue_fixes_the_digits():
    (outputs,) = execute(
        "from dfdlib.book import glue\nglue('a', 0.5, digits=2)\nglue('b', -2.345, digits=0)"
    )
    stored = [output["data"]["application/papermill.record/text/plain"] for output in outputs]
    assert stored == ["'0.50'", "'-2'"]


@pytest.mark.parametrize(
    "value", [1, 0.5, "text", True, np.float32(0.5), torch.tensor(3), np.array([2])]
)
def test_glue_takes_one_number_or_text(value):
    assert book.glue("a", value) is None


@pytest.mark.parametrize(
    "value", [float("nan"), np.float64("nan"), float("inf"), torch.tensor(-np.inf)]
)
def test_glue_refuses_what_is_not_finite(value):
    with pytest.raises(ValueError, match=r"'auroc' is -?(nan|inf).*glue\('auroc', 'not defined'\)"):
        book.glue("auroc", value)


@pytest.mark.parametrize("value", [None, [1.0], np.ones(2), torch.ones(2), pd.Series([1, 2])])
def test_glue_refuses_what_is_not_one_value(value):
    with pytest.raises(TypeError, match=r"'auroc' is a \w+; the prose takes a number or a string"):
        book.glue("auroc", value)


# ------------------------------------------------------------------ provenance


def test_provenance_names_commit_seed_versions_and_duration():
    box = book.provenance(seed=3, data="UCI heart disease, 920 patients")
    assert box.rows["Seed"] == "3"
    assert box.rows["Library"].startswith(f"dfdlib {metadata.version('dfdlib')}, ")
    assert f"numpy {np.__version__}" in box.rows["Versions"]
    assert f"on {os.cpu_count()} processor cores" in box.rows["Duration"]
    html = box._repr_html_()
    assert html.count("<dt>") == html.count("<dd>") == len(box.rows)
    assert "920 patients" in html
    assert "920 patients" in repr(box)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (3.0, "under 10 s"),
        (12.0, "about 10 s"),
        (38.0, "about 40 s"),
        (95.0, "about 100 s"),
        (170.0, "about 3 min"),
    ],
)
def test_provenance_rounds_the_duration(seconds, said):
    box = book.Provenance(commit="", seed=0, data="<b>", versions={}, seconds=seconds)
    assert box.rows["Duration"].startswith(said)
    assert "&lt;b&gt;" in box._repr_html_()


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    return subprocess.run(
        ["git", "-C", folder, *who, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_commit_is_the_last_one_that_touched_the_library(tmp_path):
    library = tmp_path / "dfdlib"
    library.mkdir()
    assert book.library_commit(library) == "no commit"
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    (library / "a.py").write_text("x = 1\n")
    assert book.library_commit(library) == "no commit"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "library")
    first = git(tmp_path, "rev-parse", "--short=10", "HEAD")
    (tmp_path / "page.md").write_text("text\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "prose")
    (tmp_path / "page.md").write_text("more text\n")
    (library / "a.pyc").write_text("ignored")
    assert book.library_commit(library) == f"commit {first}"
    (library / "a.py").write_text("x = 2\n")
    assert book.library_commit(library) == f"commit {first}+"
    git(tmp_path, "checkout", "-q", ".")
    (library / "new.py").write_text("y = 1\n")
    assert book.library_commit(library) == f"commit {first}+"


# ------------------------------------------------------------------ beside the stored seeds


def test_a_run_stands_beside_its_seed_and_all_seeds():
    live = {("DFD", "new"): np.float64(0.618), ("ERM", "new"): 0.559, "not stored": 1.0}
    stored = {("DFD", "new"): [0.759, 0.4, 0.9], ("ERM", "new"): np.array([0.5, 0.56, 0.54])}
    table = book.beside_seeds(live, stored, place=1, digits=2)
    assert table.index.tolist() == list(stored)
    assert table.loc[("DFD", "new")].tolist() == [0.62, 0.4, 0.4, 0.9]
    assert table.loc[("ERM", "new")].tolist() == [0.56, 0.56, 0.5, 0.56]
    assert table.columns.tolist() == [
        "here", "stored for this seed", "lowest of 3 seeds", "highest of 3 seeds",
    ]  # fmt: skip


def test_a_run_beside_seeds_that_had_no_number():
    table = book.beside_seeds(pd.Series({"a": np.nan}), {"a": [None, 0.3, float("nan")]}, place=0)
    assert table.isna().to_numpy().tolist() == [[True, True, False, False]]
    with pytest.raises(ValueError, match=r"None of \['b'\] is among \['a'\]. Give both the same"):
        book.beside_seeds({"a": 1.0}, {"b": [1.0]}, place=0)


# ------------------------------------------------------------------ claims


def test_claims_table_joins_claims_and_results(small_book):
    claims = [
        {"id": "one", "claim": "It helps.", "reach": ["open", "credentialed"]},
        {"id": "two", "claim": "It holds.", "reach": ["truth"]},
    ]
    (small_book / "claims.yaml").write_text(yaml.safe_dump(claims))
    (small_book / "results" / "one" / "b.json").write_text(json.dumps({"speed": 2.0}))
    table = book.claims_table(root=small_book)
    assert table[["claim", "reach", "verdict"]].to_numpy().tolist() == [
        ["one", "open", "no result yet"],
        ["one", "credentialed", "needs credentialed data"],
        ["two", "truth", "no result yet"],
    ]
    result = {
        "schema": 1, "claim": "one", "reach": "open", "dataset": "heart", "method": "DFD",
        "parameters": {}, "estimand": "P(Y | X)", "margin": 0.01, "seeds": [0, 1],
        "metric": "auroc", "runs": [], "effect": 0.03, "low": 0.02, "high": 0.04,
        "verdict": "held", "selection": "last", "versions": {}, "device": "cpu", "commit": "a",
        "command": "make results",
    }  # fmt: skip
    (small_book / "results" / "one-heart-dfd.json").write_text(json.dumps(result))
    table = book.claims_table(["two", "one"], root=small_book)
    assert table["claim"].tolist() == ["two", "one", "one"]
    assert table["verdict"].tolist() == ["no result yet", "held", "needs credentialed data"]
    assert table.loc[1, ["dataset", "method", "effect", "low", "high", "seeds"]].tolist() == [
        "heart", "DFD", 0.03, 0.02, 0.04, [0, 1],
    ]  # fmt: skip
    with pytest.raises(
        ValueError, match=r"'ona' is not a claim of claims.yaml.*Did you mean 'one'"
    ):
        book.claims_table(["ona"], root=small_book)


def test_claims_table_finds_the_book():
    table = book.claims_table(["dfd-gain"])
    assert table["reach"].unique().tolist() == ["truth", "open", "credentialed"]


# ------------------------------------------------------------------ where the book is


def test_book_root_is_the_nearest_folder_with_a_table_of_contents(small_book):
    assert book.book_root(small_book / "chapters") == small_book
    assert book.book_root(ROOT / "tests") == ROOT


def test_outside_a_book_the_library_finds_its_own(tmp_path, monkeypatch):
    assert book.book_root(tmp_path) == ROOT
    monkeypatch.setattr("dfdlib.book.chapter.__file__", str(tmp_path / "site" / "a" / "b" / "c.py"))
    with pytest.raises(FileNotFoundError, match=r"no book at or above.*Change into a clone"):
        book.book_root(tmp_path)


# ------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("dfdlib/a.py", True),
        ("dfdlib/new/b.py", True),
        ("dfdlib/data/heart.csv", True),
        ("results/one/b.json", True),
        ("claims.yaml", True),
        ("requirements-book.lock", True),
        ("dfdlib/data/tables.yaml", True),
        ("results/one/c.parquet", True),
        ("workflow/grid.py", True),
        ("workflow/grid.yaml", True),
        ("workflow/profiles/a/config.yaml", True),
        ("workflow/__pycache__/grid.pyc", False),
        ("results/one/.snakemake_timestamp", False),
        ("chapters/page.md", False),
        ("_config.yml", False),
        ("dfdlib/a.pyc", False),
    ],
)
def test_cache_key_changes_with_what_chapters_compute_with_and_not_with_prose(
    small_book, path, changes
):
    before = tool.cache_key(small_book)
    assert tool.cache_key(small_book) == before
    (small_book / path).parent.mkdir(parents=True, exist_ok=True)
    (small_book / path).write_text("changed")
    assert (tool.cache_key(small_book) != before) == changes


def test_cache_key_knows_which_chapters_answer_a_claim_and_take_data(small_book):
    def written(title, line):
        cells = [
            v4.new_markdown_cell(f"Prose. {title}"),
            v4.new_code_cell(line, metadata={"tags": ["parameters"]}),
        ]
        nbformat.write(v4.new_notebook(cells=cells), small_book / "chapters" / "01-a.ipynb")
        return tool.cache_key(small_book)

    box = "\n:::{admonition} Claim `dfd-gain`\n:class: claim\n:::\n"
    keys = [written(box, "n = 1"), written(box + "more", "n = 1"), written("", "n = 1")]
    assert keys[0] == keys[1] != keys[2]
    assert written(box, "dataset = ''\nroot = ''") not in keys


def opened_by_chapters():
    """What the code of the chapters imports from workflow/ or names below the root of the book."""
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        for words in re.findall(r'book_root\(\)((?: / "[^"]+")+)', code):
            yield ROOT.joinpath(*re.findall(r'"([^"]+)"', words))
        for name in re.findall(r"(?m)^ *(?:import|from) ([\w.]+)", code):
            module = ROOT.joinpath("workflow", *name.split(".")).with_suffix(".py")
            if module.is_file():
                yield module


def test_all_that_chapters_open_is_in_the_cache_key(tmp_path):
    found = set(opened_by_chapters())
    assert {ROOT / "workflow" / "mmvm.yaml", ROOT / "claims.yaml", ROOT / "results"} <= found
    assert any(path.suffix == ".py" for path in found)  # chapters 19 to 21
    (tmp_path / "_toc.yml").write_text("format: jb-book\n")
    for path in sorted(found):
        here = tmp_path / path.relative_to(ROOT)
        if path.is_dir():
            here = here / "a.json"
        before = tool.cache_key(tmp_path)
        here.parent.mkdir(parents=True, exist_ok=True)
        here.write_text(f"{before}")
        assert tool.cache_key(tmp_path) != before, path


def test_cache_key_changes_when_a_file_is_renamed(small_book):
    before = tool.cache_key(small_book)
    (small_book / "dfdlib" / "a.py").rename(small_book / "dfdlib" / "b.py")
    assert tool.cache_key(small_book) != before


@pytest.mark.parametrize(("execute", "mode"), [("auto", "cache"), ("off", "off")])
def test_config_is_derived_on_the_command_line(small_book, execute, mode):
    command = [sys.executable, TOOL, "config", "--execute", execute]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(
        [*command, "--out", "_build/_config.yml"], cwd=small_book, env=environment, check=True
    )
    config = yaml.safe_load((small_book / "_build" / "_config.yml").read_text())
    assert config["execute"] == {
        "timeout": 300,
        "execute_notebooks": mode,
        "cache": str(small_book / "_build" / f"cache-{tool.cache_key(small_book)}"),
    }
    assert (config["title"], config["logo"]) == ("A book", "_static/logo.svg")


def test_caches_of_older_states_are_removed(small_book):
    build = small_book / "_build"
    now, old = build / f"cache-{tool.cache_key(small_book)}", build / "cache-0123456789abcdef"
    for folder in (now, old, build / "html"):
        folder.mkdir(parents=True)
    tool.write_config(build / "_config.yml", execute="off", root=small_book)
    assert old.is_dir()
    tool.write_config(build / "_config.yml", root=small_book)
    assert sorted(path.name for path in build.iterdir()) == ["_config.yml", now.name, "html"]


# ------------------------------------------------------------------ generated pages


def test_departures_are_collected_with_their_place(small_book):
    (small_book / "dfdlib" / "a.py").write_text(
        '"""# DIFF: in a string, so not one."""\n'
        "# DIFF: at the top,\n"
        "# over two lines\n"
        "x = 1  # DIFF: at the end of a line\n"
        "# another comment\n\n\n"
        "class A:\n"
        "    def f(self):\n"
        "        # DIFF: inside\n"
        "        return 1\n"
    )
    found = tool.departures(small_book)
    assert found.to_numpy().tolist() == [
        ["dfdlib.a", "", "at the top, over two lines"],
        ["dfdlib.a", "", "at the end of a line"],
        ["dfdlib.a", "A.f", "inside"],
    ]


def test_generated_pages_are_in_step_with_their_sources():
    for path, text in tool.pages().items():
        assert path.read_text(encoding="utf8") == text, "run: python tools/book.py pages"


def test_claims_page_holds_every_claim_once():
    text = (ROOT / "chapters" / "about" / "claims.md").read_text(encoding="utf8")
    claims = yaml.safe_load((ROOT / "claims.yaml").read_text(encoding="utf8"))
    for claim in claims:
        assert text.count(f"(claim-{claim['id']})=\n### {claim['id']}\n") == 1
        for row in claim.get("published", ()):
            value = row["value"] if isinstance(row["value"], list) else [row["value"]]
            assert all(f"{number}" in text for number in value)
    assert text.count("\n### ") == len(claims)


def test_the_command_rewrites_the_pages(small_book):
    shutil.copy(ROOT / "claims.yaml", small_book)
    about = small_book / "chapters" / "about"
    about.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, TOOL, "pages"]
    subprocess.run(command, cwd=small_book, env=environment, check=True)
    same = (ROOT / "chapters" / "about" / "claims.md").read_text()
    assert (about / "claims.md").read_text() == same
    assert "# Departures" in (about / "departures.md").read_text()


# ------------------------------------------------------------------ the pages as a whole


def test_the_reference_names_every_public_module():
    text = (ROOT / "chapters" / "api.md").read_text()
    public = {
        f"dfdlib.{path.stem}" for path in (ROOT / "dfdlib").glob("[!_]*")
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }  # fmt: skip
    assert public - {f"dfdlib.{name}" for name in ("arrays", "cli", "errors", "files")} == {
        line.split("automodule:: ")[1] for line in text.splitlines() if "automodule::" in line
    }


def test_every_key_that_is_cited_is_in_the_bibliography():
    known = set(re.findall(r"@\w+\{(\w+),", (ROOT / "references.bib").read_text()))
    for path in (ROOT / "chapters").rglob("*.md"):
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", path.read_text(encoding="utf8")):
            assert set(keys.split(",")) <= known, path.name


def test_mathjax_is_whole():
    folder = ROOT / "_vendor" / "mathjax"
    script = (folder / "tex-mml-chtml.js").read_text(encoding="utf8")
    assert "3.2.2" in script
    fonts = {path.name for path in (folder / "output" / "chtml" / "fonts" / "woff-v2").iterdir()}
    assert {"MathJax_Main-Regular.woff", "MathJax_Math-Italic.woff"} <= fonts
    assert "Apache License" in (folder / "LICENSE").read_text()

"""tools/notebooks.py: re-execution in place, and what a normalised chapter holds."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

TOOL = Path(__file__).parents[1] / "tools" / "notebooks.py"

spec = importlib.util.spec_from_file_location("notebooks_tool", TOOL)
notebooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(notebooks)


def run(command, *paths):
    return subprocess.run(
        [sys.executable, TOOL, command, *paths], capture_output=True, text=True, check=False
    )


@pytest.fixture
def messy():
    """A notebook with everything that differs from run to run."""
    cells = [
        new_markdown_cell("# Title", metadata={"collapsed": True}),
        new_code_cell(
            "a = 1",
            execution_count=7,
            metadata={
                "tags": ["parameters"],
                "execution": {"iopub.execute_input": "2026-01-01T00:00:00Z"},
                "papermill": {"duration": 0.1},
            },
        ),
        new_code_cell(""),
        new_code_cell(
            "a",
            execution_count=9,
            metadata={"mystnb": {"image": {"alt": "A figure"}}},
            outputs=[
                new_output("execute_result", {"text/plain": "1"}, execution_count=9),
                new_output(
                    "display_data",
                    {"application/papermill.record/text/plain": "1"},
                    metadata={"scrapbook": {"name": "a"}},
                ),
                new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}}),
            ],
        ),
    ]
    metadata = {
        "kernelspec": {"name": "mine", "display_name": "My kernel"},
        "language_info": {"name": "python", "version": "3.13.1"},
        "papermill": {"output_path": "out.ipynb"},
        "widgets": {"state": {}},
    }
    return new_notebook(cells=cells, metadata=metadata)


def test_normalise_keeps_content_and_drops_the_rest(messy):
    clean = notebooks.normalise(messy)

    assert [cell.source for cell in clean.cells] == [cell.source for cell in messy.cells]
    assert [cell.id for cell in clean.cells] == ["cell-01", "cell-02", "cell-03", "cell-04"]
    assert [cell.metadata for cell in clean.cells] == [
        {},
        {"tags": ["parameters"]},
        {},
        {"mystnb": {"image": {"alt": "A figure"}}},
    ]
    assert [cell.execution_count for cell in clean.cells[1:]] == [1, None, 2]
    assert clean.metadata == notebooks.METADATA
    result, glued = clean.cells[3].outputs
    assert result.execution_count == 2
    assert glued.metadata.scrapbook.name == "a"
    nbformat.validate(clean)


def test_normalise_is_idempotent_and_leaves_its_argument_alone(messy):
    before = nbformat.writes(messy)
    once = notebooks.normalise(messy)
    assert notebooks.text(notebooks.normalise(once)) == notebooks.text(once)
    assert nbformat.writes(messy) == before


def test_check_fails_until_normalised(tmp_path, messy):
    path = tmp_path / "chapter.ipynb"
    nbformat.write(messy, path)

    refused = run("check", path)
    assert refused.returncode == 1
    assert f"notebooks.py normalise {path}" in refused.stderr
    assert run("normalise", path).returncode == 0
    assert run("check", path).returncode == 0


def test_refresh_executes_in_the_folder_of_the_chapter(tmp_path):
    (tmp_path / "beside.txt").write_text("41")
    path = tmp_path / "chapter.ipynb"
    code = "from pathlib import Path\nint(Path('beside.txt').read_text()) + 1"
    nbformat.write(new_notebook(cells=[new_code_cell(code), new_code_cell("_ * 2")]), path)

    assert run("refresh", path).returncode == 0
    first = path.read_text()
    cells = nbformat.read(path, as_version=4).cells
    assert [cell.outputs[0].data["text/plain"] for cell in cells] == ["42", "84"]
    assert run("check", path).returncode == 0

    assert run("refresh", path).returncode == 0
    assert path.read_text() == first, "two runs of the same chapter give the same file"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["beside.txt", "chapter.ipynb"]


def test_refresh_leaves_a_failing_chapter_as_it_was(tmp_path):
    good, bad = tmp_path / "good.ipynb", tmp_path / "bad.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1 + 1")]), good)
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0")]), bad)
    before = bad.read_text()

    outcome = run("refresh", bad, good)
    assert outcome.returncode == 1
    assert f"{bad}: not refreshed" in outcome.stderr
    assert "ZeroDivisionError" in outcome.stderr
    assert bad.read_text() == before
    assert "refreshed" in outcome.stdout, "the others are still refreshed"

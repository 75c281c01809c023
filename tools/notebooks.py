"""Re-execute chapters in place, and keep out of their files what differs from run to run.

    python tools/notebooks.py refresh chapters/*.ipynb      # execute, then normalise
    python tools/notebooks.py normalise chapters/*.ipynb    # normalise only
    python tools/notebooks.py check chapters/*.ipynb        # fail if a file is not normalised

A normalised notebook holds its cells, their tags, and the outputs of one run from top to bottom:
cells are named by position and counted 1, 2, …; no timestamps, no kernel or Python version, no
widget state, no papermill record.
"""

import argparse
import copy
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
# tags: papermill, nbval and the book read them. mystnb: alt text and captions of figures.
CELL_METADATA = {"tags", "mystnb"}
WIDGET = "application/vnd.jupyter.widget"


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Return a copy that depends on the notebook's content only."""
    notebook = copy.deepcopy(notebook)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = nbformat.from_dict(METADATA)
    count = 0
    for position, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{position:02d}"
        cell.metadata = nbformat.from_dict(
            {key: value for key, value in cell.metadata.items() if key in CELL_METADATA}
        )
        if cell.cell_type == "code":
            executed = bool(cell.source.strip())
            count += executed
            cell.execution_count = count if executed else None
            cell.outputs = list(_outputs(cell))
    return notebook


def _outputs(cell: NotebookNode) -> Iterator[NotebookNode]:
    for output in cell.outputs:
        output.pop("transient", None)
        if "execution_count" in output:
            output.execution_count = cell.execution_count
        if "data" in output:
            output.data = nbformat.from_dict(
                {kind: data for kind, data in output.data.items() if not kind.startswith(WIDGET)}
            )
            if not output.data:
                continue
        yield output


def text(notebook: NotebookNode) -> str:
    """Return what the file of a notebook holds."""
    return nbformat.writes(notebook) + "\n"


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run every cell in a fresh kernel that works in `folder`."""
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()


def replace(path: Path, content: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(content, encoding="utf-8")
    os.replace(part, path)


def refresh(path: Path) -> bool:
    """Execute a chapter and store it; leave the file as it was where a cell fails."""
    start = time.perf_counter()
    try:
        notebook = execute(nbformat.read(path, as_version=4), path.resolve().parent)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        print(f"{path}: not refreshed. {error}", file=sys.stderr)
        return False
    replace(path, text(normalise(notebook)))
    print(f"{path}: refreshed in {time.perf_counter() - start:.0f} s")
    return True


def tidy(path: Path) -> bool:
    """Normalise a chapter without executing it."""
    replace(path, text(normalise(nbformat.read(path, as_version=4))))
    return True


def check(path: Path) -> bool:
    """Say whether the file is as `normalise` would write it."""
    good = path.read_text(encoding="utf-8") == text(normalise(nbformat.read(path, as_version=4)))
    if not good:
        print(
            f"{path}: not normalised. Run: python tools/notebooks.py normalise {path}",
            file=sys.stderr,
        )
    return good


def main() -> int:
    """Apply one command to each notebook; return 1 where any failed."""
    commands = {"refresh": refresh, "normalise": tidy, "check": check}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=commands)
    parser.add_argument("notebooks", nargs="+", type=Path)
    arguments = parser.parse_args()
    # a list: a chapter that fails does not keep the next from its turn
    done = [commands[arguments.command](path) for path in arguments.notebooks]
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())

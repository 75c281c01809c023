"""Which chapters answer a claim, and which of them take a data set that the user brings."""

import json
import re
from pathlib import Path
from typing import Any

from dfdlib.book._files import book_root, load_claims


def answers(root: Path | None = None) -> dict[str, list[str]]:
    """Find the chapters that answer each claim: those whose claim box names it in its title."""
    root = root or book_root()
    boxes = boxed(root)
    return {
        claim["id"]: [chapter for chapter, named in boxes.items() if claim["id"] in named]
        for claim in load_claims(root)
    }


def boxed(root: Path) -> dict[str, list[str]]:
    """What each chapter names in the titles of its claim boxes."""
    found = {}
    for path in sorted((root / "chapters").glob("*.ipynb")):
        texts = ["".join(c["source"]) for c in _cells(path) if c["cell_type"] == "markdown"]
        boxes = re.findall(r"\{admonition\}([^\n]*)\n:class: claim\b", "\n".join(texts))
        found[path.stem] = re.findall(r"`([a-z-]+)`", " ".join(boxes))
    return found


def takes_data(root: Path, chapter: str) -> bool:
    """Whether a chapter has the parameters `dataset` and `root`."""
    for cell in _cells(root / "chapters" / f"{chapter}.ipynb"):
        if "parameters" in cell["metadata"].get("tags", ()):
            names = re.findall(r"(?m)^(\w+) *=", "".join(cell["source"]))
            return {"dataset", "root"} <= set(names)
    return False


def _cells(notebook: Path) -> list[dict[str, Any]]:
    return json.loads(notebook.read_text(encoding="utf8"))["cells"]

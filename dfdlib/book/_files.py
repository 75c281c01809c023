"""Where the book is, and the claims that it has to answer."""

from pathlib import Path
from typing import Any

import yaml


def book_root(start: str | Path = ".") -> Path:
    """Find the folder of the book: the nearest one at or above `start` with a `_toc.yml`.

    Outside every clone it is the one that the library was installed from, if it was.

    Raises:
        FileNotFoundError: neither is there.
    """
    here = Path(start).resolve()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (folder / "_toc.yml").is_file():
            return folder
    raise FileNotFoundError(
        f"no book at or above '{here}' (looked for _toc.yml). "
        "Change into a clone of the book's repository first."
    )


def load_claims(root: Path) -> list[dict[str, Any]]:
    """Read `claims.yaml`."""
    return yaml.safe_load((root / "claims.yaml").read_text(encoding="utf8"))

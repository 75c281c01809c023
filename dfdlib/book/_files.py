"""Where the book is, and the claims that it has to answer."""

import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

#: Environment variable: the folder beside which a chapter writes what it computed on a user's data.
OWN_RESULTS = "DFDLIB_OWN_RESULTS"


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


def writable(folder: Path) -> Path:
    """Make a folder, and see that something can be written there.

    Raises:
        ValueError: nothing can.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = (error.strerror or "it cannot be made").lower()
        raise ValueError(
            f"nothing can be written into '{folder}' ({reason}). Name a folder of your own: "
            "dfdlib run … --out FOLDER"
        ) from None
    return folder


def results_folder() -> Path:
    """Where own results go: beside the output that `dfdlib run` was told, else `runs/`."""
    told = os.environ.get(OWN_RESULTS)
    return (Path(told) if told else book_root() / "runs") / "own"


def load_claims(root: Path) -> list[dict[str, Any]]:
    """Read `claims.yaml`."""
    return yaml.safe_load((root / "claims.yaml").read_text(encoding="utf8"))

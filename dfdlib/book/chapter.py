"""What the chapters share: glued numbers, runs beside stored ones, provenance, the claims."""

import ast
import html
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
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


#: the tolerance of a number that is shown and not compared
SHOWN = "shown"

_RECORD = "application/papermill.record/"
_STARTED = time.monotonic()
_DISTRIBUTIONS = ("dfdlib", "torch", "torch-geometric", "numpy", "pandas", "scikit-learn")
_BROUGHT: list[str] = []  # what `brought` was told: a notebook runs in a process of its own
_NO_RESULT = {"credentialed": "needs credentialed data"}


def glue(name: str, value: Any, *, digits: int | None = None) -> None:
    """Make a value available to the prose as ``{glue:text}`name```; every number goes through here.

    numpy and torch scalars become plain Python, because the page would otherwise print
    `np.float64(0.87)`. Outside a notebook the value is only checked.

    Args:
        name: what the prose calls it; unique in the chapter.
        value: a number or a string.
        digits: decimals that the page shows. Without it write the format in the prose:
            ``{glue:text}`name:.2f```.

    Raises:
        TypeError: the value is neither a number nor a string.
        ValueError: the value is not finite.

    >>> glue("auroc", 0.8712, digits=2)
    >>> glue("auroc", float("nan"))
    Traceback (most recent call last):
    ...
    ValueError: 'auroc' is nan, and the page would say so. Glue a text instead, ...
    """
    with suppress(AttributeError, ValueError, RuntimeError):  # no scalar, or several of them
        value = value.item()
    if not isinstance(value, (int, float, str)):
        raise TypeError(
            f"'{name}' is a {type(value).__name__}; the prose takes a number or a string. "
            f"Pick one value, for example glue('{name}', table.loc['va', 'value'])."
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(
            f"'{name}' is {value}, and the page would say so. "
            f"Glue a text instead, for example glue('{name}', 'not defined')."
        )
    if digits is not None:
        value = f"{value:.{digits}f}"
    if _in_notebook():
        sys.modules["IPython"].display.display(
            {f"{_RECORD}text/plain": repr(value)},
            metadata={"scrapbook": {"name": name, "mime_prefix": _RECORD}},
            raw=True,
        )


def glued(notebook: Mapping[str, Any]) -> dict[str, str]:
    """Read what a notebook glued: as the prose shows it, by name.

    Args:
        notebook: its JSON, as `json.load` or `nbformat.read` returns it.

    Raises:
        ValueError: a name that is glued twice.
    """
    numbers: dict[str, str] = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if name in numbers:
                raise ValueError(f"'{name}' is glued twice. Give each number a name of its own")
            if name is not None:
                lines = output["data"][f"{_RECORD}text/plain"]  # a list in a file, else a text
                numbers[name] = str(ast.literal_eval("".join(lines)))
    return numbers


def is_as_reported(
    glued_as: str, entry: Mapping[str, Any], *, elsewhere: bool = False
) -> bool | None:
    """Whether a glued number lies within the tolerance of its entry in `tests/expected.yaml`.

    Args:
        glued_as: the number, as the page shows it.
        entry: value, atol, and `elsewhere` where another processor may move the number further: how
            far, or "shown" where it moves it as far as another seed, so that nothing is compared.
        elsewhere: compare by `elsewhere`, as for a run on the reader's machine.

    Returns:
        Whether it does; None where nothing is compared.

    >>> is_as_reported("0.71", {"value": 0.7, "atol": 0.02})
    True
    >>> is_as_reported("hungary", {"value": "va", "atol": 0})
    False
    >>> is_as_reported("0.3", {"value": 0.7, "atol": 0.02, "elsewhere": "shown"}, elsewhere=True)
    """
    atol = entry.get("elsewhere", entry["atol"]) if elsewhere else entry["atol"]
    if atol == SHOWN:
        return None
    if isinstance(entry["value"], str):
        return glued_as == entry["value"]
    try:
        apart = abs(float(glued_as) - entry["value"])
    except ValueError:  # a word where a number was
        return False
    return bool(apart <= atol + 1e-9)


def beside_reported(
    notebook: Mapping[str, Any], chapter: str, *, root: Path | None = None
) -> pd.DataFrame:
    """Put each number that a chapter reports beside that of a run of it.

    Args:
        notebook: the run, as in `glued`.
        chapter: name of the chapter, for example "10-ablations".
        root: folder of the book; None finds it.

    Returns:
        A row per name: yours, ours, tolerance, inside, and from ("this run", or the stored result
        that the chapter read). What a run did not glue has "–" as yours; what differs from one
        processor to another as from seed to seed has the tolerance "shown", and None as inside.

    Raises:
        FileNotFoundError: the book is no checkout, which alone has `tests/expected.yaml`.
    """
    path = (root or book_root()) / "tests" / "expected.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            "tests/expected.yaml, which holds the reported numbers, is not there. "
            "Run from a clone of the book's repository"
        )
    reported = yaml.safe_load(path.read_text(encoding="utf8")) or {}
    numbers = glued(notebook)
    rows = {
        name: {
            "yours": numbers.get(name, "–"),
            "ours": str(entry["value"]),
            "tolerance": str(entry.get("elsewhere", entry["atol"])),
            "inside": name in numbers and is_as_reported(numbers[name], entry, elsewhere=True),
            "from": "this run" if entry["source"] == "chapter" else entry["source"],
        }
        for name, entry in reported.get(chapter, {}).items()
    }
    columns = ["yours", "ours", "tolerance", "inside", "from"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def beside_seeds(
    live: Mapping[Any, float] | pd.Series,
    stored: Mapping[Any, Sequence[float | None]],
    *,
    place: int,
    digits: int = 2,
) -> pd.DataFrame:
    """Show what a page computed beside what was stored: for its seed, and over all seeds.

    For numbers that another processor changes as another seed does, such as those of DFD's streams.
    What is the same on every processor is better checked, within a tolerance.

    Args:
        live: the page's numbers by name; those that were not stored are left out.
        stored: for each name a number per seed, None or NaN where a run had none.
        place: where the page's seed stands among the stored ones.
        digits: decimals that are shown.

    Raises:
        ValueError: nothing of what was stored is among the page's numbers.

    >>> beside_seeds({"causal": 0.61}, {"causal": [0.84, 0.5, None]}, place=0)
            here  stored for this seed  lowest of 3 seeds  highest of 3 seeds
    causal  0.61                  0.84                0.5                0.84
    """
    rows = {}
    for name, values in stored.items():
        if name not in live:
            continue
        kept = pd.Series(values, dtype=float)
        seeds = f"of {len(kept)} seeds"
        rows[name] = {
            "here": float(live[name]),
            "stored for this seed": kept.iloc[place],
            f"lowest {seeds}": kept.min(),
            f"highest {seeds}": kept.max(),
        }
    if not rows:
        raise ValueError(f"None of {list(stored)} is among {list(live)}. Give both the same names.")
    return pd.DataFrame(rows).T.round(digits)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a chapter's numbers come from; a notebook shows it as a box."""

    commit: str
    seed: int
    data: str
    versions: dict[str, str]
    seconds: float

    @property
    def rows(self) -> dict[str, str]:
        """What the box says, by label."""
        return {
            "Library": self.commit,
            "Data": self.data,
            "Seed": str(self.seed),
            "Versions": " · ".join(f"{name} {version}" for name, version in self.versions.items()),
            "Duration": f"{_rounded(self.seconds)} on {os.cpu_count()} processor cores",
        }

    def __repr__(self) -> str:
        """One line a label."""
        return "\n".join(f"{label}: {text}" for label, text in self.rows.items())

    def _repr_html_(self) -> str:
        items = "".join(
            f"<dt>{label}</dt><dd>{html.escape(text)}</dd>" for label, text in self.rows.items()
        )
        return f'<aside class="provenance"><p>How this page was made</p><dl>{items}</dl></aside>'


def brought(dataset: str) -> None:
    """Note the data that the reader of a notebook named, for its box; of a path, the last part."""
    name = Path(dataset).name
    if _in_notebook() and name not in _BROUGHT:
        _BROUGHT.append(name)


def provenance(*, seed: int, data: str) -> Provenance:
    """Say where the numbers of a chapter come from: its last cell.

    Where the reader brought data, the box names that, and not the book's: see `brought`. The commit
    is the last one that touched the library, with a `+` where files were changed since; the
    duration counts from the import of this module, and is rounded.

    Args:
        seed: the chapter's parameter.
        data: name of the data, for example "UCI heart disease, 920 patients".
    """
    versions = {name: metadata.version(name) for name in _DISTRIBUTIONS}
    return Provenance(
        commit=f"dfdlib {versions.pop('dfdlib')}, {library_commit()}",
        seed=seed,
        data=_own_data() or data,
        versions={"python": platform.python_version()} | versions,
        seconds=time.monotonic() - _STARTED,
    )


def _own_data() -> str:
    made_up = [name for name in _BROUGHT if name.startswith("made-up")]
    theirs = [name for name in _BROUGHT if name not in made_up]
    said = [f"your own data: {', '.join(theirs)}"] * bool(theirs) + made_up
    return f"{'; '.join(said)}. What else the page shows is the book's" if said else ""


def library_commit(package: str | Path = Path(__file__).parents[1]) -> str:
    """Last commit that touched the library, `+` where it was changed since; else "no commit"."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words, "--", "."]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("log", "-1", "--format=%h", "--abbrev=10")
        changed = git("status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        commit = changed = ""
    return f"commit {commit}{'+' if changed else ''}" if commit else "no commit"


def _rounded(seconds: float) -> str:
    if seconds < 10:
        return "under 10 s"
    if seconds < 100:
        return f"about {round(seconds, -1):.0f} s"
    return f"about {seconds / 60:.0f} min"


def claims_table(ids: Sequence[str] | None = None, *, root: Path | None = None) -> pd.DataFrame:
    """List claims with what became of them: a row per claim, reach and stored result.

    Args:
        ids: claims of `claims.yaml`, in the order wanted; None takes all.
        root: folder of the book; None finds it.

    Returns:
        Columns claim, statement, reach, verdict, dataset, method, metric, effect, low, high,
        margin, seeds, estimand, command and file. Where no result is stored, the verdict says why.

    Raises:
        ValueError: an id that `claims.yaml` does not have.
    """
    # Late: both import torch, and the commands of this package do without.
    from dfdlib.errors import unknown
    from dfdlib.evaluation import read_results

    root = root or book_root()
    claims = {claim["id"]: claim for claim in load_claims(root)}
    for name in ids or ():
        if name not in claims:
            raise unknown(name, claims, "claim of claims.yaml")
    wanted = pd.DataFrame(
        [
            {"claim": name, "statement": claims[name]["claim"], "reach": reach}
            for name in ids or claims
            for reach in claims[name]["reach"]
        ]
    )
    columns = ["claim", "reach", "verdict", "dataset", "method", "metric"]
    columns += ["effect", "low", "high", "margin", "seeds", "estimand", "command", "file"]
    results = read_results(root / "results").reindex(columns=columns).astype({"claim": object})
    table = wanted.merge(results, how="left", on=["claim", "reach"])
    none_yet = table["reach"].map(lambda reach: _NO_RESULT.get(reach, "no result yet"))
    return table.assign(verdict=table["verdict"].fillna(none_yet))

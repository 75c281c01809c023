"""Results as JSON files: one per claim × data set × method, and nothing else holds a number."""

import json
import math
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from dfdlib.errors import unknown
from dfdlib.files import write_whole

SCHEMA = 1
REACHES = ("truth", "open", "credentialed")
VERDICTS = ("held", "did not hold", "undecided")

_TEXT = ("claim", "dataset", "method", "estimand", "metric", "selection", "command")
_REQUIRED = (
    *("claim", "reach", "dataset", "method", "parameters", "estimand", "margin", "seeds"),
    *("metric", "runs", "effect", "low", "high", "verdict", "selection", "command"),
)
_FILLED = ("schema", "versions", "device", "commit")
_ROOT = Path(__file__).resolve().parents[2]


def write_result(path: str | Path, *, claims: str | Path | None = None, **fields: Any) -> Path:
    """Write one result as JSON; the file appears whole or not at all.

    Keys are sorted and floats written in full, so equal results are equal files. NaN becomes
    null. `schema`, `versions` and `commit` are filled in; so is `device` unless it is passed.

    Args:
        path: Where to; folders are created.
        claims: The list of claims; by default the nearest `claims.yaml` at or above the working
            folder, else the one beside the package. Without any, claim ids are not checked.
        **fields: `claim`, `reach`, `dataset`, `method`, `parameters` (dict), `estimand`, `margin`,
            `seeds` (list), `metric`, `runs` (list of {seed, value}, one per seed), `effect`, `low`,
            `high`, `verdict`, `selection` (the rule that picked the weights), `command` (what
            repeats the result), and optionally `device`.

    Returns:
        The path.

    Raises:
        ValueError: A field is missing, unknown, or holds what it cannot hold.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_result(
    ...         f"{folder}/a.json", claim="dfd-gain", reach="open", dataset="heart", method="DFD",
    ...         parameters={"d": 8}, estimand="P(Y | X)", margin=0.01, seeds=[0], metric="auroc",
    ...         runs=[{"seed": 0, "value": 0.02}], effect=0.02, low=-0.01, high=0.05,
    ...         verdict="undecided", selection="last epoch", command="make results",
    ...     )
    ...     read_results(folder)[["claim", "effect", "verdict"]]
          claim  effect    verdict
    0  dfd-gain    0.02  undecided
    """
    path = Path(path)
    _check(fields, Path(claims) if claims is not None else _find_claims())
    filled = {
        "schema": SCHEMA,
        "versions": versions(),
        "device": _device(),
        "commit": commit(),
        **fields,
    }
    text = json.dumps(_plain(filled), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_whole(path, text)
    return path


def read_results(folder: str | Path) -> pd.DataFrame:
    """Read every result below a folder: one row per file, in the order of their paths.

    JSON files that answer no claim (benchmarks, for example) are passed over.

    Returns:
        The fields of `write_result`, and `file`, the path relative to the folder.

    Raises:
        ValueError: A file that is no JSON, or of another schema.
        FileNotFoundError: There is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {str(folder)!r}. Run `make results`, or pass another")
    rows = []
    for file in sorted(folder.rglob("*.json")):
        name = file.relative_to(folder).as_posix()
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{name} is no JSON ({error}). Delete it and write it again") from None
        if not isinstance(stored, dict) or "claim" not in stored:
            continue
        if stored.get("schema") != SCHEMA:
            raise ValueError(
                f"{name} has schema {stored.get('schema')!r}, this version reads {SCHEMA}. "
                "Write it again with write_result"
            )
        rows.append({**stored, "file": name})
    frame = pd.DataFrame(rows, columns=[*sorted({*_REQUIRED, *_FILLED}), "file"])
    numbers = ["effect", "low", "high", "margin"]
    return frame.astype(dict.fromkeys(numbers, float))


def _check(fields: Mapping[str, Any], claims: Path | None) -> None:
    for name in fields:
        if name not in _REQUIRED and name != "device":
            raise unknown(name, (*_REQUIRED, "device"), "field of a result")
    missing = [name for name in _REQUIRED if name not in fields]
    if missing:
        raise ValueError(f"missing fields: {', '.join(missing)}. Pass {missing[0]}=…")
    for name in _TEXT:
        if not isinstance(fields[name], str) or not fields[name]:
            raise ValueError(f"{name} is {fields[name]!r}. Pass a text that says it")
    if fields["reach"] not in REACHES:
        raise unknown(fields["reach"], REACHES, "reach")
    if fields["verdict"] not in VERDICTS:
        raise unknown(fields["verdict"], VERDICTS, "verdict")
    if not isinstance(fields["parameters"], Mapping):
        raise ValueError(f"parameters is {fields['parameters']!r}. Pass a dict of name: value")
    for name in ("margin", "effect", "low", "high"):
        if not _is_number(fields[name]):
            raise ValueError(f"{name} is {fields[name]!r}. Pass a finite number, or NaN")
    if not fields["margin"] >= 0:
        raise ValueError(f"margin is {fields['margin']!r}. Pass a number from 0 up")
    if fields["low"] > fields["high"]:
        raise ValueError(f"low {fields['low']} lies above high {fields['high']}. Swap them")
    _check_runs(fields["seeds"], fields["runs"])
    if claims is not None:
        ids = [entry["id"] for entry in yaml.safe_load(claims.read_text(encoding="utf-8"))]
        if fields["claim"] not in ids:
            raise unknown(fields["claim"], ids, f"claim of {claims.name}")


def _check_runs(seeds: Any, runs: Any) -> None:
    for run in runs:
        if not isinstance(run, Mapping) or set(run) != {"seed", "value"}:
            raise ValueError(f"runs holds {run!r}. Pass a list of {{'seed': 0, 'value': 0.5}}")
        if not _is_number(run["value"]):
            raise ValueError(f"seed {run['seed']} has {run['value']!r}. Pass a number, or NaN")
    if not len(seeds) or list(seeds) != [run["seed"] for run in runs]:
        raise ValueError(
            f"seeds are {list(seeds)}, runs have {[run['seed'] for run in runs]}. "
            "Pass one run per seed, in the order of seeds"
        )


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float | np.integer | np.floating)
    return number and not isinstance(value, bool) and not math.isinf(value)


def _plain(value: Any) -> Any:
    """Turn a value into what JSON knows; NaN becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | torch.Tensor | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError("a result holds an infinite number. Pass finite numbers, or NaN")
        return None if math.isnan(value) else value
    if value is None or isinstance(value, str | int):
        return value
    raise ValueError(f"a result holds {value!r}. Pass text, numbers, lists and dicts of them")


def _find_claims() -> Path | None:
    folders = [Path.cwd(), *Path.cwd().parents, _ROOT]
    return next((f / "claims.yaml" for f in folders if (f / "claims.yaml").is_file()), None)


def versions() -> dict[str, str]:
    """Name the versions of Python and of what results depend on."""
    packages = ("torch", "numpy", "scikit-learn", "dfdlib")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def commit() -> str:
    """The library's commit; "unknown" where it is not run from its own repository."""
    if not (_ROOT / ".git").exists():
        return "unknown"
    try:
        git = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=_ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return git.stdout.strip()

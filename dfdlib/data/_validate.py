"""What a user passes beside modalities and masks: labels, groups, tables, positions."""

import difflib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

Task = Literal["binary", "multiclass", "multilabel"]

# The same code for a word in every hospital, and no code for a missing one.
_CODES = "place in one fixed list: pd.Categorical({}, categories=[...]).codes, NaN for -1".format


def unknown(word: object, options: Iterable[object], what: str) -> ValueError:
    """Build the error for a name that does not exist, with the list and the nearest name."""
    names = [str(option) for option in options]
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    near = difflib.get_close_matches(str(word), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else " Use one of these names."
    return ValueError(f"{word!r} is not a {what} ({listed}).{hint}")


def numbers(value: Any, what: str) -> np.ndarray:
    """Read numpy, torch or pandas as a numeric array in which every missing value is NaN."""
    if isinstance(value, pd.DataFrame):
        columns = [numbers(column, f"{what} ({name})") for name, column in value.items()]
        return np.column_stack(columns) if columns else np.empty((len(value), 0))
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        array = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    else:
        array = np.asarray(value)
    if array.dtype == object:
        kind = pd.api.types.infer_dtype(array.ravel(), skipna=True)
        if kind in ("integer", "floating", "mixed-integer-float", "boolean", "decimal", "empty"):
            return np.where(pd.isna(array), np.nan, array).astype(np.float64)
        raise ValueError(f"{what} holds {kind}, not numbers. {_as_numbers(what, kind)}")
    if array.dtype.kind not in "biuf":
        kind = str(array.dtype)
        raise ValueError(f"{what} holds {kind}, not numbers. {_as_numbers(what, kind)}")
    return array


def _as_numbers(what: str, kind: str) -> str:
    """How to make numbers of dates, labels or text so that no row and no hospital changes them."""
    if "date" in kind or "time" in kind:
        return "Pass days since an event: (column - admission).dt.days"
    if what.partition(" ")[0] == "y":
        return (
            f"Pass (y == 'died').astype(float).where(y.notna()); of more classes the {_CODES('y')}"
        )
    return (
        "Pass pd.to_numeric(column, errors='coerce') if these are numbers kept as text; of words "
        f"the {_CODES('column')}"
    )


def float32(array: np.ndarray, what: str, columns: Sequence[str]) -> np.ndarray:
    """Narrow a table to float32, and warn where that loses how a column's values differ."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, and is refused
        narrow = array.astype(np.float32)
        if array.dtype.itemsize <= narrow.itemsize:
            return narrow
        for column, values in zip(columns, array.T, strict=True):
            values = values[np.isfinite(values)]
            largest = np.abs(values).max(initial=0)
            step, spread = np.spacing(np.float32(largest)), np.ptp(values) if len(values) else 0
            if 100 * step > spread > 1e-12 * largest:  # below that it is rounding of a constant
                warnings.warn(
                    f"{what}, column {column!r}: values up to {largest:g} that differ by "
                    f"{spread:g} in all are stored as float32, in steps of {step:g}. Subtract an "
                    "origin first, for example pass days since admission",
                    UserWarning,
                    stacklevel=2,
                )
    return narrow


def labels(y: Any, task: str | None, n: int) -> tuple[np.ndarray | None, Task | None, int | None]:
    """Read labels as float32 with NaN where missing; return them with task and number of classes.

    The task is inferred where it is None: 1-d 0/1 is binary, 1-d 0..K-1 multiclass, 2-d
    multilabel. The number of classes is K, or the number of labels of a multilabel task.
    """
    if task not in (None, "binary", "multiclass", "multilabel"):
        raise unknown(task, ("binary", "multiclass", "multilabel"), "task")
    if y is None:
        if task is not None:
            raise ValueError(f"task={task!r} is given without labels. Pass y=, or leave out task=")
        return None, None, None
    array = numbers(y, "y").astype(np.float32)
    if array.shape[:1] != (n,):
        raise ValueError(f"y has shape {array.shape}, the modalities have {n} rows. Pass one each")
    if array.ndim == 2 and array.shape[1] == 1 and task != "multilabel":
        raise ValueError(
            f"y has shape {array.shape}: one column, which could be a label or a list of labels. "
            "Pass y.squeeze(1), or task='multilabel'"
        )
    if array.ndim != (2 if task == "multilabel" else 1) and (task or array.ndim != 2):
        raise ValueError(
            f"y has shape {array.shape}, which does not fit task={task!r}. "
            "Pass (n,) for binary and multiclass, (n, labels) for multilabel"
        )
    seen = np.unique(array[~np.isnan(array)])
    if array.ndim == 2:
        _refuse_labels(seen, seen[~np.isin(seen, (0, 1))], "multilabel", "0 or 1 in each column")
        return array, "multilabel", array.shape[1]
    if not len(seen) and task != "binary":
        raise ValueError("no label is present. Pass y=None, or task='binary' if some will be")
    if task == "binary" or (task is None and np.isin(seen, (0, 1)).all()):
        _refuse_labels(seen, seen[~np.isin(seen, (0, 1))], "binary", "0 or 1: (y > 0)")
        return array, "binary", 2
    bad = seen[(seen < 0) | (seen != np.floor(seen)) | np.isinf(seen)]
    _refuse_labels(seen, bad, "multiclass", f"0, 1, …, K - 1, each a {_CODES('y')}")
    if task is None and len(seen) != seen[-1] + 1:
        raise ValueError(
            f"labels {_shown(seen)} leave out some of 0..{seen[-1]:g}, so the task is not clear. "
            f"Pass task='multiclass' to keep the empty classes, or the {_CODES('y')}"
        )
    return array, "multiclass", int(seen[-1]) + 1


def _shown(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in values[:6]) + (", …" if len(values) > 6 else "")


def _refuse_labels(seen: np.ndarray, bad: np.ndarray, task: str, expected: str) -> None:
    if len(bad):
        raise ValueError(
            f"labels outside the range of a {task} task: {_shown(bad)} (labels: {_shown(seen)}). "
            f"Pass {expected}, and NaN where a label is missing"
        )


def groups(given: Any, n: int) -> dict[str, np.ndarray]:
    """Read group labels; "patient" is the row number unless it is given."""
    result: dict[str, np.ndarray] = {}
    if not isinstance(given, (Mapping, pd.DataFrame, NoneType)):
        raise ValueError(
            f"groups is a {type(given).__name__}. Pass a dict of columns: groups={{'site': site}}"
        )
    for name, value in () if given is None else given.items():
        array = value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if array.shape != (n,):
            raise ValueError(
                f"group {name!r} has shape {array.shape}, expected ({n},). "
                "Pass one level per patient"
            )
        missing = pd.isna(array)
        if missing.any():
            raise ValueError(
                f"group {name!r} is missing in row {int(missing.argmax())}. "
                "Pass a level of its own, such as 'unknown'"
            )
        text = array.dtype == object and pd.api.types.infer_dtype(array) == "string"
        result[name] = array.astype(str) if text else array
    return {"patient": np.arange(n)} | result


def table(given: Any, what: str, n: int) -> pd.DataFrame:
    """Read a DataFrame or a dict of columns, one row per patient, numbered from 0."""
    if given is None:
        return pd.DataFrame(index=pd.RangeIndex(n))
    if not isinstance(given, (pd.DataFrame, Mapping)):
        raise ValueError(f"{what} is a {type(given).__name__}. Pass a DataFrame or a dict")
    columns = [given] if isinstance(given, pd.DataFrame) else given.values()
    for length in map(len, columns):
        if length != n:
            raise ValueError(
                f"{what} has {length} rows, the modalities have {n}. Pass one row per patient"
            )
    if isinstance(given, pd.DataFrame):
        return given.reset_index(drop=True)
    # the index too: without a column there are n rows nevertheless
    columns = {name: np.asarray(column) for name, column in given.items()}
    return pd.DataFrame(columns, index=pd.RangeIndex(n))


def positions(rows: Any, n: int) -> Int64[Tensor, " k"]:
    """Read a boolean mask or positions as positions counted from 0."""
    array = rows.cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
    if array.dtype == bool:
        if array.shape != (n,):
            raise ValueError(
                f"rows is a mask of shape {array.shape}. Pass one of ({n},), or positions"
            )
        array = np.flatnonzero(array)
    if array.size == 0:
        raise ValueError("empty cohort: no row is selected. Pass rows that exist")
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise ValueError(
            f"rows holds {array.dtype} of shape {array.shape}. Pass a boolean mask or positions"
        )
    outside = array[(array < -n) | (array >= n)]
    if len(outside):
        raise ValueError(f"rows holds {outside[0]}, but there are {n} rows. Pass 0 to {n - 1}")
    return torch.from_numpy(array.astype(np.int64) % n)


def warn_if_empty(observed: Bool[Tensor, "n m"]) -> None:
    """Say how many rows have nothing observed."""
    empty = int((~observed.any(dim=1)).sum())
    if empty:
        warnings.warn(
            f"{empty} of {len(observed)} rows have nothing observed. They stay; to leave them out: "
            "cohort.select(cohort.observed.any(dim=1))",
            UserWarning,
            stacklevel=3,
        )

"""Check what a user passes beside modalities: labels, groups, tables, positions, masks, indexes."""

import warnings
from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from dfdlib.arrays import (
    FIXED_CODES,
    NUMBERS,
    has_labels,
    levels,
    numbers,
    plain,
    refuse_other_labels,
)
from dfdlib.data.arrays import Images, Ragged
from dfdlib.errors import SHOWN, unknown

Task = Literal["binary", "multiclass", "multilabel"]

# Groups whose levels name one person, or one stay of a person: never listed in a message.
PERSONS = ("patient", "person", "visit", "stay", "study", "admission")
# Past this, float32 cannot tell one class from the next.
_MOST_CLASSES = 2**24
_QUANTITY = (
    " A quantity, such as a length of stay, or a time and an event are unsupported: dfdlib "
    "predicts classes. Cut it, for example (y > 7).astype(float).where(y.notna())"
)


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
    array = numbers(y, "y")
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
    beyond = seen[~np.isin(seen, (0, 1))]
    if array.ndim == 2:
        _refuse_labels(beyond, "multilabel", f"0 or 1 in each column.{_QUANTITY}")
        if task is None and n >= array.shape[1] and (array.sum(axis=1) == 1).all():
            warnings.warn(
                f"each row of y has a single 1 in {array.shape[1]} columns, and is read as a list "
                "of labels. If these are classes, pass y.argmax(axis=1) (of a DataFrame "
                "y.to_numpy().argmax(axis=1)); if they are labels, task='multilabel'",
                UserWarning,
                stacklevel=3,
            )
        return array.astype(np.float32), "multilabel", array.shape[1]
    if not len(seen) and task != "binary":
        raise ValueError("no label is present. Pass y=None, or task='binary' if some will be")
    if task is None:
        _refuse_two(seen)
    if task == "binary" or (task is None and not len(beyond)):
        _refuse_two(seen)
        _refuse_labels(beyond, "binary", "0 or 1: (y > 0)")
        return array.astype(np.float32), "binary", 2
    bad = seen[(seen < 0) | (seen != np.floor(seen)) | (seen >= _MOST_CLASSES)]
    _refuse_labels(bad, "multiclass", f"0, 1, …, K - 1, each a {FIXED_CODES('y')}.{_QUANTITY}")
    if task is None and len(seen) != seen[-1] + 1:
        raise ValueError(
            f"the {len(seen)} different labels are not 0 to {len(seen) - 1}, so the task is not "
            "clear. Pass task='multiclass' to keep the empty classes, or the "
            f"{FIXED_CODES('y')}.{_QUANTITY}"
        )
    return array.astype(np.float32), "multiclass", int(seen[-1]) + 1


def _refuse_two(seen: np.ndarray) -> None:
    """Refuse two classes that are coded in another way, and say how to code them."""
    for codes, advice in (((-1, 1), "(y + 1) / 2"), ((1, 2), "y - 1")):
        if np.array_equal(seen, codes):
            raise ValueError(
                f"the labels are {codes[0]} and {codes[1]}, and two classes are 0 and 1. Pass "
                f"{advice}; if there are more classes that nobody has here, task='multiclass'"
            )


def _refuse_labels(bad: np.ndarray, task: str, expected: str) -> None:
    """Refuse labels by what they are: a label that is no class may be a patient's value."""
    if not len(bad):
        return
    finite = bad[np.isfinite(bad)]
    kinds = {
        "infinite ones": len(finite) < len(bad),
        "fractions": (finite != np.floor(finite)).any(),
        "negative ones": (finite < 0).any(),
        "numbers above 1": task != "multiclass" and (finite > 1).any(),
        "numbers too large for a class": task == "multiclass" and (finite >= _MOST_CLASSES).any(),
    }
    raise ValueError(
        f"labels outside the range of a {task} task: "
        f"{', '.join(kind for kind, present in kinds.items() if present)}. Pass NaN where a label "
        f"is missing, else {expected}"
    )


def groups(columns: Any, n: int) -> dict[str, np.ndarray]:
    """Read group labels; "patient" is the row number unless it is given."""
    result: dict[str, np.ndarray] = {}
    columns = None if columns is None else plain(columns, "groups")
    if not isinstance(columns, (Mapping, pd.DataFrame, NoneType)):
        raise ValueError(
            f"groups is a {type(columns).__name__}. Pass a dict of columns: groups={{'site': site}}"
        )
    for name, value in () if columns is None else columns.items():
        array = levels(value, f"group {name!r}")
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
        result[name] = array
    return {"patient": np.arange(n)} | result


def names_people(group: str, values: np.ndarray) -> bool:
    """Whether the levels of a group stand for single patients, or single stays of them."""
    n_levels = len(pd.unique(pd.Series(values)))
    return group in PERSONS or n_levels > max(SHOWN, len(values) / 2)


def unknown_level(level: object, values: np.ndarray, group: str) -> ValueError:
    """Build the error for a level that nobody has; levels that name patients are not listed."""
    options = pd.unique(pd.Series(values))
    words = all(isinstance(option, str) for option in options)
    advice = ""
    if words and not isinstance(level, str):
        advice = f"The levels are words: pass {str(level)!r}"
    elif isinstance(level, str) and not words:
        advice = f"The levels are {options.dtype} and not words: pass {level} without quotes"
    if names_people(group, values):
        return ValueError(
            f"that is not one of the {len(options)} levels of {group!r}, which are of patients and "
            f"are not shown. Pass one of cohort.groups[{group!r}]"
            + (f", of its type: {options.dtype}" if advice else "")
        )
    if advice and str(level) in map(str, options):
        listed = ", ".join(map(str, options[:SHOWN])) + (", …" if len(options) > SHOWN else "")
        return ValueError(f"{level!r} is not a level of {group!r} ({listed}). {advice}")
    return unknown(level, options, f"level of {group!r}")


def table(source: Any, what: str, n: int) -> pd.DataFrame:
    """Copy a DataFrame or a dict of columns, one row per patient, numbered from 0."""
    source = None if source is None else plain(source, what)
    if source is None:
        return pd.DataFrame(index=pd.RangeIndex(n))
    if not isinstance(source, (pd.DataFrame, Mapping)):
        raise ValueError(f"{what} is a {type(source).__name__}. Pass a DataFrame or a dict")
    columns = [source] if isinstance(source, pd.DataFrame) else source.values()
    for column in columns:
        length = 1 if isinstance(column, str) or not hasattr(column, "__len__") else len(column)
        if length != n or isinstance(column, str):
            raise ValueError(
                f"{what} has {length} rows, the modalities have {n}. Pass one row per patient"
            )
    if isinstance(source, pd.DataFrame):
        copied = source.reset_index(drop=True).copy()
        for place, name in enumerate(copied.columns):
            column = copied.iloc[:, place]
            if _nullable(column.dtype):
                copied.isetitem(place, numbers(column, f"{what} ({name})"))
        copied.attrs = source.attrs
        return copied
    # the index too: without a column there are n rows nevertheless
    named = {name: _cells(column, f"{what} ({name})") for name, column in source.items()}
    return pd.DataFrame(named, index=pd.RangeIndex(n))


def _cells(column: Any, what: str) -> np.ndarray:
    """Read a column of anything, without its labels."""
    column = plain(column, what)
    if _nullable(getattr(column, "dtype", None)):
        return numbers(column, what)
    array = np.asarray(column)
    if array.dtype.kind in "USO" and not isinstance(column, (np.ndarray, pd.Series)):
        array = levels(column, what)  # a list may hold numbers beside words, or beside None
        if pd.api.types.infer_dtype(array, skipna=True) in NUMBERS:
            array = numbers(array, what)
    if array.dtype.kind == "c":
        raise ValueError(f"{what} holds complex numbers. Pass two columns: .real and .imag")
    if array.ndim != 1:
        raise ValueError(f"{what} has shape {array.shape}. Pass one value per row, a name a column")
    return array


def _nullable(dtype: Any) -> bool:
    """Whether numbers are kept in a pandas type of their own, with a mask beside them."""
    extension = isinstance(dtype, pd.api.extensions.ExtensionDtype)
    return extension and not isinstance(dtype, pd.CategoricalDtype) and dtype.kind in "biuf"


def positions(rows: Any, n: int) -> Int64[Tensor, " k"]:
    """Read a boolean mask or positions as positions counted from 0."""
    read = plain(rows, "rows")
    numbered = has_labels(rows, read) and len(read) == n and read.index.isin(range(n)).all()
    if numbered and not read.index.equals(pd.RangeIndex(n)):
        raise ValueError(
            "rows is a column whose index has the row numbers in another order. Pass "
            "rows.sort_index() to follow the index, or rows.to_numpy() to follow the order"
        )
    array = np.asarray(read)
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


# ---------------- masks, and rows of pandas objects that have to belong together


def modality_mask(observed: Any, n: int, names: tuple[str, ...]) -> np.ndarray:
    """Read the mask of patients × modalities; the columns of a DataFrame are put in order."""
    if isinstance(observed, Mapping):
        raise ValueError(
            "observed is a dict. Pass rows × modalities, such as pd.DataFrame(observed); masks of "
            "features are for x_observed="
        )
    observed = plain(observed, "observed")
    if isinstance(observed, pd.DataFrame):
        for column in observed:
            if column not in names:
                raise unknown(column, names, "modality, but is a column of observed")
        observed = observed[[name for name in names if name in observed]]
    return _mask(observed, "observed", (n, len(names)))


def feature_mask(
    name: str, kind: str, shape: tuple[int, ...], features: tuple[str, ...], mask: Any
) -> np.ndarray:
    """Read the mask of patients × features; the columns of a DataFrame are put in order."""
    if not features:
        raise ValueError(
            f"x_observed[{name!r}] is given, but {name!r} is of kind {kind!r}, which has no "
            "features. Pass its column of observed= instead"
        )
    mask = plain(mask, f"x_observed[{name!r}]")
    if isinstance(mask, pd.DataFrame):
        columns = mask.columns.map(str)
        if sorted(columns) != sorted(features):
            raise ValueError(
                f"x_observed[{name!r}] has the columns {', '.join(columns)}, the features are "
                f"{', '.join(features)}. Pass one column of that name each, or .to_numpy()"
            )
        mask = mask.set_axis(columns, axis=1)[list(features)]
    # a mask of one feature may come as a plain column
    if shape[1] == 1 and np.ndim(mask) == 1:
        mask = np.asarray(mask)[:, None]
    return _mask(mask, f"x_observed[{name!r}]", shape)


def refuse_disagreement(name: str, by_row: np.ndarray | None, by_feature: np.ndarray) -> None:
    """Refuse two masks of one modality that contradict each other."""
    wrong = np.zeros(1) if by_row is None else by_row != by_feature.any(axis=1)
    if wrong.any():
        raise ValueError(
            f"observed and x_observed disagree on {name!r} in {int(wrong.sum())} rows, first in "
            f"row {int(wrong.argmax())}. Leave out observed=: it is x_observed.any(axis=1)"
        )


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


def refuse_other_index(**arguments: Any) -> None:
    """Refuse pandas objects whose rows are named differently: they may be of other patients.

    Args:
        **arguments: Those of `Cohort`, each a table, a column, a dict of these, or something else.
    """
    first, index = "", None
    for what, value in arguments.items():
        parts = {what: value}
        if isinstance(value, Mapping):
            parts = {f"{what}[{name!r}]": part for name, part in value.items()}
        for name, original in parts.items():
            part = original
            if not isinstance(part, (np.ndarray, Tensor, list, tuple, Ragged, Images)):
                part = None if part is None else plain(part, name)
            if not has_labels(original, part):
                continue
            if index is None:
                first, index = name, part.index
            # other lengths have a refusal of their own
            elif len(part) == len(index) and not part.index.equals(index):
                refuse_other_labels(name, part.index, first, index)
                raise ValueError(
                    f"{name} and {first} have different indexes (the same labels in another "
                    f"order), so their rows may be of different patients. Pass {name}.loc[{first}"
                    ".index], or .to_numpy() where the order is the same"
                )


def _mask(value: Any, what: str, shape: tuple[int, ...]) -> np.ndarray:
    array = numbers(value, what)
    if np.isnan(array).any():
        raise ValueError(
            f"{what} is itself missing in {int(np.isnan(array).sum())} places, so nobody knows "
            f"whether a value is there. Pass False where it is not: of pandas {what}.fillna(False),"
            f" of a masked array {what}.filled(False)"
        )
    if array.dtype != bool:
        raise ValueError(f"{what} must be bool, got {array.dtype}. Pass {what}.astype(bool)")
    if array.shape != shape:
        raise ValueError(
            f"{what} has shape {array.shape}, expected {shape}. Pass True where a value is there"
        )
    return array

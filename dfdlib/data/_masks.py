"""Masks that a user passes, and the rows of pandas objects that have to belong together."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from dfdlib.causal.arrays import has_labels, numbers, plain, refuse_other_labels
from dfdlib.data._images import Images
from dfdlib.data._ragged import Ragged
from dfdlib.data._validate import unknown


def refuse_other_index(**given: Any) -> None:
    """Refuse pandas objects whose rows are named differently: they may be of other patients.

    Args:
        **given: What `Cohort` takes, each a table, a column, a dict of these, or no pandas at all.
    """
    first, index = "", None
    for what, value in given.items():
        parts = {what: value}
        if isinstance(value, Mapping):
            parts = {f"{what}[{name!r}]": part for name, part in value.items()}
        for name, given_part in parts.items():
            part = given_part
            if not isinstance(part, (np.ndarray, Tensor, list, tuple, Ragged, Images)):
                part = None if part is None else plain(part, name)
            if not has_labels(given_part, part):
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
    name: str, kind: str, shape: tuple[int, ...], features: tuple[str, ...], given: Any
) -> np.ndarray:
    """Read the mask of patients × features; the columns of a DataFrame are put in order."""
    if not features:
        raise ValueError(
            f"x_observed[{name!r}] is given, but {name!r} is of kind {kind!r}, which has no "
            "features. Pass its column of observed= instead"
        )
    given = plain(given, f"x_observed[{name!r}]")
    if isinstance(given, pd.DataFrame):
        columns = given.columns.map(str)
        if sorted(columns) != sorted(features):
            raise ValueError(
                f"x_observed[{name!r}] has the columns {', '.join(columns)}, the features are "
                f"{', '.join(features)}. Pass one column of that name each, or .to_numpy()"
            )
        given = given.set_axis(columns, axis=1)[list(features)]
    # a mask of one feature may come as a plain column
    if shape[1] == 1 and np.ndim(given) == 1:
        given = np.asarray(given)[:, None]
    return _mask(given, f"x_observed[{name!r}]", shape)


def refuse_disagreement(name: str, by_row: np.ndarray | None, by_feature: np.ndarray) -> None:
    """Refuse two masks of one modality that contradict each other."""
    wrong = np.zeros(1) if by_row is None else by_row != by_feature.any(axis=1)
    if wrong.any():
        raise ValueError(
            f"observed and x_observed disagree on {name!r} in {int(wrong.sum())} rows, first in "
            f"row {int(wrong.argmax())}. Leave out observed=: it is x_observed.any(axis=1)"
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

"""The modalities of a cohort with their masks: read, checked, zero where nothing is observed."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dfdlib.arrays import numbers, plain
from dfdlib.data.arrays import Images, Ragged, float32
from dfdlib.data.validation import feature_mask, modality_mask, refuse_disagreement
from dfdlib.errors import unknown

Kind = Literal["vector", "categorical", "codes", "series", "image"]

_SHAPES = {
    "vector": "(n,) or (n, d)",
    "categorical": "(n,) or (n, d)",
    "codes": "a list of n lists of ids",
    "series": "a list of n arrays (length, 3): time, value, flag",
    "image": "(n, channels, height, width)",
}


class Modality(NamedTuple):
    """One modality after validation: zeros, or empty rows, where nothing is observed."""

    kind: Kind
    values: Tensor | Ragged | Images
    observed: Tensor
    x_observed: Tensor | None
    features: tuple[str, ...]

    @property
    def size(self) -> tuple[int, ...]:
        """The shape of one patient's value, or of one entry of a ragged row."""
        values = self.values.values if isinstance(self.values, Ragged) else self.values
        return tuple(values.shape[1:])


def modalities(
    x: Any,
    kinds: Any,
    observed: Any,
    x_observed: Any,
) -> dict[str, Modality]:
    """Validate all modalities together with their masks."""
    if not isinstance(x, Mapping) or not x:
        raise ValueError(
            "a cohort needs at least one modality, got "
            f"{'an empty dict' if isinstance(x, Mapping) else f'a {type(x).__name__}'}. "
            "Pass a dict of arrays: x={'labs': labs}"
        )
    for name in x:
        if not isinstance(name, str) or not name or set(name) & set(".+"):
            raise ValueError(
                f"{name!r} cannot name a modality: pass a string without '.' and '+', "
                "which stand for features and patterns"
            )
    for mapping, what in ((kinds, "kinds"), (x_observed, "x_observed")):
        if mapping is not None and not isinstance(mapping, Mapping):
            raise ValueError(
                f"{what} is a {type(mapping).__name__}. Pass a dict by modality: "
                f"{what}={{{next(iter(x))!r}: ...}}"
            )
        for name in mapping or {}:
            if name not in x:
                raise unknown(name, x, f"modality, but stands in {what}")
    read = {name: _read(name, x[name], (kinds or {}).get(name)) for name in x}
    n = _common_length({name: len(values) for name, (_, values, _) in read.items()})
    mask = None if observed is None else modality_mask(observed, n, tuple(x))
    result = {}
    for column, (name, (kind, values, features)) in enumerate(read.items()):
        by_row = None if mask is None else mask[:, column]
        by_feature = None
        if x_observed and name in x_observed:
            shape = () if isinstance(values, Ragged) else values.shape
            by_feature = feature_mask(name, kind, shape, features, x_observed[name])
            refuse_disagreement(name, by_row, by_feature)
        if isinstance(values, Ragged):
            result[name] = _close_rows(name, kind, values, by_row)
        elif isinstance(values, Images):
            result[name] = _close_images(name, values, by_row)
        else:
            result[name] = _close_array(name, kind, values, features, by_row, by_feature)
    return result


def _read(name: str, value: Any, kind: str | None) -> tuple[Kind, Any, tuple[str, ...]]:
    """Find the kind, and bring the value to its array; nothing is known of masks yet."""
    if kind is not None and kind not in _SHAPES:
        raise unknown(kind, get_args(Kind), f"kind of modality, but is given for {name!r}")
    value = _received(name, value)
    mapped = isinstance(value, np.memmap) and value.dtype == np.uint8 and value.ndim == 4
    if isinstance(value, Images) or (mapped and kind in (None, "image")):
        if kind not in (None, "image"):
            raise ValueError(f"modality {name!r} holds Images. Leave out kinds={{{name!r}: ...}}")
        images = value if isinstance(value, Images) else Images(value)
        _check_channels(name, images.shape, declared=kind is not None)
        return "image", images, ()
    rows = value if isinstance(value, Ragged) else _rows(value)
    guess, declared = value if rows is None else rows, kind is not None
    kind = _guess(name, guess) if kind is None else cast(Kind, kind)
    if kind in ("codes", "series"):
        return kind, _read_rows(name, guess, kind), ()
    array = numbers(value, f"modality {name!r}")
    if array.ndim == 1 and kind != "image":
        array = array[:, None]
    if array.ndim != (4 if kind == "image" else 2):
        raise ValueError(
            f"modality {name!r} of kind {kind!r} has shape {array.shape}. "
            f"Pass {_SHAPES[kind]}, or another kind: kinds={{{name!r}: ...}}"
        )
    if 0 in array.shape[1:]:
        raise ValueError(f"modality {name!r} has shape {array.shape}: no feature. Leave it out")
    if kind == "image":
        _check_channels(name, array.shape, declared=declared)
        return kind, array if array.dtype == np.uint8 else array.astype(np.float32), ()
    features = tuple(f"{name}_{i}" for i in range(array.shape[1]))
    if isinstance(value, pd.DataFrame):
        features = tuple(str(column) for column in value.columns)
    elif isinstance(value, pd.Series) and value.name is not None:
        features = (str(value.name),)
    if len(set(features)) < len(features):
        twice = next(feature for feature in features if features.count(feature) > 1)
        raise ValueError(f"modality {name!r} has two features of one name: {twice!r}. Rename one")
    if kind == "vector":
        array = float32(array, f"modality {name!r}", features)
    return kind, array, features


def _received(name: str, value: Any) -> Any:
    """Bring tables of other libraries to pandas; what this package made itself stays."""
    if isinstance(value, (Images, Ragged)):
        return value
    masked = isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value)
    if masked and value.ndim == 4 and value.dtype == np.uint8:
        raise ValueError(
            f"modality {name!r} has masked pixels of 8 bits, and 8 bits hold no NaN. Pass "
            f"{name}.filled(0), and observed= for whole images that are missing"
        )
    return plain(value, f"modality {name!r}")


def _check_channels(name: str, shape: tuple[int, ...], *, declared: bool) -> None:
    """Stop where the channels seem to come last: they would be read as the width."""
    if shape[1] in (1, 2, 3, 4) or shape[3] not in (1, 3, 4):
        return
    message = (
        f"modality {name!r} has shape {shape}: {shape[1]} channels of {shape[2]} × {shape[3]} "
        f"pixels? If the channels come last, pass np.moveaxis({name}, -1, 1)"
    )
    if not declared:
        raise ValueError(f"{message}; if not, kinds={{{name!r}: 'image'}}")
    warnings.warn(message, UserWarning, stacklevel=4)


def _rows(value: Any) -> list[Any] | None:
    """Return the rows of a list, or of an object column that holds lists; None for the rest."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, (np.ndarray, pd.Series)) and value.ndim == 1 and value.dtype == object:
        rows = list(value)
        if any(isinstance(row, (list, tuple, np.ndarray)) for row in rows):
            return rows
    return None


def _guess(name: str, value: Any) -> Kind:
    """Guess the kind of a modality from its type and shape."""
    if isinstance(value, Ragged):
        return "series" if value.values.ndim == 2 else "codes"
    if isinstance(value, list):
        if not value:
            return "codes"  # no rows at all: refused once lengths are known
        first = np.asarray(next((row for row in value if row is not None and np.size(row)), None))
        if first.ndim == 1 and first.dtype.kind in "iu":
            return "codes"
        if first.ndim == 2 and first.shape[1] == 3:
            return "series"
    elif isinstance(value, pd.DataFrame):
        categories = [isinstance(each, pd.CategoricalDtype) for each in value.dtypes]
        if any(categories) and not all(categories):
            column = value.columns[categories.index(True)]
            raise ValueError(
                f"modality {name!r} holds categories ({column}) beside numbers. Make the "
                "categories a modality of their own, or numbers: .astype(float)"
            )
        return "categorical" if any(categories) else "vector"
    elif isinstance(getattr(value, "dtype", None), pd.CategoricalDtype):
        return "categorical"
    else:
        # whole numbers are numbers: nothing about a kind may hang on whether one is missing
        dimensions = numbers(value, f"modality {name!r}").ndim
        if dimensions == 4:
            return "image"
        if dimensions in (1, 2):
            return "vector"
    raise ValueError(
        f"the kind of modality {name!r} cannot be guessed from a {type(value).__name__}. Pass an "
        f"array, or say which: kinds={{{name!r}: ...}} with one of {', '.join(_SHAPES)}"
    )


def _read_rows(name: str, rows: Any, kind: Kind) -> Ragged:
    """Store the lists of codes or series and check what one entry looks like."""
    if not isinstance(rows, (Ragged, list)):
        raise ValueError(
            f"modality {name!r} of kind {kind!r} is a {type(rows).__name__}. Pass {_SHAPES[kind]}"
        )
    try:
        ragged = rows if isinstance(rows, Ragged) else Ragged.from_rows(rows)
    except ValueError as error:
        raise ValueError(f"modality {name!r}: {error}") from None
    values = ragged.values
    if kind == "series" and values.numel() == 0:
        values = values.new_zeros(0, 3)
    good = values.ndim == 1 and not values.is_floating_point()
    if kind == "series":
        good = values.ndim == 2 and values.shape[1] == 3
    if not good:
        raise ValueError(
            f"modality {name!r} of kind {kind!r} has entries of shape {tuple(values.shape[1:])} "
            f"and type {values.dtype}. Pass {_SHAPES[kind]}"
        )
    values = values.to("cpu")
    if kind == "series":
        what = f"modality {name!r}"
        values = torch.from_numpy(float32(values.numpy(), what, ("time", "value", "flag")))
    values = values.long() if kind == "codes" else values
    return Ragged(values, ragged.offsets.to("cpu"), ragged.words)


def _common_length(lengths: dict[str, int]) -> int:
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(
            f"modalities have different numbers of rows: {listed}. Pass one row per patient "
            "in each, and NaN (or an empty list) where a patient lacks one"
        )
    n = next(iter(lengths.values()))
    if n == 0:
        raise ValueError(f"empty cohort: {', '.join(lengths)} have no rows. Pass at least one")
    return n


def _close_array(
    name: str,
    kind: Kind,
    values: np.ndarray,
    features: tuple[str, ...],
    by_row: np.ndarray | None,
    by_feature: np.ndarray | None,
) -> Modality:
    """Settle the mask of an array, refuse what it marks wrongly, and write zeros elsewhere."""
    flat = values.reshape(len(values), -1)
    seen: np.ndarray
    if by_feature is not None:
        seen = by_feature
    else:
        seen = ~np.isnan(flat) if by_row is None else by_row[:, None]
        if kind == "image":
            seen = np.asarray(seen.any(axis=1, keepdims=True))
        seen = np.broadcast_to(seen, flat.shape)
    masked = by_row is not None or by_feature is not None
    _refuse_non_finite(name, flat, seen, features, masked)
    if kind == "categorical":
        _refuse_no_category(name, flat, seen, features)
    filled = np.where(seen, flat, flat.dtype.type(0)).reshape(values.shape)
    if kind == "categorical":
        filled = filled.astype(np.int64)
    observed = torch.from_numpy(np.asarray(seen.any(axis=1)))
    x_observed = None if kind == "image" else torch.from_numpy(np.array(seen))
    return Modality(kind, torch.from_numpy(filled), observed, x_observed, features)


def _close_rows(name: str, kind: Kind, values: Ragged, by_row: np.ndarray | None) -> Modality:
    """Settle which ragged rows are observed, and empty the others."""
    lengths = values.lengths.numpy()
    observed = lengths > 0 if by_row is None else by_row
    kept = values.values[torch.from_numpy(np.repeat(observed, lengths))]
    offsets = np.concatenate([[0], np.cumsum(lengths * observed)])
    bad = ~torch.isfinite(kept)
    if kind == "series":
        bad = bad.any(dim=1)
    if bad.any():
        row = int(np.searchsorted(offsets, int(bad.nonzero()[0]), side="right")) - 1
        raise ValueError(
            f"modality {name!r}: row {row} holds an entry that is not finite, and is observed. "
            "Leave such entries out of the row"
        )
    ragged = Ragged(kept, torch.from_numpy(offsets), values.words)
    return Modality(kind, ragged, torch.from_numpy(np.array(observed)), None, ())


def _close_images(name: str, images: Images, by_row: np.ndarray | None) -> Modality:
    """Settle which rows have an image; no pixel is read."""
    there = images.rows >= 0
    if by_row is not None:
        mask = torch.from_numpy(np.array(by_row))
        if bool((mask & ~there).any()):
            row = int((mask & ~there).int().argmax())
            raise ValueError(
                f"modality {name!r}: row {row} is marked as observed but has no image. Leave out "
                "observed=, or pass the position of its image"
            )
        there = mask
    rows = torch.where(there, images.rows, -1)
    return Modality("image", Images(images.pixels, rows), there, None, ())


def _refuse_non_finite(
    name: str, values: np.ndarray, seen: np.ndarray, features: tuple[str, ...], masked: bool
) -> None:
    if values.dtype.kind != "f":
        return
    bad = seen & ~np.isfinite(values)
    if not bad.any():
        return
    row, column = (int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
    place = f"row {row}, " + (f"column {features[column]!r}" if features else f"pixel {column}")
    value = values[row, column]
    if masked and features:
        advice = f"Pass x_observed={{{name!r}: np.isfinite({name})}}, or no mask: NaN is missing"
    elif np.isnan(value):
        advice = "Fill it, or make the whole image NaN or unobserved"
    else:
        advice = f"If it is missing, write NaN: np.where(np.isinf({name}), np.nan, {name})"
    marked = "is marked as observed but holds" if masked else "holds"
    raise ValueError(f"modality {name!r}: {place} {marked} {value}, which is no value. {advice}")


def _refuse_no_category(
    name: str, values: np.ndarray, seen: np.ndarray, features: tuple[str, ...]
) -> None:
    # 2**63 is where int64 ends, and what is larger would wrap to a negative code
    fraction, negative = values != np.floor(values), values < 0
    large = values >= 2**63 if values.dtype.kind in "uf" else np.zeros_like(seen)
    bad = seen & (fraction | negative | large)
    if bad.any():
        row, column = np.unravel_index(bad.argmax(), bad.shape)
        place = (row, column)
        what = "a negative number" if negative[place] else "a number of 2**63 or more"
        raise ValueError(
            f"modality {name!r}: row {row}, column {features[column]!r} holds "
            f"{'a fraction' if fraction[place] else what}, which is no category. Pass integer "
            "codes from 0 and NaN where one is missing (-1 in pandas), or "
            f"kinds={{{name!r}: 'vector'}} if these are numbers"
        )

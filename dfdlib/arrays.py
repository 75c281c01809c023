"""The one door for arrays: what a caller passes becomes numpy or pandas, or is refused.

Nothing that a container knows is lost on the way in: what is masked is missing, columns keep their
names, rows their labels. What has no place in a table of numbers (dates, words, an imaginary part)
is refused. No message shows a value: they are of patients.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray, ExtensionDtype

# The same code for a word in every hospital, and no code for a missing one.
FIXED_CODES = (
    "place in one fixed list: pd.Categorical({}, categories=[...]).codes, NaN for -1".format
)
NUMBERS = ("integer", "floating", "mixed-integer-float", "boolean", "decimal", "empty")


def plain(value: Any, what: str) -> Any:
    """Bring a container to numpy or pandas; lists, dicts and pandas objects stay as they are.

    Masked entries become missing. Tables of other libraries (polars, pyarrow and what speaks their
    protocols) become a DataFrame, so that their columns keep their names.

    Args:
        value: What the caller passed.
        what: What to call it in a message.

    Raises:
        ValueError: A sparse matrix, or a table whose columns cannot be read.

    Example:
        >>> plain(np.ma.masked_equal([4, -999], -999), "labs").tolist()
        [4.0, nan]
    """
    if isinstance(value, np.ma.MaskedArray):
        return _unmasked(value, what)
    if isinstance(value, np.ndarray):
        return pd.DataFrame(value) if value.dtype.names and value.ndim == 1 else value
    if isinstance(value, (pd.DataFrame, pd.Series, pd.Index, ExtensionArray, list, tuple, Mapping)):
        return value
    if hasattr(value, "detach"):  # torch, without importing it
        return _of_torch(value, what)
    if hasattr(value, "nnz") and hasattr(value, "toarray"):
        raise ValueError(f"{what} is a sparse matrix. Pass {what}.toarray()")
    return _of_other_library(value, what)


def numbers(value: Any, what: str) -> np.ndarray:
    """Read anything as a numeric array in which every missing value is NaN.

    Args:
        value: An array, a table, a column or a list.
        what: What to call it in a message.

    Raises:
        ValueError: Words, dates, complex numbers; the message says what to pass.

    Example:
        >>> numbers(pd.Series([3, None], dtype="Int64"), "age").tolist()
        [3.0, nan]
    """
    value = plain(value, what)
    if isinstance(value, pd.DataFrame):
        columns = [numbers(column, f"{what} ({name})") for name, column in value.items()]
        return np.column_stack(columns) if columns else np.empty((len(value), 0))
    array = _array(value, what)
    if array.dtype == object:
        kind = pd.api.types.infer_dtype(array.ravel(), skipna=True)
        if kind in NUMBERS:
            missing = pd.isna(array)
            if kind == "boolean" and not missing.any():
                return array.astype(bool)
            return np.where(missing, np.nan, array).astype(np.float64)
        raise ValueError(f"{what} holds {kind}, not numbers. {_as_numbers(what, kind)}")
    if array.dtype.kind not in "biuf":
        kind = str(array.dtype)
        raise ValueError(f"{what} holds {kind}, not numbers. {_as_numbers(what, kind)}")
    return array


def levels(value: Any, what: str) -> np.ndarray:
    """Read names or numbers of levels, in a copy; what is missing stays missing.

    Numbers beside words become words. A number and a word that reads like it are not one level,
    and not two either: that is refused.

    Args:
        value: One level per row.
        what: What to call it in a message.

    Raises:
        ValueError: A number and a word that read the same, numbers too large to be told apart,
            complex numbers, a sparse matrix.

    Example:
        >>> levels([1, "unknown"], "site").tolist()
        ['1', 'unknown']
    """
    value = plain(value, what)
    if isinstance(value, (list, tuple)) and all(np.ndim(each) == 0 for each in value):
        array = np.empty(len(value), dtype=object)
        array[:] = value
    else:
        array = _array(value, what)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    if array.dtype.kind == "c":
        raise ValueError(f"{what} holds complex numbers. Pass words or whole numbers")
    if array.dtype.kind == "T":
        array = array.astype(object)
    if array.dtype == object and array.ndim == 1:
        array = _settled(array, what)
    if array.dtype.kind == "f":
        _refuse_large(array, what)
    return np.array(array)


def same_order(**columns: Any) -> dict[str, Any]:
    """Bring rows that have labels into one order: that of the first object with an index.

    Args:
        **columns: Columns and tables that belong together, row by row. Those without an index
            (numpy, torch, lists) stay as they are.

    Returns:
        The same, as numpy or pandas, without copies where the order was the same.

    Raises:
        ValueError: Labels that differ, that occur twice in another order, or another order beside
            an array without labels.

    Example:
        >>> y = pd.Series([1, 2], index=["a", "b"])
        >>> same_order(outcome=y, treatment=y.iloc[::-1])["treatment"].tolist()
        [1, 2]
    """
    read = {what: plain(value, what) for what, value in columns.items()}
    labelled = [what for what in columns if has_labels(columns[what], read[what])]
    for what in labelled[1:]:
        first, index, other = labelled[0], read[labelled[0]].index, read[what].index
        if len(index) != len(other) or index.equals(other):
            continue  # other lengths have a refusal of their own
        refuse_other_labels(what, other, first, index)
        unlabelled = [w for w, v in read.items() if w not in labelled and np.size(v)]
        if unlabelled:
            raise ValueError(
                f"{what} and {first} have the same labels in another order, and {unlabelled[0]} "
                f"has none, so it is not clear whose order it follows. Pass {what}.loc[{first}"
                f".index] and {unlabelled[0]} in that order"
            )
        read[what] = read[what].loc[index]
    return read


def has_labels(value: Any, read: Any) -> bool:
    """Whether the rows are named: by pandas, or by another library that kept names of rows."""
    if isinstance(value, (pd.DataFrame, pd.Series)):
        return True
    return isinstance(read, (pd.DataFrame, pd.Series)) and not isinstance(read.index, pd.RangeIndex)


def refuse_other_labels(what: str, index: pd.Index, first: str, other: pd.Index) -> None:
    """Refuse two indexes that cannot be brought into one order."""
    strangers = int((~index.isin(other)).sum())
    if not strangers and index.is_unique and other.is_unique:
        return
    why = f"{strangers} labels of {what} are not in {first}"
    if not strangers:
        why = "labels occur twice, and in another order"
    raise ValueError(
        f"{what} and {first} have different indexes ({why}), so their rows may be of different "
        f"patients. Pass {what}.loc[{first}.index], or .to_numpy() where the order is the same"
    )


def _unmasked(value: np.ma.MaskedArray, what: str) -> np.ndarray:
    """Put what stands for missing wherever a masked array has its mask."""
    mask = np.ma.getmask(value)
    if value.dtype.names:
        raise ValueError(f"{what} is a masked array with named fields. Pass a DataFrame")
    if mask is np.ma.nomask or not mask.any():
        return np.asarray(value.data)
    kind = value.dtype.kind
    if kind in "biuf":
        wide = value.dtype if kind == "f" else np.dtype(np.float64)
        return np.where(mask, wide.type(np.nan), value.data.astype(wide))
    if kind in "mM":
        return np.where(mask, value.dtype.type("NaT"), value.data)
    if kind == "c":
        return np.asarray(value.data)  # refused for what it is
    holes = value.data.astype(object)
    holes[mask] = None
    return holes


def _of_torch(value: Any, what: str) -> np.ndarray:
    if hasattr(value, "get_mask"):  # a masked tensor: True where a value is there
        seen = value.get_mask().cpu().numpy()
        return _unmasked(np.ma.array(_of_torch(value.get_data(), what), mask=~seen), what)
    if str(getattr(value, "layout", "torch.strided")) != "torch.strided":
        raise ValueError(f"{what} is a sparse tensor. Pass {what}.to_dense()")
    value = value.detach().cpu()
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()


def _of_other_library(value: Any, what: str) -> Any:
    """Read a table or a column of another library with its names; leave what is neither."""
    if hasattr(value, "to_pandas"):
        try:
            return value.to_pandas()
        except ImportError:  # polars asks for pyarrow here; the ways below do without
            pass
    if hasattr(value, "columns"):
        names = [str(name) for name in value.columns]
        try:
            columns = [np.asarray(value[name]) for name in value.columns]
            return pd.DataFrame(dict(enumerate(columns))).set_axis(names, axis=1)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError):
            pass
        if hasattr(value, "to_numpy"):
            return pd.DataFrame(value.to_numpy(), columns=names)
    if hasattr(value, "__dataframe__"):
        return pd.api.interchange.from_dataframe(value)
    if hasattr(value, "__arrow_c_stream__") and not hasattr(value, "__array__"):
        try:
            import pyarrow as pa
        except ImportError:
            pass
        else:
            return pa.table(value).to_pandas()
    if hasattr(value, "columns") or hasattr(value, "__arrow_c_stream__"):
        raise ValueError(
            f"{what} is a {type(value).__module__}.{type(value).__name__}, whose columns cannot be "
            f"read here. Pass {what}.to_pandas(), or a pandas DataFrame"
        )
    if hasattr(value, "to_numpy"):
        return pd.Series(value.to_numpy(), name=getattr(value, "name", None))
    return value


def _array(value: Any, what: str) -> np.ndarray:
    """Read a column, an array or a list as numpy; nullable numbers as numbers."""
    if isinstance(value, (list, tuple)) and any(isinstance(v, np.ma.MaskedArray) for v in value):
        rows = [np.nan if each is np.ma.masked else each for each in value]
        value = _unmasked(np.ma.array(rows), what)
    if isinstance(value, (pd.Index, ExtensionArray)) and not isinstance(value, pd.MultiIndex):
        value = pd.Series(value)
    if isinstance(value, pd.Series):
        return _of_column(value)
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(f"{what} holds rows of different lengths. Pass one value each") from None


def _of_column(values: pd.Series) -> np.ndarray:
    dtype = values.dtype
    if not isinstance(dtype, ExtensionDtype) or isinstance(
        dtype, (pd.CategoricalDtype, pd.SparseDtype)
    ):
        return np.asarray(values)
    if dtype.kind not in "biuf":
        return np.asarray(values)
    if values.isna().any():
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    return values.to_numpy(dtype=getattr(dtype, "numpy_dtype", None))


def _settled(values: np.ndarray, what: str) -> np.ndarray:
    """Give objects one type: words, or numbers; where some are missing they stay objects."""
    missing = pd.isna(values)
    there = values[~missing]
    kind = pd.api.types.infer_dtype(there)
    if kind == "complex":
        raise ValueError(f"{what} holds complex numbers. Pass words or whole numbers")
    if kind in ("mixed", "mixed-integer"):
        words = np.array([isinstance(each, str) for each in there])
        known = [isinstance(each, (int, float, np.number, np.bool_)) for each in there]
        if words.any() and (words | known).all():
            _refuse_alike(there[words], there[~words], what)
            there, kind = there.astype(str).astype(object), "string"
        elif all(known):
            kind = "integer"
    if missing.any():
        settled = values.copy()
        settled[~missing] = there
        return settled
    if kind == "bytes":
        return np.array([each.decode("utf-8") for each in there])
    if kind == "string":
        return there.astype(str)
    return np.asarray(there.tolist()) if kind in NUMBERS and kind != "decimal" else there


def _refuse_alike(words: np.ndarray, others: np.ndarray, what: str) -> None:
    """Refuse 1 beside "1": one level or two, only the caller knows."""
    as_number = pd.to_numeric(pd.Series(words, dtype=object), errors="coerce")
    if as_number.isin([float(each) for each in others]).any() or set(words) & set(map(str, others)):
        raise ValueError(
            f"{what} holds numbers and words, and one of each reads the same, such as 1 and '1'. "
            "Pass one type: pd.Series(values).astype(str) where they are one level, or other words"
        )


def _refuse_large(values: np.ndarray, what: str) -> None:
    """Refuse numbers with a point that are too large for each whole number to be told apart."""
    if (np.abs(values[np.isfinite(values)]) >= 2.0 ** (np.finfo(values.dtype).nmant + 1)).any():
        raise ValueError(
            f"{what} holds {values.dtype} numbers so large that neighbours cannot be told apart. "
            "Read them as text or as whole numbers: pd.read_csv(path, dtype={'id': str})"
        )


def _as_numbers(what: str, kind: str) -> str:
    """How to make numbers of dates, labels or text so that no row and no hospital changes them."""
    if kind.startswith("complex"):
        return "Pass two columns: .real and .imag"
    if any(word in kind for word in ("date", "time", "period", "interval")):
        return "Pass days since an event: (column - admission).dt.days"
    if what.partition(" ")[0] == "y":
        return (
            f"Pass (y == 'died').astype(float).where(y.notna()); of more classes the "
            f"{FIXED_CODES('y')}"
        )
    return (
        "If these are numbers kept as text, pass pd.to_numeric(column), which stops at what is no "
        f"number; of words the {FIXED_CODES('column')}"
    )

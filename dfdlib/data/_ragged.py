"""Rows of different lengths, stored end to end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from dfdlib.causal.arrays import numbers
from dfdlib.data._validate import float32


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of different lengths in one tensor: row i is `values[offsets[i]:offsets[i + 1]]`.

    Args:
        values: The entries of all rows, end to end.
        offsets: Where each row begins; one more than there are rows.
        words: What a code, or a flag of a series, stands for, where that is known. It is read by
            people alone: no model sees it, and nothing that is saved holds it.

    Shapes:
        values (total, ...), offsets (n + 1,).

    Example:
        >>> codes = Ragged.from_rows([[7, 9], [], [4]])
        >>> len(codes), codes.lengths.tolist()
        (3, [2, 0, 1])
        >>> codes[torch.tensor([2, 0])].values.tolist()
        [4, 7, 9]
    """

    values: Shaped[Tensor, "total ..."]
    offsets: Int64[Tensor, " n_plus_1"]
    words: Mapping[int, str] | None = field(default=None, repr=False)

    @classmethod
    def from_rows(cls, rows: Sequence[Any], *, words: Mapping[int, str] | None = None) -> "Ragged":
        """Store a list of arrays or lists; None is an empty row, whole numbers become int64.

        Raises:
            ValueError: Rows that differ in more than their length, or hold no numbers.
        """
        arrays = [_row(row, number) for number, row in enumerate(rows)]
        lengths = np.fromiter(map(len, arrays), dtype=np.int64, count=len(arrays))
        full = [array for array in arrays if len(array)]
        shapes = {array.shape[1:] for array in full}
        if len(shapes) > 1:
            raise ValueError(
                f"rows differ in more than their length: entries of shape {sorted(shapes)}. "
                "Pass rows of shape (length,) for codes, (length, 3) for series"
            )
        if any(array.dtype == np.uint64 for array in full):
            full = [_signed(array) for array in full]
        joined = np.concatenate(full) if full else np.empty(0, dtype=np.int64)
        if joined.dtype.kind not in "biuf":
            if joined.dtype.kind in "cmM":
                raise ValueError(
                    f"rows hold {joined.dtype}. Pass hours since an event in place of dates, and "
                    "no complex numbers"
                )
            raise ValueError(
                f"rows hold {joined.dtype}, not numbers. "
                "Pass integer ids: the place of each word in one fixed list"
            )
        if joined.dtype.kind == "f":
            flat = joined.reshape(len(joined), -1)
            columns = [str(column) for column in range(flat.shape[1])]
            joined = float32(flat, "rows", columns).reshape(joined.shape)
        values = torch.from_numpy(joined if joined.dtype.kind == "f" else joined.astype(np.int64))
        return cls(values, torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)])), words)

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[Tensor, " n"]:
        """The number of entries of each row."""
        return self.offsets.diff()

    def __getitem__(self, index: Int64[Tensor, " k"]) -> "Ragged":
        """Take rows by position, in any order and with repeats."""
        lengths = self.lengths[index]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        # an entry's old position is its new one, moved by how far its row moved
        moved = torch.repeat_interleave(self.offsets[:-1][index] - offsets[:-1], lengths)
        entries = self.values[moved + torch.arange(len(moved), device=moved.device)]
        return Ragged(entries, offsets, self.words)

    def to(self, device: str | torch.device) -> "Ragged":
        """Copy to a device."""
        return Ragged(self.values.to(device), self.offsets.to(device), self.words)


def _row(row: Any, number: int) -> np.ndarray:
    """Read one row; None, or a single NaN as pandas writes it, is an empty one."""
    if row is None:
        return np.empty(0)
    if isinstance(row, np.ma.MaskedArray) and np.ma.getmaskarray(row).any():
        raise ValueError(f"row {number} has masked entries. Leave them out of the row")
    array = np.asarray(row) if isinstance(row, (list, tuple, np.ndarray)) else numbers(row, "a row")
    if array.ndim:
        return array
    if array.dtype.kind in "fO" and pd.isna(array).all():
        return np.empty(0)
    raise ValueError(f"row {number} is a single value. Pass a list for each row, [] for none")


def _signed(array: np.ndarray) -> np.ndarray:
    """Read whole numbers without a sign as such with one, which is what ids are stored as."""
    if array.dtype == np.uint64 and len(array) and array.max() > np.iinfo(np.int64).max:
        raise ValueError("rows hold ids of 2**63 or more. Pass the place of each in one fixed list")
    return array.astype(np.int64) if array.dtype == np.uint64 else array

"""What a cohort holds beside plain tensors: ragged rows, and images that are read batch by batch.

`Ragged` stores rows of different lengths end to end; `Images` leaves pixels on disk or in memory
until a batch is made. `code_id` and `float32` turn words and numbers into what is stored.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Int64, Shaped
from torch import Tensor

from dfdlib.arrays import numbers


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of different lengths in one tensor: row i is `values[offsets[i]:offsets[i + 1]]`.

    Args:
        values: The entries of all rows, end to end.
        offsets: Where each row begins; one more than there are rows.
        words: What a code, or a flag of a series, stands for, where that is known. It is read by
            people alone: no model sees it, and of codes a saved model holds those of ten and more.

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


class Images:
    """8-bit images and which of them each row has; no pixel is read before a batch is made.

    Selecting and splitting moves row numbers only, so a memory-mapped array larger than memory can
    be cut at will, and rows may share an image.

    Args:
        pixels: All images, in memory or memory-mapped: `np.load(path, mmap_mode="r")`.
        rows: The position in `pixels` of each row's image, -1 where it has none; by default the
            images in their order.
        device: Where batches are made.

    Shapes:
        pixels (k, channels, height, width) of uint8, rows (n,).

    Raises:
        ValueError: Pixels of another type or shape, or positions outside.

    Example:
        >>> pixels = np.array([0, 51, 255], dtype=np.uint8).reshape(3, 1, 1, 1)
        >>> images = Images(pixels, rows=torch.tensor([2, 2, -1, 1]))
        >>> images.shape, images[torch.tensor([3, 0])].scaled().flatten().tolist()
        ((4, 1, 1, 1), [0.2..., 1.0])
    """

    def __init__(
        self,
        pixels: np.ndarray,
        rows: Int64[Tensor, " n"] | None = None,
        device: torch.device | None = None,
    ) -> None:
        rows = torch.arange(len(pixels)) if rows is None else rows
        self.pixels, self.rows, self.device = pixels, rows, device or torch.device("cpu")
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4 or 0 in self.pixels.shape:
            raise ValueError(
                f"pixels are {self.pixels.dtype} of shape {self.pixels.shape}. Pass uint8 of shape "
                "(images, channels, height, width); numbers of other types as a plain array"
            )
        outside = (self.rows < -1) | (self.rows >= len(self.pixels))
        if bool(outside.any()):
            row = int(outside.int().argmax())
            raise ValueError(
                f"row {row} has the image {int(self.rows[row])}, but there are {len(self.pixels)}. "
                f"Pass 0 to {len(self.pixels) - 1}, -1 for none"
            )

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, channels, height, width."""
        return (len(self), *self.pixels.shape[1:])

    def __getitem__(self, index: Tensor) -> "Images":
        """Take rows by position or mask; their pixels are not read."""
        return Images(self.pixels, self.rows[index.cpu()], self.device)

    def to(self, device: str | torch.device) -> "Images":
        """Make batches on a device; the pixels stay where they are."""
        return Images(self.pixels, self.rows, torch.device(device))

    def scaled(self) -> Float32[Tensor, "n c h w"]:
        """Read the rows' pixels as shares of 255, zeros where a row has no image."""
        missing = self.rows < 0
        read = self.pixels[self.rows.clamp(min=0).numpy()]
        if bool(missing.any()):
            read[missing.numpy()] = 0
        if self.device.type == "cpu":  # in one pass; to other devices 8 bits travel faster
            return torch.from_numpy(np.divide(read, np.float32(255), dtype=np.float32))
        return scaled(torch.from_numpy(read).to(self.device))


def scaled(value: Any) -> Any:
    """What a batch holds of a modality: images of 8 bits as shares of 255, the rest as it is."""
    if isinstance(value, Images):
        return value.scaled()
    if isinstance(value, Tensor) and value.dtype == torch.uint8:
        return value.float().div_(255)  # twice as fast as value / 255, and equal to it
    return value


def code_id(word: str) -> int:
    """Number a word of a codes modality: the same in every extract, and on every machine.

    Example:
        >>> code_id("I21.4") == code_id("I21.4"), code_id("0389") == code_id("389")
        (True, False)
    """
    # 63 bits of a hash: among 100,000 words two meet with probability 5e-10
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest()) >> 1


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
                    f"{what}, column {column!r}: the values lie so far from 0 and so close "
                    f"together that float32, in steps of {step:g}, loses how they differ. Subtract "
                    "an origin first, for example pass days since admission",
                    UserWarning,
                    stacklevel=2,
                )
    return narrow

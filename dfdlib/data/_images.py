"""Images that stay where they are, on disk or in memory, until a batch is made of them."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor


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

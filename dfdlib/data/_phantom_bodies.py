"""What an anatomy is made of: numbers drawn per patient, and ellipsoids collected."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dfdlib.data._phantom_projection import Ellipsoids


class Draws:
    """Numbers per patient from a stream; a cohort of fewer patients uses the first of them.

    Args:
        rng: The stream.
        n: How many are drawn each time.
        keep: How many of these are wanted.
    """

    def __init__(self, rng: np.random.Generator, n: int, keep: int) -> None:
        self.rng, self.n, self.keep = rng, n, keep

    def normal(self, mean: float | int, sd: float | int) -> np.ndarray:
        """Normal, cut at 2.5 standard deviations."""
        return (mean + sd * self.rng.standard_normal(self.n).clip(-2.5, 2.5))[: self.keep]

    def uniform(self, low: float | int, high: float | int) -> np.ndarray:
        """Uniform between two bounds."""
        return self.rng.uniform(low, high, self.n)[: self.keep]

    def side(self) -> np.ndarray:
        """-1 right or 1 left, a coin."""
        return np.where(self.uniform(0, 1) < 0.5, -1.0, 1.0)

    def chance(self, p: float | int) -> np.ndarray:
        """1 with a probability."""
        return (self.uniform(0, 1) < p).astype(float)


class Bodies:
    """Collects ellipsoids; every number may be one for all patients or one each."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._rows: list[tuple[Any, ...]] = []

    def add(
        self,
        centre: Sequence[Any],
        axes: Sequence[Any],
        angles: Sequence[Any] = (0, 0, 0),
        density: Any = 0.0,
        lateral: Any = None,
    ) -> None:
        """Add one per patient: semi-axes turned about x, y, then z.

        `lateral` is the density in the lateral view, where it differs: arms are raised there.
        """
        second = density if lateral is None else lateral
        self._rows.append((*centre, *axes, *angles, density, second))

    def build(self) -> Ellipsoids:
        """Stack them."""
        table = np.array([[np.broadcast_to(v, self.n) for v in row] for row in self._rows])
        values = torch.from_numpy(table.transpose(2, 0, 1).astype(np.float32))
        x, y, z = values[..., 6:9].unbind(-1)
        turn = _about(2, z) @ _about(1, y) @ _about(0, x)
        scaled = turn * values[..., None, 3:6]
        return Ellipsoids(values[..., :3], scaled @ scaled.transpose(-1, -2), values[..., 9:])


def _about(axis: int, angle: Tensor) -> Tensor:
    c, s, one, zero = angle.cos(), angle.sin(), torch.ones_like(angle), torch.zeros_like(angle)
    rows = (
        [one, zero, zero, zero, c, -s, zero, s, c],
        [c, zero, s, zero, one, zero, -s, zero, c],
        [c, -s, zero, s, c, zero, zero, zero, one],
    )[axis]
    return torch.stack(rows, -1).view(*angle.shape, 3, 3)


def per_row(values: np.ndarray) -> Tensor:
    """One number per patient as a column, to meet the rows of a picture."""
    return torch.from_numpy(values.astype(np.float32))[:, None]


def per_image(values: np.ndarray) -> Tensor:
    """One number per patient, to meet the pixels of a picture."""
    return per_row(values)[:, :, None]

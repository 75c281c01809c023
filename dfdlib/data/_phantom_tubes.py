"""Tubes: bodies whose horizontal cross-sections are ellipses, of any width at any height.

A horizontal ray crosses one cross-section only, so its chord is that of an ellipse, in closed form:
body outline, lungs, mediastinum, spine, trachea and aorta are tubes. Under a small lean the centre
line shifts and cross-sections stay horizontal, exact to first order in the angle.
"""

from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator  # type: ignore[import-untyped]
from torch import Tensor

from dfdlib.data._phantom_projection import AXES, Box, Interval, Pose


class Profile:
    """A smooth function of height through given points, constant beyond them.

    Args:
        *points: (height, value), from bottom to top.
    """

    def __init__(self, *points: tuple[float | int, float | int]) -> None:
        z, value = np.array(points).T
        self._z = np.linspace(z[0], z[-1], 257)
        self._value = PchipInterpolator(z, value)(self._z)

    def __call__(self, z: Tensor) -> Tensor:
        """Read it at heights of any shape."""
        return torch.from_numpy(np.interp(z.numpy(), self._z, self._value).astype(np.float32))

    def at(self, z: float | int) -> float:
        """Read it at one height."""
        return float(np.interp(z, self._z, self._value))


class Tube(NamedTuple):
    """One tube per patient at the heights of the rows, every field (n, rows), in cm."""

    x: Tensor
    y: Tensor
    a: Tensor
    b: Tensor

    def seen(self, pose: Pose) -> "Strip":
        """Project it: an ellipse turned about the vertical axis, row by row."""
        depth, across, _ = AXES[pose.view]
        scale, z = pose.magnification[:, None], pose.height
        c, s = pose.turn.cos()[:, None], pose.turn.sin()[:, None]
        centre = (self.x * c - self.y * s, self.x * s + self.y * c)
        spread = ((self.a * c) ** 2 + (self.b * s) ** 2, (self.a * s) ** 2 + (self.b * c) ** 2)
        mixed = (self.a**2 - self.b**2) * c * s
        wide = spread[across].clamp(min=1e-8).sqrt()
        return Strip(
            u=(centre[across] + z * pose.lean.sin()[:, None]) * scale + pose.shift[:, :1],
            wide=wide * scale,
            half=self.a * self.b / wide * scale,
            depth=centre[depth] * scale,
            slope=mixed / wide**2,
        )


class Strip(NamedTuple):
    """A projected tube, every field (n, rows)."""

    u: Tensor
    wide: Tensor
    half: Tensor
    depth: Tensor
    slope: Tensor

    def rows(self, patients: Tensor) -> "Strip":
        """Some patients."""
        return Strip(*(field[patients] for field in self))

    def box(self, pose: Pose) -> Box:
        """The pixels where it is, for all patients together."""
        there = self.half > 0
        rows = torch.nonzero(there.any(0))[:, 0]
        low = torch.where(there, self.u - self.wide, torch.inf).min()
        high = torch.where(there, self.u + self.wide, -torch.inf).max()
        columns = torch.stack([low, high]) / pose.pixel + pose.size / 2
        left, right = columns.clamp(0, pose.size).tolist()
        return Box(int(rows[0]), int(rows[-1]) + 1, int(left), max(ceil(right), int(left) + 1))

    def _halves(self, pose: Pose, box: Box) -> tuple[Tensor, Tensor]:
        at = slice(box.top, box.bottom)
        du = pose.u[box.left : box.right] - self.u[:, at, None]
        half = (du / self.wide[:, at, None]).square_().neg_().add_(1).clamp_(min=0).sqrt_()
        return half.mul_(self.half[:, at, None]), du

    def chord(self, pose: Pose, box: Box) -> Float[Tensor, "n h w"]:
        """Length within it of each ray of a box."""
        return self._halves(pose, box)[0].mul_(2)

    def crossed(self, pose: Pose, box: Box) -> Interval:
        """Interval within it of each ray of a box."""
        at = slice(box.top, box.bottom)
        half, middle = self._halves(pose, box)
        middle.mul_(self.slope[:, at, None]).add_(self.depth[:, at, None])
        return Interval(middle - half, middle.add_(half))

"""Line integrals in closed form: ellipsoids and tubes on a detector, and intervals along a ray.

A ray is a line across the detector at (u, v). What it crosses of a convex body is one interval
[lo, hi]; of an ellipsoid with covariance-like matrix Q = R diag(a²) Rᵀ, whose shadow has the
block P = Q[uv, uv] and whose depth axis is d,

    half length = √(det Q / det P) · √(1 − sᵀ P⁻¹ s),    middle = c_d + Q[d, uv] P⁻¹ s

with s = (u, v) − (c_u, c_v). Lengths are in cm, on the detector too. A tube is a stack of
horizontal ellipses, of any width at any height; a row of the detector crosses one of them.
"""

from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator  # type: ignore[import-untyped]
from torch import Tensor

#: Side of the detector in cm.
FIELD = 36.0
# Standard deviation of the detector's blur in pixels: a pixel's own width, and a little more.
BLUR = 0.4
# (depth axis, horizontal axis, vertical axis) of frontal and lateral; x left, y back, z up.
AXES = ((1, 0, 2), (0, 1, 2))
# Boxes are cut to these sides, so that few batches hold all ellipsoids.
SIDES = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


@dataclass(frozen=True)
class Pose:
    """How patients stand before the detector, one number per patient.

    Args:
        view: 0 frontal, 1 lateral.
        size: Pixels of a side.
        turn: Rotation about the vertical axis (rad).
        lean: Rotation in the plane of the detector (rad).
        magnification: Of the patient on the detector.
        shift: (n, 2), where the origin falls (cm).
    """

    view: int
    size: int
    turn: Float[Tensor, " n"]
    lean: Float[Tensor, " n"]
    magnification: Float[Tensor, " n"]
    shift: Float[Tensor, "n 2"]

    def rows(self, patients: Tensor) -> "Pose":
        """The pose of some patients."""
        return replace(
            self,
            turn=self.turn[patients],
            lean=self.lean[patients],
            magnification=self.magnification[patients],
            shift=self.shift[patients],
        )

    @property
    def pixel(self) -> float:
        """Side of a pixel in cm."""
        return FIELD / self.size

    @property
    def u(self) -> Float[Tensor, " s"]:
        """Position of each column, left to right."""
        return (torch.arange(self.size) + 0.5) * self.pixel - FIELD / 2

    @property
    def v(self) -> Float[Tensor, " s"]:
        """Position of each row, top to bottom."""
        return -self.u

    @property
    def height(self) -> Float[Tensor, "n s"]:
        """The height z in the patient that each row shows; leaning is too little to change it."""
        return (self.v - self.shift[:, 1:]) / self.magnification[:, None]

    @property
    def rotation(self) -> Float[Tensor, "n 3 3"]:
        """Turn first, then lean."""
        zero, one = torch.zeros_like(self.turn), torch.ones_like(self.turn)
        c, s = self.turn.cos(), self.turn.sin()
        turn = torch.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).view(-1, 3, 3)
        c, s = self.lean.cos(), self.lean.sin()
        rows = [c, zero, s, zero, one, zero, -s, zero, c]
        if self.view == 1:
            rows = [one, zero, zero, zero, c, s, zero, -s, c]
        return torch.stack(rows, -1).view(-1, 3, 3) @ turn


class Ellipsoids(NamedTuple):
    """Ellipsoids of each patient: centre (n, k, 3), Q (n, k, 3, 3), density by view (n, k, 2)."""

    centre: Tensor
    matrix: Tensor
    density: Tensor

    def seen(self, pose: Pose) -> "Shadows":
        """Project them; magnification scales the shadow."""
        depth, u, v = AXES[pose.view]
        rotation, scale = pose.rotation[:, None], pose.magnification[:, None]
        centre = (rotation @ self.centre[..., None])[..., 0] * scale[..., None]
        matrix = rotation @ self.matrix @ rotation.transpose(-1, -2) * (scale**2)[..., None, None]
        uu, uv, vv = matrix[..., u, u], matrix[..., u, v], matrix[..., v, v]
        area = uu * vv - uv * uv
        volume = torch.linalg.det(self.matrix).clamp(min=0) * scale**6
        return Shadows(
            u=centre[..., u] + pose.shift[:, :1],
            v=centre[..., v] + pose.shift[:, 1:],
            uu=uu,
            uv=uv,
            vv=vv,
            half=(volume / area).sqrt(),
            depth=centre[..., depth],
            slope_u=(matrix[..., depth, u] * vv - matrix[..., depth, v] * uv) / area,
            slope_v=(matrix[..., depth, v] * uu - matrix[..., depth, u] * uv) / area,
            density=self.density[..., pose.view],
        )


class Shadows(NamedTuple):
    """Projected ellipsoids, each field (n, k); (uu, uv, vv) is P, slope is Q[d, uv] P⁻¹."""

    u: Tensor
    v: Tensor
    uu: Tensor
    uv: Tensor
    vv: Tensor
    half: Tensor
    depth: Tensor
    slope_u: Tensor
    slope_v: Tensor
    density: Tensor

    def take(self, rows: Tensor, k: int) -> "Shadows":
        """One ellipsoid of some patients."""
        return Shadows(*(field[rows, k] for field in self))


class Interval(NamedTuple):
    """What rays cross of a body: [lo, hi], empty where hi <= lo."""

    lo: Tensor
    hi: Tensor

    def both(self, other: "Interval") -> "Interval":
        """Cut two intervals."""
        return Interval(torch.maximum(self.lo, other.lo), torch.minimum(self.hi, other.hi))

    @property
    def length(self) -> Tensor:
        """Its length, 0 where empty."""
        return (self.hi - self.lo).clamp_(min=0)


class Box(NamedTuple):
    """A rectangle of pixels: rows top to bottom, columns left to right."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def around(cls, pose: Pose, u: Tensor, du: Tensor, v: Tensor, dv: Tensor) -> "Box":
        """The smallest that holds every rectangle u ± du, v ± dv."""
        low, high = (u - du).min(), (u + du).max()
        bottom, top = (v - dv).min(), (v + dv).max()
        edges = torch.stack([-top, -bottom, low, high]) / pose.pixel + pose.size / 2
        first, last, left, right = edges.clamp(0, pose.size).tolist()
        bottom_row, right_column = max(ceil(last), int(first) + 1), max(ceil(right), int(left) + 1)
        return cls(int(first), bottom_row, int(left), right_column)

    def of(self, image: Tensor) -> Tensor:
        """Look at this part of images."""
        return image[:, self.top : self.bottom, self.left : self.right]


def splat(shadows: Shadows, pose: Pose) -> Float[Tensor, "n s s"]:
    """Add up density × chord of all ellipsoids, each on the pixels of its own box.

    The detector's blur widens a shadow by its variance: P + 5 σ² I has the same integral and the
    same second moments as the chord function after blurring, so a line thinner than a pixel is
    faint and not broken.
    """
    n, size = len(shadows.u), pose.size
    blur = 5 * (BLUR * pose.pixel) ** 2
    uu, vv, uv = shadows.uu + blur, shadows.vv + blur, shadows.uv
    sharp, area = shadows.uu * shadows.vv - uv * uv, uu * vv - uv * uv
    weight = 2 * shadows.density * shadows.half * (sharp / area).sqrt()
    image = torch.zeros(n * size * size)
    # in pixels from here on
    u, v = shadows.u / pose.pixel + size / 2 - 0.5, size / 2 - 0.5 - shadows.v / pose.pixel
    wide, high = uu.sqrt() / pose.pixel, vv.sqrt() / pose.pixel
    inside = (u + wide > 0) & (u - wide < size - 1) & (v + high > 0) & (v - high < size - 1)
    patient, slot = torch.nonzero((weight != 0) & inside, as_tuple=True)
    pick = (patient, slot)
    u, v, wide, high, weight = u[pick], v[pick], wide[pick], high[pick], weight[pick]
    # 1 − sᵀ P⁻¹ s = 1 − (dv / high)² − ((du − k dv) · m)²; rows count downwards, so uv changes sign
    k = -uv[pick] / vv[pick]
    m = pose.pixel * (vv[pick] / area[pick]).sqrt()
    sides = torch.tensor([side for side in SIDES if side < size] + [size])
    rows = torch.searchsorted(sides, (2 * high + 1).clamp(max=size))
    columns = torch.searchsorted(sides, (2 * wide + 1).clamp(max=size))
    kind = rows * len(sides) + columns
    for code in kind.unique().tolist():
        at = torch.nonzero(kind == code)[:, 0]
        h, w = int(sides[code // len(sides)]), int(sides[code % len(sides)])
        top = (v[at] - high[at]).ceil().clamp(0, size - h).long()
        left = (u[at] - wide[at]).ceil().clamp(0, size - w).long()
        dv = top[:, None] + torch.arange(h) - v[at, None]
        du = left[:, None] + torch.arange(w) - u[at, None]
        q = (du * m[at, None])[:, None, :] - (dv * (k[at] * m[at])[:, None])[:, :, None]
        q.square_().neg_().add_((1 - (dv / high[at, None]).square())[:, :, None])
        q.clamp_(min=0).sqrt_().mul_(weight[at, None, None])
        start = (patient[at] * size + top) * size + left
        index = start[:, None, None] + torch.arange(h)[:, None] * size + torch.arange(w)
        image.index_add_(0, index.view(-1), q.view(-1))
    return image.view(n, size, size)


def crossed(shadow: Shadows, pose: Pose, box: Box) -> Interval:
    """The intervals of one ellipsoid per patient (fields of shape (n,)) on a box."""
    du = pose.u[box.left : box.right] - shadow.u[:, None]
    dv = pose.v[box.top : box.bottom] - shadow.v[:, None]
    area = shadow.uu * shadow.vv - shadow.uv**2
    m = (shadow.vv / area).sqrt()[:, None]
    k = (shadow.uv / shadow.vv)[:, None]
    half = (du * m)[:, None, :] - (dv * k * m)[:, :, None]
    half.square_().neg_().add_((1 - dv.square() / shadow.vv[:, None])[:, :, None])
    half.clamp_(min=0).sqrt_().mul_(shadow.half[:, None, None])
    across = shadow.depth[:, None] + shadow.slope_u[:, None] * du
    middle = across[:, None, :] + (shadow.slope_v[:, None] * dv)[:, :, None]
    return Interval(middle - half, middle.add_(half))


# ---------------- tubes


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

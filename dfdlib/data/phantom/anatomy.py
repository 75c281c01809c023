"""A healthy thorax: ellipsoids and tubes with random anatomy. cm; x left, y back, z up.

`Thorax` draws the anatomy and gives skin, lungs, mediastinum, spine, trachea, aorta, heart and
domes; `small_parts` and `ribs` add vessels, bones, breasts and the stomach's air.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dfdlib.data.phantom.projection import Ellipsoids, Profile, Tube


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


#: Attenuation of soft tissue per cm; densities below are what a structure adds to what it is in.
TISSUE = 0.20
SIDES = {"right": -1.0, "left": 1.0}

_BODY = (
    Profile((-18, 15.0), (-8, 15.2), (0, 15.4), (4, 16.2), (7, 18.5), (9.5, 20.5), (11.5, 19.5),
            (13.5, 14.5), (15, 10.0), (16.5, 7.3), (18, 6.5)),
    Profile((-18, 10.4), (-6, 10.8), (2, 10.6), (8, 9.6), (12, 7.8), (15, 6.2), (18, 5.8)),
    Profile((-18, 0.6), (-6, 0.3), (8, 0.8), (13, 0.6), (18, -0.3)),
)  # fmt: skip
# How much more tissue version 2 has behind (half of it, cm): muscle that the spine is bedded in.
_BACK = 0.7
# Shoulders leave the picture where arms are raised.
_RAISED = Profile((-18, 15.0), (-8, 15.2), (0, 15.3), (5, 15.0), (9, 13.4), (13, 10.5), (16, 8.0),
                  (18, 7.0))  # fmt: skip
LUNG_X = Profile((-20, 7.0), (-8, 7.0), (0, 6.6), (6, 5.8), (10, 5.0), (13, 4.2))
LUNG_Y = Profile((-20, 0.4), (-6, 0.3), (3, 0.6), (8, 1.6), (13, 2.8))
LUNG_A = Profile((-20, 6.2), (-10, 6.2), (-5, 6.15), (0, 5.95), (4, 5.6), (8, 4.85),
                  (10.5, 3.8), (12, 2.5), (12.6, 1.65), (12.9, 0.85), (13, 0.0))  # fmt: skip
LUNG_B = Profile((-20, 8.4), (-8, 8.4), (0, 8.1), (5, 7.1), (9, 5.2), (11.5, 3.2), (12.6, 1.7),
                  (12.9, 0.8), (13, 0.0))  # fmt: skip
_MEDIASTINUM = (
    Profile((-18, 3.0), (-10, 4.0), (-5, 4.2), (-1, 3.3), (3, 2.8), (7, 2.6), (11, 2.5), (18, 2.8)),
    Profile((-18, 5.0), (-5, 5.0), (2, 4.5), (8, 3.8), (18, 3.5)),
    Profile((-18, -1.5), (-5, -0.5), (3, 1.0), (10, 2.2), (18, 3.0)),
)
SPINE_Y = Profile((-18, 5.8), (-10, 7.0), (-2, 7.8), (4, 7.6), (10, 6.2), (15, 4.2), (18, 3.4))
_SPINE_A = Profile((-18, 2.1), (0, 1.75), (18, 1.4))


class Thorax:
    """One healthy thorax per patient; findings then change it.

    Args:
        draws: Where its numbers come from.
        female: 1 or 0.
        version: 1, or 2: a deeper back, a wider trachea, bones where they are in people.

    Attributes:
        heart: Scale of the heart, 1 on average.
        shift: Of the mediastinum to the left (cm).
        raised: Per side, how much the diaphragm stands higher than usual (cm).
        vessels: Scale of the lungs' vessels.
        parenchyma: Density of the lungs' tissue per cm.
    """

    def __init__(self, draws: Draws, female: np.ndarray, *, version: int = 1) -> None:
        d = self.draws = draws
        self.version = version
        self.n = len(female)
        self.female = female
        self.tall, self.wide, self.deep = d.normal(1, 0.05), d.normal(1, 0.055), d.normal(1, 0.07)
        self.wide = self.wide * (1 - 0.05 * female)
        self.breath, self.fat = d.normal(0, 0.8), d.uniform(0, 2.5)
        self.heart = d.normal(1, 0.07)
        self.shift = d.normal(0, 0.3)
        self.raised = {side: d.normal(0, 0.55) for side in SIDES}
        self.vessels = d.normal(1, 0.12)
        self.parenchyma = d.normal(0.052, 0.007)
        self.kyphosis, self.scoliosis = d.normal(0, 0.5), d.normal(0, 0.25)
        self.mediastinal = d.normal(1, 0.09)
        self.dome_height = {side: d.normal(8.2, 0.7) for side in SIDES}

    # ------------------------------------------------------------ tubes

    def _z(self, z: Tensor) -> Tensor:
        return z / per_row(self.tall)

    def body(self, view: int, z: Tensor) -> Tube:
        """The skin; arms are raised in the lateral view."""
        s, (a, b, y) = self._z(z), _BODY
        a = _RAISED if view else a
        fat, back = per_row(self.fat), _BACK if self.version == 2 else 0.0
        return Tube(
            torch.zeros_like(z),
            y(s) + back,
            a(s) * per_row(self.wide) + fat,
            b(s) * per_row(self.deep) + 0.6 * fat + back,
        )

    def skin(self, z: float) -> tuple[np.ndarray, np.ndarray]:
        """Depth of the skin in front and at the back, at a height of a patient of usual size."""
        _, b, y = _BODY
        half = b.at(z) * self.deep + 0.6 * self.fat
        back = _BACK if self.version == 2 else 0.0
        return y.at(z) - half, y.at(z) + half + 2 * back

    def lung(self, side: str, z: Tensor) -> Tube:
        """A lung as if heart, mediastinum and diaphragm left it room; none below the dome's middle.

        What remains of it beside the dome is the sulcus, deepest at the back.
        """
        s = self._z(z)
        there = (z > per_row(self.base(side) - self.dome_height[side])).float()
        wide = per_row(self.wide)
        return Tube(
            SIDES[side] * LUNG_X(s) * wide + 0.3 * per_row(self.shift),
            LUNG_Y(s),
            LUNG_A(s) * wide * there,
            LUNG_B(s) * per_row(self.deep) * there,
        )

    def mediastinum(self, z: Tensor) -> Tube:
        """Great vessels, right atrium and what surrounds them."""
        s, (a, b, y) = self._z(z), _MEDIASTINUM
        wide = per_row(self.mediastinal * self.wide)
        x = per_row(0.85 * self.shift).expand_as(z)
        return Tube(x, y(s), a(s) * wide, b(s))

    def spine(self, z: Tensor) -> tuple[Tube, Tensor]:
        """Vertebral bodies as one column, and its density: less in the discs."""
        s = self._z(z)
        x = per_row(self.scoliosis) * torch.sin(s / 6)
        y = SPINE_Y(s) * per_row(self.deep) + per_row(self.kyphosis) * torch.cos(s / 8)
        a = _SPINE_A(s)
        # thirteen levels in view, lower ones taller
        level = (s + 18) / 2.55 + 1.2 * ((s + 18) / 36) ** 2
        disc = torch.cos(2 * torch.pi * level).clamp(min=0.45).sub(0.45) / 0.55
        return Tube(x, y, a, 0.92 * a), 0.10 - 0.065 * disc

    def trachea(self, z: Tensor) -> Tube:
        """Air down to the carina."""
        s = self._z(z)
        there = ((s > 4.2) & (s < 17.5)).float()
        x = per_row(0.5 * self.shift) - 0.3 * torch.sigmoid(8 - s)
        wide = 0.9 if self.version == 1 else 1.15
        return Tube(x, 0.8 + 0.16 * (12 - s), wide * there, (wide - 0.05) * there)

    def aorta(self, z: Tensor) -> Tube:
        """The descending aorta, before and to the left of the spine."""
        s = self._z(z)
        there = (s < 6).float()
        x = 1.2 + 0.06 * (s + 10).clamp(min=0) + per_row(0.6 * self.shift)
        return Tube(x, SPINE_Y(s) * per_row(self.deep) - 2.0, 1.15 * there, 1.15 * there)

    # ------------------------------------------------------------ what cuts the lungs

    def base(self, side: str) -> np.ndarray:
        """Height of a hemidiaphragm's top."""
        lower = -7.6 if side == "right" else -8.6
        return lower * self.tall - 0.9 * self.breath + self.raised[side]

    def carvers(self) -> Ellipsoids:
        """Heart, right dome, left dome."""
        bodies, s = Bodies(self.n), self.heart
        bodies.add(
            (2.3 * self.wide + 4.2 * (s - 1) + self.shift, -2.6 * self.deep, -5.3 * self.tall
             - 0.3 * self.breath + 0.5 * (self.raised["left"])),
            (5.6 * self.wide * s, 4.8 * self.deep * s**0.8, 4.4 * s**0.8),
            (0, self.tilt, -0.25),
            0.012,
        )  # fmt: skip
        for side, sign in SIDES.items():
            h = self.dome_height[side]
            bodies.add(
                (sign * 6.4 * self.wide, -2.2, self.base(side) - h),
                (8.0 * self.wide, 11.0 * self.deep, h),
            )
        return bodies.build()

    @property
    def tilt(self) -> np.ndarray:
        """How much the heart's long axis points downwards: more in slim patients."""
        return 0.55 - 0.1 * (self.fat - 1.2)


# ---------------- vessels, bones, breasts, and the stomach's air

N_RIBS = 10


def small_parts(thorax: Thorax) -> Bodies:
    """Everything that only adds to what is around it."""
    d, bodies = thorax.draws, Bodies(thorax.n)
    _vessels(thorax, bodies)
    _skeleton(thorax, bodies)
    for x in (-1.0, 1.0):
        bodies.add(
            (x * 8.6 * thorax.wide, -9.8 * thorax.deep - 0.4 * thorax.fat, -6.5 + d.normal(0, 0.7)),
            (5.4, 3.6, 5.0), density=0.06 * thorax.female,
        )  # fmt: skip
    bubble = d.chance(0.7) * d.uniform(0.6, 1)
    bodies.add(
        (5.6, -1.5, thorax.base("left") - 2.6), (2.6 * d.normal(1, 0.15), 2.6, 1.5),
        density=-0.17 * bubble,
    )  # fmt: skip
    return bodies


def ribs(thorax: Thorax) -> tuple[Ellipsoids, Ellipsoids]:
    """Tilted discs and what is cut out of them: each rib is a ring, lower in front."""
    outer, inner, d = Bodies(thorax.n), Bodies(thorax.n), thorax.draws
    tilt, thick = 0.44 + d.normal(0, 0.04), 0.62
    for k in range(N_RIBS):
        z = 10.6 - 2.35 * k
        rx = (LUNG_X.at(z) + LUNG_A.at(z)) * thorax.wide + 0.45
        ry = (LUNG_B.at(z) + 0.9) * thorax.deep
        centre = (0.0, LUNG_Y.at(z) - 0.2, z * thorax.tall)
        lie = (tilt * (1 + 0.02 * k), 0, 0)
        outer.add(centre, (rx, ry, 0.66), lie, 0.28, 0.13)
        inner.add(centre, (rx - thick, ry - thick, 2.4), lie)
    return outer.build(), inner.build()


def _vessels(t: Thorax, bodies: Bodies) -> None:
    """Hila, aortic knob, and vessels that branch twice."""
    d = t.draws
    bodies.add(
        (2.1 + t.shift, 2.0, 6.2 * t.tall), (1.75, 2.8, 1.7 * d.normal(1, 0.1)), density=0.13
    )
    bodies.add((2.6 + t.shift, -0.5, 3.0), (1.5, 2.0, 1.4), density=0.10)
    for side, sign in SIDES.items():
        hilum = 1.0 if side == "right" else 1.7
        bodies.add(
            (sign * 3.9 + t.shift, 0.8, hilum), (1.2, 1.6, 2.1 * d.normal(1, 0.1)),
            (0, sign * 0.3, 0), 0.10 * t.vessels,
        )  # fmt: skip
        for k in range(7):
            angle, length = -1.35 + 0.42 * k + d.normal(0, 0.1), d.uniform(1.7, 2.6)
            x, z = sign * 3.4 + t.shift, hilum
            y, out = 0.8 + d.normal(0, 0.4), d.normal(0, 0.45)
            for part, radius in enumerate((0.42, 0.30, 0.2)):
                c, s = np.cos(angle), np.sin(angle)
                dx, dz, dy = sign * c * length * 0.9, s * length, out * length
                thin = radius * t.vessels
                bodies.add(
                    (x + dx, y + dy, z + dz), (length * 1.08, thin, thin),
                    (0, -sign * angle, sign * np.arctan(out)), 0.145,
                )  # fmt: skip
                x, y, z = x + 1.8 * dx, y + 1.8 * dy, z + 1.8 * dz
                angle = angle + d.normal(0, 0.25) + 0.06 * (part - 1)
                length = length * 0.72


def _skeleton(t: Thorax, bodies: Bodies) -> None:
    """Clavicles, shoulders, sternum, and the processes behind the spine."""
    d = t.draws
    for sign in SIDES.values():
        lift = d.normal(0, 0.3)
        if t.version == 2:
            _clavicle(t, bodies, sign, lift)
        else:
            bodies.add(
                (sign * 4.6 * t.wide, -5.6 * t.deep, 11.0 * t.tall + lift), (3.9, 0.75, 0.6),
                (0, -sign * 0.12, sign * 0.4), 0.24, 0.12,
            )  # fmt: skip
            bodies.add(
                (sign * 10.4 * t.wide, -3.4 * t.deep, 12.0 * t.tall + lift), (3.9, 0.7, 0.55),
                (0, -sign * 0.2, sign * 0.15), 0.24, 0.08,
            )  # fmt: skip
        # the blade of the scapula, its spine, and the head of the humerus
        bodies.add(
            (sign * 13.6 * t.wide, 6.6, 5.6), (0.9, 2.2, 5.6), (0, sign * 0.22, sign * 0.5), 0.10
        )
        bodies.add((sign * 13.2 * t.wide, 6.0, 10.6), (3.6, 0.9, 0.8), (0, sign * -0.3, 0), 0.16)
        bodies.add((sign * 16.9 * t.wide, 1.0, 9.8), (2.4, 2.3, 2.6), density=0.13, lateral=0)
    if t.version == 2:
        _midline(t, bodies)
        return
    bodies.add((0, -9.4 * t.deep, 7.4), (2.2, 0.7, 2.3), (0.3, 0, 0), 0.11)
    bodies.add((0, -10.3 * t.deep, 0.2), (1.5, 0.55, 5.6), (0.1, 0, 0), 0.11)
    for k in range(13):
        z = 15.5 - 2.55 * k
        y = SPINE_Y.at(z) * t.deep + 2.9
        bodies.add((0, y, (z - 0.9) * t.tall), (0.45, 1.7, 0.7), (0.45, 0, 0), 0.10)


# ---------------- bones and airways of version 2, where they are in people


def _clavicle(t: Thorax, bodies: Bodies, sign: float, lift: np.ndarray) -> None:
    """An S of two parts, from the manubrium to the shoulder, dense enough to be seen."""
    bodies.add(
        (sign * 4.4 * t.wide, -5.9 * t.deep, 9.9 * t.tall + lift), (3.7, 0.7, 0.62),
        (0, -sign * 0.24, sign * 0.3), 0.42, 0.14,
    )  # fmt: skip
    bodies.add(
        (sign * 10.2 * t.wide, -3.9 * t.deep, 11.2 * t.tall + lift), (3.9, 0.7, 0.52),
        (0, -sign * 0.16, sign * 0.35), 0.42, 0.08,
    )  # fmt: skip


def sternum_depth(t: Thorax, z: float) -> np.ndarray:
    """Where the breastbone's middle lies: under skin and fat, wherever these are."""
    return t.skin(z)[0] + 1.5 + 0.5 * t.fat


def _midline(t: Thorax, bodies: Bodies) -> None:
    """Sternum, spinous processes, and the main bronchi."""
    for z, axes, lean in ((7.6, (2.4, 0.6, 2.3), -0.3), (0.2, (1.5, 0.5, 5.4), -0.1)):
        bodies.add((0, sternum_depth(t, z), z * t.tall), axes, (lean, 0, 0), 0.09, 0.13)
    for k in range(13):
        z = 15.5 - 2.55 * k
        spine = SPINE_Y.at(z) * t.deep + t.kyphosis * np.cos(z / 8)
        half = ((t.skin(z - 0.9)[1] - 0.9 - 0.5 * t.fat - spine - 1.4) / 2).clip(0.5, 1.7)
        # they point downwards, so their tips lie lower and less far behind
        bodies.add(
            (0, spine + 1.4 + 0.95 * half, (z - 0.9) * t.tall), (0.45, half, 0.6),
            (-0.35, 0, 0), 0.12, 0.2,
        )  # fmt: skip
    carina = 4.2 * t.tall
    for sign, steep in ((-1.0, 0.95), (1.0, 0.65)):
        bodies.add(
            (sign * 1.5 * np.cos(steep) - 0.3 + 0.5 * t.shift, 2.1, carina - 1.5 * np.sin(steep)),
            (2.1, 0.62, 0.62), (0, sign * steep, 0), -0.17,
        )  # fmt: skip

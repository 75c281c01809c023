"""The small parts of a thorax: vessels, bones, breasts, and the stomach's air."""

import numpy as np

from dfdlib.data._phantom_anatomy import LUNG_A, LUNG_B, LUNG_X, LUNG_Y, SIDES, SPINE_Y, Thorax
from dfdlib.data._phantom_bodies import Bodies
from dfdlib.data._phantom_projection import Ellipsoids

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
    bodies.add((0, -9.4 * t.deep, 7.4), (2.2, 0.7, 2.3), (0.3, 0, 0), 0.11)
    bodies.add((0, -10.3 * t.deep, 0.2), (1.5, 0.55, 5.6), (0.1, 0, 0), 0.11)
    for k in range(13):
        z = 15.5 - 2.55 * k
        y = SPINE_Y.at(z) * t.deep + 2.9
        bodies.add((0, y, (z - 0.9) * t.tall), (0.45, 1.7, 0.7), (0.45, 0, 0), 0.10)

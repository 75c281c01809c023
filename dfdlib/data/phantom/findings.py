"""Findings: what disease and devices change in a thorax, each growing with its severity."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from dfdlib.data.phantom.anatomy import SIDES, Bodies, Thorax, small_parts, sternum_depth
from dfdlib.data.phantom.projection import Ellipsoids

DEVICES = ("tracheal tube", "central line", "pacemaker", "sternal wires", "leads")
# Share of each among those with devices; who draws none has a central line.
DEVICE_SHARE = (0.35, 0.45, 0.3, 0.25, 0.4)
METAL = 1.6


class Disease:
    """Findings of each patient, applied to a thorax (which changes) on construction.

    Args:
        thorax: A healthy thorax.
        nodes: Findings and severities, named as in the causal model.

    Attributes:
        level: Per side, the height of free fluid (cm), -inf without.
        collapse: Per side, the share by which a lung has shrunk.
        truth: Columns of `cohort.truth`.
    """

    def __init__(self, thorax: Thorax, nodes: pd.DataFrame) -> None:
        self.thorax, self.draws, self.n = thorax, thorax.draws, len(nodes)
        self.present = {name: nodes[name].to_numpy(float) for name in nodes}
        self.severity = {
            name.removeprefix("severity_"): value
            for name, value in self.present.items()
            if name.startswith("severity_")
        }
        self.truth: dict[str, np.ndarray] = {}
        self._heart_failure()
        self._atelectasis()
        self.parts = small_parts(thorax)
        self._wings()
        self._lesion()
        self._devices()
        self.blobs = self._consolidation()
        self.level = self._effusion()
        self.collapse = self._pneumothorax()

    def _heart_failure(self) -> None:
        t, s = self.thorax, self.severity
        large = self.present["cardiomegaly"]
        t.heart = t.heart + large * 0.03 + 0.24 * s["cardiomegaly"]
        self.truth["heart"] = t.heart
        t.vessels = t.vessels * (1 + 0.2 * s["edema"])
        t.parenchyma = t.parenchyma * (1 + 0.25 * s["edema"])

    def _atelectasis(self) -> None:
        """A part of a lung without air: it shrinks, and pulls diaphragm and mediastinum."""
        t, d, s = self.thorax, self.draws, self.severity["atelectasis"]
        self.flat_side = d.side()
        t.shift = t.shift + self.flat_side * 0.7 * s
        for side, sign in SIDES.items():
            t.raised[side] = t.raised[side] + 1.3 * s * (self.flat_side == sign)

    def _wings(self) -> None:
        """Edema fills the lungs from the hila outwards; atelectasis leaves plates of tissue."""
        t, d, s = self.thorax, self.draws, self.severity
        for sign in SIDES.values():
            self.parts.add(
                (sign * 6.3 * t.wide, 1.0, 0.6), (3.9, 5.0, 6.0 * d.normal(1, 0.1)),
                (0, sign * 0.2, 0), 0.02 * s["edema"],
            )  # fmt: skip
        base = np.where(self.flat_side < 0, t.base("right"), t.base("left"))
        density = (0.03 + 0.06 * s["atelectasis"]) * self.present["atelectasis"]
        for lift in (1.6, 3.6):
            self.parts.add(
                (self.flat_side * 7.4 * t.wide, d.normal(1.5, 1.5), base + d.normal(lift, 0.6)),
                (3.6 + 1.2 * s["atelectasis"], 3.6, 0.5), (d.normal(0, 0.15), d.normal(0, 0.25), 0),
                density * (1 if lift < 2 else d.chance(0.6)),
            )  # fmt: skip

    def _lesion(self) -> None:
        """A ball: smaller and behind the heart for one in three, else where lung lies bare."""
        t, d, s = self.thorax, self.draws, self.severity["lung_lesion"]
        behind = d.chance(0.35)
        radius = np.where(behind == 1, 0.75 + 1.0 * s, 1.0 + 1.6 * s) + d.normal(0, 0.1)
        side = np.where(behind == 1, 1.0, d.side())
        turn, out = d.uniform(0, 2 * np.pi), np.sqrt(d.uniform(0.0, 1.0)) * 0.62
        z = np.where(behind == 1, d.uniform(-6.2, -3.0), d.uniform(-3.5, 8.0)) * t.tall
        height = torch.from_numpy(z.astype(np.float32))[:, None]
        lung = {name: t.lung(name, height) for name in SIDES}
        x, y, a, b = (
            np.where(side < 0, right[:, 0].numpy(), left[:, 0].numpy())
            for right, left in zip(lung["right"], lung["left"], strict=True)
        )
        x, y = x + a * out * np.cos(turn) + 0.9 * side * (behind == 0), y + b * out * np.sin(turn)
        x = np.where(behind == 1, d.uniform(1.6, 3.8) * t.wide, x)
        y = np.where(behind == 1, d.uniform(3.6, 5.6), y)
        self.parts.add((x, y, z), (radius, radius, radius), density=0.155 * (s > 0))
        there = s > 0
        self.truth |= {
            "lesion_behind_heart": there & (behind == 1),
            **{
                f"lesion_{name}": np.where(there, value, np.nan)
                for name, value in (("x", x), ("y", y), ("z", z), ("radius", radius))
            },
        }

    def _consolidation(self) -> Ellipsoids:
        """Balls of tissue that run together; only their part within a lung counts."""
        t, d, s = self.thorax, self.draws, self.severity["consolidation"]
        side, bodies = d.side(), Bodies(self.n)
        x, y = side * d.uniform(5.5, 8.5) * t.wide, d.uniform(-4.0, 5.0)
        z, radius = d.uniform(-6.0, 6.0), 2.0 + 1.5 * s
        for _ in range(6):
            shrink = d.uniform(0.45, 0.8)
            bodies.add(
                [at + radius * d.normal(0, 0.5) for at in (x, y, z)],
                [radius * shrink * d.uniform(0.8, 1.25) for _ in range(3)],
                (0, d.normal(0, 0.5), 0), (0.02 + 0.035 * s) * (s > 0),
            )  # fmt: skip
        self.consolidated = {name: (s > 0) & (side == sign) for name, sign in SIDES.items()}
        return bodies.build()

    def _effusion(self) -> Mapping[str, np.ndarray]:
        """Free fluid: it fills the sulcus behind the dome first, then rises."""
        t, d, s = self.thorax, self.draws, self.severity["pleural_effusion"]
        side, both = d.side(), d.chance(0.4)
        level = {}
        for name, sign in SIDES.items():
            wet = (s > 0) & ((side == sign) | (both == 1))
            height = -6.4 + 5.0 * s**1.2 + d.normal(0, 0.4)
            level[name] = np.where(wet, t.base(name) + height, -np.inf)
            self.truth[f"fluid_{name}"] = np.where(wet, height, np.nan)
        return level

    def _pneumothorax(self) -> Mapping[str, np.ndarray]:
        """Air around a lung that has shrunk towards its hilum."""
        d, s = self.draws, self.severity["pneumothorax"]
        side = d.side()
        share = (s > 0) * (0.02 + 0.10 * s)
        self.truth["pneumothorax_side"] = np.where(s > 0, side, np.nan)
        return {name: share * (side == sign) for name, sign in SIDES.items()}

    def _devices(self) -> None:
        t, d, on = self.thorax, self.draws, self.present["support_devices"]
        has = np.stack([d.chance(p) for p in DEVICE_SHARE], 1) * on[:, None]
        has[:, 1] = np.where(has.sum(1) == 0, on, has[:, 1])
        self.truth |= {name.replace(" ", "_"): has[:, k] == 1 for k, name in enumerate(DEVICES)}
        tube, line, pacer, wires, leads = has.T
        add, low = self.parts.add, d.normal(0, 0.8)
        add((0.1, -0.3, 11.5 + low), (0.42, 0.42, 6.0), (0.15, d.normal(0, 0.03), 0), 0.6 * tube)
        add((-6.0, -4.8, 11.0), (4.4, 0.2, 0.2), (0, d.normal(0.3, 0.1), -0.4), METAL * line)
        add((-2.3 + d.normal(0, 0.3), -1.0, 5.6), (0.2, 0.2, 5.4), (0.1, 0, 0), METAL * line)
        box = (9.4 * t.wide + d.normal(0, 0.5), -8.2 * t.deep, 8.0 + d.normal(0, 0.8))
        add(box, (2.3, 0.55, 1.9), (0, d.normal(0, 0.3), 0.35), 1.1 * pacer)
        add((4.9, -5.4, 9.2), (4.6, 0.2, 0.2), (0, -0.15, 0.6), METAL * pacer)
        add((-0.6, -1.6, 3.6), (0.2, 0.2, 6.0), (0, 0.12, 0), METAL * pacer)
        add((1.6, -3.0, -4.6), (4.0, 0.2, 0.2), (0, 0.5, 0.3), METAL * pacer)
        for k in range(4):
            height = 7.0 - 3.2 * k
            depth = -10.2 * t.deep if t.version == 1 else sternum_depth(t, height)
            wire = (d.normal(0, 0.2), depth, height)
            add(wire, (0.9, 0.25, 0.35), density=1.4 * wires)
        for usual_x, usual_z in ((-8.5, 8.0), (8.5, 7.0), (9.5, -6.5)):
            x, z = d.normal(usual_x, 0.7), d.normal(usual_z, 0.7)
            add((x, -11.0 * t.deep, z), (0.75, 0.3, 0.75), density=1.2 * leads)
            length, slope = d.uniform(4, 6), d.normal(0, 0.25)
            end_x, end_z = x + 0.9 * length * np.sin(slope), z - 0.9 * length * np.cos(slope)
            cable = (end_x, -11.4 * t.deep, end_z)
            add(cable, (0.14, 0.14, length), (0, -slope, 0), 1.4 * leads)

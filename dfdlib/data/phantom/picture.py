"""From a thorax with its findings to a picture.

`Scene` gives the line integrals along all rays; `pose` stands a patient before the detector;
`expose` takes the picture by Beer and Lambert's law, with scatter, noise, exposure and a scanner's
style.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dfdlib.data.phantom.anatomy import SIDES, TISSUE, Draws, Thorax, per_image, per_row, ribs
from dfdlib.data.phantom.findings import Disease
from dfdlib.data.phantom.projection import (
    FIELD,
    Box,
    Interval,
    Pose,
    Shadows,
    Strip,
    Tube,
    crossed,
    splat,
)

#: Quantiles of what lies behind the patient that become black and white, by version of the phantom.
EXPOSURE = {1: (0.04, 0.92), 2: (0.04, 0.985)}
# Share of the spine's density that version 2 shows from the front, behind the trachea.
SPINE_IN_FRONT = 0.4
# Share of tissue that air displaces.
AIR = 0.985
# Ribs end in front, where cartilage begins: depth (cm) of the first, and width of the border.
CARTILAGE, BORDER = -6.2, 0.8
# The most that a ray runs within a rib (cm): ribs twist.
RUN = 1.5


class Scene:
    """Thorax and findings as bodies, built once for both views."""

    def __init__(self, thorax: Thorax, disease: Disease) -> None:
        self.thorax, self.disease = thorax, disease
        self.parts, self.carvers = disease.parts.build(), thorax.carvers()
        self.blobs = disease.blobs
        self.outer, self.inner = ribs(thorax)

    def integrals(self, pose: Pose) -> Float[Tensor, "n s s"]:
        """Attenuation × length along each ray."""
        z, thorax = pose.height, self.thorax
        image = splat(self.parts.seen(pose), pose)
        cut = self.carvers.seen(pose)
        image += splat(Shadows(*(field[:, :1] for field in cut)), pose)
        spine, bone = thorax.spine(z)
        if thorax.version == 2 and pose.view == 0:
            bone = SPINE_IN_FRONT * bone  # else it is as much as the trachea before it takes away
        tubes: tuple[tuple[Tube, Tensor | float], ...] = (
            (thorax.body(pose.view, z), TISSUE),
            (spine, bone),
            (thorax.trachea(z), -0.17 if thorax.version == 1 else -0.195),
            (thorax.aorta(z), 0.07),
        )
        for tube, density in tubes:
            _add_tube(image, tube, density, pose)
        self._ribs(image, pose)
        for k, side in enumerate(SIDES):
            self._lung(image, side, cut, k + 1, pose)
        return image / pose.magnification[:, None, None]

    def _ribs(self, image: Tensor, pose: Pose) -> None:
        """Rings: what rays cross of a disc, less what they cross of a smaller one."""
        outer, inner = self.outer.seen(pose), self.inner.seen(pose)
        for k in range(outer.u.shape[1]):
            disc, hole = (Shadows(*(f[:, k] for f in s)) for s in (outer, inner))
            box = Box.around(pose, disc.u, disc.uu.sqrt(), disc.v, disc.vv.sqrt())
            bone = crossed(disc, pose, box)
            front = CARTILAGE + 0.12 * k
            if pose.view == 0:
                bone.lo.clamp_(min=front)
            ring = bone.length - bone.both(crossed(hole, pose, box)).length
            if pose.view == 1:
                at = pose.u[box.left : box.right] - pose.shift[:, :1]
                ring *= torch.sigmoid((at - front) / (BORDER / 2))[:, None]
            ring.clamp_(max=RUN)
            box.of(image).add_(ring.mul_(disc.density[:, None, None]))

    def _lung(self, image: Tensor, side: str, cut: Shadows, dome: int, pose: Pose) -> None:
        """Air and tissue of a lung, less what heart, mediastinum and dome take."""
        thorax, disease, z = self.thorax, self.disease, pose.height
        lung, middle = thorax.lung(side, z).seen(pose), thorax.mediastinum(z).seen(pose)
        box = lung.box(pose)
        everyone = torch.arange(thorax.n)
        carve = (cut, dome, middle, pose, box)
        tissue = per_image(thorax.parenchyma)
        air = _bare(lung.crossed(pose, box), everyone, *carve)
        change = (tissue - AIR * TISSUE) * air
        rows = torch.from_numpy(np.flatnonzero(disease.collapse[side]))
        if len(rows):
            share = per_image(disease.collapse[side])[rows]
            small = _shrunk(thorax, side, share, z, pose, rows)
            left = _bare(small.crossed(pose, box), rows, *carve)
            change[rows] += tissue[rows] * (left * (1 + 1.2 * share) - air[rows])
        rows = torch.from_numpy(np.flatnonzero(disease.consolidated[side]))
        if len(rows):
            blobs, within = self.blobs.seen(pose), lung.rows(rows).crossed(pose, box)
            for k in range(blobs.u.shape[1]):
                blob = blobs.take(rows, k)
                dense = _bare(crossed(blob, pose, box).both(within), rows, *carve)
                change[rows] += dense * blob.density[:, None, None]
        rows = torch.from_numpy(np.flatnonzero(np.isfinite(disease.level[side])))
        if len(rows):
            change[rows] *= 1 - _fluid(disease.level[side], side, pose, rows, box)
        box.of(image).add_(change)


def _add_tube(image: Tensor, tube: Tube, density: Tensor | float, pose: Pose) -> None:
    strip = tube.seen(pose)
    box = strip.box(pose)
    chord = strip.chord(pose, box)
    if isinstance(density, Tensor):
        density = density[:, box.top : box.bottom, None]
    box.of(image).add_(chord.mul_(density))


def _bare(
    part: Interval, rows: Tensor, cut: Shadows, dome: int, middle: Strip, pose: Pose, box: Box
) -> Tensor:
    """Length of an interval outside heart, mediastinum and dome: inclusion and exclusion."""
    heart = part.both(crossed(cut.take(rows, 0), pose, box))
    dome_part = part.both(crossed(cut.take(rows, dome), pose, box))
    vessels = part.both(middle.rows(rows).crossed(pose, box))
    pair = heart.both(vessels)
    length = part.length
    length -= heart.length
    length -= dome_part.length
    length -= vessels.length
    length += pair.length
    length += heart.both(dome_part).length
    length += vessels.both(dome_part).length
    length -= pair.both(dome_part).length
    return length.clamp_(min=0)


def _shrunk(thorax: Thorax, side: str, share: Tensor, z: Tensor, pose: Pose, rows: Tensor) -> Strip:
    """A lung that has shrunk towards its hilum, by a share of its own for each patient."""
    keep = 1 - share[:, :, 0]
    hilum, x = 1.0, SIDES[side] * 4.0
    stretched = z.clone()
    stretched[rows] = hilum + (z[rows] - hilum) / keep
    tube = Tube(*(field[rows] for field in thorax.lung(side, stretched)))
    small = Tube(x + (tube.x - x) * keep, 1.0 + (tube.y - 1.0) * keep, tube.a * keep, tube.b * keep)
    return small.seen(pose.rows(rows))


def _fluid(level: np.ndarray, side: str, pose: Pose, rows: Tensor, box: Box) -> Tensor:
    """Share of each ray that fluid fills; its border rises towards the wall."""
    u = pose.u[box.left : box.right] - pose.shift[rows, :1]
    if pose.view == 0:
        rise = 1.3 * ((u * SIDES[side] - 7.0) / 5.5).square()
    else:
        rise = 1.1 * (u / 8.0).square()
    top = per_row(level)[rows] + rise
    z = pose.height[rows, box.top : box.bottom, None]
    return torch.sigmoid((top[:, None, :] - z) / 0.3)


# ---------------- from line integrals to a picture

# Attenuation by view relative to the densities: the lateral view is taken with a harder beam.
BEAM = (0.62, 0.47)
# Photons at a square cm of the detector, of a bare beam.
PHOTONS = 5.0e4
# Scatter relative to the primary beam, and the width of its blur as a share of the side.
SCATTER, SPREAD = 0.35, 0.09
# How far white lies above what is dense, by view, as a share of the window.
HEADROOM = (0.28, 0.38)
# Film values below this show no patient.
BARE = 0.35


def pose(draws: Draws, view: int, size: int) -> Pose:
    """Stand a patient before the detector, more or less straight."""
    lean = draws.normal(0, 0.035)
    turn = draws.normal(0, 0.07)
    across, up = draws.normal(0.2 * view, 0.5), draws.normal(-0.4, 0.6)
    return Pose(
        view=view,
        size=size,
        turn=per_row(turn)[:, 0],
        lean=per_row(lean)[:, 0],
        magnification=per_row(draws.normal(1.0, 0.035))[:, 0],
        shift=torch.cat([per_row(across), per_row(up)], 1),
    )


def expose(
    integrals: Float[Tensor, "n s s"],
    scanner: np.ndarray,
    view: int,
    draws: Draws,
    noise: np.random.Generator,
    exposure: tuple[float, float] = EXPOSURE[1],
) -> Float[Tensor, "n s s"]:
    """Take the picture.

    Args:
        integrals: Attenuation × length.
        scanner: 0 crisp, 1 soft.
        view: 0 frontal, 1 lateral.
        draws: Numbers per patient: dose, scatter, window, contrast.
        noise: A stream of its own, so that fewer patients begin alike.
        exposure: Quantiles of the film that automatic exposure makes black and white.
    """
    n, size, _ = integrals.shape
    soft = per_image(scanner)
    transmitted = (integrals * (-BEAM[view] * per_image(draws.normal(1, 0.03)))).exp_()
    blur = _blur(size, SPREAD)
    scatter = blur @ transmitted @ blur.T
    light = transmitted + per_image(draws.normal(SCATTER, 0.05)) * (1 + 0.4 * soft) * scatter
    dose = PHOTONS * (FIELD / size) ** 2 * per_image(np.exp(draws.normal(0, 0.35)))
    grain = torch.from_numpy(noise.standard_normal((n, size, size), dtype=np.float32))
    light += grain * (light / (dose * (1 - 0.5 * soft))).sqrt()
    film = -light.clamp_(min=1e-4).log_()
    film = torch.lerp(film, _sharpened(film), 0.4 - soft * 0.6)
    low, high = _window(film, exposure)
    low = low + per_image(draws.normal(-0.22, 0.05)) * (high - low)
    high = high + per_image(draws.normal(HEADROOM[view], 0.06)) * (high - low)
    x = (film - low) / (high - low)
    x = _film_curve(x, 4.2 * per_image(draws.normal(1, 0.06)) * (1 - 0.14 * soft))
    x = x * (1 - 0.10 * soft) + 0.07 * soft
    return _mark(x.clamp_(0, 1), scanner)


def _film_curve(x: Tensor, contrast: Tensor) -> Tensor:
    """The sigmoid by which film answers light, so that very dense parts hardly differ."""
    low, high = torch.sigmoid(-contrast * 0.5), torch.sigmoid(contrast * 0.5)
    return (torch.sigmoid(contrast * (x - 0.5)) - low) / (high - low)


def _window(film: Tensor, exposure: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Automatic exposure: quantiles of what lies behind the patient, every other pixel."""
    size = film.shape[-1]
    edge = size // 10
    middle = film[:, edge : size - edge : 2, edge : size - edge : 2].flatten(1)
    behind = middle > BARE
    ordered = torch.where(behind, middle, torch.inf).sort(dim=1).values
    count = behind.sum(1).clamp(min=8)
    low, high = (ordered.gather(1, (q * count).long()[:, None]) for q in exposure)
    return low[:, :, None], high[:, :, None]


def _sharpened(film: Tensor) -> Tensor:
    blur = _blur(film.shape[-1], 0.03)
    return 2 * film - blur @ film @ blur.T


def _blur(size: int, share: float) -> Tensor:
    """A Gaussian along one axis as a matrix whose rows sum to 1."""
    at = torch.arange(size)
    matrix = torch.exp(-((at[:, None] - at) ** 2) / (2 * (share * size) ** 2))
    matrix[matrix < 1e-6] = 0  # denormal numbers make products slow
    return matrix / matrix.sum(1, keepdim=True)


def _mark(x: Tensor, scanner: np.ndarray) -> Tensor:
    """The soft scanner's letter in a corner."""
    size = x.shape[-1]
    k = max(1, size // 24)
    rows = torch.from_numpy(np.flatnonzero(scanner))
    x[rows, size // 16 : size // 16 + 2 * k, size // 24 : size // 24 + k] = 0.9
    return x

"""From line integrals to a picture: Beer–Lambert, scatter, noise, exposure and scanner style."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dfdlib.data._phantom_bodies import Draws, per_image, per_row
from dfdlib.data._phantom_projection import FIELD, Pose

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
) -> Float[Tensor, "n s s"]:
    """Take the picture.

    Args:
        integrals: Attenuation × length.
        scanner: 0 crisp, 1 soft.
        view: 0 frontal, 1 lateral.
        draws: Numbers per patient: dose, scatter, window, contrast.
        noise: A stream of its own, so that fewer patients begin alike.
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
    low, high = _window(film)
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


def _window(film: Tensor) -> tuple[Tensor, Tensor]:
    """Automatic exposure: quantiles of what lies behind the patient, every other pixel."""
    size = film.shape[-1]
    edge = size // 10
    middle = film[:, edge : size - edge : 2, edge : size - edge : 2].flatten(1)
    behind = middle > BARE
    ordered = torch.where(behind, middle, torch.inf).sort(dim=1).values
    count = behind.sum(1).clamp(min=8)
    low, high = (ordered.gather(1, (q * count).long()[:, None]) for q in (0.04, 0.92))
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

"""Diagonal Gaussians: divergences and log-density, summed over the last dimension."""

import math
import zlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def kl_standard(
    mean: Float[Tensor, "*n d"], log_variance: Float[Tensor, "*n d"]
) -> Float[Tensor, "*n"]:
    r"""Divergence from the standard normal distribution.

    .. math::
        \mathrm{KL}(q \,\|\, N(0, I)) = \tfrac12 \sum_d (\mu^2 + \sigma^2 - 1 - \log \sigma^2)

    Args:
        mean: :math:`\mu`.
        log_variance: :math:`\log \sigma^2`.

    Shapes:
        (..., d) -> (...)

    Example:
        >>> kl_standard(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.zeros(2, 2))
        tensor([0., 2.])
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)


def kl(
    mean: Float[Tensor, "*#n d"],
    log_variance: Float[Tensor, "*#n d"],
    to_mean: Float[Tensor, "*#n d"],
    to_log_variance: Float[Tensor, "*#n d"],
) -> Float[Tensor, "*n"]:
    r"""Divergence of one diagonal Gaussian from another, :math:`\mathrm{KL}(q \,\|\, p)`.

    .. math::
        \tfrac12 \sum_d \bigl( \log\tfrac{\sigma_p^2}{\sigma_q^2}
        + \tfrac{\sigma_q^2 + (\mu_q - \mu_p)^2}{\sigma_p^2} - 1 \bigr)

    Args:
        mean: :math:`\mu_q`.
        log_variance: :math:`\log \sigma_q^2`.
        to_mean: :math:`\mu_p`.
        to_log_variance: :math:`\log \sigma_p^2`.

    Shapes:
        (..., d), broadcast -> (...)

    Example:
        >>> zero, one = torch.zeros(1, 1), torch.ones(1, 1)
        >>> kl(one, zero, zero, zero), kl(one, zero, one, zero)
        (tensor([0.5000]), tensor([0.]))
    """
    ratio = log_variance - to_log_variance
    apart = (mean - to_mean).square() * torch.exp(-to_log_variance)
    return 0.5 * (ratio.exp() + apart - 1 - ratio).sum(-1)


def log_density(
    z: Float[Tensor, "*#n d"], mean: Float[Tensor, "*#n d"], log_variance: Float[Tensor, "*#n d"]
) -> Float[Tensor, "*n"]:
    r"""Logarithm of the density of a diagonal Gaussian at z.

    Shapes:
        (..., d), broadcast -> (...)
    """
    square = (z - mean).square() * torch.exp(-log_variance)
    return -0.5 * (square + log_variance + LOG_2PI).sum(-1)


def steady_noise(rows: Int[Tensor, " n"], names: Sequence[str], d: int) -> Float[Tensor, "n v d"]:
    """Standard normal noise that is the same for a row and a name, whatever else is asked for.

    There are 4096 vectors for each name; rows take them in turn.
    """
    tables = []
    for name in names:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        tables.append(torch.randn(4096, d, generator=generator))
    return torch.stack(tables, 1).to(rows.device)[rows % 4096]

"""Fusing the posteriors of several views: pure functions over diagonal Gaussians, under a mask.

A posterior is a mean and the logarithm of a variance per latent dimension. Those of all views stand
side by side, (n, m, d), with `observed` (n, m) saying which are there; what a missing view holds is
never read, and no gradient reaches it. Where a patient has no view at all, the result is N(0, I).
"""

import math
import zlib
from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dfdlib.errors import unknown

Average = Literal["variance", "deviation"]
PriorExpert = Literal["none", "all", "full"]
Regulariser = Literal["pairwise", "mixture"]

LOG_2PI = math.log(2 * math.pi)


class Posteriors(NamedTuple):
    """The posterior of each view; what it holds where a view is missing means nothing."""

    mean: Float[Tensor, "n m d"]
    log_variance: Float[Tensor, "n m d"]
    observed: Bool[Tensor, "n m"]


class Draws(NamedTuple):
    """Latents to decode: s of each patient, by weight, and one for all views or one for each."""

    z: Float[Tensor, "n s v d"]
    weight: Float[Tensor, "n s"]
    kl: Float[Tensor, " n"]


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


def avg(
    mean: Float[Tensor, "n m d"],
    log_variance: Float[Tensor, "n m d"],
    observed: Bool[Tensor, "n m"],
    *,
    average: Average | str = "variance",
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    r"""Average the parameters of the posteriors.

    Source: Sutter et al. 2024 (arXiv 2403.05300), equation 15: :math:`\mu = \frac1M\sum \mu_m,\;
    \sigma = \frac1M\sum \sigma_m`. Their public code averages the variances in the place of the
    deviations, which is what the published numbers come from and the default here.

    Args:
        mean: mean of each view's posterior.
        log_variance: logarithm of its variance.
        observed: which views are there.
        average: "variance" (the code) or "deviation" (the paper's equation).

    Shapes:
        (n, m, d), (n, m, d), (n, m) -> (n, d), (n, d)

    Example:
        >>> mean, log_variance = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[1.0, 9.0]]).log()
        >>> both = torch.ones(1, 2, dtype=torch.bool)
        >>> [avg(mean, log_variance[..., None], both, average=a)[1].exp().item()
        ...  for a in ("variance", "deviation")]
        [5.0, 4.0]
    """
    if average not in get_args(Average):
        raise unknown(average, get_args(Average), "way to average")
    # DIFF: equation 15 averages deviations, the public code variances; both are here
    power = 1.0 if average == "variance" else 0.5
    there = observed.unsqueeze(-1)
    share = there.to(mean.dtype) / there.sum(1, keepdim=True).clamp(min=1)
    spread = torch.where(there, log_variance, 0).mul(power).exp()
    spread = (share * spread).sum(1) + (~there.any(1)).to(mean.dtype)
    return (share * torch.where(there, mean, 0)).sum(1), spread.log() / power


def poe(
    mean: Float[Tensor, "n m d"],
    log_variance: Float[Tensor, "n m d"],
    observed: Bool[Tensor, "n m"],
    *,
    prior_expert: bool = False,
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    r"""Multiply the posteriors: the product of Gaussians, normalised (product of experts).

    Source: Wu and Goodman 2018 (arXiv 1802.05335),

    .. math::
        \sigma^{-2} = \sum_m \sigma_m^{-2}, \qquad \mu = \sigma^2 \sum_m \sigma_m^{-2} \mu_m .

    They multiply by the prior N(0, I) too; the baselines of Sutter et al. 2024 do not.

    Args:
        mean: mean of each view's posterior.
        log_variance: logarithm of its variance.
        observed: which views are there.
        prior_expert: whether N(0, I) is one of the factors.

    Shapes:
        (n, m, d), (n, m, d), (n, m) -> (n, d), (n, d)

    Example:
        >>> mean, log_variance = torch.tensor([[[0.0], [3.0]]]), torch.zeros(1, 2, 1)
        >>> both = torch.ones(1, 2, dtype=torch.bool)
        >>> [t.item() for t in poe(mean, log_variance, both)]
        [1.5, -0.6931...]
        >>> [t.item() for t in poe(mean, log_variance, both, prior_expert=True)]
        [1.0, -1.0986...]
    """
    there = observed.unsqueeze(-1)
    precision = there * torch.exp(-torch.where(there, log_variance, 0))
    total = precision.sum(1)
    total = total + 1 if prior_expert else total + (~there.any(1)).to(mean.dtype)
    return (precision * torch.where(there, mean, 0)).sum(1) / total, -total.log()


def moe(
    mean: Float[Tensor, "n m d"],
    log_variance: Float[Tensor, "n m d"],
    observed: Bool[Tensor, "n m"],
) -> tuple[Float[Tensor, "n m d"], Float[Tensor, "n m d"], Bool[Tensor, "n m"]]:
    r"""Mix the posteriors (mixture of experts): its components are the experts themselves.

    Source: Shi et al. 2019 (arXiv 1911.03393), :math:`q(z \mid x) = \frac1M \sum_m q_m(z \mid
    x_m)`, over the views that are there. A mixture is given as components, and which of them a
    patient has; they weigh the same.

    Shapes:
        (n, m, d), (n, m, d), (n, m) -> the same
    """
    return mean, log_variance, observed


def subsets(m: int) -> Bool[Tensor, "s m"]:
    """All non-empty subsets of m views, the small ones first.

    Example:
        >>> subsets(2).int().tolist()
        [[1, 0], [0, 1], [1, 1]]
    """
    chosen = [c for size in range(1, m + 1) for c in combinations(range(m), size)]
    return torch.tensor([[j in c for j in range(m)] for c in chosen])


def mopoe(
    mean: Float[Tensor, "n m d"],
    log_variance: Float[Tensor, "n m d"],
    observed: Bool[Tensor, "n m"],
    *,
    among: Bool[Tensor, "s m"] | None = None,
    prior_expert: PriorExpert | str = "none",
) -> tuple[Float[Tensor, "n s d"], Float[Tensor, "n s d"], Bool[Tensor, "n s"]]:
    r"""Mix the products of subsets of views (mixture of products of experts).

    Source: Sutter et al. 2021 (arXiv 2105.02470),
    :math:`q(z \mid X) = \frac{1}{2^M - 1} \sum_{S} \mathrm{PoE}(\{q_m : m \in S\})`. A patient has
    the subsets all of whose views are there.

    Args:
        mean: mean of each view's posterior.
        log_variance: logarithm of its variance.
        observed: which views are there.
        among: the subsets; None takes all that are not empty.
        prior_expert: whether N(0, I) is a factor of no product, of all, or only of that of all
            views, as in the authors' first code.

    Shapes:
        (n, m, d), (n, m, d), (n, m), (s, m) -> (n, s, d), (n, s, d), (n, s)

    Example:
        >>> mean, log_variance = torch.tensor([[[0.0], [3.0]]]), torch.zeros(1, 2, 1)
        >>> components, _, there = mopoe(mean, log_variance, torch.tensor([[True, True]]))
        >>> components.flatten().tolist(), there.tolist()
        ([0.0, 3.0, 1.5], [[True, True, True]])
    """
    if prior_expert not in get_args(PriorExpert):
        raise unknown(prior_expert, get_args(PriorExpert), "choice of prior_expert")
    among = (subsets(observed.shape[1]) if among is None else among).to(observed.device)
    means, spreads = [], []
    for subset in among:
        prior = prior_expert == "all" or (prior_expert == "full" and bool(subset.all()))
        product = poe(mean, log_variance, observed & subset, prior_expert=prior)
        means.append(product[0])
        spreads.append(product[1])
    lacks = among & ~observed.unsqueeze(1)
    return torch.stack(means, 1), torch.stack(spreads, 1), ~lacks.any(-1)


def pick(
    mean: Float[Tensor, "n s d"],
    log_variance: Float[Tensor, "n s d"],
    available: Bool[Tensor, "n s"],
    place: Float[Tensor, "n *k"],
) -> tuple[Float[Tensor, "n *k d"], Float[Tensor, "n *k d"]]:
    """Take components of a mixture: of each row those at `place`, 0 to 1, among those it has.

    Shapes:
        (n, s, d), (n, s, d), (n, s), (n,) or (n, k) -> (n, d) or (n, k, d), and again

    Example:
        >>> mean = torch.tensor([[[1.0], [2.0], [3.0]]]).expand(2, 3, 1)
        >>> available = torch.tensor([[True, True, True], [True, False, True]])
        >>> pick(mean, mean, available, torch.tensor([0.4, 0.9]))[0].flatten().tolist()
        [2.0, 3.0]
    """
    count = available.sum(1, keepdim=True)
    per_row = place.shape[1] if place.ndim == 2 else 1
    rank = (place.reshape(len(place), per_row) * count).long().minimum(count - 1)
    at = (~available).int().argsort(dim=1, stable=True).gather(1, rank).unsqueeze(-1)
    shape = (*place.shape, mean.shape[2])
    at = at.expand(-1, -1, mean.shape[2])
    return mean.gather(1, at).view(shape), log_variance.gather(1, at).view(shape)


def mmvm(
    mean: Float[Tensor, "n m d"],
    log_variance: Float[Tensor, "n m d"],
    observed: Bool[Tensor, "n m"],
    *,
    regulariser: Regulariser | str = "pairwise",
    alpha: float = 0.0,
    z: Float[Tensor, "n m d"] | None = None,
) -> Float[Tensor, " n"]:
    r"""Pull each view's posterior towards the mixture of all: the MMVM regulariser.

    Source: Sutter et al. 2024 (arXiv 2403.05300), equation 3. The written form draws
    :math:`z_m \sim q_m` and is M times the Jensen–Shannon divergence, at most :math:`M \log M`:

    .. math::
        R = \sum_m \mathrm{KL}\Bigl(q_m \,\Big\|\, \frac1M \sum_k q_k\Bigr)
        \quad\text{("mixture")} .

    The public code minimises what bounds it from above, since KL is convex in its second argument,
    in closed form and without an upper limit:

    .. math::
        R \le \frac1M \sum_m \sum_k \mathrm{KL}(q_m \,\|\, q_k) \quad\text{("pairwise")} .

    Both are mixed with the standard normal distribution, :math:`(1 - \alpha) R + \alpha \sum_m
    \mathrm{KL}(q_m \,\|\, N(0, I))`. M counts the views that the patient has.

    Args:
        mean: mean of each view's posterior.
        log_variance: logarithm of its variance.
        observed: which views are there.
        regulariser: "pairwise" (the code, and the published numbers) or "mixture".
        alpha: weight of the standard normal distribution, 1 for independent views.
        z: one draw of each posterior, for "mixture".

    Shapes:
        (n, m, d), (n, m, d), (n, m) -> (n,)

    Raises:
        ValueError: for "mixture" without draws, or an unknown regulariser.

    Example:
        >>> mean, log_variance = torch.tensor([[[0.0], [2.0]]]), torch.zeros(1, 2, 1)
        >>> both = torch.ones(1, 2, dtype=torch.bool)
        >>> mmvm(mean, log_variance, both), mmvm(mean, log_variance, both, alpha=1.0)
        (tensor([2.]), tensor([2.]))
        >>> mmvm(mean, log_variance, both, regulariser="mixture", z=mean)
        tensor([1.1324])
    """
    if regulariser not in get_args(Regulariser):
        raise unknown(regulariser, get_args(Regulariser), "regulariser")
    # DIFF: the paper writes the mixture, its public code computes the pairwise bound; both are here
    there = observed.unsqueeze(-1)
    mean, log_variance = torch.where(there, mean, 0), torch.where(there, log_variance, 0)
    count = observed.sum(1).clamp(min=1).to(mean.dtype)
    shared = 0.0 if alpha == 1 else shared_kl(mean, log_variance, observed, count, regulariser, z)
    single = 0.0 if alpha == 0 else (kl_standard(mean, log_variance) * observed).sum(1)
    return (1 - alpha) * shared + alpha * single + mean.new_zeros(len(mean))


def shared_kl(
    mean: Tensor,
    log_variance: Tensor,
    observed: Tensor,
    count: Tensor,
    regulariser: str,
    z: Tensor | None,
) -> Tensor:
    """Sum a patient's KL divergences to the mixture of views, or to each view by itself."""
    pair = observed.unsqueeze(2) & observed.unsqueeze(1)
    if regulariser == "pairwise":
        by_pair = kl(
            mean.unsqueeze(2),
            log_variance.unsqueeze(2),
            mean.unsqueeze(1),
            log_variance.unsqueeze(1),
        )
        return torch.where(pair, by_pair, 0).sum((1, 2)) / count
    if z is None:
        raise ValueError("regulariser='mixture' needs a draw of each posterior. Pass z=")
    z = torch.where(observed.unsqueeze(-1), z, 0).unsqueeze(2)
    by_pair = log_density(z, mean.unsqueeze(1), log_variance.unsqueeze(1))
    same_view = by_pair.diagonal(dim1=1, dim2=2)
    # a row without any view would be the logarithm of nothing
    mixture = by_pair.masked_fill(
        ~observed.unsqueeze(1) & observed.any(1)[:, None, None], -torch.inf
    )
    mixture = mixture.logsumexp(2) - count.log().unsqueeze(1)
    return torch.where(observed, same_view - mixture, 0).sum(1)

"""Measures of dependence without a model, and their permutation tests."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

StatisticName = Literal["dcor", "hsic"]


def distance_correlation(x: Float[Tensor, "..."], y: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    r"""Distance correlation: 0 for independent vectors, and only for these; at most 1.

    Source: Székely, Rizzo and Bakirov 2007. With :math:`A_{ij} = |x_i - x_j|` centred by rows and
    columns, and B likewise from y,

    .. math::
        R^2 = \frac{\sum_{ij} A_{ij} B_{ij}}{\sqrt{\sum_{ij} A_{ij}^2 \sum_{ij} B_{ij}^2}} .

    This is the plug-in value, which lies above the population's, far above where there are many
    features and few patients. Judge it by `permutation_test`, not by its size. It can be minimised.

    Shapes:
        x (n, d), y (n, e) -> (); memory grows with n²

    Raises:
        ValueError: for other shapes, fewer than 4 rows, NaN, or rows that are all alike.

    Example:
        >>> x = torch.linspace(-1, 1, 9).unsqueeze(1)
        >>> float(distance_correlation(x, 2 * x)), round(float(distance_correlation(x, x**2)), 2)
        (1.0, 0.5)
    """
    _check(x, y)
    a, b = _centred_distance(x), _centred_distance(y)
    return _correlation((a * b).mean(), a.square().mean(), b.square().mean())


def hsic(
    x: Float[Tensor, "..."], y: Float[Tensor, "..."], *, bandwidth: int | float | None = None
) -> Float[Tensor, ""]:
    r"""Hilbert–Schmidt independence criterion: 0 for independent vectors, and only for these.

    Source: Gretton et al. 2005, the biased estimate with normal kernels:

    .. math::
        \mathrm{HSIC} = \frac{1}{n^2} \mathrm{tr}(K H L H), \qquad
        K_{ij} = e^{-|x_i - x_j|^2 / 2 \sigma^2}, \qquad H = I - \tfrac{1}{n} 1 1^\top ,

    L likewise from y. (The source divides by :math:`(n - 1)^2`.) It can be minimised; its size has
    no unit, so judge it by `permutation_test`.

    Args:
        x: rows of one representation.
        y: rows of the other.
        bandwidth: :math:`\sigma` of both kernels; None takes each one's median distance, as a
            constant.

    Shapes:
        x (n, d), y (n, e) -> (); memory grows with n²

    Raises:
        ValueError: for other shapes, fewer than 4 rows, NaN, rows that are all alike, or a
            bandwidth that is not positive.

    Example:
        >>> x = torch.linspace(-1, 1, 9).unsqueeze(1)
        >>> round(float(hsic(x, x**2)), 4)
        0.0248
    """
    _check(x, y)
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}. None takes the median")
    return (_centred_kernel(x, bandwidth) * _centred_kernel(y, bandwidth)).mean()


class Dependence(NamedTuple):
    """What a test of independence found."""

    statistic: float
    p_value: float


def permutation_test(
    x: Float[Tensor, "..."],
    y: Float[Tensor, "..."],
    *,
    statistic: StatisticName | str = "dcor",
    within: Tensor | None = None,
    n_permutations: int = 499,
    seed: int = 0,
) -> Dependence:
    r"""Test independence: is the statistic larger than where the rows of y are shuffled?

    .. math::
        p = \frac{1 + \#\{\pi : S(x, y^\pi) \ge S(x, y)\}}{1 + B}

    is exact at any n if the rows are independent (one row per patient).

    Args:
        x: rows of one representation.
        y: rows of the other.
        statistic: "dcor" (`distance_correlation`) or "hsic".
        within: a class per row, NaN where missing. Then the test is of independence given the
            class: rows are shuffled within classes, and the classes' statistics put together in
            proportion to their size. Classes of fewer than 4 rows are left out.
        n_permutations: number B of shuffles.
        seed: of the shuffles.

    Shapes:
        x (n, d), y (n, e), within (n,)

    Raises:
        ValueError: as for the statistic; for an unknown one, no permutation, or no class of 4 rows.

    Example:
        >>> x = torch.linspace(-1, 1, 40).unsqueeze(1)
        >>> permutation_test(x, x**2, n_permutations=99).p_value
        0.01
    """
    _check(x, y)
    centred = _centring(statistic)
    if n_permutations < 1:
        raise ValueError(f"n_permutations must be 1 or more, got {n_permutations}. Take 499")
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(n_permutations + 1, dtype=torch.double)
    spread = torch.zeros(2, dtype=torch.double)
    classes = _classes(within, len(x))
    n = sum(map(len, classes))
    for rows in classes:
        a, b = (centred(part[rows].detach().double().cpu()) for part in (x, y))
        share = len(rows) / n
        shuffles = permutations(torch.zeros(len(rows)), n_permutations, generator=generator)
        draws = [(a * b).mean(), *((a * b[order.unsqueeze(1), order]).mean() for order in shuffles)]
        total += share * torch.stack(draws)
        spread += share * torch.stack([a.square().mean(), b.square().mean()])
    observed = _correlation(total[0], *spread) if statistic == "dcor" else total[0]
    return Dependence(float(observed), p_value(total[0], total[1:]))


def p_value(observed: Float[Tensor, ""], draws: Float[Tensor, " b"]) -> float:
    """Share of the draws, the observed value among them, that are at least as large as it."""
    slack = 1e-12 * float(observed.abs())  # a shuffle that changes nothing is a tie
    return (1 + int((draws >= observed - slack).sum())) / (1 + len(draws))


def permutations(
    group: Tensor, count: int, *, generator: torch.Generator
) -> Int[Tensor, "count n"]:
    """Shuffles of rows within groups; `group` must be sorted.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> permutations(torch.tensor([0, 0, 1, 1]), 2, generator=generator)
        tensor([[1, 0, 2, 3],
                [0, 1, 2, 3]])
    """
    noise = torch.rand(count, len(group), generator=generator, dtype=torch.double)
    return (group.double() + noise).argsort(dim=1)


def _classes(within: Tensor | None, n: int) -> list[Int[Tensor, " m"]]:
    if within is None:
        return [torch.arange(n)]
    if within.shape != (n,):
        raise ValueError(f"within has shape {tuple(within.shape)}, x {n} rows. Pass one class each")
    levels = within[~within.isnan()].unique()
    rows = [(within == level).nonzero().squeeze(1) for level in levels]
    rows = [r for r in rows if len(r) >= 4]
    if not rows:
        raise ValueError("no class has 4 rows or more. Pass within=None, or more rows")
    return rows


def _centring(statistic: str) -> Callable[[Tensor], Tensor]:
    functions = {"dcor": _centred_distance, "hsic": _centred_kernel}
    if statistic not in functions:
        raise ValueError(f"{statistic!r} is not a statistic ({', '.join(functions)}). Take 'dcor'")
    return functions[statistic]


def _centred(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    mean = matrix.mean(0)  # symmetric, so rows have the same means
    return matrix - mean - mean.unsqueeze(1) + mean.mean()


def _centred_distance(x: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    return _centred(_distance(x))


def _centred_kernel(x: Float[Tensor, "n d"], bandwidth: int | float | None = None) -> Tensor:
    distance = _distance(x)
    if bandwidth is None:
        apart = distance.detach()[~torch.eye(len(x), dtype=torch.bool, device=x.device)]
        # more than half of the rows may be alike, or (within a class) all
        bandwidth = float(apart.median()) or float(apart.mean()) or 1.0
    return _centred((-distance.square() / (2 * bandwidth**2)).exp())


def _distance(x: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def _correlation(covariance: Tensor, spread_x: Tensor, spread_y: Tensor) -> Tensor:
    scale = (spread_x * spread_y).sqrt()
    square = torch.where(scale > 0, covariance / scale, 0)  # nothing varies within the classes
    return square.clamp(min=0).sqrt()


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            f"x and y have shapes {tuple(x.shape)} and {tuple(y.shape)}. Pass (n, d) and (n, e); "
            "x.unsqueeze(1) makes a column"
        )
    if len(x) < 4:
        raise ValueError(f"dependence needs 4 rows or more, got {len(x)}")
    for name, part in (("x", x), ("y", y)):
        if not part.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity. Leave these rows out")
        if (part == part[0]).all():
            raise ValueError(f"all rows of {name} are alike, so nothing can depend on them")

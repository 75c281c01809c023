"""Mutual information between two representations: bounds to minimise, tests, and an audit.

`MINE`, `InfoNCE` and `CLUB` are modules. A call gives two terms of one loss, for one backward pass
and one optimiser: `learn` teaches the estimator on features that are held fixed, `features` is the
estimate, to be minimised through an estimator that is held fixed. None of them certifies that
nothing is left. `audit` asks anew, on patients held out, and says what it could have found.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dfdlib.information.bounds import InfoNCE, contrast
from dfdlib.information.critics import BLOCK, CriticName, learn
from dfdlib.information.independence import (
    Dependence,
    p_value,
    permutation_test,
    permutations,
)

__all__ = ["MIN_ROWS", "audit"]

#: Fewest patients of an audit (of each class, where it is within classes).
MIN_ROWS = 40
#: dCor and HSIC, whose cost grows with n², read at most this many patients.
KERNEL_ROWS = 500

PlantName = Literal["linear", "product"]


def audit(
    h_c: Tensor | np.ndarray,
    h_b: Tensor | np.ndarray,
    y: Tensor | np.ndarray | None = None,
    *,
    critic: CriticName | str = "separable",
    hidden: int = 64,
    steps: int = 300,
    noise: int | float = 0.0,
    planted: int | float = 0.1,
    plant: PlantName | str = "linear",
    n_planted: int = 10,
    n_permutations: int = 199,
    alpha: int | float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Ask whether two representations are independent, and what the answer is worth.

    A fresh `InfoNCE` critic learns on one half of the patients and is read on the other, where
    shuffles give its p-value; distance correlation and HSIC are tested beside it. A test that
    finds nothing certifies nothing unless it would have found something: the same is done on
    features whose rows were paired anew, so that all dependence is gone but for a planted one of
    known size, and `power` is how often each test sees that.

    The planting draws normal pairs with correlation :math:`\rho = \sqrt{1 - e^{-2 I}}` and pairs
    the patients so that a score of h_c and a projection of h_b have these ranks. Both
    representations keep their distribution, and their information is at least I (if no values are
    tied). Power is power against this planting: weak critics see a linear one, not a product.

    Args:
        h_c: representation of one stream, of patients that the model was not trained on; one row
            per patient.
        h_b: representation of the other stream.
        y: labels, NaN where missing: everything is then within classes, about
            :math:`I(H_c; H_b \mid Y)`. Two streams that both know the label are never independent
            without it.
        critic: see `InfoNCE`.
        hidden: width of the critic's hidden layer.
        steps: steps that the critic learns.
        noise: standard deviation of noise added to both, in units of the features: then the audit
            is of what the noise leaves.
        planted: planted information I in nats.
        plant: the score of h_c: "linear" is a random projection, "product" that of two random
            projections, which leaves no linear trace where the features are symmetric.
        n_planted: how many plantings the power is taken over; 0 leaves it out.
        n_permutations: shuffles behind a p-value.
        alpha: level below which a test counts as having seen something.
        seed: of everything.

    Returns:
        A row for each test ("critic", "dcor", "hsic"): `estimate` (the critic's is a lower bound in
        nats, on patients held out), `p_value`, `power`, `planted` and `n`, the patients read.

    Raises:
        ValueError: for shapes that do not fit, NaN, fewer than 40 patients (in a class), labels of
            one class, an unknown critic or planting, or numbers out of range.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> h_c = rng.standard_normal((400, 2))
        >>> h_b = h_c**2 + 0.5 * rng.standard_normal((400, 2))
        >>> audit(h_c, h_b, n_planted=0)["p_value"].round(3).to_dict()
        {'critic': 0.005, 'dcor': 0.005, 'hsic': 0.005}
    """
    a, b, group = _read(h_c, h_b, y)
    if noise < 0 or not planted > 0 or n_planted < 0 or not 0 < alpha < 1:
        raise ValueError(
            f"audit needs noise >= 0, planted > 0, n_planted >= 0 and alpha between 0 and 1, got "
            f"noise={noise}, planted={planted}, n_planted={n_planted}, alpha={alpha}"
        )
    if plant not in ("linear", "product"):
        raise ValueError(f"{plant!r} is not a planting (linear, product). Take 'product'")
    generator = torch.Generator().manual_seed(seed)
    a, b = (part + noise * torch.randn(part.shape, generator=generator) for part in (a, b))
    a, b = ((part - part.mean(0)) / part.std(0).clamp(min=1e-8) for part in (a, b))

    def tests(a: Tensor, b: Tensor) -> dict[str, tuple[Dependence, int]]:
        rows = torch.randperm(len(a), generator=generator)
        within = None if y is None else group[rows[:KERNEL_ROWS]]
        found = {"critic": (_critic_test(a, b, group, rows, settings, generator), len(a) // 2)}
        few = rows[:KERNEL_ROWS]
        for name in ("dcor", "hsic"):
            shuffles = int(torch.randint(2**31, (1,), generator=generator))
            result = permutation_test(
                a[few],
                b[few],
                statistic=name,
                within=within,
                n_permutations=n_permutations,
                seed=shuffles,
            )
            found[name] = (result, len(few))
        return found

    settings = _Settings(critic, hidden, steps, n_permutations, y is not None)
    found = tests(a, b)
    seen = dict.fromkeys(found, 0)
    for _ in range(n_planted):
        for name, (result, _) in tests(*_plant(a, b, group, planted, plant, generator)).items():
            seen[name] += result.p_value <= alpha
    return pd.DataFrame(
        {
            "estimate": {name: result.statistic for name, (result, _) in found.items()},
            "p_value": {name: result.p_value for name, (result, _) in found.items()},
            "power": {name: k / n_planted if n_planted else math.nan for name, k in seen.items()},
            "planted": dict.fromkeys(found, planted),
            "n": {name: n for name, (_, n) in found.items()},
        }
    ).rename_axis("test")


class _Settings(NamedTuple):
    critic: str
    hidden: int
    steps: int
    n_permutations: int
    within: bool


def _critic_test(
    a: Float[Tensor, "n c"],
    b: Float[Tensor, "n b"],
    group: Int[Tensor, " n"],
    rows: Int[Tensor, " n"],
    settings: _Settings,
    generator: torch.Generator,
) -> Dependence:
    """Teach a fresh critic on the first half of `rows`, test it on the second."""
    train, test = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    n_classes = int(group.max()) + 1 if settings.within else None
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        nce = InfoNCE(
            d_c=a.shape[1],
            d_b=b.shape[1],
            critic=settings.critic,
            hidden=settings.hidden,
            n_classes=n_classes,
        )
    learn(nce, a[train], b[train], group[train], steps=settings.steps, seed=seed)
    total = torch.zeros(settings.n_permutations + 1, dtype=torch.double)
    for block in test.tensor_split(math.ceil(len(test) / BLOCK)):
        part = block[group[block].argsort(stable=True)]
        member = torch.nn.functional.one_hot(group[part], int(group.max()) + 1).bool()
        left = torch.cat([a[part], member.float()], dim=1) if n_classes else a[part]
        with torch.no_grad():
            value = contrast(nce.net(left, b[part], grid=True), member).double()
        shuffles = permutations(group[part], settings.n_permutations, generator=generator)
        order = torch.cat([torch.arange(len(part)).unsqueeze(0), shuffles])
        total += value.gather(1, order.T).sum(0)
    total /= len(test)
    return Dependence(float(total[0]), p_value(total[0], total[1:]))


def _plant(
    a: Float[Tensor, "n c"],
    b: Float[Tensor, "n b"],
    group: Int[Tensor, " n"],
    nats: float,
    plant: str,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Pair the rows anew within classes, so that only a dependence of known size is left."""

    def project(x: Tensor) -> Tensor:
        return x @ torch.randn(x.shape[1], generator=generator)

    key_a = project(a) if plant == "linear" else project(a) * project(a)
    key_b = project(b)
    rho = math.sqrt(-math.expm1(-2 * nats))
    left, other = torch.randn(2, len(a), generator=generator)
    right = rho * left + math.sqrt(1 - rho**2) * other
    new_a, new_b = torch.empty_like(a), torch.empty_like(b)
    for level in group.unique():
        rows = (group == level).nonzero().squeeze(1)
        # the patient whose score has rank k goes where the normal draw has rank k
        new_a[rows[left[rows].argsort()]] = a[rows[key_a[rows].argsort()]]
        new_b[rows[right[rows].argsort()]] = b[rows[key_b[rows].argsort()]]
    return new_a, new_b


def _read(
    h_c: Tensor | np.ndarray, h_b: Tensor | np.ndarray, y: Tensor | np.ndarray | None
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n b"], Int[Tensor, " n"]]:
    """Both representations and a class number per patient, without patients that have no label."""
    a, b = (torch.as_tensor(part).detach().cpu().float() for part in (h_c, h_b))
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise ValueError(
            f"h_c and h_b have shapes {tuple(a.shape)} and {tuple(b.shape)}. Pass (n, d) and "
            "(n, e), a row per patient"
        )
    group = torch.zeros(len(a), dtype=torch.long)
    if y is not None:
        label = torch.as_tensor(y).detach().cpu().double()
        if label.shape != (len(a),):
            raise ValueError(f"y has shape {tuple(label.shape)}, h_c {len(a)} rows. Pass one each")
        known: Bool[Tensor, " n"] = ~label.isnan()
        levels, group = label[known].unique(return_inverse=True)
        a, b = a[known], b[known]
        if len(levels) < 2:
            raise ValueError("y holds one class, so nothing is gained within it. Pass y=None")
    fewest = int(group.bincount().min()) if len(group) else 0
    if fewest < MIN_ROWS:
        where = "" if y is None else " in the smallest class"
        raise ValueError(
            f"an audit needs {MIN_ROWS} patients, got {fewest}{where}. Pass more, or put classes "
            "together"
        )
    for name, part in (("h_c", a), ("h_b", b)):
        if not part.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity. Leave these patients out")
    return a, b, group

"""Losses of the two streams: generalised cross-entropy, relative difficulty, swap.

Shapes say what a label is, everywhere in this module: logits (n,) or (n, 1) with labels (n,) are
binary, logits (n, K) with labels (n,) are K classes, logits (n, L) with labels (n, L) are L labels.
A label that is NaN is missing and adds nothing.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dfdlib._difficulty import RelativeDifficulty, check_labels

__all__ = ["RelativeDifficulty", "gce", "gce_weighted_ce", "swap"]

Reduction = Literal["mean", "sum", "none"]


def gce(
    logits: Float[Tensor, "..."],
    y: Tensor,
    *,
    q: int | float,
    weight: Tensor | None = None,
    reduction: Reduction | str = "mean",
) -> Float[Tensor, "..."]:
    r"""Generalised cross-entropy: what is already well predicted counts more than in cross-entropy.

    Source: Zhang and Sabuncu 2018 (arXiv 1805.07836), equation 6,

    .. math::
        L_q = \frac{1 - p_y^q}{q}, \qquad \nabla L_q = p_y^q \, \nabla L_0 ,

    with :math:`L_0 = -\log p_y` (cross-entropy) as the limit at q = 0, and :math:`L_1 = 1 - p_y`,
    half the L1 distance to the one-hot label. It is computed from :math:`\log p_y`, so that value
    and gradient are right where :math:`p_y` itself is rounded to 0 or 1.

    Args:
        logits: see the module for the shapes.
        y: labels, NaN where missing.
        q: exponent between 0 and 1.
        weight: weight of each patient, or of each patient's label, at least 0.
        reduction: "mean" is the weighted mean :math:`\sum w L / \sum w` over known labels (0 where
            there is none), "sum" is :math:`\sum w L`, "none" is w L, and 0 for a missing label.

    Shapes:
        logits (n,), (n, 1) or (n, K), y (n,) -> () or (n,);
        logits (n, L), y (n, L), weight (n,) or (n, L) -> () or (n, L)

    Raises:
        ValueError: for q outside [0, 1], shapes that do not fit, a label that does not exist, a
            weight that is negative or NaN, an unknown reduction.

    Example:
        >>> logits = torch.logit(torch.tensor([0.9, 0.5, 0.1], dtype=torch.double))
        >>> gce(logits, torch.ones(3), q=0.7, reduction="none")
        tensor([0.1016, 0.5492, 1.1435], dtype=torch.float64)
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q must lie between 0 (cross-entropy) and 1 (L1), got q={q}. Take q=0.7")
    log_p, known = _log_likelihood(logits, y)
    loss = -log_p if q == 0 else -torch.expm1(q * log_p) / q
    return _reduce(loss, known, weight, reduction)


def gce_weighted_ce(
    logits: Float[Tensor, "..."],
    y: Tensor,
    *,
    q: int | float,
    weight: Tensor | None = None,
    reduction: Reduction | str = "mean",
) -> Float[Tensor, "..."]:
    r"""The form in the ancestors' code: cross-entropy, weighted by a constant :math:`q\, p_y^q`.

    Source: `GeneralizedCELoss` in the public code of LfF (alinlab/LfF, module/loss.py; Nam et al.
    2020) and of DisC (googlebaba/DisC, utils.py; Fan et al. 2022), both with q = 0.7:

    .. math::
        L = q \, \mathrm{sg}(p_y^q) \cdot (-\log p_y), \qquad \nabla L = q \, \nabla L_q .

    sg is the stop-gradient. The gradient is q times that of `gce`, so the two differ as a change of
    learning rate (or of :math:`\lambda`) would; the values differ in all respects.

    Args:
        logits: see the module for the shapes.
        y: labels, NaN where missing.
        q: exponent above 0 and up to 1; at 0 this loss is 0 everywhere.
        weight: as in `gce`.
        reduction: as in `gce`.

    Shapes:
        as in `gce`

    Raises:
        ValueError: as in `gce`, and for q = 0.

    Example:
        >>> logits = torch.tensor([2.0], requires_grad=True)
        >>> forms = (gce_weighted_ce, gce)
        >>> a, b = (torch.autograd.grad(f(logits, torch.ones(1), q=0.7), logits)[0] for f in forms)
        >>> torch.allclose(a, 0.7 * b)
        True
    """
    if not 0 < q <= 1:
        raise ValueError(
            f"gce_weighted_ce needs 0 < q <= 1, got q={q}. Take q=0.7; cross-entropy is gce(q=0)"
        )
    log_p, known = _log_likelihood(logits, y)
    return _reduce(-q * (q * log_p.detach()).exp() * log_p, known, weight, reduction)


def swap(
    h_b: Float[Tensor, "n d"], *companions: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, ...]:
    r"""Give each patient the bias representation of another, with what belongs to it.

    Source: DisC (Fan et al. 2022, section 4.3), after Lee et al. 2021. With the permutation
    :math:`\pi` the pair :math:`[H_c ; H_b^\pi]` is a patient whose cause and bias are unrelated:
    f_c has to predict :math:`y`, and f_b :math:`y^\pi`.

    Args:
        h_b: bias representation of a batch.
        *companions: tensors to permute alike, such as the labels.
        generator: source of the permutation; None takes torch's global one.

    Shapes:
        h_b (n, d), companions (n, ...) -> the same

    Raises:
        ValueError: if a companion has another number of rows.

    Example:
        >>> generator = torch.Generator().manual_seed(1)
        >>> swap(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([5, 6, 7]), generator=generator)
        (tensor([[1.],
                [2.],
                [0.]]), tensor([6, 7, 5]))
    """
    rows = [len(tensor) for tensor in companions]
    if any(n != len(h_b) for n in rows):
        raise ValueError(f"h_b has {len(h_b)} rows, what goes with it {rows}. Pass the same rows")
    order = torch.randperm(len(h_b), generator=generator).to(h_b.device)
    return tuple(tensor[order] for tensor in (h_b, *companions))


def _log_likelihood(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each label (0 where it is missing), and which labels are known."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    known = ~y.isnan()
    target = torch.where(known, y, 0)
    if y.ndim == 1 and logits.ndim == 2 and logits.shape[1] > 1 and len(logits) == len(y):
        check_labels(y, logits.shape[1])
        log_p = logits.log_softmax(dim=1).gather(1, target.long().unsqueeze(1)).squeeze(1)
    elif logits.shape in (y.shape, (*y.shape, 1)) and y.ndim in (1, 2):
        check_labels(y, 2)
        log_p = nn.functional.logsigmoid(logits.reshape(y.shape) * (2 * target - 1))
    else:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} do not fit labels of shape {tuple(y.shape)}. "
            "Pass (n,) or (n, 1) with (n,), (n, K) with (n,), or (n, L) with (n, L)"
        )
    return torch.where(known, log_p, 0), known


def _reduce(loss: Tensor, known: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction!r} is not a reduction. Take 'mean', 'sum' or 'none'")
    w = known.to(loss.dtype)
    if weight is not None:
        if weight.shape not in (loss.shape, loss.shape[:1]):
            raise ValueError(
                f"weight has shape {tuple(weight.shape)}, the loss {tuple(loss.shape)}. Pass one "
                "weight per patient"
            )
        if not (weight >= 0).all():
            raise ValueError("a weight is negative or NaN. Pass weights of at least 0")
        w = w * (weight if weight.ndim == loss.ndim else weight.unsqueeze(1))
    loss = w * loss
    if reduction == "none":
        return loss
    total = w.sum()
    return loss.sum() if reduction == "sum" else loss.sum() / torch.where(total > 0, total, 1)

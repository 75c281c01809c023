"""Losses of the two streams: generalised cross-entropy, relative difficulty, swap.

Shapes say what a label is, everywhere in this module: logits (n,) or (n, 1) with labels (n,) are
binary, logits (n, K) with labels (n,) are K classes, logits (n, L) with labels (n, L) are L labels.
A label that is NaN is missing and adds nothing.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

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


# ---------------- Relative difficulty: which of two streams finds a patient harder, over the
# epochs


class RelativeDifficulty(nn.Module):
    r"""Weight of each patient: high where the bias stream finds the patient harder than the other.

    Source: Nam et al. 2020 (LfF, arXiv 2007.02561), equation 3 and its public code. Every patient's
    two losses are smoothed over the epochs, divided by the largest of the patient's class, and

    .. math::
        \ell_s \leftarrow \alpha \ell_s + (1 - \alpha) L_s, \qquad
        \tilde\ell_s = \frac{\ell_s}{\max_{j : y_j = y} \ell_{s, j}}, \qquad
        W = \frac{\tilde\ell_b}{\tilde\ell_c + \tilde\ell_b + 10^{-8}} .

    A patient's first loss is taken whole. No gradient passes through W, and its mean is not 1: LfF
    averages W · CE over patients, which is ``gce(..., q=0, weight=W, reduction="sum") / n``.

    The state has one entry per patient (and label), grows with the largest index seen, and is part
    of `state_dict`. It holds the training patients' classes: call `reset_parameters` before a model
    is given away. With several processes pass the rows of all of them to each, and keep your own.

    Args:
        n_classes: number of classes; 2 for binary and multi-label tasks.
        alpha: share of the smoothed loss that is kept at each visit; 0.7 in LfF.

    Shapes:
        loss_c, loss_b, y (batch,) or (batch, L), index (batch,) -> weight as loss_c; between 0 and
        1, and 0 for a missing label

    Raises:
        ValueError: for alpha outside [0, 1), losses that are negative, NaN or of another shape, a
            label that does not exist, an index that is negative or stands twice in a batch.

    Example:
        >>> difficulty = RelativeDifficulty(n_classes=2)
        >>> loss_c, loss_b = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.1, 2.0, 2.0])
        >>> difficulty(loss_c, loss_b, torch.tensor([1, 1, 0]), torch.tensor([7, 2, 0]))
        tensor([0.0476, 0.5000, 0.5000])
    """

    smoothed: Tensor
    label: Tensor
    top: Tensor

    def __init__(self, *, n_classes: int = 2, alpha: int | float = 0.7) -> None:
        super().__init__()
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha must lie in [0, 1), got alpha={alpha}. LfF takes 0.7")
        self.n_classes, self.alpha = n_classes, alpha
        self.register_buffer("smoothed", torch.zeros(2, 0, 1))  # streams c and b, patient, label
        self.register_buffer("label", torch.zeros(0, 1, dtype=torch.long))  # -1: not seen yet
        # largest loss of each class; empty where all patients have to be looked through again
        self.register_buffer("top", torch.zeros(2, 0), persistent=False)

    def reset_parameters(self) -> None:
        """Forget all patients; `fit` does so when it draws new weights."""
        self._resize(0, 1)

    @torch.no_grad()
    def forward(
        self,
        loss_c: Float[Tensor, "..."],
        loss_b: Float[Tensor, "..."],
        y: Tensor,
        index: Int[Tensor, " n"],
    ) -> Float[Tensor, "..."]:
        """Take in the losses of a batch and give its weights; see the class."""
        self._check(loss_c, loss_b, y, index)
        loss = torch.stack([loss_c, loss_b]).to(self.smoothed.dtype).reshape(2, len(index), -1)
        grid = y.reshape(len(index), -1)
        known = ~grid.isnan()
        target = torch.where(known, grid, 0).long()
        self._grow(int(index.max()) + 1 if len(index) else 0, grid.shape[1])

        before, old = self.smoothed[:, index], self.label[index]
        seen = old >= 0
        after = torch.where(seen, self.alpha * before + (1 - self.alpha) * loss, loss)
        after = torch.where(known, after, before)
        self.smoothed[:, index] = after
        self.label[index] = torch.where(known, target, old)

        column = torch.arange(grid.shape[1], device=index.device) * self.n_classes
        left = known & seen & ((after < before) | (old != target))
        gone = column + old.clamp(min=0), torch.where(left, before, -1)
        here = column + target, torch.where(known, after, 0)
        largest = self._largest(column, gone, here)[:, here[0]]
        relative = torch.where(largest > 0, after / largest, after)
        weight = relative[1] / (relative.sum(0) + 1e-8)
        return torch.where(known, weight, 0).reshape(loss_c.shape).to(loss_c.dtype)

    def _largest(
        self, column: Tensor, gone: tuple[Tensor, Tensor], here: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "2 k"]:
        """The largest smoothed loss of each label's classes, over all patients seen so far.

        All patients are looked through only where the largest itself is gone, so that a step does
        not cost more the more patients there are.

        Args:
            column: the first class of each label.
            gone: class of each patient of the batch before, and the loss that no longer stands.
            here: class, and loss now.
        """
        n = len(column) * self.n_classes
        # cells not seen yet hold 0, and no loss is negative
        if self.top.shape[1] != n or (gone[1] >= self.top[:, gone[0]]).any():
            top, loss = self.smoothed.new_zeros(2, n), self.smoothed
            cell = column + self.label.clamp(min=0)
        else:
            top, (cell, loss) = self.top, here
        cell = cell.reshape(1, -1).expand(2, -1)
        self.top = top.scatter_reduce(1, cell, loss.reshape(2, -1), "amax")
        return self.top

    def _grow(self, n: int, n_labels: int) -> None:
        have, labels = self.label.shape
        if have and labels != n_labels:
            raise ValueError(
                f"these weights are kept for {labels} labels per patient, got {n_labels}. Make a "
                "new RelativeDifficulty for another task"
            )
        if n > have:
            old = self.smoothed, self.label
            self._resize(n, n_labels)
            self.smoothed[:, :have], self.label[:have] = old

    def _resize(self, n: int, n_labels: int) -> None:
        self.smoothed = self.smoothed.new_zeros(2, n, n_labels)
        self.label = self.label.new_full((n, n_labels), -1)
        self.top = self.top.new_zeros(2, 0)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        self.top = self.top.new_zeros(2, 0)
        saved = state.get(f"{prefix}label")
        if saved is not None and saved.shape != self.label.shape:
            self._resize(*saved.shape)
        super()._load_from_state_dict(state, prefix, *rest)

    def _check(self, loss_c: Tensor, loss_b: Tensor, y: Tensor, index: Tensor) -> None:
        shape = (len(index), *loss_c.shape[1:2])
        if not loss_c.shape == loss_b.shape == y.shape == shape:
            raise ValueError(
                "loss_c, loss_b and y need the same shape with one row per index, got "
                f"{tuple(loss_c.shape)}, {tuple(loss_b.shape)}, {tuple(y.shape)} and {len(index)} "
                'indices. Pass losses per patient: gce(..., reduction="none")'
            )
        for name, loss in (("loss_c", loss_c), ("loss_b", loss_b)):
            if not (loss >= 0).all():
                raise ValueError(f"{name} holds a negative loss or NaN. Pass losses of at least 0")
        if len(index) and (int(index.min()) < 0 or len(index.unique()) < len(index)):
            raise ValueError(
                "index must name each patient of the batch once, with a number from 0. Pass "
                "batch.index, and draw without replacement"
            )
        check_labels(y, self.n_classes)


def check_labels(y: Tensor, n_classes: int) -> None:
    exists = (y >= 0) & (y < n_classes) & (y == y.floor()) | y.isnan()
    if not exists.all():
        raise ValueError(
            f"the label {y[~exists][0].item():g} does not exist: this task has {n_classes} "
            f"classes. Pass 0 to {n_classes - 1}, and NaN where a label is missing"
        )

"""Relative difficulty: which of two streams finds a patient harder, over the epochs."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


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

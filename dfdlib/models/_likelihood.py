"""From logits to a loss and to probabilities, for each task."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def cross_entropy(
    logits: Tensor, y: Tensor, *weights: Float[Tensor, "n *labels"] | None, task: str
) -> Tensor:
    """Weighted mean over known labels; zero (with a gradient of zero) where none is known.

    A weight is one number per patient, or per patient's label. Weights have a mean of 1 over the
    training part, so the sum is divided by the number of labels.
    """
    known = ~y.isnan()
    n = known.sum().clamp(min=1)
    if task == "multiclass":
        each = nn.functional.cross_entropy(logits, y.nan_to_num().long(), reduction="none")
    else:
        target = y.nan_to_num().reshape(logits.shape)
        each = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        known = known.reshape(logits.shape)
    for weight in weights:
        if weight is not None:
            each = each * weight.reshape(*weight.shape, *[1] * (each.ndim - weight.ndim))
    return (each * known).sum() / n


def probabilities(logits: Float[Tensor, "... k"], *, task: str) -> Float[Tensor, "... c"]:
    """Probability of each class (of each label, if multi-label)."""
    logits = logits.float()
    if task == "multiclass":
        return logits.softmax(dim=-1)
    p = logits.sigmoid()
    return p if task == "multilabel" else torch.cat([1 - p, p], dim=-1)

"""Relative difficulty where several processes hold a part of the batch each."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dfdlib.losses import RelativeDifficulty, gce
from dfdlib.models.backbone import batch_rows


@torch.no_grad()
def difficulty_weight(
    difficulty: RelativeDifficulty,
    logits: Float[Tensor, "n k"],
    bias_logits: Float[Tensor, "n k"],
    *,
    y: Tensor,
    index: Int[Tensor, " n"],
) -> Tensor:
    """W of each patient of this process, with the losses of all processes taken in."""
    each = [gce(part, y, q=0, reduction="none") for part in (logits, bias_logits)]
    rows = batch_rows(index)
    w = difficulty(*map(batch_rows, each), batch_rows(y), rows)
    return w[(rows == index.unsqueeze(1)).float().argmax(dim=1)]

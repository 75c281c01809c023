"""Risks of groups of patients in a batch."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dfdlib.data import Batch
from dfdlib.losses import gce
from dfdlib.models.backbone import batch_sum, optional


def head_weight(head: nn.Module, observed: Tensor, batch: Batch) -> Float[Tensor, " n"]:
    """Weight that the head gives each patient's loss, 1 where it gives none."""
    weight = torch.ones(len(observed), device=observed.device)
    for name, given in (("sample_weight", observed), ("row_weight", batch.index)):
        own = optional(head, name, given)
        weight = weight if own is None else weight * own
    return weight


def group_means(
    each: Float[Tensor, " n"], count: Tensor, codes: Int[Tensor, " n"], n_groups: int
) -> tuple[Float[Tensor, " g"], Float[Tensor, " g"]]:
    """Sum of `each` over sum of `count` by group, over all processes; 1 for groups that are there.

    The mean of a group that is not there is 0.
    """
    member = nn.functional.one_hot(codes, n_groups).to(each.dtype)
    total, n = batch_sum(member.T @ each), batch_sum(member.T @ count.to(each.dtype))
    return total / n.clamp(min=1), (n > 0).to(each.dtype)


def risks(
    logits: Float[Tensor, "n k"],
    y: Tensor,
    codes: Int[Tensor, " n"],
    weight: Float[Tensor, " n"],
    *,
    n_groups: int,
) -> tuple[Float[Tensor, " g"], Float[Tensor, " g"]]:
    """Mean cross-entropy over known labels by group; 1 for groups that are there."""
    each = gce(logits, y, q=0, weight=weight, reduction="none")
    return group_means(rows_of(each).sum(1), rows_of(~y.isnan()).sum(1), codes, n_groups)


def rows_of(each: Tensor) -> Tensor:
    """(n,) as a column, (n, L) as it is; for no row too, where reshaping would not know L."""
    return each.unsqueeze(1).flatten(1)

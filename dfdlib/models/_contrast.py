"""What MUSE's contrastive terms are made of: the mask of a second view, and two losses."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def drop_edges(observed: Bool[Tensor, "n m"], share: int | float) -> Bool[Tensor, "n m"]:
    """Hide modalities of a share of the patients, at random; a new mask.

    A patient with k observed modalities who is drawn keeps 1, 2, … or k - 1 of them, each number
    with the same probability, and each subset of that size too. One with k = 1 keeps it.
    """
    n, device = len(observed), observed.device
    k = observed.sum(1, keepdim=True)
    kept = 1 + (torch.rand(n, 1, device=device) * (k - 1)).long().clamp(min=0)
    drawn = (torch.rand(n, 1, device=device) < share) & (k > 1)
    # the observed cells in random order, ahead of the others
    order = torch.rand(observed.shape, device=device) + ~observed
    rank = order.argsort(1).argsort(1)
    return observed & ((rank < kept) | ~drawn)


def same_patient(similarity: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """Cross-entropy of finding a patient's other view among the batch, mean of both directions."""
    lost = (similarity.logsumexp(0) + similarity.logsumexp(1)) / 2 - similarity.diagonal()
    return lost.mean()


def same_label(
    similarity: Float[Tensor, "n n"], y: Float[Tensor, "n *labels"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy of telling pairs of the same label from others, mean over known pairs.

    With several labels per patient every label of every pair counts once. Zero without labels.
    """
    y = y.reshape(len(similarity), -1)
    known = ~y.isnan()
    values = y[known].unique()
    k, z = known.to(similarity), (y.unsqueeze(2) == values).flatten(1).to(similarity)
    pairs = k.sum(0).square().sum().clamp(min=1)
    # over pairs, the sum of known * softplus(s) - equal * s, with both masks as outer products
    softplus = nn.functional.softplus(similarity)
    return ((softplus @ k * k).sum() - (similarity @ z * z).sum()) / pairs

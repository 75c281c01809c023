"""MUSE: the message passing of GRAPE, trained with contrast between two views of each patient."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dfdlib.models.backbone import EdgeWeight, batch_rows
from dfdlib.models.grape import GRAPE, Cells, FirstLayer, Grid, Listed, Messages


class MUSE(GRAPE):
    r"""GRAPE's network with a second view in training, in which some patients lose modalities.

    Source: Wu et al. 2024 (MUSE, ICLR) and its public code (zzachw/MUSE, commit cdec2ac), whose
    settings are the defaults. The embedding :math:`h_i` is that of `GRAPE` on the whole graph. In
    training, half of the patients with k > 1 modalities keep a random subset of 1 to k - 1 of
    them, and the same network gives :math:`\tilde h_i`. With

    .. math::
        u = \frac{\tanh(P h)}{\lVert \tanh(P h) \rVert}, \qquad
        s_{ij} = \frac{u_i \cdot u_j}{\theta}, \qquad
        \tilde s_{ij} = \frac{u_i \cdot \tilde u_j}{\theta}, \qquad
        t_{ij} = 1[y_i = y_j]

    two terms join the loss, over all patients of the batch (of all processes), with weights
    :math:`\lambda_u` and :math:`\lambda_s`:

    .. math::
        \mathcal{L}_u &= \frac{1}{2n} \sum_i \Bigl(
            \log \frac{\sum_j e^{\tilde s_{ij}}}{e^{\tilde s_{ii}}} +
            \log \frac{\sum_j e^{\tilde s_{ji}}}{e^{\tilde s_{ii}}} \Bigr) \\
        \mathcal{L}_s &= \frac{1}{2n^2} \sum_{ij} \bigl(
            \mathrm{BCE}(s_{ij}, t_{ij}) + \mathrm{BCE}(\tilde s_{ij}, t_{ij}) \bigr)

    The first wants the two views of a patient to be found among all, the second patients of one
    class to be alike, and others not. A patient without a label takes part in the first alone. With
    several labels per patient the second is the mean over all labels of all pairs that are known.
    The classifier reads the full view only, as in the public code.

    The messages of the first layer are the same in both views, and computed once where
    `embed_for_training` hands them on to `auxiliary`. On a CPU edges are kept as a list of the
    observed pairs, elsewhere as GRAPE's grid.

    Args:
        d: width of tokens, states and embedding.
        n_layers: number of rounds of message passing.
        dropout: share of the entries of patient states set to zero after each layer in training.
        edge_drop: share of the patients (of those with more than one modality) who lose some.
        temperature: :math:`\theta`. The public code calls its inverse `tau` and multiplies by it;
            :math:`\tau` means a gate here.
        contrast_weight: :math:`\lambda_u`.
        supervised_weight: :math:`\lambda_s`.
        n_modalities: number of modalities M; None takes it from the first input.

    Shapes:
        tokens (n, M, d), observed (n, M), weight (n, M) or (n, M, d) or a list with one of these
        (or None = 1) per layer -> embedding (n, d)

    Raises:
        ValueError: for numbers out of range, no layer, or another number of modalities.

    Example:
        >>> backbone = MUSE(d=8)
        >>> tokens, observed = torch.randn(4, 3, 8), torch.ones(4, 3, dtype=torch.bool)
        >>> h, shared = backbone.embed_for_training(tokens, observed)
        >>> y = torch.tensor([0.0, 1.0, 1.0, torch.nan])
        >>> sorted(backbone.auxiliary(h, tokens, observed, y, **shared))
        ['supervised', 'unsupervised']
    """

    # DIFF: the public code draws modalities' states N(0, 1), and drops out theirs too in training.
    # DIFF: its directions of an edge part after the second layer; here an edge has one state.
    # DIFF: its classifier has a hidden layer; here that is the head's affair, and a head is linear.

    def __init__(
        self,
        *,
        d: int,
        n_layers: int = 2,
        dropout: int | float = 0.25,
        edge_drop: int | float = 0.5,
        temperature: int | float = 0.07,
        contrast_weight: int | float = 0.5,
        supervised_weight: int | float = 0.5,
        n_modalities: int | None = None,
    ) -> None:
        super().__init__(d=d, n_layers=n_layers, dropout=dropout, n_modalities=n_modalities)
        if not 0 <= edge_drop <= 1:
            raise ValueError(f"edge_drop must lie between 0 and 1, got {edge_drop}. Take 0.5.")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}. Take 0.07.")
        for name, value in (("contrast", contrast_weight), ("supervised", supervised_weight)):
            if not value >= 0:
                raise ValueError(
                    f"{name}_weight must be 0 or more, got {value}. 0 leaves the term out."
                )
        self.edge_drop, self.temperature = edge_drop, temperature
        self.contrast_weight, self.supervised_weight = contrast_weight, supervised_weight
        self.project = nn.Sequential(nn.Linear(d, d), nn.Tanh())

    def embed_for_training(
        self,
        tokens: Float[Tensor, "n m d"],
        observed: Bool[Tensor, "n m"],
        weight: EdgeWeight = None,
    ) -> tuple[Float[Tensor, "n d"], Mapping[str, Any]]:
        """Give what `forward` gives, and the first layer, which the second view has in common."""
        first = self.first_layer(tokens, observed)
        h = self.embed_from(first, weight)
        # the only layer sends nothing to modalities, so there is little to share
        return h, {"first": first} if self.n_layers > 1 else {}

    def auxiliary(
        self,
        h: Float[Tensor, "n d"],
        tokens: Float[Tensor, "n m d"],
        observed: Bool[Tensor, "n m"],
        y: Float[Tensor, "n *labels"],
        weight: EdgeWeight = None,
        first: FirstLayer | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Contrast the embedding with that of a second view; for training.

        Args:
            h: what `forward` gave for the same tokens, mask and weight.
            tokens: as in `forward`.
            observed: as in `forward`.
            y: labels, NaN where missing; (n, L) for L labels per patient.
            weight: as in `forward`.
            first: what `embed_for_training` gave for the same tokens and mask; None computes it.

        Returns:
            The terms `unsupervised` and `supervised`, times their weights.
        """
        fewer = drop_edges(observed, self.edge_drop)
        second = self.first_layer(tokens, fewer) if first is None else self._part(first, fewer)
        other = self.embed_from(second, weight)
        u = nn.functional.normalize(self.project(torch.cat([h, other])), dim=1)
        label = y.reshape(len(h), -1).to(u)
        rows = batch_rows(torch.cat([*u.chunk(2), label], dim=1))
        u, u_other, label = rows.tensor_split([self.d, 2 * self.d], dim=1)
        scaled = u / self.temperature
        between = scaled @ u_other.T
        supervised = same_label(scaled @ u.T, label) + same_label(between, label)
        return {
            "unsupervised": self.contrast_weight * same_patient(between),
            "supervised": self.supervised_weight / 2 * supervised,
        }

    def _cells(self, observed: Tensor, tokens: Tensor) -> Cells:
        """A list on the CPU, where it is faster; elsewhere a grid, whose sums are deterministic."""
        kind = Listed if tokens.device.type == "cpu" else Grid
        return kind(observed, tokens.dtype)

    def _part(self, first: FirstLayer, fewer: Tensor) -> FirstLayer:
        """The first layer of a view in which some edges of another are left out."""
        cells = type(first.cells)(fewer, first.cells.dtype)
        taken = (cells.take(part, first.cells.observed) for part in first.messages)
        return FirstLayer(cells, Messages(*taken))


# ---------------- What MUSE's contrastive terms are made of: the mask of a second view, and two
# losses


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

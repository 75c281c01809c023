"""The gate of DFD: how much of each patient-modality edge is causal."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dfdlib.errors import unknown
from dfdlib.models.backbone import EdgeWeight

GateName = Literal["learned", "frozen", "constant"]
GateLayers = Literal["first", "all"]


class Gate(nn.Module):
    r"""A perceptron of width d on each edge, and a sigmoid.

    Source: DFD (arXiv 2601.21941), "a gating MLP gives every edge :math:`\tau` and
    :math:`1 - \tau`"; the form of the perceptron is that of DisC's edge mask (Fan et al. 2022):

    .. math::
        \tau_{ij} = \sigma\bigl(V\, \mathrm{ReLU}(W e_{ij} + v_j) + b\bigr)

    with :math:`e_{ij}` the token and :math:`v_j` a learned vector of the modality. Patients' states
    are alike before the first layer (a vector of ones), so they are no input.

    Args:
        d: width of a token.
        kind: "learned"; "frozen" stays as it was drawn; "constant" is 1/2 on every edge.
        channels: one value per edge and channel, in place of one per edge.
        n_modalities: number of modalities M.

    Shapes:
        tokens (n, M, d) -> (n, M), or (n, M, d) with channels; between 0 and 1

    Raises:
        ValueError: for an unknown kind, or channels of a constant gate.

    Example:
        >>> Gate(d=8, n_modalities=3)(torch.randn(4, 3, 8)).shape
        torch.Size([4, 3])
    """

    # DIFF: the description says "a gating MLP" without its inputs; here token and modality.
    def __init__(
        self,
        *,
        d: int,
        n_modalities: int,
        kind: GateName | str = "learned",
        channels: bool = False,
    ) -> None:
        super().__init__()
        if kind not in get_args(GateName):
            raise unknown(kind, get_args(GateName), "gate of DFD")
        if kind == "constant" and channels:
            raise ValueError(
                "a constant gate has no channels. Leave gate_channels out, or take gate='learned'"
            )
        self.d, self.n_modalities, self.kind = d, n_modalities, kind
        self.channels = channels
        if kind == "constant":
            return
        self.from_token = nn.Linear(d, d)
        self.of_modality = nn.Parameter(torch.empty(n_modalities, d))
        self.out = nn.Linear(d, d if channels else 1)
        self.reset_parameters()
        self.requires_grad_(kind == "learned")

    def reset_parameters(self) -> None:
        """Draw the modalities' vectors anew (the linear maps have a method of their own)."""
        if self.kind != "constant":
            nn.init.normal_(self.of_modality, std=self.d**-0.5)

    def forward(self, tokens: Float[Tensor, "n m d"]) -> Float[Tensor, "..."]:
        """Give each edge (and channel) its tau."""
        if self.kind == "constant":
            return tokens.new_full(tokens.shape[:2], 0.5)
        tau = self.out((self.from_token(tokens) + self.of_modality).relu()).sigmoid()
        return tau if self.channels else tau.squeeze(-1)


def edges(tau: Tensor, *, n_layers: int | None) -> EdgeWeight:
    """An edge weight for the first of `n_layers` layers, or for all of them (None)."""
    return tau if n_layers is None else [tau, *[None] * (n_layers - 1)]

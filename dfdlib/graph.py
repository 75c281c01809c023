"""The patient-modality bipartite graph as an edge list: PyG export, and a twin of GRAPE.

Models run on the dense patient x modality grid (`dfdlib.models.grape`). This module is the same
mathematics in the vocabulary of PyTorch Geometric: slower, but the form in which papers write it.
Every dense layer is tested against the twin here.
"""

from typing import Optional, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.nn import MessagePassing

from dfdlib.data import Cohort


def edge_index(observed: Bool[Tensor, "n m"]) -> Int[Tensor, "2 e"]:
    """List the edges of the bipartite graph: one per observed patient-modality pair.

    Args:
        observed: which modality was observed for which patient.

    Shapes:
        observed (n, M) -> (2, E), row 0 patients, row 1 modalities, sorted by patient.

    Example:
        >>> edge_index(torch.tensor([[True, False], [True, True]])).tolist()
        [[0, 1, 1], [0, 0, 1]]
    """
    return observed.nonzero().T.contiguous()


def to_hetero_data(cohort: Cohort, *, tokens: Float[Tensor, "n m d"] | None = None) -> HeteroData:
    """Export a cohort as the bipartite graph that PyTorch Geometric understands.

    Args:
        cohort: the patients.
        tokens: one vector per patient and modality, such as `Classifier.tokens` gives. They become
            `edge_attr`. Without them the raw values of a modality m stand at the patient nodes, as
            `data["patient"]["x_m"]`.

    Returns:
        `HeteroData` with node types `patient` and `modality` and the edge type
        `("patient", "has", "modality")` together with its reverse. `data["patient"].y` holds the
        labels where the cohort has any, `data["modality"].name` the modalities' names.

    Raises:
        ValueError: if `tokens` does not have one row per patient and one column per modality.

    Example:
        >>> from dfdlib.data import Cohort
        >>> cohort = Cohort(x={"ecg": torch.randn(3, 2), "labs": torch.randn(3, 4)})
        >>> to_hetero_data(cohort)["patient", "has", "modality"].edge_index.shape
        torch.Size([2, 6])
    """
    data = HeteroData()
    data["patient"].num_nodes = len(cohort)
    data["modality"].num_nodes = len(cohort.names)
    data["modality"].name = list(cohort.names)
    if cohort.y is not None:
        data["patient"].y = cohort.y
    edges = edge_index(cohort.observed)
    data["patient", "has", "modality"].edge_index = edges
    data["modality", "of", "patient"].edge_index = edges.flip(0)
    if tokens is None:
        for name in cohort.names:
            data["patient"][f"x_{name}"] = cohort.x[name]
        return data
    if tokens.shape[:2] != cohort.observed.shape:
        raise ValueError(
            f"tokens must be (patients, modalities, d) = {tuple(cohort.observed.shape)} + (d,), "
            f"but tokens.shape = {tuple(tokens.shape)}. Pass the tokens of this cohort."
        )
    data["patient", "has", "modality"].edge_attr = tokens[cohort.observed]
    data["modality", "of", "patient"].edge_attr = tokens[cohort.observed]
    return data


class EGSAGEConv(MessagePassing):
    r"""One direction of a GRAPE layer as message passing on an edge list.

    Source: You et al. 2020 (GRAPE, arXiv 2010.16418), equations 1-2, in the form that MUSE uses:

    .. math::
        m_{j \to i} &= \mathrm{ReLU}(W [h_j ; e_{ij}]) \\
        h_i' &= \mathrm{ReLU}\Bigl(Q \Bigl[
            \tfrac{1}{|N(i)|} \sum_{j \in N(i)} w_{ij} m_{j \to i} ; h_i\Bigr]\Bigr)

    The mean divides by the number of neighbours, not by the sum of the weights: a small weight
    makes an edge say less, it does not make the others say more.

    Args:
        w: the linear map W, from 2 d to d.
        q: the linear map Q, from 2 d to d.

    Shapes:
        h (sources, d), (targets, d); edge_index (2, E); edge_attr (E, d); weight (E, 1) or (E, d).
    """

    def __init__(self, *, w: nn.Linear, q: nn.Linear) -> None:
        super().__init__(aggr="mean")
        self.w = w
        self.q = q

    def forward(
        self,
        h: tuple[Float[Tensor, "s d"], Float[Tensor, "t d"]],
        edges: Int[Tensor, "2 e"],
        edge_attr: Float[Tensor, "e d"],
        weight: Float[Tensor, "e k"] | None = None,
    ) -> Float[Tensor, "t d"]:
        """Send a message along each edge and update the targets."""
        size = (h[0].shape[0], h[1].shape[0])
        mean = self.propagate(edges, x=h, edge_attr=edge_attr, weight=weight, size=size)
        return torch.relu(self.q(torch.cat([mean, h[1]], dim=-1)))

    def message(
        self,
        x_j: Tensor,
        edge_attr: Tensor,
        weight: Optional[Tensor],  # noqa: UP045 - PyG reads the signature and knows no X | None
    ) -> Tensor:
        """Make the message of each edge; `propagate` calls it."""
        message = torch.relu(self.w(torch.cat([x_j, edge_attr], dim=-1)))
        return message if weight is None else message * weight


class EdgeListGRAPE(nn.Module):
    """GRAPE on an edge list: the twin of `dfdlib.models.GRAPE`, with the same parameter names.

    It is the twin of `dfdlib.models.MUSE` too, whose message passing is that of GRAPE.

    `EdgeListGRAPE(...).load_state_dict(grape.state_dict(), strict=False)` makes the two the same
    function. Like the dense form it does not compute what nobody reads: after the last layer the
    modality states and the edges are never used. It always averages modality states over the
    patients that it is given, as training does.

    Args:
        d: width of tokens and states.
        n_modalities: number of modalities M.
        n_layers: number of rounds of message passing.

    Shapes:
        tokens (n, M, d), observed (n, M), weight a list with (n, M, 1), (n, M, d) or None (= 1)
        per layer -> (n, d)
    """

    def __init__(self, *, d: int, n_modalities: int, n_layers: int = 2) -> None:
        super().__init__()
        self.modality_init = nn.Parameter(torch.randn(n_modalities, d) / d**0.5)
        self.w = nn.ModuleList(nn.Linear(2 * d, d) for _ in range(n_layers))
        self.q = nn.ModuleList(nn.Linear(2 * d, d) for _ in range(n_layers))
        self.u = nn.ModuleList(nn.Linear(3 * d, d) for _ in range(n_layers - 1))
        # a plain tuple: their maps are registered above, under the names of the dense form
        self.layers = tuple(
            EGSAGEConv(w=cast(nn.Linear, w), q=cast(nn.Linear, q))
            for w, q in zip(self.w, self.q, strict=True)
        )

    def forward(
        self,
        tokens: Float[Tensor, "n m d"],
        observed: Bool[Tensor, "n m"],
        weight: list[Tensor | None] | None = None,
    ) -> Float[Tensor, "n d"]:
        """Embed each patient; the same function as the dense form."""
        edges = edge_index(observed)
        patient, modality = edges
        h_p = tokens.new_ones(tokens.shape[0], tokens.shape[2])
        h_m, e = self.modality_init, tokens[observed]
        for layer, conv in enumerate(self.layers):
            per_edge = None if weight is None else weight[layer]
            if per_edge is not None:
                per_edge = per_edge[observed].reshape(len(patient), -1)
            to_patients = conv((h_m, h_p), edges.flip(0), e, per_edge)
            if layer < len(self.u):
                h_m = conv((h_p, h_m), edges, e, per_edge)
                e = torch.relu(
                    self.u[layer](torch.cat([to_patients[patient], h_m[modality], e], dim=-1))
                )
            h_p = to_patients
        return h_p

"""GRAPE on the dense patient x modality grid."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dfdlib.models.backbone import Backbone, EdgeWeight, batch_sum, per_layer


class Grid:
    """Every patient-modality pair; what is not observed is silenced. Nothing is moved."""

    def __init__(self, observed: Bool[Tensor, "n m"], dtype: torch.dtype) -> None:
        self.observed, self.dtype = observed, dtype
        self.mask = observed.unsqueeze(-1).to(dtype)

    def edges(self, values: Float[Tensor, "n m d"]) -> Float[Tensor, "n m d"]:
        """The grid itself."""
        return values

    def of_patients(self, h: Float[Tensor, "k d"]) -> Float[Tensor, "k 1 d"]:
        """A row per patient."""
        return h.unsqueeze(1)

    def of_modalities(self, h: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """A column per modality."""
        return h

    def to_patients(
        self, message: Float[Tensor, "n m d"], weight: Float[Tensor, "n m k"] | None
    ) -> Float[Tensor, "n d"]:
        """Sum over columns."""
        return (message * self._sent(weight)).sum(1)

    def to_modalities(
        self, message: Float[Tensor, "n m d"], weight: Float[Tensor, "n m k"] | None
    ) -> Float[Tensor, "m d"]:
        """Sum over rows."""
        return (message * self._sent(weight)).sum(0)

    def take(
        self, values: Float[Tensor, "n m d"], whole: Bool[Tensor, "n m"]
    ) -> Float[Tensor, "n m d"]:
        """From what a larger graph holds per edge, these edges' part: all, since a mask follows."""
        del whole
        return values

    def _sent(self, weight: Tensor | None) -> Tensor:
        return self.mask if weight is None else self.mask * weight


class Listed:
    """The observed pairs alone, one row each: less to compute, more to move."""

    def __init__(self, observed: Bool[Tensor, "n m"], dtype: torch.dtype) -> None:
        self.observed, self.dtype = observed, dtype
        self.cell = observed.flatten().nonzero().squeeze(1)
        self.patient, modality = self.cell // observed.shape[1], self.cell % observed.shape[1]
        # few columns, so that products with it are cheaper than moving rows
        self.modality = nn.functional.one_hot(modality, observed.shape[1]).to(dtype)

    def edges(self, values: Float[Tensor, "n m d"]) -> Float[Tensor, "e d"]:
        """Gather the observed cells."""
        return values.flatten(0, 1).index_select(0, self.cell)

    def of_patients(self, h: Float[Tensor, "k d"]) -> Float[Tensor, "f d"]:
        """Gather the patients' rows."""
        return h if len(h) == 1 else h.index_select(0, self.patient)

    def of_modalities(self, h: Float[Tensor, "m d"]) -> Float[Tensor, "e d"]:
        """Gather the modalities' rows."""
        return self.modality @ h

    def to_patients(
        self, message: Float[Tensor, "e d"], weight: Float[Tensor, "n m k"] | None
    ) -> Float[Tensor, "n d"]:
        """Scatter to the patients."""
        total = message.new_zeros(len(self.observed), message.shape[1])
        return total.index_add(0, self.patient, self._sent(message, weight))

    def to_modalities(
        self, message: Float[Tensor, "e d"], weight: Float[Tensor, "n m k"] | None
    ) -> Float[Tensor, "m d"]:
        """Scatter to the modalities."""
        return self.modality.T @ self._sent(message, weight)

    def take(
        self, values: Float[Tensor, "e d"], whole: Bool[Tensor, "n m"]
    ) -> Float[Tensor, "f d"]:
        """From what a larger graph holds per edge, the rows of these edges."""
        return values.index_select(0, self.observed[whole].nonzero().squeeze(1))

    def _sent(self, message: Tensor, weight: Tensor | None) -> Tensor:
        return message if weight is None else message * self.edges(weight)


Cells = Grid | Listed


def _maps(d_in: int, d_out: int, n: int) -> Any:
    return nn.ModuleList(nn.Linear(d_in, d_out) for _ in range(n))


class Messages(NamedTuple):
    """What one layer sends along every edge, before edge weights."""

    to_patient: Tensor
    to_modality: Tensor  # empty in the last layer, which sends nothing to modalities
    from_edge: Tensor  # U e, of which the next layer's edges are made; empty in the last layer


class FirstLayer(NamedTuple):
    """The edges of a graph, and the messages of its first layer: what two views can share."""

    cells: Cells
    messages: Messages


class _LayerState(NamedTuple):
    """What one layer leaves behind: patients' states, and what they sent to the modalities."""

    patient: Tensor  # (n, d)
    message_sum: Tensor  # (M, d), summed over patients; empty after the last layer
    message_count: Tensor  # (M, 1)


class GRAPE(Backbone):
    r"""Message passing between patients and modalities, written as operations on a grid.

    Source: You et al. 2020 (GRAPE, arXiv 2010.16418), in the patient-modality form of MUSE (Wu et
    al. 2024). Every patient :math:`i` starts from a vector of ones, every modality :math:`j` from a
    learned vector; :math:`e_{ij}` starts as the token. In each of L layers

    .. math::
        m_{j \to i} &= \mathrm{ReLU}(W [h_j ; e_{ij}]) \\
        h_i' &= \mathrm{ReLU}\Bigl(Q \Bigl[
            \tfrac{1}{|N(i)|} \sum_{j \in N(i)} w_{ij} m_{j \to i} ; h_i\Bigr]\Bigr) \\
        e_{ij}' &= \mathrm{ReLU}(U [h_i' ; h_j' ; e_{ij}])

    and the same W and Q carry messages from patients to modalities. Because every edge is a cell of
    a grid, nothing is gathered or scattered, :math:`W_e e_{ij}` is shared by both directions, and
    after the last layer only patients are computed (`dfdlib.graph.EdgeListGRAPE` is the edge-list
    twin). The price is that cells without an observation are computed too: where fewer than about a
    third of the cells are observed, an edge list costs less on a CPU.

    A modality's state is a mean over patients. Training takes the patients of the batch (of all
    processes); in evaluation the states are those that `fix_states` computed on the training part,
    so that a patient's embedding does not depend on who else is in the batch.

    Args:
        d: width of tokens, states and embedding.
        n_layers: number of layers L.
        dropout: share of the entries of patient states set to zero after each layer in training.
        n_modalities: number of modalities M; None takes it from the first input.

    Shapes:
        tokens (n, M, d), observed (n, M), weight (n, M) or (n, M, d) or a list with one of these
        (or None = 1) per layer -> embedding (n, d)

    Raises:
        ValueError: if there is no layer, or the number of modalities is not the one built for.

    Example:
        >>> backbone = GRAPE(d=8)
        >>> backbone(torch.randn(4, 3, 8), torch.ones(4, 3, dtype=torch.bool)).shape
        torch.Size([4, 8])
    """

    w: Sequence[nn.Linear]
    q: Sequence[nn.Linear]
    u: Sequence[nn.Linear]
    modality_states: Tensor

    def __init__(
        self,
        *,
        d: int,
        n_layers: int = 2,
        dropout: int | float = 0.0,
        n_modalities: int | None = None,
    ) -> None:
        super().__init__()
        if n_layers < 1:
            raise ValueError(f"{type(self).__name__} needs n_layers >= 1, got n_layers={n_layers}.")
        self.d, self.n_layers, self.dropout = d, n_layers, dropout
        self.n_modalities: int | None = None
        # DIFF: GRAPE's code scales every state to unit length; left out, as in MUSE.
        self.w = _maps(2 * d, d, n_layers)
        self.q = _maps(2 * d, d, n_layers)
        self.u = _maps(3 * d, d, n_layers - 1)
        if n_modalities is not None:
            self.build(n_modalities)

    def build(self, n_modalities: int) -> None:
        """Make the parameters whose size is the number of modalities; `Classifier` calls it."""
        if self.n_modalities not in (None, n_modalities):
            name = type(self).__name__
            raise ValueError(
                f"this {name} was built for {self.n_modalities} modalities and got {n_modalities}. "
                f"Make a new one: {name}(d={self.d})."
            )
        if self.n_modalities is None:
            self.n_modalities = n_modalities
            like = self.w[0].weight
            self.modality_init = nn.Parameter(like.new_empty(n_modalities, self.d))
            self.register_buffer(
                "modality_states", like.new_zeros(self.n_layers - 1, n_modalities, self.d)
            )
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the modalities' initial states anew (the linear maps have a method of their own)."""
        if self.n_modalities is not None:
            nn.init.normal_(self.modality_init, std=self.d**-0.5)
            self.modality_states.zero_()

    def forward(
        self,
        tokens: Float[Tensor, "n m d"],
        observed: Bool[Tensor, "n m"],
        weight: EdgeWeight = None,
    ) -> Float[Tensor, "n d"]:
        """Embed each patient from the tokens that were observed; see the class."""
        return self.embed_from(self.first_layer(tokens, observed), weight)

    def first_layer(
        self, tokens: Float[Tensor, "n m d"], observed: Bool[Tensor, "n m"]
    ) -> FirstLayer:
        """Compute what depends on no edge weight: the edges, and the first layer's messages."""
        self.build(tokens.shape[1])
        cells = self._cells(observed, tokens)
        patient = tokens.new_ones(1, self.d)
        edge = cells.edges(tokens)
        return FirstLayer(cells, self._messages(0, edge, patient, self.modality_init, cells))

    def embed_from(self, first: FirstLayer, weight: EdgeWeight = None) -> Float[Tensor, "n d"]:
        """Embed each patient, given the messages of the first layer."""
        *_, last = self._layers(first, weight)
        return last.patient

    @torch.no_grad()
    def fix_states(self, stream: Callable[[], Iterable[tuple[Tensor, Tensor, EdgeWeight]]]) -> None:
        """Fix the modality states of each inner layer as their mean over all patients of `stream`.

        Args:
            stream: gives (tokens, observed, weight) batch by batch, and is called once per inner
                layer, since a layer's states need those of the layer below. Exact for any batching.
        """
        for layer in range(self.n_layers - 1):
            total = count = torch.zeros((), dtype=torch.double)
            for tokens, observed, weight in stream():
                first = self.first_layer(tokens, observed)
                state = next(islice(self._layers(first, weight), layer, None))
                total = state.message_sum.double() + total.to(tokens.device)
                count = state.message_count.double() + count.to(tokens.device)
            below = self.modality_init if layer == 0 else self.modality_states[layer - 1]
            mean = (total / count.clamp(min=1)).to(below.dtype)
            self.modality_states[layer] = self._update(layer, mean, below)

    def _update(self, layer: int, mean: Tensor, h: Tensor) -> Tensor:
        """ReLU(Q [mean ; h]), with Q h computed once where all rows of h are the same."""
        q_mean, q_h = self.q[layer].weight.split(self.d, dim=1)
        return torch.relu(mean @ q_mean.T + (h @ q_h.T + self.q[layer].bias))

    def _layers(self, first: FirstLayer, weight: EdgeWeight) -> Iterator[_LayerState]:
        """Run the layers one by one; the states after each."""
        cells, (to_patient, to_modality, from_edge) = first
        degree = cells.observed.sum(1, keepdim=True).clamp(min=1).to(cells.dtype)
        count = cells.observed.sum(0).unsqueeze(-1).to(cells.dtype)
        patient = degree.new_ones(1, self.d)  # one row: every patient starts alike
        modality: Tensor = self.modality_init
        for layer, scale in enumerate(per_layer(weight, self.n_layers)):
            if layer:
                u_patient, u_modality, _ = self.u[layer - 1].weight.split(self.d, dim=1)
                from_patient = nn.functional.linear(patient, u_patient, self.u[layer - 1].bias)
                from_modality = cells.of_modalities(modality @ u_modality.T)
                edge = (from_edge + (cells.of_patients(from_patient) + from_modality)).relu_()
                to_patient, to_modality, from_edge = self._messages(
                    layer, edge, patient, modality, cells
                )
            # DIFF: the description of DFD does not say by what a gated sum is divided: here by the
            # number of edges, as in the code of DisC, and not by the sum of the gates.
            mean = cells.to_patients(to_patient, scale) / degree
            if layer == self.n_layers - 1:
                patient = self._update(layer, mean, patient)
                yield _LayerState(patient, to_patient.new_empty(0, self.d), count)
                return
            message_sum = cells.to_modalities(to_modality, scale)
            if self.training:
                total, n = batch_sum(message_sum), batch_sum(count)
                modality = self._update(layer, total / n.clamp(min=1), modality)
            else:
                modality = self.modality_states[layer]
            patient = self._update(layer, mean, patient)
            patient = nn.functional.dropout(patient, self.dropout, self.training)
            yield _LayerState(patient, message_sum, count)

    def _cells(self, observed: Tensor, tokens: Tensor) -> Cells:
        """How edges are kept: here in the grid that they come in."""
        return Grid(observed, tokens.dtype)

    def _messages(
        self, layer: int, edge: Tensor, patient: Tensor, modality: Tensor, cells: Cells
    ) -> Messages:
        """What every edge sends to its patient and to its modality; weights come later."""
        # biases go into the small node terms, so that the edges are read and written less often
        w_node, w_edge = self.w[layer].weight.split(self.d, dim=1)
        from_edge = edge @ w_edge.T
        from_modality = nn.functional.linear(modality, w_node, self.w[layer].bias)
        from_modality = cells.of_modalities(from_modality)
        if layer == self.n_layers - 1:
            return Messages(from_edge.add_(from_modality).relu_(), *edge.new_empty(2, 0))
        to_patient = (from_edge + from_modality).relu_()
        from_patient = nn.functional.linear(patient, w_node, self.w[layer].bias)
        to_modality = from_edge.add_(cells.of_patients(from_patient)).relu_()
        return Messages(to_patient, to_modality, edge @ self.u[layer].weight[:, 2 * self.d :].T)

"""Where the edges of the patient-modality graph are kept: in a grid with holes, or in a list."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Grid:
    """Every patient-modality pair; what is not observed is silenced. Nothing is moved."""

    def __init__(self, observed: Bool[Tensor, "n m"], dtype: torch.dtype) -> None:
        self.observed = observed
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
        self.observed = observed
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

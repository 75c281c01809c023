"""What every route of `Deconfounder` has."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dfdlib.data import Cohort
from dfdlib.models._patterns import Patterns, Resizable, average


class Parts(NamedTuple):
    """What a prediction is averaged from: logits under each stratum, and the stratum's weight."""

    logits: Float[Tensor, "n g k"]
    weight: Float[Tensor, "n g"]


class Route(Resizable):
    """What every route has; alone, a linear head that adjusts for nothing."""

    options: tuple[str, ...] = ()
    #: what is done about a pattern that training never saw
    new_pattern = "they are scored as they are"
    multiclass: Tensor

    def __init__(self, *, n_patterns: int) -> None:
        super().__init__()
        self.patterns = Patterns(limit=n_patterns)
        self.register_buffer("multiclass", torch.tensor(False))

    def build(self, *, d: int, n_outputs: int) -> None:
        """Make the parameters."""
        self.map = nn.Linear(d, n_outputs)

    def prepare(self, train: Cohort) -> None:
        """Read the patterns off the training part."""
        self.patterns.fit(train.observed)
        self.multiclass.fill_(train.task == "multiclass")

    def mask(self, observed: Bool[Tensor, "n m"]) -> Bool[Tensor, "n m"]:
        """What the backbone is shown in training."""
        return observed

    def naive(self, h: Tensor, observed: Tensor) -> Tensor:
        """Logits of P(y | x, the patient's own pattern), which is what training fits."""
        del observed
        return self.map(h)

    def trained(self, h: Tensor, observed: Tensor) -> Tensor:
        """Logits that the loss reads."""
        return self.naive(h, observed)

    def parts(self, h: Tensor, observed: Tensor) -> Parts:
        """Logits and weights of the strata that the prediction averages over."""
        logits = self.naive(h, observed).unsqueeze(1)
        return Parts(logits, logits.new_ones(logits.shape[:2]))

    def adjusted(self, h: Tensor, observed: Tensor) -> Tensor:
        """Logits of the averaged probability."""
        return average(*self.parts(h, observed), multiclass=bool(self.multiclass))

    def probability(self, logits: Tensor) -> Tensor:
        """Probabilities, by softmax or sigmoid over the last axis."""
        return logits.softmax(dim=-1) if self.multiclass else logits.sigmoid()

    def penalty(self, h: Tensor, observed: Tensor) -> Tensor:
        """What is added to the loss."""
        del observed
        return h.new_zeros(())

    def sample_weight(self, observed: Tensor) -> Tensor:
        """Weight of each patient's loss."""
        return torch.ones(len(observed), device=observed.device)

    def row_weight(self, index: Tensor) -> Tensor:
        """Weight of each row of the training part."""
        return torch.ones(len(index), device=index.device)

    def fix_states(self, stream: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> None:
        """Read what is left to read off the embeddings of the training part."""

    def forget_rare(self) -> int:
        """Put patterns that fewer than 10 patients had to others; gives how many there were."""
        n_rare, pooling = self.patterns.pool_rare()
        if pooling is not None:
            self.pool(pooling)
        return n_rare

    def pool(self, pooling: Float[Tensor, "r old"]) -> None:
        """Let what belongs to patterns follow them; by default nothing does."""

    def strata(self) -> tuple[list[str], Tensor, Tensor]:
        """What is averaged over: names (if not patterns), shares, and P(modality is there)."""
        return [], self.patterns.share, self.patterns.table.to(self.patterns.share.dtype)

"""Heads: from a patient's embedding to logits."""

from jaxtyping import Bool, Float
from torch import Tensor, nn


class Linear(nn.Module):
    """The default head: one affine map.

    A head is any module with `forward(h, observed) -> logits`. Two methods are optional:
    `build(d, n_outputs)`, called once by the method that owns the head, and `prepare(train)`,
    called by `fit` with the training cohort.

    Args:
        d: width of the embedding; None takes the backbone's.
        n_outputs: number of logits; None takes the task's.

    Shapes:
        h (n, d), observed (n, M) -> (n, n_outputs)
    """

    def __init__(self, *, d: int | None = None, n_outputs: int | None = None) -> None:
        super().__init__()
        self.d: int | None = None
        self.n_outputs: int | None = None
        if d is not None and n_outputs is not None:
            self.build(d=d, n_outputs=n_outputs)

    def build(self, *, d: int, n_outputs: int) -> None:
        """Make the parameters once the sizes are known."""
        if self.d is None:
            self.d, self.n_outputs = d, n_outputs
            self.map = nn.Linear(d, n_outputs)

    def forward(
        self, h: Float[Tensor, "n d"], observed: Bool[Tensor, "n m"]
    ) -> Float[Tensor, "n k"]:
        """Map the embedding to logits."""
        del observed  # a linear head does not read which modalities are there
        return self.map(h)

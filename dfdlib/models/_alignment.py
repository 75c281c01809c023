"""Hospital-aware training of the causal stream: what it may read must look alike everywhere."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dfdlib.models.moments import MomentMatching


class Alignment(nn.Module):
    r"""A narrow, noisy bottleneck on tokens, and moments matched between hospitals at three depths.

    Source: a prototype of this project. The causal stream reads
    :math:`\mathrm{up}(z + \epsilon)` with :math:`z = \tanh(\mathrm{down}(\mathrm{token}))`, and
    class-conditional moments are matched between environments (see `MomentMatching`) for

    * all patients' z of all modalities as one vector, so that dependence between modalities counts;
    * the embedding H_c;
    * the logits that H_c alone gives.

    It assumes that causal features are distributed alike in every environment, given y. Where they
    are not, it takes cause away.

    Args:
        d: width of a token.
        n_modalities: number of modalities.
        n_outputs: number of logits.
        n_classes: number of classes.
        width: width of the bottleneck.
        noise: standard deviation of the noise in training; z lies between -1 and 1.
    """

    def __init__(
        self,
        *,
        d: int,
        n_modalities: int,
        n_outputs: int,
        n_classes: int,
        width: int,
        noise: float | int,
    ) -> None:
        super().__init__()
        self.width, self.noise = width, noise
        self.down, self.up = nn.Linear(d, width), nn.Linear(width, d)
        self.tokens = MomentMatching(d=n_modalities * width, n_classes=n_classes)
        self.embedding = MomentMatching(d=d, n_classes=n_classes)
        self.logits = MomentMatching(d=n_outputs, n_classes=n_classes)

    def prepare(self, n_environments: int) -> None:
        """Make room for so many environments."""
        for matching in (self.tokens, self.embedding, self.logits):
            matching.prepare(n_environments)

    def narrow(self, tokens: Float[Tensor, "n m d"]) -> Float[Tensor, "n m d"]:
        """What the causal stream is given in place of the tokens."""
        z = self.down(tokens).tanh()
        return self.up(z + self.noise * torch.randn_like(z) if self.training else z)

    def penalty(
        self,
        *,
        tokens: Float[Tensor, "n m d"],
        observed: Bool[Tensor, "n m"],
        h_c: Float[Tensor, "n d"],
        logits: Float[Tensor, "n k"],
        y: Tensor,
        codes: Int[Tensor, " n"],
    ) -> Float[Tensor, ""]:
        """How much the environments differ, given y, summed over the three depths."""
        z = self.down(tokens).tanh().flatten(1)
        known = observed.repeat_interleave(self.width, dim=1)
        return (
            self.tokens(z, y, codes, known)
            + self.embedding(h_c, y, codes)
            + self.logits(logits, y, codes)
        )

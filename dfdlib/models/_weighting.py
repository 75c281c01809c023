"""Routes that act in training only: inverse-probability weights, modality dropout."""

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from dfdlib.data import Cohort
from dfdlib.models._patterns import pattern_propensity, read_proxies
from dfdlib.models._route import Route


class InverseProbability(Route):
    r"""Weight each patient's loss by the inverse probability of the pattern.

    .. math:: w_i \propto 1 / P(r_i), \qquad
              \text{with proxies } w: \; w_i \propto P(r_i) / P(r_i \mid w_i)

    Source: Horvitz and Thompson 1952; stabilised weights of Robins et al. 2000. Weights are scaled
    to a mean of 1 over the training part, cut at `clip`, and scaled again; a cut is told, with the
    effective sample size. P(r | w) is a chain of logistic regressions, one per modality.

    With proxies, a backdoor adjustment where they take up what drives R (MAR given w, no C → R
    beside them): in the weighted cohort R is independent of w. Without proxies every pattern
    counts alike, and within a pattern nothing changes: must fail wherever R depends on Y's causes,
    and with proxies wherever it does so through a latent.
    """

    options = ("proxies", "clip")
    rows: Tensor
    scale: Tensor
    ceiling: Tensor

    def __init__(self, *, n_patterns: int, proxies: Sequence[str], clip: float) -> None:
        super().__init__(n_patterns=n_patterns)
        self.proxies, self.clip = proxies, clip
        # of the training part's rows: no part of a saved model
        self.register_buffer("rows", torch.zeros(0), persistent=False)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("ceiling", torch.tensor(torch.inf))

    def prepare(self, train: Cohort) -> None:
        """Estimate the weights."""
        super().prepare(train)
        own, _ = self.patterns.nearest(train.observed)
        weight = 1 / self.patterns.share[own].double()
        if self.proxies:
            propensity = pattern_propensity(
                train.observed.cpu().numpy(), read_proxies(train, self.proxies)
            )
            weight = 1 / (weight * torch.as_tensor(propensity, device=weight.device))
        weight, ceiling = weight / weight.mean(), weight.mean() * self.clip
        cut = weight.clamp(max=self.clip)
        if (weight > self.clip).any():
            size = cut.sum() ** 2 / cut.square().sum()
            warnings.warn(
                f"the weights of {int((weight > self.clip).sum())} of {len(cut)} training patients "
                f"were over clip={self.clip:g} times the mean and are cut there; the effective "
                f"sample size is {float(size):.0f}",
                UserWarning,
                stacklevel=2,
            )
        self.scale.copy_(1 / cut.mean() / (ceiling / self.clip))
        self.ceiling.copy_(ceiling)
        self.rows = (cut / cut.mean()).float() if self.proxies else self.rows.new_zeros(0)

    def pool(self, pooling: Tensor) -> None:
        """Scale anew by the shares that are left, since the former scale tells of the others."""
        del pooling
        share = self.patterns.share
        self.ceiling.fill_(self.clip * len(share))  # of 1 / P(r) the mean is their number
        self.scale.copy_(1 / (share * (1 / share).clamp(max=self.ceiling)).sum())

    def sample_weight(self, observed: Tensor) -> Tensor:
        """1 / P(r), scaled; 1 where the weights are those of the rows."""
        if self.proxies:
            return super().sample_weight(observed)
        own, _ = self.patterns.nearest(observed)
        return (1 / self.patterns.share[own]).clamp(max=self.ceiling) * self.scale

    def row_weight(self, index: Tensor) -> Tensor:
        """P(r) / P(r | proxies), scaled; 1 where there are no proxies."""
        if not self.proxies:
            return super().row_weight(index)
        if len(self.rows) <= int(index.max()):
            raise RuntimeError(
                "the weights by proxies belong to the rows of the training part, and are not kept "
                "with a saved model. Call model.prepare(train) before training on."
            )
        return self.rows[index.to(self.rows.device)]


class Dropout(Route):
    r"""Hide modalities at random in training, :math:`r' = r \odot \mathrm{keep}`.

    Source: modality dropout (ModDrop, Neverova et al. 2016). Each modality that is there is hidden
    with probability `rate`; a patient who would be left with nothing keeps one.

    Makes a network robust to seeing less. No backdoor adjustment under any graph: what is left of
    the mask still follows the confounder. Must fail where the mask tells of Y; costs nothing where
    it does not.
    """

    options = ("rate",)

    def __init__(self, *, n_patterns: int, rate: float) -> None:
        super().__init__(n_patterns=n_patterns)
        self.rate = rate

    def mask(self, observed: Bool[Tensor, "n m"]) -> Bool[Tensor, "n m"]:
        """Hide at random; keep the luckiest modality of each patient."""
        luck = torch.rand(observed.shape, device=observed.device).masked_fill(~observed, -1)
        luckiest = luck == luck.amax(dim=1, keepdim=True)
        return observed & ((luck >= self.rate) | luckiest)

"""Routes that average a head's answers over patterns: stratified, nwgm, prototypes."""

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from dfdlib.data import Cohort
from dfdlib.models._route import Parts, Route


class Stratified(Route):
    r"""Average over the patterns: :math:`\sum_r P(r)\, P(y \mid x, r)`.

    .. math:: P(y \mid x, r) = \sigma\bigl(V \, \mathrm{ReLU}(A h + B r + b)\bigr)

    Source: the backdoor formula for the adjustment set {R} (Pearl 1995), as in arXiv 2509.05615's
    summary. Training fits the patient's own pattern, prediction sums over those of the training
    part, one pass of the head each.

    A backdoor adjustment where R takes up all confounding (C → R → Y, and no C → Y beside it), R
    is no effect of the features, and h has not read the mask. Must fail where h has: a network
    tells the pattern from the tokens that are there, so r is on both sides and averaging one of
    them changes nothing.
    """

    new_pattern = "their score is averaged over the patterns of the training part, as everybody's"
    resizable: tuple[str, ...] = ("by_pattern",)

    def build(self, *, d: int, n_outputs: int) -> None:
        """Make the parameters; those of the patterns get their size in `prepare`."""
        self.hidden = nn.Linear(d, d)
        self.by_pattern = nn.Parameter(torch.zeros(0, d))  # B, one row per modality
        self.out = nn.Linear(d, n_outputs)

    def prepare(self, train: Cohort) -> None:
        """Read the patterns; draw the map of the patterns."""
        super().prepare(train)
        self.resize("by_pattern", train.observed.shape[1], self.by_pattern.shape[1])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the map of the patterns anew."""
        if len(self.by_pattern):
            nn.init.normal_(self.by_pattern, std=len(self.by_pattern) ** -0.5)

    def under(self, hidden: Tensor, pattern: Tensor) -> Tensor:
        """Logits under a pattern, from A h + b."""
        return self.out((hidden + pattern.to(hidden.dtype) @ self.by_pattern).relu())

    def naive(self, h: Tensor, observed: Tensor) -> Tensor:
        """Logits under the patient's own pattern."""
        return self.under(self.hidden(h), observed)

    def parts(self, h: Tensor, observed: Tensor) -> Parts:
        """Logits under each pattern of the training part."""
        hidden, share = self.hidden(h), self.patterns.share
        logits = torch.stack([self.under(hidden, r) for r in self.patterns.table], dim=1)
        return Parts(logits, share.expand(len(observed), -1))


class NWGM(Stratified):
    r"""The average pushed inside the network: :math:`f(h, \sum_r P(r)\, r)`.

    Source: normalised weighted geometric mean (Xu et al. 2015), as VC R-CNN (Wang et al. 2020) and
    its kin approximate the backdoor formula. The head is that of `stratified`, and one pass with
    the mean pattern replaces the sum. With a head linear in r that is the sigmoid of the mean
    logit, which is not the mean probability: c = ±2 and f = 1 give .7311 for a true .6108.

    A backdoor adjustment under the graph of `stratified`, where logits spread little. Must fail
    where that fails.
    """

    new_pattern = "their score is taken at the mean pattern of the training part, as everybody's"

    def parts(self, h: Tensor, observed: Tensor) -> Parts:
        """Logits at the mean pattern."""
        mean = self.patterns.share @ self.patterns.table.to(self.patterns.share.dtype)
        logits = self.under(self.hidden(h), mean).unsqueeze(1)
        return Parts(logits, logits.new_ones(len(observed), 1))

    def strata(self) -> tuple[list[str], Tensor, Tensor]:
        """One stratum, the mean pattern."""
        _, share, table = super().strata()
        return ["mean pattern"], share.sum(0, keepdim=True), share[None] @ table


class Prototypes(Stratified):
    r"""Attention over a dictionary of confounders: :math:`\sum_k \alpha_k(h)\, P(y \mid x, c_k)`.

    .. math:: \alpha_k(h) \propto P(c_k) \exp\bigl(q(h) \cdot e_k / (\tau \sqrt d)\bigr)

    Source: VC R-CNN (Wang et al. 2020), CaaM (Wang et al. 2021). The dictionary holds the centres
    of a k-means over the training masks with their shares, or learned vectors e_k of equal prior;
    the sum is trained as it is predicted.

    A backdoor adjustment only if the prototypes are the confounder's levels and the attention is
    flat, which is `stratified`. Must fail where h has read the mask: the attention then picks the
    patient's own prototype, which is conditioning again.
    """

    # DIFF: the sources push the sum inside the network; here probabilities are averaged.
    options = ("n_prototypes", "dictionary", "temperature")
    new_pattern = "their score is averaged over the prototypes, as everybody's"
    resizable = ("by_pattern", "centres", "prior")
    centres: Tensor
    prior: Tensor

    def __init__(
        self, *, n_patterns: int, n_prototypes: int, dictionary: str, temperature: float
    ) -> None:
        super().__init__(n_patterns=n_patterns)
        self.n_prototypes, self.temperature = n_prototypes, temperature
        self.learned = dictionary == "learned"
        self.register_buffer("centres", torch.zeros(0, 0))
        self.register_buffer("prior", torch.zeros(0))

    def build(self, *, d: int, n_outputs: int) -> None:
        """Make the parameters."""
        super().build(d=d, n_outputs=n_outputs)
        self.query = nn.Linear(d, d, bias=False)

    def prepare(self, train: Cohort) -> None:
        """Cluster the masks, or make room for the vectors to be learned."""
        Route.prepare(self, train)
        d = self.by_pattern.shape[1]
        if self.learned:
            # one-hot codes: row k of the map is e_k
            centres, prior = np.eye(self.n_prototypes), np.full(self.n_prototypes, 1.0)
        else:
            centres, prior = self._clustered()
        self.resize("centres", *centres.shape)
        self.resize("prior", len(prior))
        self.centres.copy_(torch.as_tensor(centres))
        self.prior.copy_(torch.as_tensor(prior / prior.sum()))
        self.resize("by_pattern", centres.shape[1], d)
        self.reset_parameters()

    def _clustered(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres of the patterns, and their shares."""
        table = self.patterns.table.cpu().numpy().astype(float)
        share = self.patterns.share.cpu().numpy()
        means = KMeans(min(self.n_prototypes, len(table)), n_init=10, random_state=0)
        means.fit(table, sample_weight=share)
        centres = means.cluster_centers_
        return centres, np.bincount(means.labels_, weights=share, minlength=len(centres))

    def pool(self, pooling: Tensor) -> None:
        """Cluster the patterns that are left; what is learned knows none."""
        del pooling
        if self.learned:
            return
        centres, prior = self._clustered()
        self.resize("centres", *centres.shape)
        self.resize("prior", len(prior))
        self.centres.copy_(torch.as_tensor(centres))
        self.prior.copy_(torch.as_tensor(prior / prior.sum()))

    def naive(self, h: Tensor, observed: Tensor) -> Tensor:
        """Logits under the patient's own prototype: the nearest, or the most attended."""
        logits, weight = self.parts(h, observed)
        if self.learned:
            own = weight.argmax(dim=1)
        else:
            own = torch.cdist(observed.to(h.dtype), self.centres.to(h.dtype)).argmin(dim=1)
        return logits[torch.arange(len(h), device=h.device), own]

    def trained(self, h: Tensor, observed: Tensor) -> Tensor:
        """Logits of the averaged probability, in training too."""
        return self.adjusted(h, observed)

    def parts(self, h: Tensor, observed: Tensor) -> Parts:
        """Logits under each prototype, weighted by attention."""
        del observed
        hidden, keys = self.hidden(h), self.centres @ self.by_pattern
        logits = torch.stack([self.under(hidden, c) for c in self.centres], dim=1)
        score = self.query(h) @ keys.T / (self.temperature * keys.shape[1] ** 0.5)
        return Parts(logits, (score + self.prior.log()).softmax(dim=1))

    def strata(self) -> tuple[list[str], Tensor, Tensor]:
        """The prototypes; what a learned one says of modalities is not known."""
        names = [f"prototype {k + 1}" for k in range(len(self.prior))]
        there = self.centres.new_full((len(names), self.patterns.table.shape[1]), torch.nan)
        return names, self.prior, there if self.learned else self.centres

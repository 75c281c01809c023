"""Routes of `Deconfounder`: the base class, averages over patterns, weights, modality dropout."""

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dfdlib.data import Cohort
from dfdlib.models.backbone import Resizable
from dfdlib.models.patterns import Patterns, average, pattern_propensity, read_proxies


class Parts(NamedTuple):
    """What a prediction is averaged from: logits under each stratum, and the stratum's weight."""

    logits: Float[Tensor, "n g k"]
    weight: Float[Tensor, "n g"]


def check_option(name: str, value: Any, is_valid: Callable[[Any], bool], range_: str) -> None:
    """Refuse an option of a route that is out of range, or of a type that has no such range.

    Raises:
        ValueError: if it is not valid.
    """
    try:
        valid = is_valid(value)
    except TypeError:
        valid = False
    if not valid:
        raise ValueError(f"{name}={value!r} is out of range. Pass {range_}")


def check_proxies(proxies: Sequence[str]) -> None:
    """Refuse proxies that are no list of names.

    Raises:
        ValueError: if they are none.
    """

    def are_names(value: Any) -> bool:
        return not isinstance(value, str) and all(isinstance(name, str) for name in value)

    check_option("proxies", proxies, are_names, "a list of names, such as ['severity']")


class Route(Resizable, ABC):
    """What every route has: a linear head that adjusts for nothing, and its missing patterns.

    A route checks its options when it is made, and keeps each under the option's own name.

    Args:
        n_patterns: with more than 8 modalities, how many training patients are drawn to stand for
            all patterns; up to 8 all patterns are kept.
    """

    #: what is done about a pattern that training never saw
    new_pattern = "they are scored as they are"
    multiclass: Tensor

    def __init__(self, *, n_patterns: int = 256) -> None:
        super().__init__()
        check_option("n_patterns", n_patterns, lambda value: value >= 1, "1 or more")
        self.n_patterns = n_patterns
        self.patterns = Patterns(limit=n_patterns)
        self.register_buffer("multiclass", torch.tensor(False))

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The options of this route, and what each is where nobody says otherwise."""
        return {name: option.default for name, option in inspect.signature(cls).parameters.items()}

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


class ByPattern(Route, ABC):
    r"""A head with one hidden layer that reads a pattern beside the embedding.

    .. math:: P(y \mid x, r) = \sigma\bigl(V \, \mathrm{ReLU}(A h + B r + b)\bigr)

    Training fits the patient's own pattern; which patterns a prediction reads is the route's.
    """

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

    @abstractmethod
    def parts(self, h: Tensor, observed: Tensor) -> Parts:
        """Logits and weights of the strata that the prediction averages over."""


class Stratified(ByPattern):
    r"""Average over the patterns: :math:`\sum_r P(r)\, P(y \mid x, r)`.

    .. math:: P(y \mid x, r) = \sigma\bigl(V \, \mathrm{ReLU}(A h + B r + b)\bigr)

    Source: the backdoor formula for the adjustment set {R} (Pearl 1995), as in arXiv 2509.05615's
    summary. Training fits the patient's own pattern, prediction sums over those of the training
    part, one pass of the head each.

    A backdoor adjustment where R takes up all confounding (C → R → Y, and no C → Y beside it), R
    is no effect of the features, and h has not read the mask. Must fail where h has: a network
    tells the pattern from the tokens that are there, so r is on both sides and averaging one of
    them changes nothing.

    Args:
        n_patterns: see `Route`.
    """

    new_pattern = "their score is averaged over the patterns of the training part, as everybody's"

    def parts(self, h: Tensor, observed: Tensor) -> Parts:
        """Logits under each pattern of the training part."""
        hidden, share = self.hidden(h), self.patterns.share
        logits = torch.stack([self.under(hidden, r) for r in self.patterns.table], dim=1)
        return Parts(logits, share.expand(len(observed), -1))


class NWGM(ByPattern):
    r"""The average pushed inside the network: :math:`f(h, \sum_r P(r)\, r)`.

    Source: normalised weighted geometric mean (Xu et al. 2015), as VC R-CNN (Wang et al. 2020) and
    its kin approximate the backdoor formula. The head is that of `stratified`, and one pass with
    the mean pattern replaces the sum. With a head linear in r that is the sigmoid of the mean
    logit, which is not the mean probability: c = ±2 and f = 1 give .7311 for a true .6108.

    A backdoor adjustment under the graph of `stratified`, where logits spread little. Must fail
    where that fails.

    Args:
        n_patterns: see `Route`.
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


class Prototypes(ByPattern):
    r"""Attention over a dictionary of confounders: :math:`\sum_k \alpha_k(h)\, P(y \mid x, c_k)`.

    .. math:: \alpha_k(h) \propto P(c_k) \exp\bigl(q(h) \cdot e_k / (\tau \sqrt d)\bigr)

    Source: VC R-CNN (Wang et al. 2020), CaaM (Wang et al. 2021). The dictionary holds the centres
    of a k-means over the training masks with their shares, or learned vectors e_k of equal prior;
    the sum is trained as it is predicted.

    A backdoor adjustment only if the prototypes are the confounder's levels and the attention is
    flat, which is `stratified`. Must fail where h has read the mask: the attention then picks the
    patient's own prototype, which is conditioning again.

    Args:
        n_prototypes: size of the dictionary.
        dictionary: "kmeans" of the training masks, or "learned".
        temperature: of the attention, :math:`\tau`.
        n_patterns: see `Route`.

    Raises:
        ValueError: if an option is out of range.
    """

    # DIFF: the sources push the sum inside the network; here probabilities are averaged.
    new_pattern = "their score is averaged over the prototypes, as everybody's"
    resizable = ("by_pattern", "centres", "prior")
    centres: Tensor
    prior: Tensor

    def __init__(
        self,
        *,
        n_prototypes: int = 8,
        dictionary: Literal["kmeans", "learned"] | str = "kmeans",
        temperature: float | int = 1.0,
        n_patterns: int = 256,
    ) -> None:
        super().__init__(n_patterns=n_patterns)
        check_option("n_prototypes", n_prototypes, lambda value: value >= 1, "1 or more")
        words = ("kmeans", "learned")
        check_option("dictionary", dictionary, lambda word: word in words, "'kmeans' or 'learned'")
        check_option("temperature", temperature, lambda value: value > 0, "a number over 0")
        self.n_prototypes, self.dictionary, self.temperature = n_prototypes, dictionary, temperature
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
        from sklearn.cluster import KMeans

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
            nearest = weight.argmax(dim=1)
        else:
            nearest = torch.cdist(observed.to(h.dtype), self.centres.to(h.dtype)).argmin(dim=1)
        return logits[torch.arange(len(h), device=h.device), nearest]

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


# ---------------- Routes that act in training only


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

    Args:
        proxies: covariates or groups of the training part that tell what drove the mask; no model
            input, and not needed at prediction.
        clip: the largest weight, in multiples of the mean; a cut is told.
        n_patterns: see `Route`.

    Raises:
        ValueError: if an option is out of range.
    """

    rows: Tensor
    scale: Tensor
    ceiling: Tensor

    def __init__(
        self,
        *,
        proxies: Sequence[str] = (),
        clip: float | int = 10.0,
        n_patterns: int = 256,
    ) -> None:
        super().__init__(n_patterns=n_patterns)
        check_proxies(proxies)
        check_option("clip", clip, lambda value: value > 1, "a number over 1")
        self.proxies, self.clip = proxies, clip
        # of the training part's rows: no part of a saved model
        self.register_buffer("rows", torch.zeros(0), persistent=False)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("ceiling", torch.tensor(torch.inf))

    def prepare(self, train: Cohort) -> None:
        """Estimate the weights."""
        super().prepare(train)
        pattern, _ = self.patterns.nearest(train.observed)
        weight = 1 / self.patterns.share[pattern].double()
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
        pattern, _ = self.patterns.nearest(observed)
        return (1 / self.patterns.share[pattern]).clamp(max=self.ceiling) * self.scale

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

    Args:
        rate: probability of hiding a modality.
        n_patterns: see `Route`.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(self, *, rate: float | int = 0.3, n_patterns: int = 256) -> None:
        super().__init__(n_patterns=n_patterns)
        check_option("rate", rate, lambda value: 0 <= value < 1, "0 or more, and under 1")
        self.rate = rate

    def mask(self, observed: Bool[Tensor, "n m"]) -> Bool[Tensor, "n m"]:
        """Hide at random; keep the luckiest modality of each patient."""
        luck = torch.rand(observed.shape, device=observed.device).masked_fill(~observed, -1)
        luckiest = luck == luck.amax(dim=1, keepdim=True)
        return observed & ((luck >= self.rate) | luckiest)

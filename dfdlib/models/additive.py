"""Routes that keep a logit free of the mask: invariant, substitute."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dfdlib.data import Cohort
from dfdlib.models.backbone import batch_sum
from dfdlib.models.patterns import LatentClasses, read_proxies
from dfdlib.models.routes import Parts, Route, check_option, check_proxies


class Additive(Route, ABC):
    r"""A logit c(h) that carries no trace of the mask, and a term g for the strata.

    Training fits :math:`c(h) + \sum_g q_g(r)\, g_g`, where q is each patient's membership in the
    strata (patterns, or levels of a substitute confounder), and adds

    .. math:: \lambda \sum_g P(g) \, (m_g - \bar m)^2, \qquad m_g = E[q_g\, c] / E[q_g],

    with moving sums in place of the expectations, since one batch is too noisy. After training,
    c is regressed on q over the training part, :math:`c \approx q b`, and a patient's score is

    .. math:: \sum_g P(g)\, \sigma\bigl(c(h) - q(r) b + b_g + g_g\bigr) .
    """

    resizable = ("effect", "start", "trace", "moving_sum", "moving_count")
    #: directions of the strata with less than this share of the largest moment are left alone
    smallest = 1e-12
    start: Tensor
    trace: Tensor
    moving_sum: Tensor
    moving_count: Tensor

    def __init__(
        self,
        *,
        weight: float | int = 0.3,
        momentum: float | int = 0.9,
        subtract: bool = True,
        n_patterns: int = 256,
    ) -> None:
        super().__init__(n_patterns=n_patterns)
        check_option("weight", weight, lambda value: value >= 0, "0 or more")
        check_option("momentum", momentum, lambda value: 0 <= value < 1, "0 or more, and under 1")
        check_option("subtract", subtract, lambda value: isinstance(value, bool), "True or False")
        self.weight, self.momentum, self.subtract = weight, momentum, subtract
        for name, size in (("trace", (0, 0)), ("moving_sum", (0, 0)), ("moving_count", (0, 1))):
            self.register_buffer(name, torch.zeros(size))

    def build(self, *, d: int, n_outputs: int) -> None:
        """Make the parameters; those of the strata get their size in `prepare`."""
        super().build(d=d, n_outputs=n_outputs)
        self.effect = nn.Parameter(torch.zeros(0, n_outputs))  # g
        self.register_buffer("start", torch.zeros(0, n_outputs))

    def prepare(self, train: Cohort) -> None:
        """Find the strata, forget what earlier training left."""
        super().prepare(train)
        self.find_strata(train)
        n, k = len(self.share()), self.effect.shape[1]
        for name, size in (("effect", k), ("trace", k), ("moving_sum", k), ("moving_count", 1)):
            self.resize(name, n, size)
        self.start = self._log_odds(train)
        self.reset_parameters()

    @torch.no_grad()
    def _log_odds(self, train: Cohort) -> Float[Tensor, "g k"]:
        """Log-odds of y in each stratum; zero without labels."""
        if train.y is None:
            return torch.zeros_like(self.effect)
        q, y = self.membership(train.observed), train.y.reshape(len(train), -1)
        known = (~y.isnan()).to(q.dtype)
        k = self.effect.shape[1]
        multiclass = bool(self.multiclass)
        y = y.nan_to_num()
        positive = nn.functional.one_hot(y[:, 0].long(), k) if multiclass else y
        rate = (q.T @ (positive * known) + 0.5) / (q.T @ known.expand(-1, k) + 1)
        return rate.log() if multiclass else rate.logit()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Let g begin at the log-odds of its stratum, so that c need not learn them first."""
        self.effect.copy_(self.start)

    def forget_rare(self) -> int:
        """As every route; and forget what only training reads: outcomes and counts by stratum."""
        n_rare = super().forget_rare()
        for tensor in (self.start, self.moving_sum, self.moving_count):
            tensor.zero_()
        return n_rare

    @abstractmethod
    def find_strata(self, train: Cohort) -> None:
        """Fit what `membership` and `share` read."""

    @abstractmethod
    def membership(self, observed: Bool[Tensor, "n m"]) -> Float[Tensor, "n g"]:
        """How much of each stratum a patient is; rows sum to 1."""

    @abstractmethod
    def share(self) -> Float[Tensor, " g"]:
        """P(stratum)."""

    def naive(self, h: Tensor, observed: Tensor) -> Tensor:
        """Logits with the patient's own strata."""
        return self.map(h) + self.membership(observed) @ self.effect

    def score(self, h: Tensor, observed: Tensor) -> Tensor:
        """The logit c, freed of the mask's trace."""
        return self.map(h) - self.membership(observed) @ self.trace

    def parts(self, h: Tensor, observed: Tensor) -> Parts:
        """Logits with the term of each stratum in turn."""
        logits = self.score(h, observed).unsqueeze(1) + (self.trace + self.effect)
        return Parts(logits, self.share().expand(len(h), -1))

    def penalty(self, h: Tensor, observed: Tensor) -> Tensor:
        """Variance of the mean of c between strata: its value is smoothed, its gradient is not."""
        if not self.weight:
            return h.new_zeros(())
        q, c = self.membership(observed), self.map(h)
        total, count = batch_sum(q.T @ c), batch_sum(q.sum(0)[:, None])
        moving_sum = self.momentum * self.moving_sum + total.detach()
        moving_count = self.momentum * self.moving_count + count
        if self.training:
            self.moving_sum.copy_(moving_sum)
            self.moving_count.copy_(moving_count)
        now = (total - total.detach()) / count.clamp(min=1e-6)  # zero, with the batch's gradient
        mean = moving_sum / moving_count.clamp(min=1e-6) + now
        share = self.share()[:, None]
        return self.weight * (share * (mean - (share * mean).sum(0)).square()).sum(0).mean()

    @torch.no_grad()
    def fix_states(self, stream: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> None:
        """Regress c on the strata over the training part."""
        if not self.subtract:
            return
        inner: Tensor | float = 0.0
        cross: Tensor | float = 0.0
        for h, observed in stream():
            q = self.membership(observed).double()
            inner, cross = inner + q.T @ q, cross + q.T @ self.map(h).double()
        if isinstance(inner, Tensor) and isinstance(cross, Tensor):
            inverse = torch.linalg.pinv(inner, rtol=self.smallest, hermitian=True)
            self.trace.copy_(inverse @ cross)


class Invariant(Additive):
    r"""A logit free of the pattern; the strata of `Additive` are the missing patterns.

    .. math:: p = \sum_r P(r)\, \sigma\bigl(c(h) - m_{r_i} + m_r + g_r\bigr), \qquad
              m_r = E[c(h) \mid r]

    Source: a prototype of this project; the penalty is V-REx (Krueger et al. 2021), on mean logits
    in place of risks.

    A backdoor adjustment where the patterns follow a latent alone (C → R, C → Y) and say nothing
    of the features: then what c shares with r is confounding, and all of it may go. Must fail
    where features drive R (severity-ordered tests, MAR, self-masking): it then removes cause.

    Args:
        weight: of the penalty, :math:`\lambda`.
        momentum: of the moving means in the penalty.
        subtract: whether the trace is subtracted after training.
        n_patterns: see `Route`.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> from dfdlib.models import Deconfounder
        >>> Deconfounder(route=Invariant(weight=1.0, momentum=0.5)).adjustment.weight
        1.0
    """

    new_pattern = (
        "they get the correction of the training pattern with the fewest other entries "
        "(of several, the most frequent)"
    )

    def find_strata(self, train: Cohort) -> None:
        """The patterns are known already."""

    @torch.no_grad()
    def pool(self, pooling: Tensor) -> None:
        """Keep the terms of the patterns that are left; their mean where none is."""
        for name in self.resizable:
            pooled = pooling @ getattr(self, name)
            self.resize(name, *pooled.shape)
            getattr(self, name).copy_(pooled)

    def membership(self, observed: Bool[Tensor, "n m"]) -> Float[Tensor, "n g"]:
        """One for the patient's pattern, or the nearest."""
        index: Int[Tensor, " n"] = self.patterns.nearest(observed)[0]
        return nn.functional.one_hot(index, len(self.patterns)).to(self.patterns.share.dtype)

    def share(self) -> Float[Tensor, " g"]:
        """P(r)."""
        return self.patterns.share


class Substitute(Additive):
    r"""Estimate what drives the mask, then adjust for it; the strata of `Additive` are its levels.

    .. math:: p = \sum_k P(k)\, \sigma\bigl(c(h) - q(r_i)\, b + b_k + g_k\bigr), \qquad
              q_k(r) = P(k \mid r)

    Source: arXiv 2509.05615, whose summary says that the confounders' effect on missingness is
    estimated, then adjusted for; substitute confounders of Wang and Blei 2019. Our reading: latent
    classes given which the modalities are there independently (see `LatentClasses`), sharpened by
    proxies. A network that has read the mask knows q(r) by itself, so its trace in c is removed.

    A backdoor adjustment where the mask's entries are independent given C (three or more must
    vary), C drives Y, and features do not drive R. Must fail where the mask's entries are
    independent anyway (each modality masks itself: nothing to find) and where features drive R
    together (the substitute is then severity, a cause).

    Args:
        weight: of the penalty, :math:`\lambda`.
        momentum: of the moving means in the penalty.
        subtract: whether the trace is subtracted after training.
        proxies: covariates or groups of the training part that tell what drove the mask; no model
            input, and not needed at prediction.
        n_patterns: see `Route`.

    Raises:
        ValueError: if an option is out of range.
    """

    smallest = 1e-4  # levels that the patterns hardly tell apart have no trace to speak of
    new_pattern = "P(level | pattern) is computed for them from the same estimates"

    def __init__(
        self,
        *,
        weight: float | int = 0.3,
        momentum: float | int = 0.9,
        subtract: bool = True,
        proxies: Sequence[str] = (),
        n_patterns: int = 256,
    ) -> None:
        super().__init__(weight=weight, momentum=momentum, subtract=subtract, n_patterns=n_patterns)
        check_proxies(proxies)
        self.proxies = proxies
        self.levels = LatentClasses()

    def find_strata(self, train: Cohort) -> None:
        """Fit the latent classes."""
        self.levels.fit(train.observed.cpu().numpy(), read_proxies(train, self.proxies))

    def forget_rare(self) -> int:
        """As every route; and round the levels to tens of patients where few had or lacked one."""
        return super().forget_rare() + self.levels.round_rare()

    def membership(self, observed: Bool[Tensor, "n m"]) -> Float[Tensor, "n g"]:
        """P(level | pattern)."""
        return self.levels.posterior(observed)

    def share(self) -> Float[Tensor, " g"]:
        """P(level)."""
        return self.levels.share

    def strata(self) -> tuple[list[str], Tensor, Tensor]:
        """The levels of the confounder."""
        names = [f"level {k + 1}" for k in range(len(self.levels.share))]
        return names, self.levels.share, self.levels.availability

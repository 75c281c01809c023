"""What deconfounding routes know of the training part: its missing patterns, what drives them."""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dfdlib.data import Cohort
from dfdlib.errors import unknown
from dfdlib.models.backbone import LEAST, Resizable

#: Up to this many modalities every pattern of the training part is kept.
EXACT_M = 8


class Patterns(Resizable):
    """The missing patterns of the training part, the most frequent first, and their shares P(r).

    Up to 8 modalities all of them are kept. Beyond, at most `limit` are: as many training patients
    are drawn (with a fixed seed, so that no score depends on chance), and their patterns count.

    Args:
        limit: how many patients stand for all, where there are more than 8 modalities.

    Shapes:
        table (R, M), share (R,)
    """

    table: Tensor
    share: Tensor
    resizable = ("table", "share")

    def __init__(self, *, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("table", torch.zeros(0, 0, dtype=torch.bool))
        self.register_buffer("share", torch.zeros(0))
        self.holders: Tensor | None = None  # patients of the training part; not saved

    def __len__(self) -> int:
        return len(self.table)

    def fit(self, observed: Bool[Tensor, "n m"]) -> None:
        """Count the patterns."""
        table, pattern_of, count = observed.unique(dim=0, return_inverse=True, return_counts=True)
        holders = count
        if observed.shape[1] > EXACT_M and len(table) > self.limit:
            drawn = np.random.default_rng(0).choice(len(observed), self.limit, replace=False)
            rows, count = pattern_of[torch.as_tensor(drawn, device=pattern_of.device)].unique(
                return_counts=True
            )
            table, holders = table[rows], holders[rows]
        order = count.argsort(descending=True, stable=True)
        self.holders = holders[order]
        self.resize("table", *table.shape)
        self.resize("share", len(table))
        self.table.copy_(table[order])
        self.share.copy_(count[order] / count.sum())
        if len(table) == 1:
            warnings.warn(
                "all training patients have the same modalities, so there is no missing pattern to "
                "adjust for. Deconfounder then predicts what head=Linear() does",
                UserWarning,
                stacklevel=2,
            )

    def pool_rare(self) -> tuple[int, Float[Tensor, "r old"] | None]:
        """Put each pattern that fewer than 10 patients had to the nearest that 10 or more had.

        Shares add up as before, so that nobody can tell from them how many were put where, or that
        any were. Where no pattern has 10 patients, "everything is there" stands for all.

        Returns:
            How many were rare; and how what belongs to a pattern comes from what belonged to the
            former ones, where any was.
        """
        if self.holders is None or len(self.holders) != len(self.share):
            return 0, None
        common = (self.holders >= LEAST).to(self.share.device)
        self.holders = None  # once is enough
        n_rare = int((~common).sum())
        if not n_rare:
            return 0, None
        table, share = self.table, self.share
        if not common.any():
            self.resize("table", 1, table.shape[1])
            self.resize("share", 1)
            self.table.fill_(True)
            self.share.fill_(1)
            return n_rare, (share / share.sum())[None]
        self.table, self.share = table[common], share[common]
        self.share.index_add_(0, self.nearest(table[~common])[0], share[~common])
        order = self.share.argsort(descending=True, stable=True)
        self.table, self.share = self.table[order], self.share[order]
        former = common.nonzero()[:, 0][order]
        return n_rare, nn.functional.one_hot(former, len(share)).to(share.dtype)

    def nearest(
        self, observed: Bool[Tensor, "n m"]
    ) -> tuple[Int[Tensor, " n"], Bool[Tensor, " n"]]:
        """Find each patient's pattern, or the one with the fewest other entries, and which are new.

        Of several that are equally near, the most frequent is taken.
        """
        there, known = observed.to(self.share.dtype), self.table.to(self.share.dtype)
        distance = there @ (1 - known).T + (1 - there) @ known.T
        rank = torch.arange(len(known), device=known.device) / (2 * len(known))
        index = (distance + rank).argmin(dim=1)
        return index, distance.gather(1, index[:, None]).squeeze(1) > 0

    def tell_new(self, observed: Bool[Tensor, "n m"], what_is_done: str) -> None:
        """Warn of patients whose pattern training never saw, and say how they are handled."""
        if not len(self):
            raise RuntimeError(
                "this Deconfounder knows no missing pattern yet. Call fit(model, train), or "
                "model.prepare(train)."
            )
        if observed.shape[1] != self.table.shape[1]:
            raise ValueError(
                f"this Deconfounder was fitted on {self.table.shape[1]} modalities and got "
                f"{observed.shape[1]}. Fit the model anew on these."
            )
        _, new = self.nearest(observed)
        if new.any():
            warnings.warn(
                f"{int(new.sum())} of {len(new)} patients have a combination of modalities that no "
                f"training patient stands for: {what_is_done}",
                UserWarning,
                stacklevel=2,
            )


class LatentClasses(Resizable):
    r"""A latent confounder with two levels that explains why modalities are missing together.

    .. math:: P(r) = \sum_k \pi_k \prod_j a_{kj}^{r_j} (1 - a_{kj})^{1 - r_j}

    Source: latent class analysis (Lazarsfeld), fitted by expectation-maximisation from a fixed
    start, levels ordered by how much is observed. Proxies (numbers: normal given the level; levels
    of a category: Bernoulli) sharpen the fit; the posterior of a new patient reads the pattern
    alone.

    Shapes:
        share (2,), availability (2, M): P(level), and P(modality is there | level)
    """

    share: Tensor
    availability: Tensor
    resizable = ("availability",)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("share", torch.full((2,), 0.5))
        self.register_buffer("availability", torch.zeros(2, 0))
        self.there: Bool[np.ndarray, "n m"] | None = None  # of the training part; not saved

    def fit(self, observed: Bool[np.ndarray, "n m"], proxies: Float[np.ndarray, "n p"]) -> None:
        """Fit shares and availabilities."""
        binary = ((proxies == 0) | (proxies == 1)).all(axis=0)
        bits = np.hstack([observed, proxies[:, binary]]).astype(float)
        numbers = proxies[:, ~binary]
        varying = int((bits.std(axis=0) > 0).sum()) + numbers.shape[1]
        if varying < 3:
            warnings.warn(
                f"{varying} indicators vary, and a substitute confounder needs three to be "
                "identified. Name proxies, or take another route",
                UserWarning,
                stacklevel=2,
            )
        k, smooth = len(self.share), 1.0
        rank = pd.Series(bits.sum(axis=1)).rank(method="average", pct=True).to_numpy()
        start = np.clip((rank[:, None] * k - np.arange(k)), 0, 1)
        start = start - np.hstack([start[:, 1:], np.zeros((len(start), 1))])
        posterior = 0.8 * start / start.sum(axis=1, keepdims=True) + 0.2 / k
        last = -np.inf
        for _ in range(500):
            total = posterior.sum(axis=0)
            p = (posterior.T @ bits + smooth / 2) / (total[:, None] + smooth)
            mean = posterior.T @ numbers / total[:, None]
            spread = posterior.T @ numbers**2 / total[:, None] - mean**2
            std = np.sqrt(spread.clip(min=1e-6))
            log_p = np.log(total / total.sum()) + bits @ np.log(p).T + (1 - bits) @ np.log1p(-p).T
            z = (numbers[:, None] - mean) / std
            log_p = log_p - (z**2 / 2 + np.log(std)).sum(axis=2)
            top = log_p.max(axis=1, keepdims=True)
            evidence = np.exp(log_p - top).sum(axis=1, keepdims=True)
            posterior = np.exp(log_p - top) / evidence
            value = float((top + np.log(evidence)).mean())
            if value - last < 1e-9:
                break
            last = value
        order = np.argsort(p[:, : observed.shape[1]].sum(axis=1))
        self.resize("availability", k, observed.shape[1])
        self.availability.copy_(torch.as_tensor(p[order, : observed.shape[1]]))
        self.share.copy_(torch.as_tensor((total / total.sum())[order]))
        self.there = observed

    def round_rare(self) -> int:
        """Round to tens of patients where fewer than 10 of a level, or of all, have or lack one.

        Returns:
            For how many levels and modalities there were so few.
        """
        if self.there is None:
            return 0
        n, count = len(self.there), self.there.sum(axis=0)
        self.there = None  # once is enough
        p, size = self.availability.cpu().double().numpy(), self.share.cpu().double().numpy() * n
        have = p * (size[:, None] + 1) - 0.5  # as before they were smoothed
        few = np.zeros(p.shape[1], dtype=bool)
        for side in (np.vstack([have, count]), np.vstack([size[:, None] - have, n - count])):
            few |= ((side > 0.5) & (side < LEAST - 0.01)).any(axis=0)
        constant = (count == 0) | (count == n)
        few &= ~constant
        n_few = int(few.sum() + (size < LEAST - 0.01).sum())
        if not n_few:
            return 0
        size = np.maximum(1, np.round(size / LEAST)) * LEAST
        edge = np.minimum(LEAST / size, 0.5)[:, None]
        p = (np.round(p * size[:, None] / LEAST) * LEAST / size[:, None]).clip(edge, 1 - edge)
        # what everybody has, or nobody, tells no level from another
        p[:, constant] = np.where(count[constant] > 0, 0.999, 0.001)
        self.availability.copy_(torch.as_tensor(p))
        self.share.copy_(torch.as_tensor(size / size.sum()))
        return n_few

    def posterior(self, observed: Bool[Tensor, "n m"]) -> Float[Tensor, "n k"]:
        """P(level | pattern), for any pattern."""
        there = observed.to(self.share.dtype)
        p = self.availability
        log_p = self.share.log() + there @ p.log().T + (1 - there) @ (-p).log1p().T
        return log_p.softmax(dim=1)


def average(
    logits: Float[Tensor, "n g k"], weight: Float[Tensor, "n g"], *, multiclass: bool
) -> Float[Tensor, "n k"]:
    r"""Logits of the averaged probabilities, :math:`\sum_g w_g\, p_g`.

    Sigmoids are averaged output by output, or the softmax over all outputs where `multiclass`.

    Example:
        >>> z = torch.tensor([[[2.0], [-2.0], [0.0]]])
        >>> average(z, torch.tensor([[0.5, 0.25, 0.25]]), multiclass=False).sigmoid()
        tensor([[0.5952]])
    """
    log_weight = weight.log().unsqueeze(-1)
    if multiclass:
        return (logits.log_softmax(dim=2) + log_weight).logsumexp(dim=1)
    yes = (nn.functional.logsigmoid(logits) + log_weight).logsumexp(dim=1)
    no = (nn.functional.logsigmoid(-logits) + log_weight).logsumexp(dim=1)
    return yes - no


def read_proxies(train: Cohort, names: Sequence[str]) -> Float[np.ndarray, "n p"]:
    """Covariates and groups as columns: numbers standardised, categories as 0 and 1.

    Raises:
        ValueError: if there is no such covariate or group, or a value is missing.
    """
    columns = []
    for name in names:
        if name not in train.covariates and name not in train.groups:
            options = [*train.covariates, *train.groups]
            raise unknown(name, options, "covariate or group of the training part")
        source = train.covariates if name in train.covariates else train.groups
        values = pd.Series(np.asarray(source[name]))
        if values.isna().any():
            raise ValueError(
                f"the proxy {name!r} is missing for {int(values.isna().sum())} training patients. "
                "Fill it in, or leave it out of proxies"
            )
        if pd.api.types.is_numeric_dtype(values) and values.nunique() > 2:
            wide = values.to_numpy(dtype=float)
            columns.append(((wide - wide.mean()) / wide.std())[:, None])
        else:
            columns.append(pd.get_dummies(values, drop_first=True).to_numpy(dtype=float))
    return np.hstack(columns) if columns else np.zeros((len(train), 0))


def pattern_propensity(
    observed: Bool[np.ndarray, "n m"], proxies: Float[np.ndarray, "n p"]
) -> Float[np.ndarray, " n"]:
    r"""Estimate :math:`P(r \mid w) = \prod_j P(r_j \mid r_{<j}, w)` by a chain of logistics."""
    from sklearn.linear_model import LogisticRegression

    log_p = np.zeros(len(observed))
    for j in range(observed.shape[1]):
        there = observed[:, j]
        if there.all() or not there.any():
            continue
        before = np.hstack([proxies, observed[:, :j].astype(float)])
        model = LogisticRegression(C=1e4, max_iter=1000).fit(before, there)
        log_p += model.predict_log_proba(before)[np.arange(len(there)), there.astype(int)]
    return np.exp(log_p)

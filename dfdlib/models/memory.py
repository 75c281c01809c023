"""What DFD keeps of the training part, so that a prediction can leave the other stream out."""

from collections.abc import Callable, Iterable
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dfdlib.errors import unknown
from dfdlib.models.backbone import LEAST

Rule = Literal["concat", "causal", "marginal", "causal_refit", "bias", "bias_refit"]

#: Prototypes and refitted heads are read off at most this many training patients.
MAX_ROWS = 8192


class Memory(nn.Module):
    """Means of both streams, representatives of H_b, and a refitted head for each stream.

    Args:
        d: width of a stream.
        n_outputs: number of logits.
        task: binary, multiclass or multilabel.
        size: number K of representatives of H_b: centres of k-means, weighted by the patients that
            they stand for, of whom there are 10 or more.
    """

    # DIFF: "f_b(H_b) alone" is not defined in the description, whose heads read both streams: here
    # the other stream at its mean, and a refitted head. Only `concat` is its own rule.
    mean: Tensor
    prototypes: Tensor
    share: Tensor
    refit_weight: Tensor
    refit_bias: Tensor

    def __init__(self, *, d: int, n_outputs: int, task: str, size: int) -> None:
        super().__init__()
        self.d, self.n_outputs, self.task, self.size = d, n_outputs, task, size
        self.register_buffer("mean", torch.zeros(2, d))
        self.register_buffer("prototypes", torch.zeros(size, d))
        self.register_buffer("share", torch.zeros(size))
        self.register_buffer("refit_weight", torch.zeros(2, n_outputs, d))
        self.register_buffer("refit_bias", torch.zeros(2, n_outputs))

    def logits(
        self,
        rule: Rule | str,
        h: Float[Tensor, "n w"],
        *,
        f_c: Callable[[Tensor], Tensor],
        f_b: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "n k"]:
        """Score [H_c ; H_b] by a rule; see `DFD`.

        Raises:
            ValueError: for an unknown rule.
            RuntimeError: if the rule reads what `fix` leaves behind, and nothing is there.
        """
        if rule not in get_args(Rule):
            raise unknown(rule, get_args(Rule), "rule of prediction")
        if rule != "concat" and not self.share.any():
            raise RuntimeError(
                f"predict={rule!r} reads what is kept of the training part, and nothing is yet. "
                "Call fit(model, train), or take predict='concat'"
            )
        h_c, h_b = h.chunk(2, dim=1)
        mean_c, mean_b = (mean.expand_as(h_c) for mean in self.mean)
        match rule:
            case "causal":
                return f_c(torch.cat([h_c, mean_b], dim=1))
            case "bias":
                return f_b(torch.cat([mean_c, h_b], dim=1))
            case "causal_refit":
                return h_c @ self.refit_weight[0].T + self.refit_bias[0]
            case "bias_refit":
                return h_b @ self.refit_weight[1].T + self.refit_bias[1]
            case "marginal":
                return self._marginal(h_c, f_c)
        return f_c(h)

    def _marginal(self, h_c: Tensor, f_c: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits of the mean probability over representatives, one by one to spare memory."""
        several = self.task == "multiclass"
        used = self.share > 0
        log_share = self.share[used].double().log().log_softmax(dim=0)
        # logarithms of the mean probability and of what is left of 1: neither is rounded to 0
        yes = no = log_share.new_full((), -torch.inf)
        for h_b, log_part in zip(self.prototypes[used], log_share, strict=True):
            logits = f_c(torch.cat([h_c, h_b.expand_as(h_c)], dim=1)).double()
            log_p = logits.log_softmax(dim=1) if several else nn.functional.logsigmoid(logits)
            yes = torch.logaddexp(yes, log_part + log_p)
            if not several:
                no = torch.logaddexp(no, log_part + log_p - logits)
        return (yes if several else yes - no).to(h_c.dtype)

    @torch.no_grad()
    def fix(self, stream: Iterable[tuple[Tensor, Tensor]]) -> Float[Tensor, "n 2 d"]:
        """Read everything off the training part; gives the rows that were kept.

        Args:
            stream: both streams (n, 2, d) and labels, batch by batch. It is read once, and no more
                than `MAX_ROWS` patients are kept of it, drawn at random.
        """
        total, n = self.mean.new_zeros(2, self.d, dtype=torch.double), 0
        draw = torch.Generator().manual_seed(0)
        kept: list[Tensor] = []
        for both, y in stream:
            total, n = total + both.double().sum(0), n + len(both)
            key = torch.rand(len(both), generator=draw).to(both.device)
            new = [key, both, y]
            kept = [torch.cat(pair) for pair in zip(kept, new, strict=True)] if kept else new
            if len(kept[0]) > MAX_ROWS:
                lowest = kept[0].topk(MAX_ROWS, largest=False).indices
                kept = [part[lowest] for part in kept]
        # patients come as the training part has them, which may be hospital by hospital
        order = kept[0].argsort()
        rows, y = kept[1][order], kept[2][order]
        self.mean.copy_(total / n)
        self._represent(rows[:, 1])
        for k in range(2):
            weight, bias = logistic(rows[:, k], y, task=self.task, n_outputs=self.n_outputs)
            self.refit_weight[k], self.refit_bias[k] = weight, bias
        return rows

    def _represent(self, h_b: Float[Tensor, "n d"]) -> None:
        from sklearn.cluster import KMeans

        self.share.zero_()
        k = min(self.size, len(h_b.unique(dim=0)))
        rows = h_b.cpu().numpy()
        clusters = KMeans(n_clusters=k, n_init=1, random_state=0).fit(rows)
        label, centre = clusters.labels_, clusters.cluster_centers_
        count = np.bincount(label, minlength=k)
        # who is in a cluster of few joins the nearest other one, so that no centre is of a few
        while len(left := np.flatnonzero(count)) > 1 and count[left].min() < LEAST:
            few = left[count[left].argmin()]
            others = left[left != few]
            moved = np.flatnonzero(label == few)
            near = np.linalg.norm(rows[moved, None] - centre[others], axis=2).argmin(axis=1)
            label[moved] = others[near]
            for changed in np.unique(others[near]):
                centre[changed] = rows[label == changed].mean(axis=0)
            count = np.bincount(label, minlength=k)
        k = len(left)
        self.prototypes[:k] = torch.as_tensor(centre[left]).to(self.prototypes)
        self.share[:k] = torch.as_tensor(count[left] / count.sum()).to(self.share)


def logistic(
    h: Float[Tensor, "n d"], y: Tensor, *, task: str, n_outputs: int
) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """Logistic regression on standardised features, as weights and biases on h itself."""
    from sklearn.linear_model import LogisticRegression

    x = h.double().cpu().numpy()
    centre, scale = x.mean(0), x.std(0)
    scale[scale < 1e-6 * max(scale.max(), 1.0)] = np.inf  # a constant feature says nothing
    x = (x - centre) / scale
    label = y.cpu().numpy().reshape(len(y), -1)
    weight, bias = np.zeros((n_outputs, x.shape[1])), np.zeros(n_outputs)
    for column in range(label.shape[1]):
        known = ~np.isnan(label[:, column])
        target = label[known, column]
        if len(np.unique(target)) < 2:
            continue  # nothing to fit: a logit of 0
        # Newton steps, since units of a stream go together so much that lbfgs does not arrive
        model = LogisticRegression(solver="newton-cg").fit(x[known], target)
        if task == "multiclass":
            classes = model.classes_.astype(int)
            binary = len(classes) == 2
            bias[:] = -np.inf if len(classes) < n_outputs else 0.0
            weight[classes] = [np.zeros(x.shape[1]), model.coef_[0]] if binary else model.coef_
            bias[classes] = [0.0, model.intercept_[0]] if binary else model.intercept_
        else:
            weight[column], bias[column] = model.coef_[0], model.intercept_[0]
    weight = weight / scale
    bias = bias - weight @ centre
    return torch.as_tensor(weight).to(h), torch.as_tensor(bias).to(h)

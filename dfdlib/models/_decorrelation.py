"""The information term of DFD: an estimator by name, on standardised streams."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dfdlib.information import CLUB, MINE, InfoNCE, Terms, distance_correlation, hsic
from dfdlib.models.backbone import batch_rows, batch_sum

DependenceName = Literal["club", "mine", "infonce", "hsic", "dcor"]

ESTIMATORS: dict[str, type[CLUB | MINE | InfoNCE]] = {
    "club": CLUB,
    "mine": MINE,
    "infonce": InfoNCE,
}

#: Fewest patients of a class within which dependence is measured.
MIN_ROWS = 8


class Decorrelation(nn.Module):
    """How much the streams share, and what teaches the estimator of it.

    Both streams are standardised over the batch (of all processes) first, so that noise is in units
    of the features and no stream can escape it by growing, or the estimate by shrinking. A batch
    of too few patients to compare, such as the rest of an epoch, says nothing: both terms are zero.

    Args:
        d: width of a stream.
        kind: "club", "mine" and "infonce" are in nats (see `dfdlib.information`), "hsic" and
            "dcor" have no estimator to teach.
        n_classes: measure within classes, given the label; None measures over all patients.
        noise: standard deviation of the noise, in units of the features; not for hsic and dcor.
        hidden: width of the estimator's hidden layer.
        refits: steps that the estimator takes ahead of each call.

    Shapes:
        h_c (n, d), h_b (n, d), y (n,) -> `Terms` of ()
    """

    # DIFF: the description names a two-layer estimator and no bound; CLUB, an upper bound, is the
    # default, since only such a bound is sound to minimise. Noise and its unit are ours.
    def __init__(
        self,
        *,
        d: int,
        kind: DependenceName | str,
        n_classes: int | None,
        noise: float | int,
        hidden: int,
        refits: int,
    ) -> None:
        super().__init__()
        self.kind, self.n_classes = kind, n_classes
        given: dict[str, Any] = {"d_c": d, "d_b": d, "hidden": hidden, "refits": refits}
        given |= {"noise": noise} if kind == "mine" else {"noise": noise, "n_classes": n_classes}
        if kind in ESTIMATORS:
            self.estimator = ESTIMATORS[kind](**given)

    def forward(self, h_c: Float[Tensor, "n d"], h_b: Float[Tensor, "n d"], y: Tensor) -> Terms:
        """Give the two terms of a batch."""
        zero = h_c.new_zeros(())
        n = int(batch_sum(torch.tensor(len(h_c), device=h_c.device)))
        if n < (2 if self.kind in ESTIMATORS else 4):
            # through the weights all the same: several processes wait for each one's gradient
            return Terms(sum((0 * p.sum() for p in self.parameters()), zero), zero)
        h_c, h_b = _standardised(h_c, n), _standardised(h_b, n)
        if self.kind in ESTIMATORS:
            return self.estimator(h_c, h_b, y, gather=batch_rows)
        h_c, h_b, y = batch_rows(h_c), batch_rows(h_b), batch_rows(y)
        if self.n_classes is None:
            return Terms(zero, self._measure(h_c, h_b))
        members = [y == k for k in range(self.n_classes)]
        parts = [(member, int(member.sum())) for member in members]
        values = [n * self._measure(h_c[m], h_b[m]) for m, n in parts if n >= MIN_ROWS]
        n_all = sum(n for _, n in parts if n >= MIN_ROWS)
        return Terms(zero, torch.stack(values).sum() / n_all if values else zero)

    def _measure(self, h_c: Float[Tensor, "n d"], h_b: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        if any(bool((part == part[0]).all()) for part in (h_c, h_b)):
            return h_c.new_zeros(())  # a stream that is empty shares nothing
        return (hsic if self.kind == "hsic" else distance_correlation)(h_c, h_b)


def _standardised(h: Float[Tensor, "n d"], n: int) -> Float[Tensor, "n d"]:
    centred = h - batch_sum(h.sum(0)) / n
    variance = batch_sum(centred.square().sum(0)) / n
    # a feature that is constant (a unit that never fires) stays at zero
    return centred * (variance + 1e-6).rsqrt()

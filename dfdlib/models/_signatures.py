"""How a run of DFD goes wrong, in numbers, with advice."""

from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

#: Limits, each on the quantity that `signatures` calls by the same name.
LIMITS = {
    "causal prediction sd": 0.01,
    "bias prediction sd": 0.01,
    "gate sd": 0.01,
    "gate saturated": 0.95,
    "likeness": 0.95,
    "mi": -0.05,
    "mi drift": 0.25,
}

ADVICE = {
    "causal prediction sd": "the causal stream is empty: with H_b at its mean, f_c gives all "
    "patients nearly the same probability, so it lives on H_b. Lower mi_weight, or set mi_within",
    "bias prediction sd": "the bias stream has collapsed: f_b gives all patients nearly the same "
    "probability, so nothing can be subtracted or averaged over. Lower gce_q, or mi_weight",
    "gate sd": "the gate is constant: it tells no edge from another, and both streams see the "
    "same. Train longer, or raise lr; predictions are those of two copies of one network",
    "gate saturated": "the gate is saturated: nearly all edges go to one stream alone. Lower lr, "
    "or raise weight_decay",
    "likeness": "H_c and H_b are alike (linear CKA near 1): the streams were not separated. Set "
    "mi, or raise mi_weight. A t-SNE plot shows two clouds all the same: two networks, two bases",
    "mi": "the estimate of the mutual information is negative, so it bounds nothing: the estimator "
    "lags behind the features. Raise mi_refits, or mi_noise",
    "mi drift": "the estimate of the mutual information had not settled at the end. Train longer, "
    "or raise mi_refits",
}


class Signature(NamedTuple):
    """One quantity, its limit, and what follows where it is beyond it."""

    quantity: str
    value: float
    limit: float
    ok: bool
    advice: str


def signatures(measured: dict[str, float], history: pd.DataFrame) -> pd.DataFrame:
    """Judge a run: one row per quantity.

    Args:
        measured: what was measured over the training part, by names of `LIMITS`.
        history: of the run; read for the estimate of the mutual information.
    """
    values = dict(measured)
    if "train_mi" in history:
        values |= _settled(history)
    rows = []
    for name, value in values.items():
        above_is_bad = name in ("gate saturated", "likeness", "mi drift")
        ok = value <= LIMITS[name] if above_is_bad else value >= LIMITS[name]
        rows.append(Signature(name, value, LIMITS[name], ok, "" if ok else ADVICE[name]))
    return pd.DataFrame(rows, columns=list(Signature._fields))


def _settled(history: pd.DataFrame) -> dict[str, float]:
    """The estimate at the end, and how far it moved in the last third of the last stage."""
    last = history[history["stage"] == history["stage"].max()]["train_mi"].dropna()
    if not len(last):
        return {}
    values = {"mi": float(last.tail(5).mean())}
    tail = last.tail(len(last) // 3)
    if len(tail) >= 4:
        half = len(tail) // 2
        first, second = tail.iloc[:half].mean(), tail.iloc[half:].mean()
        # an estimate near zero may wander by a tenth of a nat
        values["mi drift"] = float(abs(second - first) / max(abs(second), 0.4))
    return values


def likeness(a: Float[Tensor, "n d"], b: Float[Tensor, "n e"]) -> float:
    r"""Linear CKA: :math:`\|A^\top B\|^2 / \|A^\top A\| \|B^\top B\|` of the centred rows.

    Source: Kornblith et al. 2019. It is 1 where one representation is the other turned and scaled,
    and 0 where one is constant.
    """
    a, b = (part.double() - part.double().mean(0) for part in (a, b))
    own = torch.linalg.matrix_norm(a.T @ a) * torch.linalg.matrix_norm(b.T @ b)
    return float((a.T @ b).square().sum() / own) if own > 0 else 0.0


class GateReading:
    """Mean, spread and saturation of the gate over the observed edges, batch by batch."""

    def __init__(self) -> None:
        self.n = self.total = self.square = self.high = self.low = 0.0

    def read(self, tau: Float[Tensor, "n m ..."], observed: Bool[Tensor, "n m"]) -> None:
        """Take in a batch."""
        values = tau[observed].double()
        self.n += values.numel()
        self.total += float(values.sum())
        self.square += float(values.square().sum())
        self.high += float((values > 0.95).sum())
        self.low += float((values < 0.05).sum())

    def measured(self) -> dict[str, float]:
        """What `signatures` reads."""
        mean = self.total / max(self.n, 1)
        variance = max(self.square / max(self.n, 1) - mean**2, 0.0)
        return {
            "gate sd": variance**0.5,
            "gate saturated": max(self.high, self.low) / max(self.n, 1),
        }

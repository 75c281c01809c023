"""Parts of DFD: the information term, the alignment of hospitals, the signatures of a run."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dfdlib.information import CLUB, MINE, InfoNCE, Terms, distance_correlation, hsic
from dfdlib.models.backbone import batch_rows, batch_sum
from dfdlib.models.memory import logistic
from dfdlib.models.method import cross_entropy

#: Below this p-value hospitals are taken to differ; above it nothing is corrected.
LEVEL = 0.01


class Alignment(nn.Module):
    r"""Subtract votes of single modalities until hospitals agree on what a score says of y.

    Source: this project. :math:`f` is a score that reads all modalities, and :math:`v` the sum of
    the votes: of logits that each observed modality gives alone, centred. A bias that shows in
    several modalities is counted by :math:`v` once for each of them, by :math:`f` once; so the two
    hold cause and bias in different proportions, and some combination holds no bias. With the
    contrast :math:`\Delta_e(s) = E[s \mid y = 1, e] - E[s \mid y = 0, e]` in hospital e,
    :math:`w_e` one over the sampling variance of :math:`\Delta_e(v)`, and means over e weighted by
    :math:`w_e`,

    .. math::
        \kappa &= \sum_e w_e (\Delta_e(f) - \bar\Delta(f)) (\Delta_e(v) - \bar\Delta(v))
            \Big/ Q, \qquad Q = \sum_e w_e (\Delta_e(v) - \bar\Delta(v))^2 \\
        f' &= a (f - \kappa v) + b

    Of two hospitals, :math:`f - \kappa v` has the same contrast. Only one number is estimated from
    the hospitals' difference, which is small: penalties on many features fit its noise. a and b
    are fitted by logistic regression, on all patients. With :math:`\chi^2_{E - 1}` as reference,
    Q tells (Cochran 1954) whether hospitals differ at all; where they do not, f' is f.

    It assumes that hospitals differ in how closely a bias goes with y, that one attribute does so,
    and that causal features have the same contrast in each hospital (they may have other means).

    Several classes are corrected one against the rest.

    Args:
        d: width of a token.
        n_modalities: number of modalities.
        n_outputs: number of logits.
        task: "binary" or "multiclass".
    """

    centre: Tensor
    kappa: Tensor
    scale: Tensor
    shift: Tensor
    p_value: Tensor

    def __init__(self, *, d: int, n_modalities: int, n_outputs: int, task: str) -> None:
        super().__init__()
        self.n_outputs, self.task = n_outputs, task
        self.voters = nn.ModuleList(nn.Linear(d, n_outputs) for _ in range(n_modalities))
        self.register_buffer("centre", torch.zeros(n_modalities, n_outputs))
        self.register_buffer("kappa", torch.zeros(n_outputs))
        self.register_buffer("scale", torch.ones(n_outputs))
        self.register_buffer("shift", torch.zeros(n_outputs))
        self.register_buffer("p_value", torch.ones(n_outputs))

    def votes(self, tokens: Float[Tensor, "n m d"]) -> Float[Tensor, "n m k"]:
        """Logits that each modality gives alone."""
        return torch.stack([vote(tokens[:, j]) for j, vote in enumerate(self.voters)], dim=1)

    def loss(
        self, tokens: Float[Tensor, "n m d"], observed: Bool[Tensor, "n m"], y: Tensor
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the votes, over the modalities that were observed."""
        label = y[:, None].expand_as(observed)[observed]
        return cross_entropy(self.votes(tokens)[observed], label, task=self.task)

    def forward(
        self,
        logits: Float[Tensor, "n k"],
        tokens: Float[Tensor, "n m d"],
        observed: Bool[Tensor, "n m"],
    ) -> Float[Tensor, "n k"]:
        """Correct a score."""
        return self.correction(tokens, observed)(logits)

    def correction(
        self, tokens: Float[Tensor, "n m d"], observed: Bool[Tensor, "n m"]
    ) -> Callable[[Tensor], Tensor]:
        """Give what corrects any score (n, k) of these patients."""
        vote = ((self.votes(tokens) - self.centre) * observed[..., None]).sum(1)
        return lambda logits: self.scale * (logits - self.kappa * vote) + self.shift

    def fix(
        self,
        logits: Float[Tensor, "n k"],
        votes: Float[Tensor, "n m k"],
        observed: Bool[Tensor, "n m"],
        y: Float[Tensor, " n"],
        codes: Int[Tensor, " n"],
    ) -> None:
        """Fix the correction from the training part: f, votes, labels (NaN: unknown), hospitals."""
        there = observed[..., None].double()
        votes = votes.double()
        centre = (votes * there).sum(0) / there.sum(0).clamp(min=1)
        vote = ((votes - centre) * there).sum(1)
        label = y[:, None]
        if self.task == "multiclass":
            classes = torch.arange(self.n_outputs, device=y.device)
            label = torch.where(label.isnan(), torch.nan, (label == classes).double())
        self.centre.copy_(centre)
        for k in range(self.n_outputs):
            both = torch.stack([logits[:, k].double(), vote[:, k]], dim=1)
            self.kappa[k], self.p_value[k] = _share(both, label[:, k], codes)
        self.scale.fill_(1)
        self.shift.zero_()
        if self.kappa.any():
            rest = logits - self.kappa * vote
            for k in range(self.n_outputs):
                a, b = logistic(rest[:, [k]], label[:, k], task="binary", n_outputs=1)
                self.scale[k], self.shift[k] = a[0, 0], b[0]

    def advice(self, environment: str) -> list[str]:
        """What to say after training."""
        if self.kappa.any():
            return []
        return [
            f"environment: levels of {environment!r} do not differ in how the votes of single "
            f"modalities go with the label (p = {float(self.p_value.min()):.2g}), so nothing was "
            "corrected. Bring more patients, or hospitals that differ more"
        ]


def _share(
    both: Float[Tensor, "n 2"], label: Float[Tensor, " n"], codes: Int[Tensor, " n"]
) -> tuple[float, float]:
    """Give kappa, and the p-value of no difference between hospitals; kappa = 0 above `LEVEL`."""
    from scipy.stats import chi2  # type: ignore[import-untyped]

    contrasts, weights = [], []
    for code in codes.unique():
        parts = [both[(codes == code) & (label == value)] for value in (0, 1)]
        if min(map(len, parts)) < 2:
            continue  # such a hospital has no contrast, or nobody knows how sure it is
        contrasts.append(parts[1].mean(0) - parts[0].mean(0))
        variance = parts[0][:, 1].var() / len(parts[0]) + parts[1][:, 1].var() / len(parts[1])
        weights.append(torch.where(variance > 0, 1 / variance, 0))
    if len(contrasts) < 2:
        return 0.0, 1.0
    w, contrast = torch.stack(weights)[:, None], torch.stack(contrasts)
    score, vote = (contrast - (w * contrast).sum(0) / w.sum()).unbind(1)
    q = float((w[:, 0] * vote.square()).sum())
    p_value = float(chi2.sf(q, len(contrasts) - 1))
    return float((w[:, 0] * score * vote).sum()) / q if p_value < LEVEL else 0.0, p_value


# ---------------- The information term of DFD: an estimator by name, on standardised streams

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
        options: dict[str, Any] = {"d_c": d, "d_b": d, "hidden": hidden, "refits": refits}
        options |= {"noise": noise} if kind == "mine" else {"noise": noise, "n_classes": n_classes}
        if kind in ESTIMATORS:
            self.estimator = ESTIMATORS[kind](**options)

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


# ---------------- How a run of DFD goes wrong, in numbers, with advice

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
    scale = torch.linalg.matrix_norm(a.T @ a) * torch.linalg.matrix_norm(b.T @ b)
    return float((a.T @ b).square().sum() / scale) if scale > 0 else 0.0


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

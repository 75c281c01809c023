"""Hospital-aware prediction: what a score owes to a bias is read off how hospitals differ."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import chi2  # type: ignore[import-untyped]
from torch import Tensor, nn

from dfdlib.models._likelihood import cross_entropy
from dfdlib.models._memory import logistic

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

"""DFD: a gate, a causal and a bias stream, and heads that are kept apart."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, get_args

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dfdlib.data import Batch, Cohort, Schema
from dfdlib.errors import unknown
from dfdlib.losses import RelativeDifficulty, gce, swap
from dfdlib.models.backbone import Backbone, EdgeWeight, adapted, batch_rows, is_default
from dfdlib.models.classifier import Classifier, Step
from dfdlib.models.dfd_parts import (
    Alignment,
    Decorrelation,
    DependenceName,
    GateReading,
    likeness,
    signatures,
)
from dfdlib.models.environments import Environments
from dfdlib.models.gate import Gate, GateLayers, GateName, edges
from dfdlib.models.heads import Head
from dfdlib.models.memory import Memory, Rule
from dfdlib.models.method import Stage, cross_entropy, difficulty_weight, probabilities

# DIFF: no weight of a term is published, nor how the backbone's own loss joins: here with weight
# 1, for both streams. LfF's weights and DisC's swap are off, since nobody says they are on.
# DIFF: no exponent is published: 0.7 is that of LfF and DisC. The form is that of the loss's own
# paper; their code has another one, whose gradient is q times as large.
# DIFF: the description calls the first stage both a "bias-only loss" and L_d. Here it is L_d,
# without the information, whose estimator learns meanwhile; causal_weight=0 gives the other one.
# DIFF: no size, number of layers, learning rate or batch size is published; all of them are ours.

#: The weight of each term of the loss, which a stage may set; what is not named has weight 1.
WEIGHT_OF = {
    "cross_entropy": "causal_weight",
    "bias_gce": "gce_weight",
    "mi": "mi_weight",
    "swap": "swap_weight",
    "bias_swap": "swap_weight",
    "alone": "causal_weight",
}
_WORDS: dict[str, Any] = {
    "mi": DependenceName,
    "predict": Rule,
    "gate_layers": GateLayers,
}


class DFD(Classifier):
    r"""Dual-stream feature decorrelation: two streams over one graph, and heads kept apart.

    Source: arXiv 2601.21941, re-implemented from its description: the text could not be read for
    this book, and no code was found.
    A gate gives every patient-modality edge :math:`\tau`. Two copies of a backbone read the same
    tokens, one with messages scaled by :math:`\tau`, one by :math:`1 - \tau`:

    .. math::
        H_c &= \mathrm{GNN}_c(\mathrm{tokens}, \tau), \qquad
        H_b = \mathrm{GNN}_b(\mathrm{tokens}, 1 - \tau) \\
        L_d &= \mathrm{CE}\bigl(f_c[H_c ; \mathrm{sg}\, H_b]\bigr)
              + \lambda\, \mathrm{GCE}_q\bigl(f_b[\mathrm{sg}\, H_c ; H_b]\bigr) \\
        L &= L_d + \lambda_{MI}\, \hat I(H_c ; H_b)

    sg is the stop-gradient. Stage 1 minimises :math:`L_d` for 15 epochs, stage 2 adds the mutual
    information for 85; its estimator learns from the first step, on features held fixed.
    `predict` says how a patient is scored, and may be changed on the trained model:

    * ``concat``: :math:`f_c[H_c ; H_b]`, the paper's rule: whatever H_b knows is used;
    * ``causal``: :math:`f_c[H_c ; \bar H_b]`, with the training mean in H_b's place;
    * ``marginal``: :math:`\sum_k \pi_k\, p(f_c[H_c ; h_b^k])` over K representatives of the
      training part's H_b. If H_c is C and H_b is B, it is the backdoor adjustment
      :math:`\sum_b P(y \mid c, b) P(b)` in the graph C ← B → Y, C → Y. In DisC's graph, where B
      does not act on Y, it only takes B out of f_c. With one logit and a linear f_c it ranks
      patients as `causal` does;
    * ``causal_refit``: a logistic regression on H_c alone, fitted after training;
    * ``bias``, ``bias_refit``: :math:`f_b[\bar H_c ; H_b]`, and a regression on H_b alone.

    With `environment`, f_c learns to do without H_b too (a second cross-entropy, at the mean H_b),
    each modality learns to vote alone, and `causal` and `marginal` subtract votes from f_c until
    all hospitals agree on what the score says of y: see `Alignment` for the formula and for what it
    assumes. The score is corrected, not H_c, and `concat` is not. Only training reads the hospital.

    Args:
        backbone: a module with `forward(tokens, observed, weight=None)`, `d` and (for the gate on
            the first layer) `n_layers`. It is copied for the bias stream.
        schema, encoders, flags, dropout: as in `Classifier`.
        head: f_c, by default `Linear`; a `Deconfounder` averages over missing patterns too.
        gate: "learned"; "frozen" stays as it was drawn; "constant" is 1/2 on every edge.
        gate_layers: "first", as in the paper, or "all".
        gate_channels: one :math:`\tau` per edge and channel.
        stop_gradient: False lets each loss reach the other stream.
        gce_q, gce_weight: exponent q and weight :math:`\lambda` of the generalised cross-entropy.
        causal_weight: of f_c's cross-entropy; 0 in a stage trains the bias stream alone.
        mi: "club", "mine", "infonce", "hsic", "dcor", or None.
        mi_weight: :math:`\lambda_{MI}`.
        mi_within: measure dependence within classes; what both know of the label is then allowed.
        mi_noise: the noise that makes the information finite, in standard deviations of H.
        mi_hidden, mi_refits: width of the estimator, and steps that it takes ahead of each step.
        difficulty: weight f_c's loss by relative difficulty (LfF, DisC).
        swap_weight: of the losses on pairs [H_c ; H_b of another patient] (DisC); 0 leaves it out.
        environment: a group of the training part, such as "site"; see above.
        predict: see above.
        n_memory: number K of representatives of H_b, over which `marginal` averages.

    Shapes:
        a batch of n patients -> probabilities (n, k)

    Raises:
        ValueError: if the backbone has no `weight`, or an option does not exist or does not fit.

    Warns:
        UserWarning: after `fit`, where the bias stream collapsed, the gate is constant or
            saturated, the streams are alike, or the estimate of the information is negative or had
            not settled; `model.signatures` holds the numbers of the last fit (they are not saved).

    Example:
        >>> from dfdlib import data
        >>> from dfdlib.models import GRAPE
        >>> cohort = data.load("synthetic", n=100)
        >>> model = DFD(backbone=GRAPE(d=8), schema=cohort.schema)
        >>> model.prepare(cohort)
        >>> sorted(model.loss(next(cohort.batches(50))))
        ['bias_gce', 'cross_entropy', 'mi', 'mi_learn', 'total']
    """

    stage_options = ("gce_q", *dict.fromkeys(WEIGHT_OF.values()))
    default_stages = (Stage(epochs=15, mi_weight=0.0), Stage(epochs=85))

    def __init__(
        self,
        *,
        backbone: nn.Module,
        schema: Schema,
        encoders: Mapping[str, nn.Module] | None = None,
        head: nn.Module | None = None,
        flags: bool = True,
        dropout: float = 0.0,
        gate: GateName | str = "learned",
        gate_layers: GateLayers | str = "first",
        gate_channels: bool = False,
        stop_gradient: bool = True,
        gce_q: float | int = 0.7,
        gce_weight: float | int = 1.0,
        causal_weight: float | int = 1.0,
        mi: DependenceName | str | None = "club",
        mi_weight: float | int = 0.1,
        mi_within: bool = False,
        mi_noise: float | int = 1.0,
        mi_hidden: int = 64,
        mi_refits: int = 0,
        difficulty: bool = False,
        swap_weight: float | int = 0.0,
        environment: str | None = None,
        predict: Rule | str = "concat",
        n_memory: int = 64,
    ) -> None:
        super().__init__(
            backbone=backbone, schema=schema, encoders=encoders, head=head, flags=flags,
            dropout=dropout,
        )  # fmt: skip
        self.gate, self.gate_layers, self.gate_channels = gate, gate_layers, gate_channels
        self.stop_gradient, self.environment = stop_gradient, environment
        self.gce_q, self.gce_weight, self.causal_weight = gce_q, gce_weight, causal_weight
        self.mi, self.mi_weight, self.mi_within, self.mi_noise = mi, mi_weight, mi_within, mi_noise
        self.mi_hidden, self.mi_refits = mi_hidden, mi_refits
        self.difficulty, self.swap_weight = difficulty, swap_weight
        self.predict, self.n_memory = predict, n_memory
        self._check_options()
        # layers that a list of edge weights is for; None where one weight is for all
        self.n_layers = None if gate_layers == "all" else int(backbone.n_layers)  # type: ignore[arg-type]
        n_modalities = len(schema.names)
        n_outputs, n_classes = int(schema.n_outputs or 1), int(schema.n_classes or 2)
        self.bias_backbone = deepcopy(self.backbone)
        self.bias_head = nn.Linear(self.width, n_outputs)
        self.gate_net = Gate(d=self.d, n_modalities=n_modalities, kind=gate, channels=gate_channels)
        if mi is not None:
            self.decorrelation = Decorrelation(
                d=self.d, kind=mi, n_classes=n_classes if mi_within else None, noise=mi_noise,
                hidden=mi_hidden, refits=mi_refits,
            )  # fmt: skip
        if difficulty:
            levels = 2 if self.task == "multilabel" else n_classes
            self.relative_difficulty = RelativeDifficulty(n_classes=levels)
        if environment is not None:
            self.environments = Environments(environment)
            self.alignment = Alignment(
                d=self.d, n_modalities=n_modalities, n_outputs=n_outputs, task=self.task
            )
        self.kept = Memory(d=self.d, n_outputs=n_outputs, task=self.task, size=n_memory)
        self.measured: dict[str, float] = {}
        self.signatures = signatures({}, pd.DataFrame())

    @property
    def width(self) -> int:
        """Width of what the heads read: both streams."""
        return 2 * self.d

    def prepare(self, train: Cohort) -> None:
        """Fit scalers and vocabularies, number the environments, on the training part."""
        super().prepare(train)
        if self.environment is not None:
            self.environments.prepare(train)

    def tau(self, tokens: Float[Tensor, "n m d"]) -> Float[Tensor, "..."]:
        """The gate's weight of each edge (and channel) in the causal stream."""
        return self.gate_net(tokens)

    def streams(self, tokens: Float[Tensor, "n m d"]) -> list[tuple[nn.Module, Tensor, EdgeWeight]]:
        """Of the causal and of the bias stream: the network, what it reads, its edge weights."""
        tau = self.tau(tokens)
        return [
            (self.backbone, tokens, edges(tau, n_layers=self.n_layers)),
            (self.bias_backbone, tokens, edges(1 - tau, n_layers=self.n_layers)),
        ]

    def represent_for_training(
        self, tokens: Float[Tensor, "n m d"], observed: Bool[Tensor, "n m"]
    ) -> tuple[Float[Tensor, "n w"], Mapping[str, Any]]:
        """[H_c ; H_b] of each patient; and what each stream hands on."""
        (h_c, causal), (h_b, bias) = (
            adapted(net, Backbone).embed_for_training(read, observed, weight)
            for net, read, weight in self.streams(tokens)
        )
        return torch.cat([h_c, h_b], dim=1), {"causal": causal, "bias": bias}

    def heads_read(self, h_c: Tensor, h_b: Tensor) -> tuple[Tensor, Tensor]:
        """What f_c and f_b read: each with no gradient to the other's stream."""
        if not self.stop_gradient:
            return (torch.cat([h_c, h_b], dim=1),) * 2
        return torch.cat([h_c, h_b.detach()], dim=1), torch.cat([h_c.detach(), h_b], dim=1)

    def logits(
        self, h: Float[Tensor, "n w"], observed: Bool[Tensor, "n m"]
    ) -> Float[Tensor, "n k"]:
        """f_c's logits, as its loss reads them."""
        return self.head(self.heads_read(*h.chunk(2, dim=1))[0], observed)

    def terms(self, step: Step) -> dict[str, Tensor]:
        """The terms of the loss by name, each before its weight."""
        h, logits, tokens, observed, y, batch, shared = step
        h_c, h_b = h.chunk(2, dim=1)
        z_c, z_b = self.heads_read(h_c, h_b)
        bias_logits = self.bias_head(z_b)
        weight = None
        if self.difficulty:
            both = (logits, bias_logits)
            weight = difficulty_weight(self.relative_difficulty, *both, y=y, index=batch.index)
        terms = self.head_terms(step._replace(h=z_c), weight)
        terms["bias_gce"] = gce(bias_logits, y, q=self.gce_q)
        if self.mi is not None:
            streams = (h_c, h_b) if self.mi_weight else (h_c.detach(), h_b.detach())
            terms["mi_learn"], terms["mi"] = self.decorrelation(*streams, y)
        if self.swap_weight:
            other_b, other_y = swap(h_b, y)
            z_c, z_b = self.heads_read(h_c, other_b)
            terms["swap"] = cross_entropy(self.head(z_c, observed), y, weight, task=self.task)
            terms["bias_swap"] = gce(self.bias_head(z_b), other_y, q=self.gce_q)
        if self.environment is not None:
            centre = batch_rows(h_b.detach()).mean(dim=0).expand_as(h_b)
            alone = self.head(torch.cat([h_c, centre], dim=1), observed)
            terms["alone"] = cross_entropy(alone, y, weight, task=self.task)
            terms["votes"] = self.alignment.loss(tokens, observed, y)
        if not is_default(adapted(self.backbone, Backbone).auxiliary, Backbone.auxiliary):
            # each stream is a whole copy of the backbone, with terms of its own
            names, prefixes = ("causal", "bias"), ("", "bias_")
            parts = zip(names, prefixes, (h_c, h_b), self.streams(tokens), strict=True)
            for name, prefix, h_k, (net, read, edge) in parts:
                stream, reused = adapted(net, Backbone), shared.get(name, {})
                added = stream.auxiliary(h_k, read, observed, y, edge, **reused)
                terms |= {f"{prefix}{key}": term for key, term in added.items()}
        return terms

    def total(self, terms: dict[str, Tensor]) -> Float[Tensor, ""]:
        """Put the terms together with their weights."""
        weights = [getattr(self, WEIGHT_OF[name]) if name in WEIGHT_OF else 1.0 for name in terms]
        return torch.stack([w * t for w, t in zip(weights, terms.values(), strict=True)]).sum()

    def score(
        self, tokens: Float[Tensor, "n m d"], observed: Bool[Tensor, "n m"]
    ) -> Float[Tensor, "n k"]:
        """Logits by the rule `predict`; with environments, f_c is corrected in two of them."""
        aware = self.environment is not None and self.predict in ("causal", "marginal")
        corrected = self.alignment.correction(tokens, observed) if aware else nn.Identity()
        return self.kept.logits(
            self.predict,
            self.represent(tokens, observed),
            f_c=lambda z: corrected(self.head(z, observed)),
            f_b=self.bias_head,
        )

    def explain(self, batch: Batch) -> pd.DataFrame:
        """Let the head take its predictions apart, as in `Classifier`; by the rule `concat`."""
        if self.predict != "concat":
            raise ValueError(
                f"predict={self.predict!r} averages before the head does, which is not taken "
                "apart. Set model.predict = 'concat'"
            )
        return super().explain(batch)

    def fix_states(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Fix modality states of both streams, then what the rules of prediction read."""
        self.measured = self._fix(batches, whole=True)

    def refresh(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Before a validation: what the rule of prediction does not read is left for the end."""
        self._fix(batches, whole=self.predict != "concat")

    def conclude(self, history: pd.DataFrame) -> list[str]:
        """Drop what is kept of each patient; give advice where the run shows a failure."""
        if self.difficulty:
            self.relative_difficulty.reset_parameters()
        self.signatures = signatures(self.measured, history)
        advice = self.signatures.query("not ok")["advice"].tolist()
        return advice + (self.alignment.advice(self.environment) if self.environment else [])

    @torch.no_grad()
    def _fix(self, batches: Callable[[], Iterable[Batch]], *, whole: bool) -> dict[str, float]:
        """Fix modality states, memory and head, in this order; gives what `signatures` judges.

        Without `whole` the memory, which only some rules of prediction read, is left as it is.
        """

        def stream(k: int) -> Iterable[tuple[Tensor, Tensor, EdgeWeight]]:
            for batch in batches():
                tokens, observed = self.tokens(batch)
                _, read, weight = self.streams(tokens)[k]
                yield read, observed, weight

        def embeddings() -> Iterable[tuple[Tensor, Tensor]]:
            for batch in batches():
                tokens, observed = self.tokens(batch)
                yield self.represent(tokens, observed), observed

        gates = GateReading()

        def labelled() -> Iterable[tuple[Tensor, Tensor]]:
            for batch in batches():
                tokens, observed = self.tokens(batch)
                gates.read(self.tau(tokens), observed)
                h = self.represent(tokens, observed)
                y = h.new_full((len(h),), torch.nan) if batch.y is None else batch.y
                yield h.unflatten(1, (2, self.d)), y

        training = self.training
        self.eval()
        adapted(self.backbone, Backbone).fix_states(lambda: stream(0))
        adapted(self.bias_backbone, Backbone).fix_states(lambda: stream(1))
        rows = self.kept.fix(labelled()) if whole else None
        adapted(self.head, Head).fix_states(embeddings)
        measured: dict[str, float] = {}
        if rows is not None:
            if self.environment is not None:
                self._fix_alignment(batches)
            measured = self._measure(rows, batches)
            measured |= gates.measured() if self.gate == "learned" else {}
        self.train(training)
        return measured

    def _fix_alignment(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Fix the correction of f_c[H_c ; mean H_b] by what differs between environments."""
        rows = []
        for batch in batches():
            if batch.y is None:
                continue
            tokens, observed = self.tokens(batch)
            h_c = self.represent(tokens, observed).chunk(2, dim=1)[0]
            alone = torch.cat([h_c, self.kept.mean[1].expand_as(h_c)], dim=1)
            votes = self.alignment.votes(tokens)
            codes = self.environments.codes(batch)
            rows.append((self.head(alone, observed), votes, observed, batch.y, codes))
        if rows:
            self.alignment.fix(*(torch.cat(part) for part in zip(*rows, strict=True)))

    def _measure(
        self, rows: Float[Tensor, "n s d"], batches: Callable[[], Iterable[Batch]]
    ) -> dict[str, float]:
        """What each head makes of its own stream alone, and how alike the streams are."""

        def spread(logits: Tensor) -> float:
            return float(probabilities(logits, task=self.task).std(dim=0).max())

        h_c, h_b = rows.unbind(dim=1)
        mean_c, mean_b = self.kept.mean
        bias = self.bias_head(torch.cat([mean_c.expand_as(h_c), h_b], dim=1))
        # f_c may read the mask too, which the rows that were kept do not have
        tokens, observed = self.tokens(next(iter(batches())))
        first = self.represent(tokens, observed).chunk(2, dim=1)[0]
        causal = self.head(torch.cat([first, mean_b.expand_as(first)], dim=1), observed)
        return {
            "causal prediction sd": spread(causal),
            "bias prediction sd": spread(bias),
            "likeness": likeness(h_c, h_b),
        }

    def _check_options(self) -> None:
        """Refuse options that are unknown, out of range, or at odds with each other."""
        self._check_backbone()
        for name, words in _WORDS.items():
            value = getattr(self, name)
            if value not in get_args(words) and not (name == "mi" and value is None):
                raise unknown(value, get_args(words), f"value of {name}")
        if not 0 <= self.gce_q <= 1:
            raise ValueError(
                f"gce_q must lie between 0 (cross-entropy) and 1 (L1), got gce_q={self.gce_q}. "
                "Take gce_q=0.7"
            )
        for name in WEIGHT_OF.values():
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.mi_noise >= 0:
            raise ValueError(
                f"mi_noise is a standard deviation of at least 0, got mi_noise={self.mi_noise}. "
                "Take mi_noise=1.0"
            )
        if self.n_memory < 1:
            raise ValueError(f"n_memory must be at least 1, got {self.n_memory}")
        if self.mi_within and self.mi == "mine":
            raise ValueError("mi='mine' has no form within classes. Take mi='club' or 'infonce'")
        several = self.task == "multilabel"
        if several and (self.mi_within or self.environment is not None):
            option = "mi_within" if self.mi_within else "environment"
            raise ValueError(
                f"{option} compares patients of one class, and a multi-label task has no classes. "
                f"Leave {option} out, or train one model per label"
            )

    def _check_backbone(self) -> None:
        kind = type(self.backbone).__name__
        if "weight" not in inspect.signature(self.backbone.forward).parameters:
            raise ValueError(
                f"{kind}.forward has no argument `weight`, by which the gate scales what each edge "
                "sends. Add it: forward(tokens, observed, weight=None)"
            )
        if self.gate_layers == "first" and not isinstance(
            getattr(self.backbone, "n_layers", None), int
        ):
            raise ValueError(
                f"{kind} does not say how many layers it has, so the gate cannot be put on the "
                "first. Set self.n_layers in its __init__, or pass gate_layers='all'"
            )

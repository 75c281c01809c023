"""LfF: a network that learns the bias shows another which patients to learn from."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy

import pandas as pd
from torch import Tensor, nn

from dfdlib.data import Batch, Cohort, Schema
from dfdlib.losses import RelativeDifficulty, gce_weighted_ce
from dfdlib.models.classifier import Classifier, Step
from dfdlib.models.method import difficulty_weight


class LfF(Classifier):
    r"""Learning from failure: learn from patients whom a biased network gets wrong.

    Source: Nam et al. 2020 (arXiv 2007.02561) and its public code. Two whole networks, of which the
    biased one b amplifies what is easy, and the debiased one counts each patient by its relative
    difficulty W (see `dfdlib.losses.RelativeDifficulty`):

    .. math::
        \mathcal{L} = \operatorname*{mean}_i W_i \, \mathrm{CE}(f(x_i), y_i)
            + \operatorname*{mean}_i \mathrm{GCE}_q(b(x_i), y_i), \qquad
        W = \frac{\tilde\ell_b}{\tilde\ell_b + \tilde\ell} .

    Predictions are the debiased network's. Nothing is known of the bias but that it is easier to
    learn than the cause: where it is not, W counts the wrong patients. The biased network is a
    `Classifier`, `model.biased`, whose own predictions show what was taken for bias.

    Args:
        backbone: as in `Classifier`; copied for the biased network.
        schema: as in `Classifier`.
        gce_q: exponent of the generalised cross-entropy, and a stage option.
        alpha: share of a patient's smoothed loss that is kept at each visit.
        encoders: as in `Classifier`; copied for the biased network.
        head: as in `Classifier`; copied for the biased network.
        flags: as in `Classifier`.
        dropout: as in `Classifier`.

    Shapes:
        a batch of n patients -> probabilities (n, k)

    Raises:
        ValueError: for q outside (0, 1], or alpha outside [0, 1).

    Example:
        >>> from dfdlib import data
        >>> from dfdlib.models import GRAPE
        >>> cohort = data.load("synthetic", n=100)
        >>> model = LfF(backbone=GRAPE(d=8), schema=cohort.schema)
        >>> model.prepare(cohort)
        >>> sorted(model.loss(next(cohort.batches(50))))
        ['bias_gce', 'cross_entropy', 'total']
    """

    stage_options = ("gce_q",)

    def __init__(
        self,
        *,
        backbone: nn.Module,
        schema: Schema,
        gce_q: float | int = 0.7,
        alpha: float | int = 0.7,
        encoders: Mapping[str, nn.Module] | None = None,
        head: nn.Module | None = None,
        flags: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            backbone=backbone,
            schema=schema,
            encoders=encoders,
            head=head,
            flags=flags,
            dropout=dropout,
        )
        if not 0 < gce_q <= 1:
            raise ValueError(f"LfF needs 0 < gce_q <= 1, got gce_q={gce_q}. Its authors take 0.7")
        self.gce_q, self.alpha = gce_q, alpha
        self.biased = Classifier(
            backbone=deepcopy(self.backbone),
            schema=schema,
            encoders=dict(deepcopy(self.encoders)),
            head=deepcopy(self.head),
            flags=flags,
            dropout=dropout,
        )
        self.difficulty = RelativeDifficulty(
            n_classes=(schema.n_classes or 2) if self.task == "multiclass" else 2, alpha=alpha
        )

    def prepare(self, train: Cohort) -> None:
        """Prepare both networks."""
        super().prepare(train)
        self.biased.prepare(train)

    def fix_states(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Fix the states of both networks."""
        super().fix_states(batches)
        self.biased.fix_states(batches)

    def terms(self, step: Step) -> dict[str, Tensor]:
        """Terms of the debiased network with weights W, then those of the biased one."""
        observed, y, batch = step.observed, step.y, step.batch
        tokens, _ = self.biased.tokens(batch)
        h, shared = self.biased.represent_for_training(tokens, observed)
        logits = self.biased.logits(h, observed)
        weight = difficulty_weight(self.difficulty, step.logits, logits, y=y, index=batch.index)
        terms = self.head_terms(step, weight) | self.backbone_terms(step)
        bias = self.biased.terms(Step(h, logits, tokens, observed, y, batch, shared))
        del bias["cross_entropy"]
        bias = {"gce": gce_weighted_ce(logits, y, q=self.gce_q)} | bias
        return terms | {f"bias_{name}": term for name, term in bias.items()}

    def conclude(self, history: pd.DataFrame) -> list[str]:
        """Forget the patients' losses and classes, which are no part of a trained model."""
        self.difficulty.reset_parameters()
        return super().conclude(history)

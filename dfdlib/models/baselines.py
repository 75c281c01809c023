"""Baselines that penalise how environments differ: IRM, V-REx, class-conditional CORAL.

`GroupDRO` and `LfF` have modules of their own. Modality dropout is a head,
`Deconfounder(route="dropout")`, and similarity imputation a backbone, `M3Care`: both go with any
method.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from dfdlib.data import Cohort, Schema
from dfdlib.models.classifier import Classifier, Step
from dfdlib.models.environments import (
    Environments,
    MomentMatching,
    group_means,
    head_weight,
    risks,
    rows_of,
)
from dfdlib.models.method import Stage


class Penalised(Classifier, ABC):
    r"""ERM plus a penalty on how environments differ, :math:`\mathcal{L} + \lambda\, P`.

    What IRM, V-REx and CORAL share. The environment is read in training only; a patient
    whose environment is unknown is scored like any other. Where the head weights patients, the
    risks below are weighted too.

    Args:
        backbone: as in `Classifier`.
        schema: as in `Classifier`.
        environment: name of a group of the training part, such as "site".
        penalty_weight: :math:`\lambda`, and a stage option; None takes the class's own.
        encoders: as in `Classifier`.
        head: as in `Classifier`.
        flags: as in `Classifier`.
        dropout: as in `Classifier`.

    Raises:
        ValueError: if the weight is negative; in `prepare` (so in `fit`), if the group does not
            exist or is constant.
    """

    stage_options: tuple[str, ...] = ("penalty_weight",)
    usual_weight: float = 1.0

    def __init__(
        self,
        *,
        backbone: nn.Module,
        schema: Schema,
        environment: str,
        penalty_weight: float | int | None = None,
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
        if penalty_weight is not None and not penalty_weight >= 0:
            raise ValueError(
                f"penalty_weight must be 0 or more, got {penalty_weight}. {type(self).__name__} "
                f"usually takes {self.usual_weight:g}"
            )
        self.environment = environment
        self.penalty_weight = self.usual_weight if penalty_weight is None else penalty_weight
        self.environments = Environments(environment)

    def prepare(self, train: Cohort) -> None:
        """Fix the environments, then what every classifier fits on the training part."""
        self.environments.prepare(train)
        super().prepare(train)

    def terms(self, step: Step) -> dict[str, Tensor]:
        """The terms of ERM, and the penalty before its weight."""
        terms = super().terms(step)
        codes = self.environments.codes(step.batch)
        weight = head_weight(self.head, step.observed, step.batch)
        between = self.between(h=step.h, logits=step.logits, y=step.y, codes=codes, weight=weight)
        return terms | {"between_environments": between}

    def total(self, terms: dict[str, Tensor]) -> Float[Tensor, ""]:
        """Put the terms together with the weight of the penalty."""
        rest = {name: term for name, term in terms.items() if name != "between_environments"}
        return super().total(rest) + self.penalty_weight * terms["between_environments"]

    @abstractmethod
    def between(
        self,
        *,
        h: Float[Tensor, "n d"],
        logits: Float[Tensor, "n k"],
        y: Tensor,
        codes: Int[Tensor, " n"],
        weight: Float[Tensor, " n"],
    ) -> Float[Tensor, ""]:
        """The penalty P on a batch."""


class IRM(Penalised):
    r"""Invariant risk minimisation: no environment would like the logits scaled.

    Source: IRMv1, Arjovsky et al. 2019 (arXiv 1907.02893), with :math:`R_e` the risk of
    environment e, s the logits and w a number,

    .. math::
        P = \operatorname*{mean}_e \Bigl(\frac{\partial}{\partial w} R_e(w\, s)
            \Bigr|_{w = 1} \Bigr)^2, \qquad
        \frac{\partial R_e}{\partial w}\Bigr|_{1} = \operatorname*{mean}_{i \in e}
            \sum_k (p_{ik} - y_{ik})\, s_{ik} .

    The gradient has this closed form, so nothing is differentiated twice. The square of a mean over
    few patients is biased upwards by its variance: take large batches. The penalty is annealed, by
    stages: weight 1 for 10 epochs, then :math:`\lambda` for 90.

    Args:
        backbone: as in `Classifier`.
        schema: as in `Classifier`.
        environment: name of a group of the training part, such as "site".
        penalty_weight: :math:`\lambda`, a stage option; None takes 100.
        encoders: as in `Classifier`.
        head: as in `Classifier`.
        flags: as in `Classifier`.
        dropout: as in `Classifier`.

    Shapes:
        a batch of n patients -> probabilities (n, k)

    Raises:
        ValueError: as in `Penalised`.

    Example:
        >>> from dfdlib import data
        >>> from dfdlib.models import GRAPE
        >>> cohort = data.load("synthetic", n=100)
        >>> model = IRM(backbone=GRAPE(d=8), schema=cohort.schema, environment="site")
        >>> model.prepare(cohort)
        >>> sorted(model.loss(next(cohort.batches(50))))
        ['between_environments', 'cross_entropy', 'total']
    """

    # DIFF: the first term is the mean over patients, not over environments, so that weight 0 is
    # ERM; the authors' code divides the whole loss by the weight, which AdamW undoes anyway.
    usual_weight = 100.0
    default_stages = (Stage(epochs=10, penalty_weight=1.0), Stage(epochs=90))

    def between(
        self, *, h: Tensor, logits: Tensor, y: Tensor, codes: Tensor, weight: Tensor
    ) -> Tensor:
        """Mean over environments of the squared gradient by the scale of the logits."""
        del h
        known = rows_of(~y.isnan())
        if self.task == "multiclass":
            target = nn.functional.one_hot(y.nan_to_num().long(), logits.shape[1])
            slope = ((logits.softmax(1) - target) * logits).sum(1, keepdim=True)
        else:
            target = y.nan_to_num().reshape(logits.shape)
            slope = (logits.sigmoid() - target) * logits
        slope = (slope * known).sum(1) * weight
        mean, present = group_means(slope, known.sum(1), codes, len(self.environments))
        return mean.square().sum() / present.sum().clamp(min=1)


class VREx(Penalised):
    r"""Variance risk extrapolation: all environments are predicted equally well.

    Source: V-REx, Krueger et al. 2021 (arXiv 2003.00688), with :math:`R_e` the risk of
    environment e,

    .. math:: P = \operatorname{Var}_e (R_e) .

    The penalty is annealed, by stages: weight 1 for 10 epochs, then :math:`\lambda` for 90.

    Args:
        backbone: as in `Classifier`.
        schema: as in `Classifier`.
        environment: name of a group of the training part, such as "site".
        penalty_weight: :math:`\lambda`, a stage option; None takes 10.
        encoders: as in `Classifier`.
        head: as in `Classifier`.
        flags: as in `Classifier`.
        dropout: as in `Classifier`.

    Shapes:
        a batch of n patients -> probabilities (n, k)

    Raises:
        ValueError: as in `Penalised`.

    Example:
        >>> from dfdlib import data
        >>> from dfdlib.models import GRAPE
        >>> cohort = data.load("synthetic", n=100)
        >>> model = VREx(backbone=GRAPE(d=8), schema=cohort.schema, environment="site")
        >>> model.stage_options, model.default_stages[0]
        (('penalty_weight',), Stage(epochs=10, penalty_weight=1.0))
    """

    # DIFF: the first term is the mean over patients, not the sum over environments
    usual_weight = 10.0
    default_stages = (Stage(epochs=10, penalty_weight=1.0), Stage(epochs=90))

    def between(
        self, *, h: Tensor, logits: Tensor, y: Tensor, codes: Tensor, weight: Tensor
    ) -> Tensor:
        """Variance of the risks of the environments that the batch has."""
        del h
        risk, present = risks(logits, y, codes, weight, n_groups=len(self.environments))
        n = present.sum().clamp(min=1)
        return ((risk - risk.sum() / n).square() * present).sum() / n


class CORAL(Penalised):
    r"""Class-conditional CORAL: embeddings have the same moments in all environments, given y.

    Source: Sun and Saenko 2016 (arXiv 1607.01719), within classes; P is `MomentMatching` of the
    embedding h. The penalty comes in late, by stages: weight 0 for 10 epochs, then :math:`\lambda`
    for 90, since before anything is learned the embedding is easily emptied of the cause too.

    Args:
        backbone: as in `Classifier`.
        schema: as in `Classifier`; a task with one label per patient.
        environment: name of a group of the training part, such as "site".
        penalty_weight: :math:`\lambda`, a stage option; None takes 1.
        order: 1 compares means, 2 covariances too.
        encoders: as in `Classifier`.
        head: as in `Classifier`.
        flags: as in `Classifier`.
        dropout: as in `Classifier`.

    Shapes:
        a batch of n patients -> probabilities (n, k)

    Raises:
        ValueError: as in `Penalised`, and for a multi-label task.

    Example:
        >>> from dfdlib import data
        >>> from dfdlib.models import GRAPE
        >>> cohort = data.load("synthetic", n=100)
        >>> model = CORAL(backbone=GRAPE(d=8), schema=cohort.schema, environment="site")
        >>> model.prepare(cohort)
        >>> bool(model.loss(next(cohort.batches(50)))["between_environments"] > 0)
        True
    """

    # DIFF: CORAL matches covariances of all patients of two domains, by the batch; here means too,
    # within classes, for any number of environments, in units of the spread, smoothed, late.
    default_stages = (Stage(epochs=10, penalty_weight=0.0), Stage(epochs=90))

    def __init__(
        self,
        *,
        backbone: nn.Module,
        schema: Schema,
        environment: str,
        penalty_weight: float | int | None = None,
        order: Literal[1, 2] | int = 2,
        encoders: Mapping[str, nn.Module] | None = None,
        head: nn.Module | None = None,
        flags: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            backbone=backbone,
            schema=schema,
            environment=environment,
            penalty_weight=penalty_weight,
            encoders=encoders,
            head=head,
            flags=flags,
            dropout=dropout,
        )
        if self.task == "multilabel":
            raise ValueError(
                "CORAL compares environments within classes, and several labels per patient make "
                "no classes. Make one model per label, or take VREx"
            )
        self.order = order
        self.moments = MomentMatching(d=self.width, n_classes=schema.n_classes or 2, order=order)

    def prepare(self, train: Cohort) -> None:
        """Fix the environments, make room for their moments."""
        super().prepare(train)
        self.moments.prepare(len(self.environments))

    def between(
        self, *, h: Tensor, logits: Tensor, y: Tensor, codes: Tensor, weight: Tensor
    ) -> Tensor:
        """How much the class-conditional moments of the embedding differ."""
        del logits, weight
        return self.moments(h, y, codes)

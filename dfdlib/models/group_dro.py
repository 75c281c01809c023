"""GroupDRO: the group that is predicted worst counts most."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dfdlib.data import Batch, Cohort, Schema
from dfdlib.errors import unknown
from dfdlib.models.backbone import Resizable
from dfdlib.models.classifier import Classifier, Step
from dfdlib.models.environments import Environments, head_weight, risks


class GroupDRO(Classifier):
    r"""Distributionally robust optimisation over groups: the worst group counts most.

    Source: Sagawa et al. 2020 (arXiv 1911.08731), algorithm 1: with :math:`R_g` the risk of group g
    in the batch,

    .. math::
        q_g \leftarrow \frac{q_g\, e^{\eta R_g}}{\sum_{g'} q_{g'}\, e^{\eta R_{g'}}}, \qquad
        \mathcal{L} = \sum_g q_g R_g .

    Groups are environments, or environments x classes: where the bias attribute is known, pass it
    as the environment, and patients whose label goes against it are a group. A group that a batch
    lacks has risk 0 there. The environment is read in training only.

    Args:
        backbone: as in `Classifier`.
        schema: as in `Classifier`.
        environment: name of a group of the training part, such as "site".
        groups: "environment", or "environment_label" for each class of each environment.
        step_size: :math:`\eta`, and a stage option.
        encoders: as in `Classifier`.
        head: as in `Classifier`.
        flags: as in `Classifier`.
        dropout: as in `Classifier`.

    Shapes:
        a batch of n patients -> probabilities (n, k)

    Raises:
        ValueError: for another `groups`, one that needs classes in a multi-label task, a step size
            that is not positive; in `prepare`, if the group does not exist or is constant.

    Example:
        >>> from dfdlib import data
        >>> from dfdlib.models import GRAPE
        >>> cohort = data.load("synthetic", n=100)
        >>> model = GroupDRO(backbone=GRAPE(d=8), schema=cohort.schema, environment="site")
        >>> model.prepare(cohort)
        >>> model.group_weights.q  # two sites, two classes
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    # DIFF: the generalisation adjustment C / sqrt(n_g) of section 3.3 is left out, and groups come
    # as they are in a batch, as in the authors' code without `reweight_groups`.
    stage_options = ("step_size",)

    def __init__(
        self,
        *,
        backbone: nn.Module,
        schema: Schema,
        environment: str,
        groups: Literal["environment", "environment_label"] | str = "environment_label",
        step_size: float | int = 0.01,
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
        if groups not in ("environment", "environment_label"):
            raise unknown(groups, ("environment", "environment_label"), "kind of groups")
        if self.task == "multilabel" and groups == "environment_label":
            raise ValueError(
                "groups='environment_label' needs classes, and several labels per patient make "
                "none. Pass groups='environment'"
            )
        if not step_size > 0:
            raise ValueError(f"step_size must be positive, got {step_size}. The paper takes 0.01")
        self.environment, self.groups, self.step_size = environment, groups, step_size
        self.environments = Environments(environment)
        self.group_weights = GroupWeights()

    def prepare(self, train: Cohort) -> None:
        """Fix the groups, those without a patient left out."""
        self.environments.prepare(train)
        super().prepare(train)
        count = torch.zeros(self._n_groups, dtype=torch.long, device=train.device)
        for batch in train.batches(1024):
            if batch.y is not None:
                there = ~batch.y.isnan().reshape(len(batch), -1).all(1)
                group = self._group(batch, batch.y)[there]
                count += torch.bincount(group, minlength=self._n_groups)
        self.group_weights.prepare(count)

    @property
    def _n_groups(self) -> int:
        classes = (self.schema.n_classes or 2) if self.groups == "environment_label" else 1
        return len(self.environments) * classes

    def _group(self, batch: Batch, y: Tensor) -> Tensor:
        code = self.environments.codes(batch)
        if self.groups == "environment":
            return code
        return code * (self.schema.n_classes or 2) + y.nan_to_num().long()

    def terms(self, step: Step) -> dict[str, Tensor]:
        """Those of ERM, with the groups' weighted risk in place of the patients' mean."""
        terms = super().terms(step)
        weight = head_weight(self.head, step.observed, step.batch)
        group = self._group(step.batch, step.y)
        risk, _ = risks(step.logits, step.y, group, weight, n_groups=self._n_groups)
        q = self.group_weights(risk, step_size=self.step_size)
        del terms["cross_entropy"]
        return {"group_risk": (q * risk).sum()} | terms


class GroupWeights(Resizable):
    """Weights q of groups, raised exponentially where the risk is high; see `GroupDRO`."""

    resizable = ("q", "start")
    q: Tensor
    start: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("q", torch.zeros(0))
        self.register_buffer("start", torch.zeros(0))

    def prepare(self, count: Int[Tensor, " g"]) -> None:
        """Let all groups that have a patient begin alike."""
        self.start = (count > 0).float() / (count > 0).sum().clamp(min=1)
        self.q = self.start.clone()

    def reset_parameters(self) -> None:
        """Begin anew; `fit` does so when it draws weights."""
        self.q.copy_(self.start)

    def forward(self, risk: Float[Tensor, " g"], *, step_size: float | int) -> Float[Tensor, " g"]:
        """Take one step in training; q, without a gradient."""
        q = self.q
        if self.training:
            # a softmax of logarithms: the same, and no overflow
            q = (q.log() + step_size * risk.detach()).softmax(0).to(q.dtype)
            self.q.copy_(q)
        return q

"""What methods share that penalise differences between environments."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dfdlib.data import Batch, Cohort, Schema
from dfdlib.models._risks import head_weight
from dfdlib.models.classifier import Classifier
from dfdlib.models.environments import Environments


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

    def terms(
        self,
        *,
        h: Float[Tensor, "n d"],
        logits: Float[Tensor, "n k"],
        tokens: Float[Tensor, "n m d"],
        observed: Bool[Tensor, "n m"],
        y: Tensor,
        batch: Batch,
    ) -> dict[str, Tensor]:
        """The terms of ERM, and the penalty before its weight."""
        terms = super().terms(
            h=h, logits=logits, tokens=tokens, observed=observed, y=y, batch=batch
        )
        codes = self.environments.codes(batch)
        weight = head_weight(self.head, observed, batch)
        between = self.between(h=h, logits=logits, y=y, codes=codes, weight=weight)
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

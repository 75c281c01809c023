"""What every method is to `fit` and `evaluate`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dfdlib.data import Batch, Cohort, Schema
from dfdlib.losses import RelativeDifficulty, gce
from dfdlib.models.backbone import batch_rows


class Stage:
    """A part of the training: how many epochs, and what the model does differently in them.

    Args:
        epochs: number of epochs.
        lr: learning rate; None takes that of `fit`.
        **overrides: attributes of the model for this stage; each must be in `model.stage_options`.

    Raises:
        ValueError: if a number of epochs, a learning rate or a weight is out of range.

    Example:
        >>> Stage(epochs=15, lr=1e-3)
        Stage(epochs=15, lr=0.001)
    """

    def __init__(self, *, epochs: int, lr: float | None = None, **overrides: Any) -> None:
        if epochs != int(epochs) or epochs < 0:
            raise ValueError(f"epochs must be a whole number >= 0, got Stage(epochs={epochs}).")
        if lr is not None and not lr > 0:
            raise ValueError(f"lr must be positive, got Stage(lr={lr}). Leave it out for fit's.")
        for name, value in overrides.items():
            if name.endswith("_weight") and value is not None and not value >= 0:
                raise ValueError(
                    f"{name} must be at least 0, got Stage({name}={value}). "
                    f"Type {name}=0 to leave its term out."
                )
        self.epochs, self.overrides = int(epochs), overrides
        self.lr = None if lr is None else float(lr)

    def __repr__(self) -> str:
        settings = {"epochs": self.epochs, "lr": self.lr, **self.overrides}
        return f"Stage({', '.join(f'{k}={v!r}' for k, v in settings.items() if v is not None)})"


class Method(nn.Module, ABC):
    """A model that can be trained by `fit` and scored by `evaluate`.

    Attributes:
        schema: what the model was made for.
        prepared: whether `prepare` was called; a buffer, so that it is saved.
        selection: the rule that picked the weights, in words; empty before `fit`.
        tables: how the tables of the training part were read (`Cohort.tables`), with the words of
            its codes; None where it was not made of tables.
        stage_options: names of attributes that a `Stage` may set for a part of the training.
        default_stages: the stages that `fit` takes where it is given none.
        supervised: whether it learns labels; else `fit` asks for none and scores none.
    """

    schema: Schema
    prepared: Tensor
    selection: str = ""
    tables: Mapping[str, Any] | None = None
    stage_options: tuple[str, ...] = ()
    default_stages: tuple[Stage, ...] = (Stage(epochs=100),)
    supervised: bool = True

    @abstractmethod
    def prepare(self, train: Cohort) -> None:
        """Fit scalers, vocabularies and whatever else is read off the training part."""

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Each term of the loss by name; `total` is what is minimised, a mean over `units`."""

    @abstractmethod
    def predict_proba(self, batch: Batch) -> Float[Tensor, "n k"]:
        """Probability of each class (of each label, if multi-label) for each patient of a batch."""

    @abstractmethod
    def fix_states(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Fix what depends on other patients, from the batches of the training part."""

    def units(self, batch: Batch) -> int:
        """Count what `loss` is a mean over: the known labels, or patients if not supervised."""
        if not self.supervised:
            return len(batch)
        return 0 if batch.y is None else int((~batch.y.isnan()).sum())

    def advance(self, done: float) -> None:
        """Called by `fit` before each step with the share of the training that is done, 0 to 1."""
        del done

    def refresh(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Fix, ahead of a validation, what `predict_proba` reads; by default all that there is."""
        self.fix_states(batches)

    def conclude(self, history: pd.DataFrame) -> list[str]:
        """Called by `fit` at the end: forget what only training needs; say what went wrong."""
        del history
        return []

    if TYPE_CHECKING:
        # torch types every attribute of a module as Tensor | Module
        def __getattr__(self, name: str) -> Any: ...


@runtime_checkable
class ForgetsRare(Protocol):
    """A part of a model that knows levels, codes, columns or patterns which few patients had."""

    def forget_rare(self) -> int:
        """Leave out what fewer than 10 training patients had; gives how much there was."""


# ---------------- From logits to a loss and to probabilities, for each task


def cross_entropy(
    logits: Tensor, y: Tensor, *weights: Float[Tensor, "n *labels"] | None, task: str
) -> Tensor:
    """Weighted mean over known labels; zero (with a gradient of zero) where none is known.

    A weight is one number per patient, or per patient's label. Weights have a mean of 1 over the
    training part, so the sum is divided by the number of labels.
    """
    known = ~y.isnan()
    n = known.sum().clamp(min=1)
    if task == "multiclass":
        each = nn.functional.cross_entropy(logits, y.nan_to_num().long(), reduction="none")
    else:
        target = y.nan_to_num().reshape(logits.shape)
        each = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        known = known.reshape(logits.shape)
    for weight in weights:
        if weight is not None:
            each = each * weight.reshape(*weight.shape, *[1] * (each.ndim - weight.ndim))
    return (each * known).sum() / n


def probabilities(logits: Float[Tensor, "... k"], *, task: str) -> Float[Tensor, "... c"]:
    """Probability of each class (of each label, if multi-label)."""
    logits = logits.float()
    if task == "multiclass":
        return logits.softmax(dim=-1)
    p = logits.sigmoid()
    return p if task == "multilabel" else torch.cat([1 - p, p], dim=-1)


# ---------------- Relative difficulty where several processes hold a part of the batch each


@torch.no_grad()
def difficulty_weight(
    difficulty: RelativeDifficulty,
    logits: Float[Tensor, "n k"],
    bias_logits: Float[Tensor, "n k"],
    *,
    y: Tensor,
    index: Int[Tensor, " n"],
) -> Tensor:
    """W of each patient of this process, with the losses of all processes taken in."""
    each = [gce(part, y, q=0, reduction="none") for part in (logits, bias_logits)]
    rows = batch_rows(index)
    w = difficulty(*map(batch_rows, each), batch_rows(y), rows)
    return w[(rows == index.unsqueeze(1)).float().argmax(dim=1)]

"""What `fit` refuses, and what to type instead."""

from collections.abc import Sequence

from torch import nn

from dfdlib._loop import SELECTION
from dfdlib._predict import refuse_no_cohort
from dfdlib.data import Cohort, check_disjoint
from dfdlib.data._validate import type_name
from dfdlib.models import Method, Stage


def check_types(model: object, train: object, val: object, stages: object) -> None:
    """Refuse what is no method, no cohort or no list of stages, before anything is asked of it.

    Raises:
        TypeError: One of them is something else.
    """
    if not isinstance(model, nn.Module) or not hasattr(model, "schema"):
        raise TypeError(
            f"model is no method that can be trained, but: {type_name(model)}. Pass for example "
            "Classifier(backbone=GRAPE(), schema=train.schema)"
        )
    refuse_no_cohort(train, "train")
    if val is not None:
        refuse_no_cohort(val, "val")
    if stages is None:
        return
    if not isinstance(stages, Sequence) or not all(isinstance(stage, Stage) for stage in stages):
        raise TypeError(
            "stages is no list of stages. Pass stages=[Stage(epochs=20)], or leave it out"
        )


def check(
    model: Method,
    train: Cohort,
    val: Cohort | None,
    *,
    stages: list[Stage],
    select: str,
    patience: int | None,
    batch_size: int,
    init: str,
) -> None:
    """Refuse what `fit` could not train on, before anything is computed."""
    if select not in SELECTION:
        raise ValueError(
            f"select must be one of {', '.join(map(repr, SELECTION))}, got {select!r}."
        )
    if int(batch_size) != batch_size or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number >= 1, got {batch_size}.")
    if init not in ("fresh", "keep"):
        raise ValueError(f"init must be 'fresh' or 'keep', got {init!r}.")
    if patience is not None and patience < 1:
        raise ValueError(f"patience must be at least 1, got {patience}, or None.")
    if val is None and (select != "last" or patience is not None):
        raise ValueError(
            f"select={select!r} with patience={patience} needs a validation part. "
            "Pass val=, or select='last' and patience=None."
        )
    if select == "last" and patience is not None:
        raise ValueError(
            f"patience={patience} needs a score to wait for. Pass select='val_loss' or 'val_auroc'."
        )
    if select != "last" and not (stages and stages[-1].epochs):
        raise ValueError(
            f"select={select!r} picks from the last stage, which has no epoch: {stages}."
        )
    if sum(stage.epochs for stage in stages) == 0:
        raise ValueError(f"the stages hold no epoch: {stages}. Pass stages=[Stage(epochs=100)].")
    for stage in stages:
        for name in stage.overrides:
            if name not in model.stage_options:
                options = ", ".join(model.stage_options) or "none"
                raise ValueError(
                    f"{name!r} is no stage option of {type(model).__name__} (options: {options})."
                )
    if model.supervised:
        _check_labels(train)
    model.schema.check(train.schema, labels=model.supervised)
    absent = sorted(set(model.schema.names) - set(train.names))
    if absent:
        raise ValueError(
            f"the training part has no modality {absent[0]!r}, which the model was made for. Make "
            "the model with schema=train.schema."
        )
    if val is not None:
        _check_validation(model, val, select=select)
        check_disjoint(train, val)


def _check_labels(train: Cohort) -> None:
    """Refuse a training part that has nothing to tell apart."""
    if train.y is None:
        raise ValueError("the training part has no labels. Pass y= when you make the Cohort.")
    classes = train.y[~train.y.isnan()].unique()
    if len(classes) < 2:
        raise ValueError(
            f"the training part holds {len(train)} patients but "
            + (f"only the class {classes[0]:g}" if len(classes) else "no known label")
            + ". There is nothing to tell apart; check y and how the cohort was split."
        )


def _check_validation(model: Method, val: Cohort, *, select: str) -> None:
    """Refuse a validation part on which the rule that picks the epoch is not defined."""
    model.schema.check(val.schema)
    if not model.supervised:
        if select == "val_auroc":
            raise ValueError(
                f"{type(model).__name__} predicts no label, so there is no AUROC to select by. "
                "Pass select='val_loss'."
            )
        return
    if val.y is None or bool(val.y.isnan().all()):
        raise ValueError("the validation part has no known label. Pass y= when you make it.")
    columns = val.y.reshape(len(val), -1).T
    single = any(len(column[~column.isnan()].unique()) < 2 for column in columns)
    if select == "val_auroc" and single:
        raise ValueError(
            "select='val_auroc' needs both classes of every label in the validation part. Cut "
            "another one, or pass select='val_loss'."
        )

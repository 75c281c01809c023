"""Probabilities from models: of a cohort, and out of group or fold."""

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from torch import nn

from dfdlib.arrays import has_labels, numbers, plain
from dfdlib.data import Cohort
from dfdlib.data.validation import Task, names_people
from dfdlib.errors import type_name, unknown

FitPredict = Callable[[Cohort, Cohort], np.ndarray]


def predict_proba(
    model: object, cohort: Cohort, *, batch_size: int = 4096
) -> Float[np.ndarray, "n k"]:
    """Probabilities of every row, in the order of the cohort.

    The model is asked in evaluation mode, without gradients and on its own device. Every module is
    left in the mode that it was in.

    Args:
        model: A torch module with `predict_proba(batch)`. Where it has a `schema`, as ours do, that
            says how many classes there are.
        cohort: Labels are not read.
        batch_size: Rows at a time.

    Returns:
        (n, n_classes) with rows that sum to 1; multi-label (n, n_labels), each between 0 and 1.

    Raises:
        ValueError: The cohort has other columns than the model was made for, or the model gives no
            probabilities.
        TypeError: The model is no torch module, or the cohort none.

    >>> class Coin(nn.Module):
    ...     def predict_proba(self, batch):
    ...         return torch.full((len(batch), 2), 0.5)
    >>> predict_proba(Coin(), Cohort(x={"age": np.ones(2)}, y=np.array([0, 1])))
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{type_name(model)} is no torch module. {advice(model)}")
    refuse_no_cohort(cohort)
    schema = getattr(model, "schema", cohort.schema)
    schema.check(cohort.schema)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            rows = [
                model.predict_proba(batch.to(device_of(model))).double().cpu()  # type: ignore[operator]
                for batch in cohort.batches(batch_size)
            ]
    finally:
        for module, training in modes.items():
            module.training = training
    return checked(torch.cat(rows).numpy(), n=len(cohort), k=schema.n_classes, task=schema.task)


def out_of_group(cohort: Cohort, group: str, fit_predict: FitPredict) -> Float[np.ndarray, "n k"]:
    """Leave one level of a group out at a time: probabilities of every row, in cohort order.

    Args:
        cohort: All levels.
        group: For example "site".
        fit_predict: `fit_predict(train, test)` gives (n_test,) or (n_test, K) probabilities.

    Raises:
        TypeError: No cohort.
        ValueError: An unknown group, a group of one level, or a patient in two levels.

    >>> cohort = Cohort(
    ...     x={"age": np.ones(4)}, y=np.array([0, 1, 1, 1]), groups={"site": np.array(list("abab"))}
    ... )
    >>> out_of_group(cohort, "site", lambda rest, site: np.full(len(site), rest.y.mean()))[:, 1]
    array([1. , 0.5, 1. , 0.5])
    """
    refuse_no_cohort(cohort)
    if group not in cohort.groups:
        raise unknown(group, cohort.groups, "group")
    values = cohort.groups[group]
    levels = pd.unique(pd.Series(values))
    if len(levels) < 2:
        named = "" if names_people(group, values) else f", {levels[0]!r}"
        raise ValueError(f"{group!r} has one level{named}. Use out_of_fold")
    result = _Collected(cohort)
    for level in levels:
        rest, held_out = cohort.leave_out(group, level)
        result.put(np.flatnonzero(values == level), rest, fit_predict(rest, held_out))
    return result.array


def out_of_fold(
    cohort: Cohort,
    fit_predict: FitPredict,
    *,
    by: str = "patient",
    within: str | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Float[np.ndarray, "n k"]:
    """Cross-validate: probabilities of every row from a model that saw none of its group.

    Folds hold whole levels of `by` and, for one label, about equal shares of each class.

    Args:
        cohort: All rows.
        fit_predict: `fit_predict(train, test)` gives (n_test,) or (n_test, K) probabilities.
        by: What stays whole.
        within: Cross-validate inside each level of this group apart, for example inside each site.
        folds: How many.
        seed: Of the assignment.

    Raises:
        TypeError: No cohort.
        ValueError: An unknown group, a patient in two levels of `by`, or more folds than levels.

    >>> cohort = Cohort(x={"age": np.ones(6)}, y=np.array([0, 1, 0, 1, 0, 1]))
    >>> out_of_fold(cohort, lambda rest, fold: np.full(len(fold), rest.y.mean()), folds=3)[:, 1]
    array([0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    """
    refuse_no_cohort(cohort)
    for name in filter(None, (by, within)):
        if name not in cohort.groups:
            raise unknown(name, cohort.groups, "group")
    units = pd.factorize(cohort.groups[by])[0]
    owners = pd.Series(units).groupby(cohort.groups["patient"]).nunique()
    if (owners > 1).any():
        raise ValueError(
            f"{int((owners > 1).sum())} patients are in several levels of {by!r}. Pass by='patient'"
        )
    apart = np.zeros(len(cohort)) if within is None else pd.factorize(cohort.groups[within])[0]
    result = _Collected(cohort)
    for part in np.unique(apart):
        rows = np.flatnonzero(apart == part)
        for train, test in _folds(cohort, rows, units[rows], folds, seed):
            rest = cohort.select(train)
            result.put(test, rest, fit_predict(rest, cohort.select(test)))
    return result.array


class _Collected:
    """One row of probabilities per row of a cohort, filled part by part."""

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort
        self.array = np.zeros((len(cohort), 0))

    def put(self, rows: Int[np.ndarray, " m"], train: Cohort, answer: object) -> None:
        schema, answer = self.cohort.schema, _in_order(answer, len(rows))
        if schema.task == "multiclass" and answer.ndim == 2 and answer.shape[1] != schema.n_classes:
            unseen = sorted(_classes(self.cohort) - _classes(train))
            if unseen:
                raise ValueError(
                    f"probabilities have shape {answer.shape} for {schema.n_classes} classes: no "
                    f"row to train on is of class {', '.join(map(str, unseen))}. Return a column "
                    "of zeros for such a class, or leave its rows out of the cohort"
                )
        part = checked(answer, n=len(rows), k=schema.n_classes, task=schema.task)
        if not self.array.shape[1]:
            self.array = np.full((len(self.cohort), part.shape[1]), np.nan)
        self.array[rows] = part


def _in_order(answer: object, n: int) -> np.ndarray:
    """Read what fit_predict returned, which has to be in the order of the rows it was given."""
    read = plain(answer, "probabilities")
    if has_labels(answer, read) and not read.index.equals(pd.RangeIndex(n)):
        raise ValueError(
            "fit_predict returned probabilities whose index is not 0 to the number of rows. Return "
            "them in the order of the test part, as an array: .to_numpy()"
        )
    return np.asarray(read)


def _classes(cohort: Cohort) -> set[int]:
    """The classes that have rows."""
    y = np.empty(0) if cohort.y is None else cohort.y.cpu().numpy()
    return set(y[~np.isnan(y)].astype(int).tolist())


def _folds(
    cohort: Cohort, rows: Int[np.ndarray, " m"], units: Int[np.ndarray, " m"], folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Row numbers to train and to test on."""
    n_units = len(np.unique(units))
    if not 2 <= folds <= n_units:
        raise ValueError(f"folds is {folds}, with {n_units} to share out. Pass 2 to {n_units}")
    if cohort.task in ("binary", "multiclass") and cohort.y is not None:
        stratum = cohort.y.cpu().numpy()[rows]
        stratum = np.where(np.isnan(stratum), -1, stratum).astype(int)
        if np.bincount(stratum + 1).max() >= folds:
            with warnings.catch_warnings():  # a rare class cannot be in every fold: expected here
                warnings.filterwarnings("ignore", "The least populated class", UserWarning)
                cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
                return [(rows[a], rows[b]) for a, b in cut.split(rows, stratum, units)]
    cut = GroupKFold(folds, shuffle=True, random_state=seed)
    return [(rows[a], rows[b]) for a, b in cut.split(rows, groups=units)]


def refuse_no_cohort(value: object, what: str = "cohort") -> None:
    """Refuse a table, an array or anything else where a cohort belongs.

    Raises:
        TypeError: It is no cohort.
    """
    if not isinstance(value, Cohort):
        raise TypeError(
            f"{what} is no Cohort, but: {type_name(value)}. Pass data.Cohort(x={{'labs': table}}, "
            "y=y), with one entry of x per modality"
        )


def advice(model: object) -> str:
    """What to pass in the place of something that is no model."""
    if isinstance(model, type):
        return "Make one and fit it first: fit(model, train).model"
    if isinstance(model, str):
        return "Of a saved model: load_model(folder)"
    if isinstance(getattr(model, "model", None), nn.Module):
        return "Pass its model: run.model"
    if isinstance(model, (torch.Tensor, pd.DataFrame, pd.Series, list, tuple)) or (
        hasattr(model, "to_numpy") or hasattr(model, "to_pandas")
    ):
        how = "np.array(p)" if isinstance(model, (list, tuple)) else "p.to_numpy()"
        how = "p.numpy()" if isinstance(model, torch.Tensor) else how
        return (
            f"Of probabilities, pass a numpy array to evaluate, its rows in the order of the "
            f"cohort: {how}"
        )
    return "Pass its probabilities to evaluate: model.predict_proba(X)"


def device_of(model: nn.Module) -> torch.device:
    """Name the device that the model is on; the CPU, where it has no parameters."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def checked(
    probabilities: np.ndarray, *, n: int, k: int | None, task: Task | None
) -> Float[np.ndarray, "n k"]:
    """Refuse what are no probabilities; return float64, one column per class or label."""
    p = numbers(probabilities, "the array of probabilities")
    if p.dtype.kind != "f":
        raise ValueError(
            f"probabilities are of type {p.dtype}, which are decisions or classes. Pass "
            "model.predict_proba(X), or p.astype(float) if you mean 0 and 1 as probabilities"
        )
    p = p.astype(float)
    if p.ndim == 1 and task == "binary":
        p = np.column_stack([1 - p, p])
    if p.ndim != 2 or len(p) != n or (k is not None and p.shape[1] != k):
        columns = "K" if k is None else k
        raise ValueError(
            f"probabilities have shape {np.shape(probabilities)}, expected ({n}, {columns}). "
            "Pass one row per row of the cohort, one column per class or label"
        )
    bad = np.flatnonzero(~np.isfinite(p).all(axis=1))
    if len(bad):
        raise ValueError(
            f"probabilities of {len(bad)} rows are NaN or infinite, first row {bad[0]}. Check that "
            "training did not diverge, or impute before predicting"
        )
    bad = np.flatnonzero(((p < 0) | (p > 1)).any(axis=1))
    if len(bad):
        raise ValueError(
            f"probabilities lie outside 0 to 1 in {len(bad)} rows, first row {bad[0]}. "
            f"Pass logits through torch.sigmoid or torch.softmax first"
        )
    if task == "multilabel" or task is None:
        return p
    total = p.sum(axis=1)
    bad = np.flatnonzero(np.abs(total - 1) > 1e-3)
    if len(bad):
        raise ValueError(
            f"probabilities of {len(bad)} rows do not sum to 1, first row {bad[0]}: sum "
            f"{total[bad[0]]:g}. Divide by it; if labels overlap, pass task='multilabel' to Cohort"
        )
    # What is left is rounding. The probability of the event stays as it was: ties stay ties.
    return np.column_stack([1 - p[:, 1], p[:, 1]]) if task == "binary" else p / total[:, None]

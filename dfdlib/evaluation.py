"""Scores of a model on a cohort: explicit probabilities, intervals by patient, paired differences.

Values come from scikit-learn over the whole split. Intervals come from a bootstrap that draws
whole patients. What cannot be known (too few patients, one class) is said, never given as a number.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import nn

from dfdlib._bootstrap import (
    METRICS,
    MIN_EVENTS,
    MIN_PATIENTS,
    WeightedMetrics,
    bootstrap,
    check_whole,
    estimates,
)
from dfdlib._compare import compare
from dfdlib._leaks import audit_leaks
from dfdlib._predict import (
    advice,
    checked,
    device_of,
    out_of_fold,
    out_of_group,
    predict_proba,
    refuse_no_cohort,
)
from dfdlib._probe import probe
from dfdlib._report import Report, strata
from dfdlib._results import read_results, write_result
from dfdlib._tabular import tabular
from dfdlib.data import Cohort, Schema
from dfdlib.data._validate import Task, type_name

__all__ = [
    "METRICS",
    "MIN_EVENTS",
    "MIN_PATIENTS",
    "Report",
    "audit_leaks",
    "compare",
    "evaluate",
    "out_of_fold",
    "out_of_group",
    "predict_proba",
    "probe",
    "read_results",
    "tabular",
    "write_result",
]


def evaluate(
    model: object,
    cohort: Cohort,
    *,
    by: Sequence[str] | str = (),
    bands: Mapping[str, Sequence[int | float]] | None = None,
    n_boot: int = 1000,
    seed: int = 0,
    n_bins: int = 10,
    selection: str = "",
) -> Report:
    """Score a model on a cohort: AUROC, AUPRC, accuracy, F1, Brier score, calibration error.

    For several classes AUROC, AUPRC and F1 are means over classes (one against the rest), the Brier
    score is the sum over classes, and the calibration error is that of the predicted class. For
    several labels everything is a mean over labels. Intervals are 95 % percentile intervals over
    draws of whole patients. Rows without a label are left out and counted; levels with fewer than
    10 patients or with one class get NaN and a note. Resampling adds noise to each bin, so the
    interval of the calibration error lies high: the value may stand at its lower end, or below.

    With fewer than 5 patients of either class there is a value and no interval (for several
    classes: of any class; accuracy, Brier score and calibration error ask for two classes of 5).
    Where a value stands at the edge of its range, such as an AUROC of 1, all replicates do, and
    tell nothing: the note says so, and the interval of AUROC (binary task) and accuracy is then
    the exact one of independent patients (Clopper and Pearson's), that of other metrics is left
    out, as it is wherever the replicates do not differ.

    The same seed draws the same patients for the same rows in the same order: patients are
    numbered as they appear, so rows in another order move the ends of intervals a little. Values
    do not move. Those of a model may, in the last digits, with the number of threads that torch
    uses (`torch.get_num_threads()`).

    Args:
        model: A torch module with `predict_proba(batch)`, or an array of probabilities. Task and
            classes are those of the model's `schema`, where it has one: a class that nobody in the
            cohort has stays a class.
        cohort: With labels.
        by: Groups or covariates of the cohort, or "pattern" (which modalities are observed).
        bands: Edges for numeric covariates; without, more than 10 values are cut at their tertiles.
        n_boot: Bootstrap replicates; 0 gives values without intervals.
        seed: Of the bootstrap.
        n_bins: Bins of equal width in the calibration error.
        selection: The rule that picked epoch and weights, printed with the table; "" takes the
            model's, if `fit` left one.

    Shapes:
        probabilities: (n,) or (n, 2) for a binary task, (n, K), multi-label (n, L).

    Raises:
        ValueError: No labels, labels of another task than the model's, no probabilities, an unknown
            group.
        TypeError: Neither a module nor an array.

    >>> y = np.arange(40) % 2
    >>> cohort = Cohort(x={"age": np.arange(40.0)}, y=y, groups={"site": np.repeat(["a", "b"], 20)})
    >>> report = evaluate(np.tile([0.1, 0.6, 0.4, 0.9], 10), cohort, by="site", n_boot=200)
    >>> report.table("brier")
                             brier   n  n_pos
    group level
    all   all    0.09 [0.06, 0.11]  40     20
    site  a      0.09 [0.05, 0.12]  20     10
          b      0.09 [0.06, 0.12]  20     10
    """
    refuse_no_cohort(cohort)
    if cohort.y is None or cohort.task is None:
        raise ValueError("the cohort has no labels. Pass y= to Cohort, or call predict_proba")
    check_whole("n_bins", n_bins, 1, "10")
    if not isinstance(by, Iterable):
        raise TypeError(
            f"by is {by!r}, and not names. Pass by=('site', 'pattern'), or leave it out"
        )
    by = (by,) if isinstance(by, str) else tuple(by)
    y = cohort.y.cpu().numpy().astype(float)
    task, probabilities, device = _probabilities(model, cohort)
    keep = ~np.isnan(y.reshape(len(y), -1)).all(axis=1)
    if not keep.any():
        raise ValueError("every label is missing. Pass a cohort with labels, or call predict_proba")
    masks = strata(cohort, by, bands or {})
    rows = {key: np.flatnonzero(mask[keep]) for key, mask in masks.items()}
    y, probabilities = y[keep], probabilities[keep]
    patient = cohort.groups["patient"][keep]
    codes, ids = pd.factorize(patient)

    sets = [
        (WeightedMetrics(y[r], probabilities[r], task=task, n_bins=n_bins), codes[r])
        for r in rows.values()
    ]
    draws = bootstrap(sets, n_patients=len(ids), n_boot=n_boot, seed=seed)
    lines = []
    for (group, level), (metrics, code), replicates in zip(rows, sets, draws, strict=True):
        counts = {"n": len(code), "n_pos": metrics.n_positive}
        for metric, found in estimates(metrics, code, replicates).items():
            numbers = {"value": found.value, "low": found.low, "high": found.high}
            line = {"metric": metric, "group": group, "level": level, "note": found.note}
            lines.append({**line, **numbers, **counts})
    columns = ["metric", "group", "level", "value", "low", "high", "n", "n_pos", "note"]
    frame = pd.DataFrame(lines, columns=columns).astype({"n_pos": "Int64"})
    left_out = int((~keep).sum())
    if left_out:
        whole = frame["group"] == "all"
        said = f"{left_out} rows without a label left out"
        frame.loc[whole, "note"] = [f"{n}; {said}" if n else said for n in frame.loc[whole, "note"]]
    return Report(
        frame=frame,
        probabilities=probabilities,
        y=y,
        patient=patient,
        strata=rows,
        task=task,
        selection=selection or getattr(model, "selection", ""),
        seed=seed,
        n_boot=n_boot,
        n_bins=n_bins,
        left_out=left_out,
        device=device,
    )


def _probabilities(model: object, cohort: Cohort) -> tuple[Task, Float[np.ndarray, "n k"], str]:
    """The task, the probabilities, and the name of the device that they come from."""
    schema, task = cohort.schema, cohort.task
    assert task is not None  # there are labels
    if isinstance(model, nn.Module):
        schema = getattr(model, "schema", schema)
        _refuse_other_task(schema, cohort)
        device = device_of(model)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return schema.task or task, predict_proba(model, cohort), name
    if not isinstance(model, np.ndarray):
        raise TypeError(
            f"{type_name(model)} is neither a torch module nor an array. {advice(model)}"
        )
    k = schema.n_classes
    if model.ndim == 2 and k is not None and model.shape[1] > k:
        if task == "multiclass":  # classes that nobody in this cohort has
            k = model.shape[1]
        elif task == "binary":
            raise ValueError(
                f"probabilities have shape {model.shape}, expected ({len(cohort)}, 2). If there "
                "are more classes, of which 0 and 1 occur here, pass task='multiclass' to Cohort"
            )
    return task, checked(model, n=len(cohort), k=k, task=task), "cpu"


def _refuse_other_task(schema: Schema, cohort: Cohort) -> None:
    """Refuse labels that the model's classes cannot stand for."""
    assert cohort.y is not None  # there are labels
    y, several = cohort.y.cpu().numpy(), schema.task == "multilabel"
    if y.ndim == 2:
        fits = several and y.shape[1] == schema.n_classes
    else:
        fits = not several and y[~np.isnan(y)].max(initial=0) < (schema.n_classes or 0)
    if not fits:
        raise ValueError(
            f"the model was made for a {schema.task} task with n_classes={schema.n_classes}, the "
            f"labels are {cohort.task} with n_classes={cohort.schema.n_classes}. Pass labels of "
            "the model's task"
        )

"""Scores of a model on a cohort: explicit probabilities, intervals by patient, paired differences.

Values come from scikit-learn over the whole split. Intervals come from a bootstrap that draws
whole patients. What cannot be known (too few patients, one class) is said, never given as a number.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Shaped
from torch import nn

from dfdlib.data import Cohort, Schema
from dfdlib.data.validation import Task
from dfdlib.errors import type_name, unknown
from dfdlib.evaluation.bootstrap import (
    METRICS,
    MIN_REPLICATES,
    WeightedMetrics,
    bootstrap,
    check_whole,
    estimates,
)
from dfdlib.evaluation.predict import (
    advice,
    checked,
    device_of,
    predict_proba,
    refuse_no_cohort,
)
from dfdlib.evaluation.results import write_result

__all__ = ["Report", "evaluate"]

Strata = dict[tuple[str, str], np.ndarray]


@dataclass(frozen=True, eq=False)
class Report:
    """What `evaluate` found: a table, and the predictions that `compare` needs.

    Args:
        frame: Columns metric, group, level, value, low, high, n, n_pos, note; the whole split has
            group and level "all".
        probabilities: Of the patients with a label, in the order of the cohort.
        y: Their labels.
        patient: Their patient ids.
        strata: For each (group, level) the positions of its rows.
        task: What the columns of `probabilities` mean.
        selection: The rule that picked epoch and weights.
        seed: Of the bootstrap; where there is no other, of the run.
        n_boot: Replicates behind each interval.
        n_bins: Bins of the calibration error.
        left_out: Rows without a label.
        device: Where the model ran.

    Shapes:
        probabilities: (n, K). y: (n,), for multi-label (n, L). patient: (n,).
    """

    frame: pd.DataFrame
    probabilities: Float[np.ndarray, "n k"] = field(repr=False)
    y: Float[np.ndarray, "n *labels"] = field(repr=False)
    patient: Shaped[np.ndarray, " n"] = field(repr=False)
    strata: Strata = field(repr=False)
    task: Task
    selection: str
    seed: int
    n_boot: int
    n_bins: int
    left_out: int
    device: str

    def table(self, metric: str | None = None, *, digits: int = 2) -> pd.DataFrame:
        """Values with intervals as text, one row per level, one column per metric.

        The rule that selected the model stands above the columns; `attrs["caption"]` also says what
        the intervals are. After the metrics come the rows, `n`, and those with the event, `n_pos`
        (several labels: events of all labels; several classes: `n by class` instead). "–" stands
        where there is no number; the last column, present where it is needed, says why there is no
        number or no interval, with the metrics that it is about where it is not about all.

        Args:
            metric: One metric instead of all.
            digits: After the decimal point.

        Raises:
            ValueError: An unknown metric.
        """
        metrics = known_metrics(metric or METRICS)
        rows = self.frame[self.frame["metric"].isin(metrics)]
        cells = [
            _cell(row.value, row.low, row.high, digits) for row in rows.itertuples(index=False)
        ]
        keys = ["group", "level"]
        table = rows.assign(cell=cells).pivot(index=keys, columns="metric", values="cell")
        order = pd.MultiIndex.from_tuples(self.strata, names=keys)
        table = table.loc[order, metrics].rename_axis(
            columns=f"selection: {self.selection}" if self.selection else None
        )
        counts = rows.drop_duplicates(keys).set_index(keys).loc[order]
        table["n"] = counts["n"]
        if self.task == "multiclass":
            table["n by class"] = [self._by_class(key) for key in order]
        else:
            table["n_pos"] = counts["n_pos"]
        if (rows["note"] != "").any():
            noted = dict(list(rows.groupby(keys)))
            table["note"] = [_notes(noted[key]) for key in order]
        caption = f"With 95 % bootstrap intervals by patient ({self.n_boot} replicates)."
        if self.n_boot < MIN_REPLICATES:
            kind = f"the range of {self.n_boot} replicates by patient, too few for 95 %"
            caption = f"With {kind if self.n_boot else 'no intervals'}."
        if self.selection:
            caption += f" Model selection: {self.selection}."
        table.attrs = {"caption": caption, "selection": self.selection}
        return table

    def _by_class(self, key: tuple[str, str]) -> str:
        y = self.y[self.strata[key]].astype(int)
        return ", ".join(map(str, np.bincount(y, minlength=self.probabilities.shape[1])))

    def save(
        self,
        path: str | Path,
        *,
        claim: str,
        parameters: Mapping[str, Any],
        reach: Literal["truth", "open", "credentialed"] = "open",
        dataset: str | None = None,
        method: str | None = None,
        estimand: str = "prediction: P(y | what is observed)",
        metric: str = "auroc",
        group: str = "all",
        level: str = "all",
        seed: int | None = None,
        margin: int | float = 0.0,
        verdict: Literal["held", "did not hold", "undecided"] = "undecided",
        command: str = "not stated",
        claims: str | Path | None = None,
    ) -> Path:
        """Write one number of this report as a results file; see `write_result`.

        Args:
            path: Where to.
            claim: Its id in `claims.yaml`.
            parameters: Of the run. `dataset`, `method` and `seed` are read from here unless passed.
            reach: On which data.
            dataset: Name of the data.
            method: Name of the method.
            estimand: What is estimated.
            metric: Which metric.
            group: Which group,
            level: and which level of it.
            seed: Of the run.
            margin: Stated before the run.
            verdict: One report compares nothing, so "undecided" unless said otherwise.
            command: What repeats the result.
            claims: Path of the list of claims.

        Raises:
            ValueError: An unknown metric or level, or what `write_result` refuses.
        """
        known_metrics(metric)
        if (group, level) not in self.strata:
            raise unknown(f"{group}={level}", ["=".join(key) for key in self.strata], "level")
        row = self.frame.set_index(["metric", "group", "level"]).loc[(metric, group, level)]
        seed = parameters.get("seed", self.seed) if seed is None else seed
        if group != "all":
            parameters = {**parameters, "group": group, "level": level}
        return write_result(
            path,
            claims=claims,
            claim=claim,
            reach=reach,
            dataset=dataset or parameters.get("dataset", "not stated"),
            method=method or parameters.get("method", "not stated"),
            parameters=parameters,
            estimand=estimand,
            margin=margin,
            seeds=[seed],
            metric=metric,
            runs=[{"seed": seed, "value": row["value"]}],
            effect=row["value"],
            low=row["low"],
            high=row["high"],
            verdict=verdict,
            selection=self.selection or "not stated",
            device=self.device,
            command=command,
        )


def _cell(value: float, low: float, high: float, digits: int) -> str:
    if np.isnan(value):
        return "–"
    if np.isnan(low):
        return f"{value:.{digits}f}"
    while f"{low:.{digits}f}" == f"{high:.{digits}f}" and digits < 12:
        digits += 1  # two ends that round to one number would look like certainty
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _notes(rows: pd.DataFrame) -> str:
    """The notes of one level, each once, after the metrics that it is about."""
    by_note = rows[rows["note"] != ""].groupby("note", sort=False)["metric"].agg(list)
    return "; ".join(
        note if len(names) == len(rows) else f"{', '.join(names)}: {note}"
        for note, names in by_note.items()
    )


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
        for metric, estimate in estimates(metrics, code, replicates).items():
            numbers = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
            line = {"metric": metric, "group": group, "level": level, "note": estimate.note}
            lines.append({**line, **numbers, **counts})
    columns = ["metric", "group", "level", "value", "low", "high", "n", "n_pos", "note"]
    frame = pd.DataFrame(lines, columns=columns).astype({"n_pos": "Int64"})
    left_out = int((~keep).sum())
    if left_out:
        whole = frame["group"] == "all"
        remark = f"{left_out} rows without a label left out"
        frame.loc[whole, "note"] = [
            f"{n}; {remark}" if n else remark for n in frame.loc[whole, "note"]
        ]
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


def known_metrics(metrics: Sequence[str] | str) -> list[str]:
    """Refuse a metric that does not exist."""
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    if not names:
        raise ValueError(f"metrics is empty. Pass some of {', '.join(METRICS)}")
    for name in names:
        if name not in METRICS:
            raise unknown(name, METRICS, "metric")
    return names


# ---------------- rows by group, covariate and pattern


def strata(
    cohort: Cohort, by: Sequence[str], bands: Mapping[str, Sequence[int | float]]
) -> dict[tuple[str, str], np.ndarray]:
    """Boolean masks of the rows of each (group, level), the whole cohort first.

    Levels of groups and covariates are sorted, patterns go from the most frequent to the rarest.
    """
    for name in bands:
        if name not in by:
            raise unknown(name, by, "name in by=")
    masks = {("all", "all"): np.ones(len(cohort), dtype=bool)}
    for name in by:
        label, levels = _levels(cohort, name, bands.get(name))
        masks |= {(name, str(level)): label == level for level in levels}
    return masks


def _levels(
    cohort: Cohort, name: str, bands: Sequence[int | float] | None
) -> tuple[np.ndarray, Sequence[Any]]:
    """The level of each row, and the levels in the order of the report."""
    if name == "pattern":
        return cohort.pattern, list(pd.Series(cohort.pattern).value_counts().index)
    if name in cohort.groups:
        values = pd.Series(cohort.groups[name])
    elif name in cohort.covariates:
        values = cohort.covariates[name]
    else:
        options = ["pattern", *cohort.groups, *cohort.covariates]
        raise unknown(name, options, "pattern, group or covariate")
    numeric = pd.api.types.is_numeric_dtype(values) and values.nunique() > 10
    if bands is not None or (numeric and name not in cohort.groups):
        values = _cut(values, name, bands)
    elif not isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype("category")  # sorted, words after numbers where there are both
    levels = [str(level) for level in values.cat.categories]
    label = values.astype(object).map(str).where(values.notna(), "unknown").to_numpy()
    return label, [level for level in [*levels, "unknown"] if (label == level).any()]


def _cut(values: pd.Series, name: str, bands: Sequence[int | float] | None) -> pd.Series:
    """Cut numbers at the edges given, or else at their tertiles."""
    if not pd.api.types.is_numeric_dtype(values):
        raise ValueError(f"{name!r} holds no numbers to cut. Leave it out of bands=")
    number = values.to_numpy(dtype=float, na_value=np.nan)
    if bands is None:
        inner = np.unique(np.nanquantile(number, [1 / 3, 2 / 3]))
        middle = [f"[{low:g}, {high:g})" for low, high in itertools.pairwise(inner)]
        names = [f"< {inner[0]:g}", *middle, f">= {inner[-1]:g}"]
    else:
        edges = np.asarray(bands, dtype=float)
        if len(edges) < 2 or not (np.diff(edges) > 0).all():
            raise ValueError(
                f"bands of {name!r} are {list(bands)}. Pass rising edges: [0, 45, 120]"
            )
        outside = (number < edges[0]) | (number > edges[-1])
        if outside.any():
            which = {"first": (number < edges[0]).any(), "last": (number > edges[-1]).any()}
            raise ValueError(
                f"{outside.sum()} values of {name!r} lie outside the bands {list(bands)}. Widen "
                f"the {' and the '.join(edge for edge, there in which.items() if there)} edge"
            )
        inner = edges[1:-1]
        names = [f"[{low:g}, {high:g})" for low, high in itertools.pairwise(edges)]
        names[-1] = names[-1][:-1] + "]"
    codes = np.where(np.isnan(number), -1, inner.searchsorted(number, side="right"))
    return pd.Series(pd.Categorical.from_codes(codes, names))

"""A report of one model's scores."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from dfdlib._bootstrap import METRICS, MIN_REPLICATES
from dfdlib._results import write_result
from dfdlib.data import Cohort
from dfdlib.data._validate import Task, unknown

Strata = dict[tuple[str, str], np.ndarray]


def known_metrics(metrics: Sequence[str] | str) -> list[str]:
    """Refuse a metric that does not exist."""
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    if not names:
        raise ValueError(f"metrics is empty. Pass some of {', '.join(METRICS)}")
    for name in names:
        if name not in METRICS:
            raise unknown(name, METRICS, "metric")
    return names


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

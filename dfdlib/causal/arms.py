"""What the estimators read: arms, an outcome and covariates, checked once."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dfdlib.arrays import NUMBERS, numbers, plain, same_order
from dfdlib.arrays import levels as read_levels
from dfdlib.causal.graphs import check_adjustment
from dfdlib.causal.missingness import indicators
from dfdlib.causal.separation import conditioned, spell, walk
from dfdlib.errors import check_name

MOST_LEVELS = 20
FEW = 10  # what fewer rows have in common is not named in a message: it is what these patients have


@dataclass(frozen=True)
class Arms:
    """Checked input. With a treatment, one arm per level; without, the rows whose outcome is seen.

    Attributes:
        treatment: Name of the treatment, None for a partly missing outcome.
        levels: Levels of the treatment, or ``("observed",)``.
        arm: Number of each row's level, -1 where the outcome is missing.
        outcome: The outcome, 0 where it is missing.
        outcome_name: Name of the outcome.
        covariates: What is adjusted for, one column each.
        control: Number of the level that others are compared with.
        propensity: Known probability of each arm, (n, arms), if there is one.
    """

    treatment: str | None
    levels: tuple[Hashable, ...]
    arm: np.ndarray
    outcome: np.ndarray
    outcome_name: str
    covariates: pd.DataFrame
    control: int
    propensity: np.ndarray | None

    def __len__(self) -> int:
        return len(self.arm)

    def take(self, rows: np.ndarray) -> "Arms":
        """Some rows of the same study."""
        return replace(
            self,
            arm=self.arm[rows],
            outcome=self.outcome[rows],
            covariates=self.covariates.iloc[rows],
            propensity=None if self.propensity is None else self.propensity[rows],
        )

    def name(self, arm: int) -> str:
        """What it means to be in an arm; -1 is that of a missing outcome."""
        if self.treatment is None:
            return f"{self.outcome_name} {'missing' if arm < 0 else 'observed'}"
        return f"{self.treatment}={self.levels[arm]}"


def read_arms(
    data: Any,
    *,
    outcome: Any,
    treatment: Any,
    adjust: Any,
    control: Any,
    graph: nx.DiGraph | None,
    propensity: Any,
) -> Arms:
    """Read columns of a table, or arrays, and refuse what no estimator can use."""
    data, (outcome, adjust, treatment, propensity) = together(
        data, outcome=outcome, adjust=adjust, treatment=treatment, propensity=propensity
    )
    y, covariates = read_columns(data, outcome, adjust)
    _refuse_missing(covariates)
    known = None if propensity is None else _probabilities(data, propensity, len(y))
    if data is not None:
        for role, name in (("treatment", treatment), ("outcome", outcome)):
            if name in covariates or treatment == outcome:
                raise ValueError(f"the {role} {name!r} has another role too: give it only one.")
    if graph is not None:
        _check_graph(data, graph, outcome, treatment, covariates)
    values = y.to_numpy(dtype=float)
    if treatment is None:
        if control is not None:
            raise ValueError("control names an arm of a treatment, and there is no treatment.")
        missing = missing_outcome(values)
        arm, seen_with = np.where(missing, -1, 0), None if known is None else known[:, None]
        filled = np.where(missing, 0.0, values)
        return Arms(None, ("observed",), arm, filled, str(y.name), covariates, 0, seen_with)
    t = _treatment(data, treatment)
    if len(t) != len(y):
        raise ValueError(f"treatment has {len(t)} rows and outcome {len(y)}: they must agree.")
    _refuse_missing(pd.DataFrame({t.name: t}))
    _refuse_missing(pd.DataFrame({y.name: y}))
    levels = tuple(sorted(pd.unique(t)))
    _check_levels(str(t.name), levels, control)
    reference = 0 if control is None else levels.index(control)
    return Arms(
        str(t.name),
        levels,
        pd.Categorical(t, categories=levels).codes.astype(int),
        values,
        str(y.name),
        covariates,
        reference,
        None if known is None else _two_arms(known, str(t.name), levels, reference),
    )


def read_columns(
    data: pd.DataFrame | None, outcome: Any, adjust: Any
) -> tuple[pd.Series, pd.DataFrame]:
    """Read the outcome and the covariates, from a table by name or as arrays in one order."""
    y = _column(data, outcome, "outcome")
    try:
        values = numbers(y, "the outcome")
    except ValueError as error:
        raise ValueError(f"the outcome must be numbers: {error}") from None
    if not len(values):
        raise ValueError("the outcome has no rows. Pass one value per patient.")
    return pd.Series(values, name=y.name), _covariates(data, adjust, len(y))


def together(data: Any, **columns: Any) -> tuple[pd.DataFrame | None, list[Any]]:
    """Read a table, or bring arrays into one order by their labels."""
    if data is None:
        there = {what: value for what, value in columns.items() if value is not None}
        named = {what: value for what, value in there.items() if isinstance(value, str)}
        rows = same_order(**{what: value for what, value in there.items() if what not in named})
        return None, [{**named, **rows}.get(what) for what in columns]
    table = plain(data, "the table")
    if not isinstance(table, pd.DataFrame):
        raise ValueError(
            f"fit takes a table first, got a {type(data).__name__}. Pass a DataFrame and the names "
            f"of its columns, or arrays by name: fit(outcome=y, treatment=t, adjust=z)."
        )
    return table, list(columns.values())


def missing_outcome(values: np.ndarray) -> np.ndarray:
    """Where the outcome is NaN; refused where that is nowhere or everywhere, or it is infinite."""
    missing = np.isnan(values)
    if np.isinf(values).any():
        raise ValueError(
            f"the outcome is infinite in {np.isinf(values).sum()} rows. Put NaN where it is "
            f"missing, and nothing infinite where it is not."
        )
    if missing.all() or not missing.any():
        raise ValueError(
            f"without a treatment the target is the mean of a partly missing outcome, and "
            f"{'every' if missing.all() else 'no'} value of it is missing. Put NaN where it is "
            f"missing, or name a treatment."
        )
    return missing


def strata(covariates: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Number the rows by their combination of covariates, and name each combination."""
    if covariates.shape[1] == 0:
        return np.zeros(len(covariates), dtype=int), ["all"]
    groups = covariates.groupby(list(covariates.columns), sort=True, observed=True)
    codes = groups.ngroup().to_numpy()
    examples = covariates.iloc[np.unique(codes, return_index=True)[1]]
    names = [
        ", ".join(f"{c}={v}" for c, v in zip(covariates.columns, row, strict=True))
        for row in examples.itertuples(index=False)
    ]
    return codes, names


def design(covariates: pd.DataFrame) -> np.ndarray:
    """Covariates as numbers; a text column becomes one column per value but the first."""
    return _coded(covariates).to_numpy(dtype=float)


def design_names(covariates: pd.DataFrame) -> list[str]:
    """Names of the columns of `design`."""
    return [str(column) for column in _coded(covariates)]


def _coded(covariates: pd.DataFrame) -> pd.DataFrame:
    return pd.get_dummies(covariates, drop_first=True) if covariates.shape[1] else covariates


def _column(data: pd.DataFrame | None, values: Any, role: str) -> pd.Series:
    """Read one value per row; nothing is lost of what it held."""
    if data is not None:
        if not isinstance(values, str):
            raise ValueError(
                f"with a table, {role} is the name of a column, got a {type(values).__name__}."
            )
        check_name(values, data.columns, "column")
        return _once(data[values].reset_index(drop=True), values)
    if isinstance(values, str):
        raise ValueError(
            f"{role}={values!r} names a column, but no table was given: fit(table, ...), or pass "
            f"the values."
        )
    if isinstance(values, pd.Series):
        return values.reset_index(drop=True).rename(role if values.name is None else values.name)
    array = values if isinstance(values, np.ndarray) else _listed(values, role)
    if array.ndim != 1:
        raise ValueError(f"{role} must have one value per row, got shape {array.shape}.")
    return pd.Series(array, name=role)


def _listed(values: Any, role: str) -> np.ndarray:
    """Read a list, a frame or what else is no array: as levels, which keep words and numbers."""
    if isinstance(values, pd.DataFrame):
        return values.to_numpy()
    if not isinstance(values, (list, tuple, range, pd.Index)) and not hasattr(values, "__array__"):
        raise ValueError(
            f"{role} must have one value per row, got a {type(values).__name__}. Pass an array."
        )
    return read_levels(values, role) if role == "treatment" else numbers(values, role)


def _once(column: Any, name: Any) -> pd.Series:
    """Refuse a name that stands for several columns."""
    if isinstance(column, pd.DataFrame):
        raise ValueError(f"{column.shape[1]} columns of the table are called {name!r}: rename one.")
    return column


def _treatment(data: pd.DataFrame | None, values: Any) -> pd.Series:
    column = _column(data, values, "treatment")
    return pd.Series(read_levels(column, f"treatment {column.name!r}"), name=column.name)


def _covariates(data: pd.DataFrame | None, adjust: Any, n: int) -> pd.DataFrame:
    if data is not None:
        names = [adjust] if isinstance(adjust, str) else list(adjust)
        for name in names:
            check_name(name, data.columns, "column")
            _once(data[name], name)
        return _settled(data[names].reset_index(drop=True))
    if isinstance(adjust, str | Mapping):
        kind = f"the word {adjust!r}" if isinstance(adjust, str) else "a dict"
        raise ValueError(
            f"adjust is {kind}, and no table was given. Pass fit(table, ...) with names of "
            f"columns, or an array or a DataFrame with one row per patient."
        )
    if isinstance(adjust, pd.DataFrame | pd.Series):
        table = pd.DataFrame(adjust).reset_index(drop=True)
    else:
        array = adjust if isinstance(adjust, np.ndarray) else _table(adjust)
        array = np.empty((n, 0)) if array.size == 0 else array.reshape(len(array), -1)
        table = pd.DataFrame(array, columns=[f"adjust_{i}" for i in range(array.shape[1])])
    if len(table) != n:
        raise ValueError(f"adjust has {len(table)} rows and outcome {n}: they must agree.")
    for name in table.columns:
        _once(table[name], name)
    return _settled(table)


def _table(adjust: Any) -> np.ndarray:
    """Read a list of values, or of rows."""
    if not np.ndim(adjust):
        raise ValueError(f"adjust is a {type(adjust).__name__}. Pass one row per patient.")
    if isinstance(adjust, (list, tuple, range)) and all(np.ndim(each) == 0 for each in adjust):
        values = np.empty(len(adjust), dtype=object)
        values[:] = adjust
        return values
    return numbers(adjust, "adjust")


def _settled(table: pd.DataFrame) -> pd.DataFrame:
    """Make each covariate numbers or words, and refuse dates and what else is neither."""
    columns = {}
    for name, column in table.items():
        words = isinstance(column.dtype, pd.CategoricalDtype | pd.StringDtype)
        if column.dtype == object:
            kind = pd.api.types.infer_dtype(column, skipna=True)
            words = kind not in (*NUMBERS, "complex") and "date" not in kind and "time" not in kind
            if words:
                column = pd.Series(read_levels(column, f"covariate {name!r}"))
        columns[name] = column if words else numbers(column, f"covariate {name!r}")
    return pd.DataFrame(columns, index=table.index)


def _refuse_missing(table: pd.DataFrame) -> None:
    for name in table:
        values = table[name]
        bad = values.isna().to_numpy()
        if values.dtype.kind == "f":
            bad = ~np.isfinite(values.to_numpy(dtype=float, na_value=np.nan))
        if bad.any():
            raise ValueError(
                f"{name!r} is NaN or infinite in {bad.sum()} of {len(bad)} rows, first in row "
                f"{bad.argmax()}. Leave these rows out, or see MultipleImputation."
            )


def _check_levels(name: str, levels: tuple[Hashable, ...], control: Any) -> None:
    if len(levels) == 1:
        raise ValueError(
            f"treatment {name!r} is constant: every row has the same level. Two arms are needed to "
            f"compare."
        )
    if len(levels) > MOST_LEVELS:
        raise ValueError(
            f"treatment {name!r} has {len(levels)} levels, and at most {MOST_LEVELS} are compared. "
            f"Cut it into bands, for example with pd.cut."
        )
    if control is not None and control not in levels:
        listed = ", ".join(map(str, levels))
        raise ValueError(f"control={control!r} is not a level of {name!r} ({listed}).")


def _probabilities(data: pd.DataFrame | None, values: Any, n: int) -> np.ndarray:
    named = data is not None or isinstance(values, str)
    column = _column(data, values, "propensity") if named else values
    p = numbers(column, "propensity").astype(float)
    inside = (p >= 0) & (p <= 1)
    if p.shape != (n,) or not inside.all():
        raise ValueError(
            f"propensity must be one probability per row, got shape {p.shape} for {n} rows, of "
            f"which {(~inside).sum()} are missing or outside 0 to 1."
        )
    return p


def _two_arms(p: np.ndarray, name: str, levels: tuple[Hashable, ...], control: int) -> np.ndarray:
    if len(levels) != 2:
        raise ValueError(f"a known propensity is for two arms, and {name!r} has {len(levels)}.")
    return np.stack([p, 1 - p] if control == 1 else [1 - p, p], axis=1)


def _check_graph(
    data: pd.DataFrame | None,
    graph: nx.DiGraph,
    outcome: Any,
    treatment: Any,
    covariates: pd.DataFrame,
) -> None:
    """Refuse an adjustment that the graph says is wrong."""
    if data is None:
        raise ValueError("graph= needs the names of columns: pass a table.")
    if treatment is not None:
        check_adjustment(graph, treatment, outcome, set(covariates))
        return
    check_name(outcome, indicators(graph), "variable with an indicator in the graph")
    adjusted = frozenset(covariates)
    known = conditioned(graph, adjusted)
    stays = [p for p in walk(graph, outcome, indicators(graph)[outcome], known) if p.open]
    if stays:
        path = min(stays, key=lambda p: (len(p.nodes), p.nodes))
        raise ValueError(
            f"adjusting for {spell(adjusted)} leaves {path.text} open: {outcome} is not missing at "
            f"random given these, and its mean is not recovered this way."
        )


# ---------------- Propensities and outcome models: the two things that an adjustment has to
# estimate

EVERY_ROW = slice(None)


def check_model(model: Any, names: tuple[str, ...], role: str) -> None:
    """Refuse a model that is neither one of the names nor a scikit-learn estimator."""
    if isinstance(model, str):
        check_name(model, names, f"choice for {role}")
    elif not hasattr(model, "fit"):
        kind = f"a {type(model).__name__}"
        raise ValueError(f"{role} must be one of {', '.join(names)} or have fit, got {kind}.")


def cells(arms: Arms, values: np.ndarray, codes: np.ndarray, n_strata: int) -> np.ndarray:
    """Sum values by stratum and arm, (strata, arms); rows without an arm are left out."""
    seen = arms.arm >= 0
    table = np.zeros((n_strata, len(arms.levels)))
    np.add.at(table, (codes[seen], arms.arm[seen]), values[seen])
    return table


def check_strata(arms: Arms) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Strata and their counts; refuse a stratum that lacks an arm."""
    codes, names = strata(arms.covariates)
    counts = cells(arms, np.ones(len(arms)), codes, len(names))
    empty = np.argwhere(counts == 0)
    if len(empty):
        stratum, arm = map(int, empty[0])
        size = np.bincount(codes)[stratum]
        distinct = arms.covariates.nunique()
        wide = [str(name) for name in distinct.index[distinct > 10]]
        advice = (
            f"Cut {', '.join(wide)} into bands (pd.cut), or use a model"
            if wide
            else "Merge strata, leave these rows out, or use a model"
        )
        where = f"stratum {names[stratum]} ({size} rows)"
        if size < FEW:
            where = (
                f"a stratum of {', '.join(map(str, arms.covariates))} with fewer than {FEW} rows"
            )
        raise ValueError(
            f"no overlap: in {where} nobody has {arms.name(arm)}, and so in {len(empty)} of "
            f"{counts.size} cells. {advice}."
        )
    return codes, names, counts


def propensities(arms: Arms, model: Any, train: Any = EVERY_ROW) -> np.ndarray:
    """Estimate the probability of each arm in each row, (n, arms).

    Args:
        arms: The study.
        model: ``"stratified"``, ``"logistic"``, or a scikit-learn classifier.
        train: Rows to learn from; the answer is for all rows.
    """
    x = design(arms.covariates)
    if model == "stratified" or x.shape[1] == 0:
        codes, names = strata(arms.covariates)
        part = arms.take(np.arange(len(arms))[train])
        counts = cells(part, np.ones(len(part)), codes[train], len(names))
        sizes = np.bincount(codes[train], minlength=len(names))
        return (counts / np.maximum(sizes, 1)[:, None])[codes]
    if isinstance(model, str):
        logistic = LogisticRegression(C=np.inf, max_iter=1000)
        model = make_pipeline(StandardScaler(), logistic)
    fitted = clone(model).fit(x[train], arms.arm[train])
    return fitted.predict_proba(x)[:, np.searchsorted(fitted.classes_, np.arange(len(arms.levels)))]


def outcomes(arms: Arms, model: Any, train: Any = EVERY_ROW) -> np.ndarray:
    """Estimate the mean outcome of each row in each arm, (n, arms).

    Args:
        arms: The study.
        model: ``"stratified"``, ``"regression"`` (logistic for an outcome of 0 and 1, else
            linear; one per arm), or a scikit-learn regressor or classifier.
        train: Rows to learn from; the answer is for all rows.
    """
    x = design(arms.covariates)
    seen = np.zeros(len(arms), dtype=bool)
    seen[train] = True
    if model == "stratified" or x.shape[1] == 0:
        codes, names = strata(arms.covariates)
        part = arms.take(np.flatnonzero(seen))
        counts = cells(part, np.ones(len(part)), codes[seen], len(names))
        totals = cells(part, part.outcome, codes[seen], len(names))
        return (totals / np.maximum(counts, 1))[codes]
    predicted = np.empty((len(arms), len(arms.levels)))
    for arm in range(len(arms.levels)):
        rows = seen & (arms.arm == arm)
        predicted[:, arm] = _regress(model, x, arms.outcome, rows)
    return predicted


def _regress(model: Any, x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    values = np.unique(y[rows])
    if len(values) == 1:
        return np.full(len(x), values[0])
    if isinstance(model, str):
        binary = set(values) <= {0.0, 1.0}
        last = LogisticRegression(C=np.inf, max_iter=1000) if binary else LinearRegression()
        model = make_pipeline(StandardScaler(), last)
    fitted = clone(model).fit(x[rows], y[rows])
    if not hasattr(fitted, "predict_proba"):
        return fitted.predict(x)
    # The mean of a classifier's answer: probabilities times the values they belong to.
    return fitted.predict_proba(x) @ np.asarray(fitted.classes_, dtype=float)


def membership(arms: Arms) -> np.ndarray:
    """Which arm each row is in, (n, arms) of 0 and 1."""
    return (arms.arm[:, None] == np.arange(len(arms.levels))).astype(float)


def augmented(arms: Arms, m: np.ndarray, e: np.ndarray) -> np.ndarray:
    """The doubly robust contribution of each row to each arm's mean, (n, arms)."""
    return m + membership(arms) / e * (arms.outcome[:, None] - m)


def check_clip(clip: float) -> None:
    """Refuse a bound that is no small probability."""
    if not 0 <= clip < 0.5:
        raise ValueError(f"clip must be at least 0 and below 0.5, got {clip}.")

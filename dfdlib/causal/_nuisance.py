"""Propensities and outcome models: the two things that an adjustment has to estimate."""

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dfdlib.causal._arms import FEW, Arms, design, strata
from dfdlib.causal._names import check_name

EVERY_ROW = slice(None)


def check_model(model: Any, names: tuple[str, ...], role: str) -> None:
    """Refuse a model that is neither one of the names nor a scikit-learn estimator."""
    if isinstance(model, str):
        check_name(model, names, f"choice for {role}")
    elif not hasattr(model, "fit"):
        given = f"a {type(model).__name__}"
        raise ValueError(f"{role} must be one of {', '.join(names)} or have fit, got {given}.")


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

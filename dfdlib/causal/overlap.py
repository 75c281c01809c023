"""Who has nobody to be compared with: refusals where it is certain, a warning where it is clear."""

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd

from dfdlib.causal.arms import FEW, Arms, design, design_names

ZERO = 1e-12  # what a propensity of 0 looks like after floating-point arithmetic
# A gap is pointed out that is so unlikely under the propensity, and holds such a share of all rows.
DOUBT = 1e-3
SHARE = 0.01


def check_ranges(arms: Arms) -> None:
    """Refuse arms that have no value of a covariate in common, where a model only extrapolates."""
    groups = [int(a) for a in np.unique(arms.arm)]
    for name, x in zip(design_names(arms.covariates), design(arms.covariates).T, strict=True):
        low = {a: x[arms.arm == a].min() for a in groups}
        high = {a: x[arms.arm == a].max() for a in groups}
        a, b = max(groups, key=lambda g: low[g]), min(groups, key=lambda g: high[g])
        if low[a] > high[b]:
            advice = (
                f"leave {name} out if it says nothing about {arms.outcome_name}; otherwise no "
                f"data speak of the mean of all"
                if arms.treatment is None
                else f"leave {name} out if it is no confounder, or keep to patients who could be "
                f"in both"
            )
            raise ValueError(
                f"no overlap: {name} is higher wherever {arms.name(a)} than anywhere where "
                f"{arms.name(b)}. A model would only extrapolate: {advice}."
            )


def check_propensities(arms: Arms, e: np.ndarray) -> None:
    """Refuse probabilities of 0 or 1, and arms whose estimated probabilities do not overlap."""
    never = (
        f"rows like it never have {arms.name(0)}, so no data speak of them. Leave them out and "
        f"give the mean of the others as such, give bounds, or let an outcome model extrapolate "
        f"and say so. Adjusting for less hides them, unless {arms.outcome_name} is missing at "
        f"random given less."
    )
    alone = (
        "rows like it are all in one arm, so nothing can be compared. Leave them out, adjust for "
        "less, or smooth the model."
    )
    for arm in range(e.shape[1]):
        p = e[:, arm]
        # A probability of 1 of being seen does no harm; of being treated it does.
        certain = (p <= ZERO) | ((p >= 1 - ZERO) & (arms.treatment is not None))
        if certain.any():
            row = int(certain.argmax())
            raise ValueError(
                f"the propensity of {arms.name(arm)} is {p[row]:.3g} in {certain.sum()} of "
                f"{len(p)} rows, first in row {row}: {never if arms.treatment is None else alone}"
            )
        inside, outside = p[arms.arm == arm], p[arms.arm != arm]
        if inside.min() > outside.max():
            advice = (
                f"no row that misses {arms.outcome_name} has one like it to speak for it, and the "
                f"mean of all is out of reach. Leave out what says nothing about "
                f"{arms.outcome_name}, or give the mean of rows like those observed"
                if arms.treatment is None
                else "adjust for less, or leave out rows that could be in one arm only"
            )
            raise ValueError(
                f"no overlap: every row with {arms.name(arm)} has a higher propensity of it than "
                f"every other row. The covariates decide the arm: {advice}."
            )


def outside(arms: Arms) -> np.ndarray:
    """Count the rows beyond the range of some covariate in each arm, (arms,)."""
    x = design(arms.covariates)
    parts = (x[arms.arm == a] for a in range(len(arms.levels)))
    return np.array(
        [((x < part.min(axis=0)) | (x > part.max(axis=0))).any(axis=1).sum() for part in parts]
    )


def gaps(arms: Arms, e: np.ndarray) -> pd.DataFrame:
    r"""Find, for each arm and covariate, the values at which nobody is in the arm.

    With the rows in the order of a covariate, the propensities add up from one row in the arm to
    the next like waiting times: if they are right, a run without anybody holds more than ``s`` of
    ``\sum e`` with probability at most ``exp(-s)`` (since ``\prod (1 - e) <= exp(-\sum e)``).

    Args:
        arms: The study.
        e: Propensities, (n, arms).

    Returns:
        One row per arm and covariate: from ``low`` to ``high``, the run without anybody in the arm
        in which most were ``expected``; its ``rows``; and ``chance``, a bound on the probability
        that there is such a run for this arm and covariate though the propensity is right.
    """
    table: list[tuple[Any, ...]] = []
    for arm in range(len(arms.levels)):
        for name, values in arms.covariates.items():
            codes, levels = pd.factorize(values, sort=True)
            there = np.bincount(codes[arms.arm == arm], minlength=len(levels)) > 0
            # Numbers have neighbours; of other values each stands for itself.
            ordered = values.dtype.kind in "biuf"
            runs = np.cumsum(there) if ordered else np.arange(len(levels))
            alone = ~there[codes]
            expected = np.bincount(runs[codes[alone]], e[alone, arm], minlength=runs.max() + 1)
            rows = np.bincount(runs[codes[alone]], minlength=runs.max() + 1)
            worst = int(expected.argmax())
            empty = np.flatnonzero((runs == worst) & ~there)
            ends = (levels[empty[0]], levels[empty[-1]]) if len(empty) else (np.nan, np.nan)
            chance = min(1.0, (there.sum() + 1) * math.exp(-expected[worst]))
            table.append((arms.name(arm), name, *ends, rows[worst], expected[worst], chance))
    columns = ["arm", "covariate", "low", "high", "rows", "expected", "chance"]
    return pd.DataFrame(table, columns=columns)


def warn_of_gaps(arms: Arms, e: np.ndarray, *, stacklevel: int) -> None:
    """Point out the clearest gap that a smooth propensity passes over."""
    empty = gaps(arms, e)
    clear = empty[(empty["chance"] * len(empty) < DOUBT) & (empty["rows"] >= SHARE * len(arms))]
    if clear.empty:
        return
    worst = clear.loc[clear["expected"].idxmax()]
    name = worst["covariate"]
    where = _place(arms.covariates[name], worst["low"], worst["high"], int(worst["rows"]))
    warnings.warn(
        f"nobody has {worst['arm']} where {name} is {where}: {worst['rows']} of {len(arms)} rows, "
        f"among which the propensities promise {worst['expected']:.0f}. For these rows the answer "
        f"rests on a model and not on data. Cut {name} into bands and count (pd.cut, then "
        f"propensity_model='stratified'); then leave such rows out and say so, or say that a model "
        f"extrapolates. See gaps().",
        stacklevel=stacklevel,
    )


def _place(values: pd.Series, low: Any, high: Any, rows: int) -> str:
    """Say where a gap is: by its value if many have it, else by shares of the rows.

    The ends of a run of numbers are values of single patients.
    """
    if low == high:
        named = f"{low:.3g}" if isinstance(low, float) else str(low)
        return named if rows >= FEW else f"one value that fewer than {FEW} rows have"
    first, last = 100 * (values < low).mean(), 100 * (values <= high).mean()
    return f"between its {_ordinal(math.floor(first))} and {_ordinal(math.ceil(last))} percentile"


def _ordinal(number: int) -> str:
    """Write 1st, 2nd, 3rd, 4th."""
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if number // 10 == 1 else endings.get(number % 10, 'th')}"

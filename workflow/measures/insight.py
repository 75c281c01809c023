"""What the mask tells of how the data came about: tests of conditional independence."""

from itertools import combinations, permutations
from typing import NamedTuple

import numpy as np
import pandas as pd
from cohorts import Data
from recipes import Recipe, Setting
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from dfdlib.data import Cohort, synthetic
from dfdlib.data.synthetic_model import HIDEABLE, MODALITIES
from measures import Plan, measure

ALWAYS = MODALITIES[0]


def plan(recipe: Recipe, setting: Setting) -> Plan:
    """Draw a cohort of a preset; keep the p-value of each test."""
    cohort = {"kind": "preset", "preset": setting["preset"], "n": recipe["truth"]["n"]}
    unused = {"n_test": 0, "test_seed": 0, "worlds": []}
    return Plan(cohort=cohort | unused, of_cohort={"independences": {}})


def seeds(recipe: Recipe, setting: Setting) -> list[int]:
    """A draw of patients each."""
    del setting
    return recipe["truth"]["seeds"]


class Independence(NamedTuple):
    """A conditional independence that the observed data can speak of.

    A modality's values stand for its node A; those of a modality that may be missing are read where
    its indicator, which is then among the given, is 1.
    """

    left: str
    right: str
    given: tuple[str, ...] = ()

    @property
    def statement(self) -> str:
        """As `causal.implied_independences` spells it."""
        return f"{self.left} _||_ {self.right}" + " | " * bool(self.given) + ", ".join(self.given)


def tests() -> list[Independence]:
    """List what is tested in each cohort."""
    vitals = f"A_{ALWAYS}"
    found = []
    for m in HIDEABLE:
        found += [
            Independence(f"R_{m}", vitals),
            Independence(f"R_{m}", "Y"),
            Independence(f"R_{m}", "Y", (vitals,)),
            Independence("E", "Y", (f"R_{m}",)),
        ]
    for m, other in combinations(HIDEABLE, 2):
        found += [
            Independence(f"R_{m}", f"R_{other}"),
            Independence(f"R_{m}", f"R_{other}", (vitals,)),
        ]
    for m, other in permutations(HIDEABLE, 2):
        found += [
            Independence(f"R_{m}", f"A_{other}", (f"R_{other}",)),
            Independence(f"R_{m}", f"A_{other}", (vitals, f"R_{other}")),
        ]
    return found


@measure
def independences(data: Data) -> list[float]:
    """The p-value of each test, in their order."""
    return [p_value(data.train, test) for test in tests()]


def p_value(cohort: Cohort, test: Independence) -> float:
    """Test one: likelihood ratio of logistic regressions, within strata of indicators.

    Left is 0 or 1. What is given and no indicator enters linearly, as does the right side.
    """
    strata = pd.DataFrame(
        {name: _columns(cohort, name)[:, 0] for name in test.given if name[0] == "R"}
    )
    groups = strata.groupby([*strata]).indices.values() if len(strata.columns) else [slice(None)]
    known = [_columns(cohort, name) for name in test.given if name[0] != "R"]
    left, right = _columns(cohort, test.left), _columns(cohort, test.right)
    statistic = degrees = 0.0
    for rows in groups:
        if np.isnan(right[rows]).any():
            continue  # the stratum in which the right side is missing
        small = np.hstack([left[:, :0], *known])[rows]
        large = np.hstack([small, right[rows]])
        statistic += _log_likelihood(large, left[rows, 0]) - _log_likelihood(small, left[rows, 0])
        degrees += right.shape[1]
    return float(stats.chi2.sf(2 * statistic, degrees))


def _columns(cohort: Cohort, node: str) -> np.ndarray:
    """What was observed of a node, (n, k); NaN where it is missing."""
    if node == "Y":
        return cohort.y.numpy().astype(float)[:, None]
    if node == "E":
        return (cohort.groups["site"] == synthetic.SITES[0]).astype(float)[:, None]
    kind, modality = node.split("_")
    there = cohort.observed[:, cohort.names.index(modality)].numpy()[:, None]
    if kind == "R":
        return there.astype(float)
    return np.where(there, cohort.x[modality].numpy(), np.nan)


def _log_likelihood(x: np.ndarray, y: np.ndarray) -> float:
    p = np.full(len(y), y.mean())
    if x.shape[1]:
        model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8).fit(x, y)
        p = model.predict_proba(x)[:, 1]
    return -float(log_loss(y, p, normalize=False))

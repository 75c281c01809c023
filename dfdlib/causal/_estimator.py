"""What every estimator does with its input and its answer."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypeVar

import networkx as nx
import numpy as np
import pandas as pd

from dfdlib.causal._arms import Arms, read_arms

# Not typing.Self: the shape checks of the tests wrap each method by itself and cannot read it.
E = TypeVar("E", bound="Estimator")


@dataclass(frozen=True)
class Solution:
    """Mean outcome of each arm and the covariance of these estimates."""

    means: np.ndarray
    covariance: np.ndarray


def from_influence(means: np.ndarray, influence: np.ndarray) -> Solution:
    """Standard errors from the influence of each row on each mean, (n, arms)."""
    centred = influence - influence.mean(axis=0)
    return Solution(means, centred.T @ centred / len(influence) ** 2)


class Estimator(ABC):
    """The interface of an estimator: fit, estimate, diagnostics."""

    def fit(
        self: E,
        data: Any = None,
        *,
        outcome: Any,
        treatment: Any = None,
        adjust: Any = (),
        control: Any = None,
        graph: nx.DiGraph | None = None,
        propensity: Any = None,
    ) -> E:
        """Estimate from a table or from arrays.

        Args:
            data: A table; the other arguments then name its columns. Without it they are arrays.
            outcome: Numbers; without a treatment, NaN where missing.
            treatment: Up to 20 levels of any type; None for the mean of a partly missing outcome.
            adjust: Names of covariates, or an array or table of them with one row per patient.
            control: The level with which others are compared; the smallest unless said.
            graph: A causal (or missingness) graph over the column names: an adjustment that it
                does not support is refused.
            propensity: For `IPW` and `AIPW`, the known probability of the treatment that is not
                the control, or of the outcome being observed; without it, it is estimated.

        Returns:
            The fitted estimator.

        Raises:
            ValueError: For unknown columns, NaN, a constant treatment, no overlap, a propensity of
                0 or 1, or an adjustment that the graph refuses, such as a descendant of the
                treatment.
        """
        arms = read_arms(
            data,
            outcome=outcome,
            treatment=treatment,
            adjust=adjust,
            control=control,
            graph=graph,
            propensity=propensity,
        )
        self.solution_ = self._solve(arms)
        self.arms_ = arms
        return self

    def estimate(self, level: float = 0.95) -> pd.DataFrame:
        """Report the estimates beside the naive ones.

        Args:
            level: Coverage of the normal intervals.

        Returns:
            One row per arm, ``do(T=t)``, then one per difference to the control, ``t - control``;
            or the single row ``E[Y]``. Columns: ``naive`` (the plain mean of the arm, or of
            complete cases), ``adjusted``, ``se``, ``low``, ``high``.
        """
        arms, solution = self._fitted()
        k = len(arms.levels)
        naive = np.array([arms.outcome[arms.arm == a].mean() for a in range(k)])
        labels = [f"E[{arms.outcome_name}]"]
        contrasts = [np.eye(k)]
        if arms.treatment is not None:
            others = [a for a in range(k) if a != arms.control]
            labels = [f"do({arms.name(a)})" for a in range(k)]
            labels += [f"{arms.levels[a]} - {arms.levels[arms.control]}" for a in others]
            contrasts.append(np.eye(k)[others] - np.eye(k)[arms.control])
        weights = np.vstack(contrasts)
        adjusted = weights @ solution.means
        se = np.sqrt(np.einsum("ij,jk,ik->i", weights, solution.covariance, weights))
        half = NormalDist().inv_cdf(0.5 + level / 2) * se
        return pd.DataFrame(
            {
                "naive": weights @ naive,
                "adjusted": adjusted,
                "se": se,
                "low": adjusted - half,
                "high": adjusted + half,
            },
            index=labels,
        )

    @abstractmethod
    def diagnostics(self) -> pd.DataFrame:
        """Say what to look at before believing the estimate."""

    @abstractmethod
    def _solve(self, arms: Arms) -> Solution:
        """Means of the arms and their covariance."""

    def _fitted(self) -> tuple[Arms, Solution]:
        if not hasattr(self, "solution_"):
            raise ValueError(f"{type(self).__name__} has seen no data: call fit first.")
        return self.arms_, self.solution_

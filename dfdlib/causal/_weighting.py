"""What the estimators that weight by propensities share: their checks and diagnostics."""

import warnings
from typing import Any

import numpy as np
import pandas as pd

from dfdlib.causal import _overlap
from dfdlib.causal._arms import Arms, design, design_names
from dfdlib.causal._estimator import Estimator


class Weighted(Estimator):
    """What the two estimators that weight by propensities share."""

    propensity_model: Any
    clip: float

    def diagnostics(self) -> pd.DataFrame:
        """Describe the weights.

        Returns:
            One row per arm: its ``rows``; the smallest and largest propensity of it among all
            patients; how many were ``clipped``; the largest weight as a ``share`` of all in the
            arm; the ``effective`` sample size ``(Σ w)² / Σ w²``; and how many patients of all lie
            ``outside`` the range of some covariate in that arm, where a smooth propensity
            extrapolates.
        """
        arms, _ = self._fitted()
        table, outside = [], _overlap.outside(arms)
        for a in range(len(arms.levels)):
            inside = arms.arm == a
            w = 1 / self.propensity_[inside, a]
            raw = self.raw_propensity_[:, a]
            clipped = int((raw < self.clip).sum())
            row = (len(w), raw.min(), raw.max(), clipped, w.max() / w.sum())
            table.append((*row, w.sum() ** 2 / (w**2).sum(), outside[a]))
        columns = ["rows", "lowest", "highest", "clipped", "share", "effective", "outside"]
        index = [arms.name(a) for a in range(len(arms.levels))]
        return pd.DataFrame(table, columns=columns, index=index)

    def balance(self) -> pd.DataFrame:
        """Compare each arm's covariates with those of all patients, before and after weighting.

        Returns:
            One row per arm and covariate: the distance of the arm's mean from the mean of all, in
            standard deviations of all. After weighting it should be near 0.
        """
        arms, _ = self._fitted()
        x = design(arms.covariates)
        names = design_names(arms.covariates)
        spread = np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
        table = []
        for a in range(len(arms.levels)):
            inside = arms.arm == a
            before = (x[inside].mean(axis=0) - x.mean(axis=0)) / spread
            w = 1 / self.propensity_[inside, a]
            after = (np.average(x[inside], axis=0, weights=w) - x.mean(axis=0)) / spread
            table += list(zip([arms.name(a)] * len(names), names, before, after, strict=True))
        return pd.DataFrame(table, columns=["arm", "covariate", "before", "after"])

    def overlap(self, bins: int = 20) -> pd.DataFrame:
        """Count propensities by arm: the data of an overlap plot.

        Args:
            bins: Equal steps from 0 to 1.

        Returns:
            One row per ``propensity`` (of which arm), arm of the patients counted (``group``) and
            bin: its ends ``low`` and ``high``, and the number of ``rows``.
        """
        arms, _ = self._fitted()
        groups = {arms.name(a): arms.arm == a for a in range(len(arms.levels))}
        if arms.treatment is None:
            groups[arms.name(-1)] = arms.arm < 0
        edges = np.linspace(0, 1, bins + 1)
        tables = [
            pd.DataFrame(
                {
                    "propensity": arms.name(a),
                    "group": group,
                    "low": edges[:-1],
                    "high": edges[1:],
                    "rows": np.histogram(self.raw_propensity_[rows, a], edges)[0],
                }
            )
            for a in range(len(arms.levels))
            for group, rows in groups.items()
        ]
        return pd.concat(tables, ignore_index=True)

    def gaps(self) -> pd.DataFrame:
        """Find the values of each covariate at which nobody is in an arm.

        A smooth propensity is never 0, and so passes over patients who cannot be in an arm at all.
        Where it promises many and there is nobody, `fit` warns. One covariate is looked at at a
        time: a hole in the combination of two shows only in strata.

        Returns:
            One row per arm and covariate: from ``low`` to ``high``, the run of values without
            anybody in the arm in which most were ``expected``; its ``rows``; and ``chance``, a
            bound on the probability of such a run if the propensity is right.
        """
        arms, _ = self._fitted()
        return _overlap.gaps(arms, self.raw_propensity_)

    def _use(self, arms: Arms, raw: np.ndarray) -> np.ndarray:
        """Check propensities, clip them, and say so."""
        _overlap.check_propensities(arms, raw)
        _overlap.warn_of_gaps(arms, raw, stacklevel=5)
        low = raw < self.clip
        if low.any():
            warnings.warn(
                f"{low.any(axis=1).sum()} of {len(raw)} rows have a propensity below "
                f"{self.clip:g}; it was raised to that. This trades bias for variance: see "
                f"diagnostics(), or pass clip=0.0 to leave the weights alone.",
                stacklevel=4,
            )
        self.raw_propensity_ = raw
        self.propensity_ = np.maximum(raw, self.clip)
        return self.propensity_

"""Estimate effects, and means of partly missing outcomes, and say how far to trust the answer.

All are used the same way. With a treatment the target is ``E[Y | do(T = t)]`` for each of its
levels; without one it is ``E[Y]`` for an outcome with NaN where it is missing, which is the same
problem with "observed" as the treatment.
"""

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypeVar

import networkx as nx
import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from dfdlib.causal import arms as nuisance
from dfdlib.causal import overlap
from dfdlib.causal import overlap as overlap_module
from dfdlib.causal.arms import Arms, design, design_names, read_arms

__all__ = ["AIPW", "IPW", "BackdoorAdjustment"]


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
        table, outside = [], overlap_module.outside(arms)
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
        return overlap_module.gaps(arms, self.raw_propensity_)

    def _use(self, arms: Arms, raw: np.ndarray) -> np.ndarray:
        """Check propensities, clip them, and say so."""
        overlap_module.check_propensities(arms, raw)
        overlap_module.warn_of_gaps(arms, raw, stacklevel=5)
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


class BackdoorAdjustment(Estimator):
    """Standardisation: the outcome's mean given arm and covariates, averaged over all patients.

    Source: Pearl, Causality (2009), theorem 3.3.2; Robins (1986), the g-formula. ``E[Y | do(t)] =
    Σ_z E[Y | t, z] P(z)``, right if ``z`` blocks every backdoor path.

    Args:
        outcome_model: ``"stratified"`` takes the mean of each cell (exact, for few strata);
            ``"regression"`` fits each arm, logistic for an outcome of 0 and 1 and else linear; or
            a scikit-learn estimator, fitted per arm.
        n_boot: Bootstrap samples behind the standard error of a model; 0 leaves it out. Strata
            have theirs in closed form (efficient influence function).
        seed: Seed of the bootstrap.

    Example:
        Kidney stones (Charig et al. 1986): stone size decides both treatment and success.

        >>> stones = pd.DataFrame(
        ...     [("A", "small", 81, 87), ("A", "large", 192, 263),
        ...      ("B", "small", 234, 270), ("B", "large", 55, 80)],
        ...     columns=["treatment", "size", "cured", "n"])
        >>> rows = stones.loc[stones.index.repeat(stones["n"])]
        >>> rank = rows.groupby(level=0).cumcount()
        >>> rows["success"] = (rank < rows["cured"]).astype(int)
        >>> fitted = BackdoorAdjustment().fit(
        ...     rows, outcome="success", treatment="treatment", adjust="size", control="B")
        >>> fitted.estimate()[["naive", "adjusted"]].round(6)
                           naive  adjusted
        do(treatment=A)  0.780000  0.832546
        do(treatment=B)  0.825714  0.778875
        A - B           -0.045714  0.053671
    """

    def __init__(
        self, *, outcome_model: Any = "stratified", n_boot: int = 200, seed: int = 0
    ) -> None:
        nuisance.check_model(outcome_model, ("stratified", "regression"), "outcome_model")
        self.outcome_model = outcome_model
        self.n_boot = n_boot
        self.seed = seed

    def diagnostics(self) -> pd.DataFrame:
        """List what each arm rests on.

        Returns:
            For strata, one row per stratum: its ``share`` of patients, and number and mean outcome
            in each arm. For a model, one row per arm: ``rows``, and how many patients of all lie
            ``outside`` the range of some covariate in that arm, where the model extrapolates.
        """
        arms, _ = self._fitted()
        if self.outcome_model != "stratified":
            rows = [int((arms.arm == a).sum()) for a in range(len(arms.levels))]
            names = [arms.name(a) for a in range(len(arms.levels))]
            return pd.DataFrame({"rows": rows, "outside": overlap.outside(arms)}, index=names)
        codes, names, counts = nuisance.check_strata(arms)
        means = nuisance.cells(arms, arms.outcome, codes, len(names)) / counts
        columns = {"share": np.bincount(codes) / len(arms)}
        for a in range(len(arms.levels)):
            columns[f"rows, {arms.name(a)}"] = counts[:, a].astype(int)
            columns[f"mean, {arms.name(a)}"] = means[:, a]
        return pd.DataFrame(columns, index=names)

    def _solve(self, arms: Arms) -> Solution:
        if arms.propensity is not None:
            raise ValueError("BackdoorAdjustment uses no propensity: take AIPW, or leave it out.")
        if self.outcome_model == "stratified":
            nuisance.check_strata(arms)
            m = nuisance.outcomes(arms, "stratified")
            e = nuisance.propensities(arms, "stratified")
            return from_influence(m.mean(axis=0), nuisance.augmented(arms, m, e))
        overlap.check_ranges(arms)
        means = nuisance.outcomes(arms, self.outcome_model).mean(axis=0)
        rng = np.random.default_rng(self.seed)
        draws = []
        for _ in range(self.n_boot):
            part = arms.take(rng.integers(len(arms), size=len(arms)))
            if np.isin(arms.arm, part.arm).all():  # a sample without one of the arms says nothing
                draws.append(nuisance.outcomes(part, self.outcome_model).mean(axis=0))
        if not draws:
            return Solution(means, np.full((len(means), len(means)), np.nan))
        return Solution(means, np.atleast_2d(np.cov(np.array(draws).T)))


class IPW(Weighted):
    """Inverse-probability weighting: patients count more, the less likely their arm was for them.

    Source: Horvitz and Thompson (1952); normalised as in Hájek (1971). ``E[Y | do(t)] =
    Σ_i w_i Y_i / Σ_i w_i`` over patients with ``T_i = t``, ``w_i = 1 / P(T = t | z_i)``. Right if
    ``z`` blocks every backdoor path and the propensity is right. The standard error takes the
    propensity as known, which is cautious where it was estimated.

    Args:
        propensity_model: ``"logistic"`` (no penalty), ``"stratified"`` (shares per cell), or a
            scikit-learn classifier.
        clip: Propensities below it are raised to it, with a warning; 0 for none.

    Raises:
        ValueError: For an unknown model, or clip outside [0, 0.5).

    Example:
        The sick are measured more often: 30 of 40, against 10 of 40.

        >>> sick = np.repeat([0, 0, 1, 1], [10, 30, 30, 10])
        >>> y = np.repeat([1.0, np.nan, 3.0, np.nan], [10, 30, 30, 10])
        >>> IPW().fit(outcome=y, adjust=sick).estimate()[["naive", "adjusted"]].round(3)
                    naive  adjusted
        E[outcome]    2.5       2.0
    """

    def __init__(self, *, propensity_model: Any = "logistic", clip: float = 0.01) -> None:
        nuisance.check_model(propensity_model, ("logistic", "stratified"), "propensity_model")
        nuisance.check_clip(clip)
        self.propensity_model = propensity_model
        self.clip = clip

    def _solve(self, arms: Arms) -> Solution:
        raw = arms.propensity
        if raw is None:
            if self.propensity_model == "stratified":
                nuisance.check_strata(arms)
            raw = nuisance.propensities(arms, self.propensity_model)
        w = nuisance.membership(arms) / self._use(arms, raw)
        y = arms.outcome[:, None]
        means = (w * y).sum(axis=0) / w.sum(axis=0)
        return from_influence(means, w * (y - means) / w.mean(axis=0))


class AIPW(Weighted):
    """Augmented inverse-probability weighting, cross-fitted: right if either model is.

    Source: Robins, Rotnitzky and Zhao (1994); cross-fitting as in Chernozhukov et al. (2018).
    ``E[Y | do(t)]`` is the mean of ``m_t(z) + 1[T = t] / e_t(z) · (Y - m_t(z))``, with ``m_t(z) =
    E[Y | t, z]`` and ``e_t(z) = P(T = t | z)`` learned on the folds that do not hold the row.
    Where ``z`` leaves a backdoor path open (for a missing outcome: not at random given ``z``),
    both models are beside the point and the answer is wrong.

    Args:
        outcome_model: As in `BackdoorAdjustment`; ``"regression"`` by default.
        propensity_model: As in `IPW`.
        folds: Folds of the cross-fit; 1 learns and predicts on the same rows.
        clip: Propensities below it are raised to it, with a warning; 0 for none.
        seed: Seed of the folds.

    Raises:
        ValueError: For an unknown model, clip outside [0, 0.5), or folds below 1.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> w = rng.standard_normal(4000)
        >>> y = 1 + w + rng.standard_normal(4000)
        >>> y[rng.random(4000) > 1 / (1 + np.exp(-w))] = np.nan
        >>> AIPW().fit(outcome=y, adjust=w).estimate()[["naive", "adjusted"]].round(1)
                    naive  adjusted
        E[outcome]    1.4       1.0
    """

    def __init__(
        self,
        *,
        outcome_model: Any = "regression",
        propensity_model: Any = "logistic",
        folds: int = 5,
        clip: float = 0.01,
        seed: int = 0,
    ) -> None:
        nuisance.check_model(outcome_model, ("stratified", "regression"), "outcome_model")
        nuisance.check_model(propensity_model, ("logistic", "stratified"), "propensity_model")
        nuisance.check_clip(clip)
        if folds < 1:
            raise ValueError(f"folds must be at least 1, got {folds}.")
        self.outcome_model = outcome_model
        self.propensity_model = propensity_model
        self.folds = folds
        self.clip = clip
        self.seed = seed

    def _solve(self, arms: Arms) -> Solution:
        if "stratified" in (self.outcome_model, self.propensity_model):
            nuisance.check_strata(arms)
        m = np.empty((len(arms), len(arms.levels)))
        e = np.empty_like(m)
        for train, test in self._split(arms):
            m[test] = nuisance.outcomes(arms, self.outcome_model, train)[test]
            if arms.propensity is None:
                e[test] = nuisance.propensities(arms, self.propensity_model, train)[test]
        raw = e if arms.propensity is None else arms.propensity
        influence = nuisance.augmented(arms, m, self._use(arms, raw))
        return from_influence(influence.mean(axis=0), influence)

    def _split(self, arms: Arms) -> list[tuple[np.ndarray, np.ndarray]]:
        if self.folds == 1:
            return [(np.arange(len(arms)), np.arange(len(arms)))]
        smallest = np.unique(arms.arm, return_counts=True)[1].min()
        if smallest < self.folds:
            raise ValueError(
                f"the smallest arm has {smallest} rows, fewer than {self.folds} folds: pass "
                f"folds={max(1, smallest)}."
            )
        folds = StratifiedKFold(self.folds, shuffle=True, random_state=self.seed)
        return list(folds.split(np.zeros(len(arms)), arms.arm))

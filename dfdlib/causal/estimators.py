"""Estimate effects, and means of partly missing outcomes, and say how far to trust the answer.

All are used the same way. With a treatment the target is ``E[Y | do(T = t)]`` for each of its
levels; without one it is ``E[Y]`` for an outcome with NaN where it is missing, which is the same
problem with "observed" as the treatment.
"""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from dfdlib.causal import _nuisance as nuisance
from dfdlib.causal import _overlap
from dfdlib.causal._arms import Arms
from dfdlib.causal._estimator import Estimator, Solution, from_influence
from dfdlib.causal._weighting import Weighted

__all__ = ["AIPW", "IPW", "BackdoorAdjustment"]


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
            return pd.DataFrame({"rows": rows, "outside": _overlap.outside(arms)}, index=names)
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
        _overlap.check_ranges(arms)
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

"""Multiple imputation and Rubin's rules, from scikit-learn parts: a comparison to weighting."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import t as student  # type: ignore[import-untyped]
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

from dfdlib.arrays import numbers, same_order
from dfdlib.causal.arms import design, missing_outcome, read_columns, together


class Pooled(NamedTuple):
    """One estimate from several imputed tables.

    Attributes:
        value: Mean of the estimates.
        variance: ``within + (1 + 1/m) between``.
        within: Mean of their variances.
        between: Variance between them.
        df: Degrees of freedom of the t distribution of the estimate.
    """

    value: float
    variance: float
    within: float
    between: float
    df: float


def rubin(values: npt.ArrayLike, variances: npt.ArrayLike) -> Pooled:
    """Pool estimates from multiply imputed data.

    Source: Rubin, Multiple Imputation for Nonresponse in Surveys (1987), section 3.1. With m
    estimates ``q`` of variances ``u``: ``T = mean(u) + (1 + 1/m) B``, ``B = Σ (q - mean(q))² /
    (m - 1)``, ``df = (m - 1) (T / ((1 + 1/m) B))²``.

    Args:
        values: One estimate per imputation, at least two.
        variances: Their squared standard errors.

    Returns:
        The pooled estimate.

    Raises:
        ValueError: For fewer than two values, unequal lengths, or a negative variance.

    Example:
        >>> pooled = rubin([1.0, 2.0, 3.0], [0.5, 0.5, 0.5])
        >>> round(pooled.value, 3), round(pooled.variance, 3), round(pooled.df, 3)
        (2.0, 1.833, 3.781)
    """
    columns = same_order(values=values, variances=variances)
    q, u = (numbers(each, what).astype(float) for what, each in columns.items())
    m = q.size
    if q.shape != u.shape or q.ndim != 1 or m < 2 or np.isnan(q).any() or not (u >= 0).all():
        raise ValueError(
            f"rubin needs at least two values and as many variances, none negative and none "
            f"missing; got shapes {q.shape} and {u.shape}."
        )
    between = (1 + 1 / m) * q.var(ddof=1)
    total = u.mean() + between
    df = (m - 1) * (total / between) ** 2 if between > 0 else np.inf
    return Pooled(*map(float, (q.mean(), total, u.mean(), q.var(ddof=1), df)))


class MultipleImputation:
    """The mean of a partly missing outcome, by drawing what is missing several times.

    Source: Rubin (1987); each draw is a chained Bayesian linear regression (scikit-learn's
    IterativeImputer), fitted to a bootstrap sample of the rows and drawn for the rows themselves.
    The imputer alone redraws values and not coefficients, and its intervals would be too short;
    the bootstrap redraws those (Little and Rubin, Statistical Analysis with Missing Data, 2nd ed.
    2002, section 10.2.3). Right where values are missing at random given the covariates and the
    regressions are; covariates may have NaN too. An outcome of 0 and 1 is imputed by numbers in
    between, which does for a mean.

    Args:
        n_imputations: How often the table is completed, at least 2.
        seed: Seed of the draws.

    Raises:
        ValueError: For fewer than 2 imputations.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> w = rng.standard_normal(2000)
        >>> y = 1 + w + rng.standard_normal(2000)
        >>> y[rng.random(2000) > 1 / (1 + np.exp(-w))] = np.nan
        >>> fitted = MultipleImputation(n_imputations=5).fit(outcome=y, adjust=w)
        >>> fitted.estimate()[["naive", "adjusted"]].round(1)
                    naive  adjusted
        E[outcome]    1.4       1.0
    """

    def __init__(self, *, n_imputations: int = 20, seed: int = 0) -> None:
        if n_imputations < 2:
            raise ValueError(f"n_imputations must be at least 2, got {n_imputations}.")
        self.n_imputations = n_imputations
        self.seed = seed

    def fit(self, data: Any = None, *, outcome: Any, adjust: Any = ()) -> "MultipleImputation":
        """Complete the table again and again, and pool the means.

        Args:
            data: A table; the other arguments then name its columns. Without it they are arrays.
            outcome: Numbers, NaN where missing.
            adjust: Names of covariates, or an array or table of them with one row per patient.
                Numbers may be NaN.

        Returns:
            The fitted object.

        Raises:
            ValueError: For unknown columns, missing text, infinite values, or an outcome that is
                never or always missing.
        """
        data, (outcome, adjust) = together(data, outcome=outcome, adjust=adjust)
        y, covariates = read_columns(data, outcome, adjust)
        values = y.to_numpy(dtype=float)
        missing = missing_outcome(values)
        if covariates.shape[1] == 0:
            raise ValueError("imputation needs something to impute from: name covariates, adjust=.")
        for name in covariates:
            if covariates[name].dtype.kind not in "biuf" and covariates[name].isna().any():
                raise ValueError(f"{name!r} is text with missing values: give them a name.")
        table = np.column_stack([design(covariates), values])
        means, variances = [], []
        for i in range(self.n_imputations):
            complete = _complete(table, np.random.SeedSequence([self.seed, i]))
            means.append(complete.mean())
            variances.append(complete.var(ddof=1) / len(complete))
        self.pooled_ = rubin(means, variances)
        self._naive, self._name = float(values[~missing].mean()), str(y.name)
        return self

    def estimate(self, level: float = 0.95) -> pd.DataFrame:
        """Report the pooled mean beside that of complete cases.

        Args:
            level: Coverage of the interval, from Rubin's t distribution.

        Returns:
            One row ``E[Y]`` with columns ``naive``, ``adjusted``, ``se``, ``low`` and ``high``.
        """
        pooled = self._fitted()
        se = pooled.variance**0.5
        half = float(student.ppf(0.5 + level / 2, pooled.df)) * se
        row = (self._naive, pooled.value, se, pooled.value - half, pooled.value + half)
        columns = ["naive", "adjusted", "se", "low", "high"]
        return pd.DataFrame([row], columns=columns, index=[f"E[{self._name}]"])

    def diagnostics(self) -> pd.DataFrame:
        """Say how much the imputations disagree.

        Returns:
            One row: the variance ``within`` and ``between`` imputations, the degrees of freedom
            ``df``, and the ``share`` of the total variance that is due to missing values.
        """
        pooled = self._fitted()
        share = (pooled.variance - pooled.within) / pooled.variance
        row = (pooled.within, pooled.between, pooled.df, share)
        columns = ["within", "between", "df", "share"]
        return pd.DataFrame([row], columns=columns, index=[f"E[{self._name}]"])

    def _fitted(self) -> Pooled:
        if not hasattr(self, "pooled_"):
            raise ValueError("MultipleImputation has seen no data: call fit first.")
        return self.pooled_


def _complete(table: np.ndarray, seed: np.random.SeedSequence) -> np.ndarray:
    """Draw the last column of a table where it is missing, by regressions on resampled rows."""
    rng = np.random.default_rng(seed)
    missing = np.isnan(table)
    # By outcome seen or not, so that no sample lacks either.
    groups = (np.flatnonzero(missing[:, -1]), np.flatnonzero(~missing[:, -1]))
    sample = np.concatenate([rng.choice(rows, len(rows)) for rows in groups])
    imputer = IterativeImputer(
        sample_posterior=True,
        # A chain is for columns that are imputed from each other; one alone needs one step.
        max_iter=1 if missing.any(axis=0).sum() == 1 else 10,
        random_state=int(seed.generate_state(1)[0]),
    )
    return imputer.fit(table[sample]).transform(table)[:, -1]

"""Classifiers of scikit-learn as methods that `dfdlib.stress.run` takes."""

from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import clone

from dfdlib.data import Cohort, Schema
from dfdlib.errors import wrong_type
from dfdlib.evaluation.tabular import fitted


class Flat:
    """A classifier that reads a cohort as one table; `flat` makes it.

    Calling it with a schema gives a method of its own, so one object serves any number of runs.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        self.__name__ = type(estimator).__name__
        if hasattr(estimator, "steps"):  # a pipeline is known by what stands at its end
            self.__name__ = type(estimator.steps[-1][1]).__name__

    def __repr__(self) -> str:
        """Show the estimator with its settings."""
        return f"flat({self.estimator!r})"

    def __call__(self, schema: Schema) -> "Flat":
        """Make a method for a schema, which the training part shows again."""
        del schema
        return Flat(clone(self.estimator))

    def fit(self, train: Cohort, val: Cohort, seed: int) -> None:
        """Impute, scale and fit on the training part; `val` is not read."""
        del val
        if "random_state" in self.estimator.get_params():
            self.estimator.set_params(random_state=seed)
        self._score = fitted(self.estimator, train, flags=True)

    def predict_proba(self, cohort: Cohort) -> Float[np.ndarray, "n k"]:
        """Probability of each class."""
        return self._score(cohort)


def flat(estimator: Any) -> Flat:
    """Adapt a classifier of scikit-learn, so that `run` takes it as a method.

    It gets all features as one table, and a column per feature that says where it was missing.
    Missing numbers are filled in with the training part's median, numbers are standardised,
    categoricals one-hot. `random_state`, where it has one, is the run's seed.

    Args:
        estimator: a classifier with `predict_proba`, not fitted; a pipeline too.

    Raises:
        TypeError: It is a class, or has no `fit` and `predict_proba`.

    Example:
        >>> from sklearn.linear_model import LogisticRegression
        >>> from dfdlib.stress import load
        >>> make = flat(LogisticRegression())
        >>> train, home = (load("linear", world=world, n=300) for world in ("train", "home"))
        >>> method = make(train.schema)
        >>> method.fit(train, home, seed=0)
        >>> method.predict_proba(home).shape
        (300, 2)
    """
    needed = ("fit", "predict_proba", "get_params")
    if isinstance(estimator, type) or not all(hasattr(estimator, name) for name in needed):
        takes = "flat takes a classifier of scikit-learn that has predict_proba"
        raise wrong_type(estimator, takes, "Write stress.flat(LogisticRegression())")
    return Flat(estimator)

"""Baselines on plain tables, in the form that `out_of_group` and `out_of_fold` take."""

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from sklearn.base import ClassifierMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from dfdlib.data import Cohort
from dfdlib.evaluation.predict import FitPredict

Baseline = Literal["logistic regression", "gradient boosting"]


def tabular(
    estimator: Baseline | str | ClassifierMixin, *, flags: bool = False, seed: int = 0
) -> FitPredict:
    """Make a baseline: a scikit-learn classifier on a cohort's vectors and categoricals.

    What is missing is filled in with the training part's median (categoricals: its most frequent
    value); numbers are standardised, categoricals one-hot. Rows without a label are left out. A
    class that the training part lacks gets probability 0.

    Args:
        estimator: The name of a baseline with its default settings, or a classifier.
        flags: Whether the classifier is told which values were missing, by one column each.
        seed: Of the gradient boosting.

    Returns:
        `fit_predict(train, test)`, which gives (n_test, n_classes) probabilities.

    Raises:
        ValueError: An unknown name; a cohort without vectors and categoricals, without labels, or
            with several labels.

    >>> cohort = Cohort(x={"age": np.arange(20.0)}, y=[0] * 10 + [1] * 10)
    >>> train, test = cohort.split((0.5, 0.5))
    >>> tabular("logistic regression")(train, test).shape
    (10, 2)
    """
    classifier = _classifier(estimator, seed) if isinstance(estimator, str) else estimator

    def fit_predict(train: Cohort, test: Cohort) -> Float[np.ndarray, "n k"]:
        return fitted(classifier, train, flags=flags)(test)

    return fit_predict


def fitted(
    classifier: Any, train: Cohort, *, flags: bool = False
) -> Callable[[Cohort], np.ndarray]:
    """Fit a copy of a scikit-learn classifier as `tabular` does; what it returns scores cohorts.

    Raises:
        ValueError: as `tabular`.

    >>> cohort = Cohort(x={"age": np.arange(20.0)}, y=[0] * 10 + [1] * 10)
    >>> score = fitted(LogisticRegression(), cohort)
    >>> score(cohort).argmax(axis=1).tolist() == cohort.y.tolist()
    True
    """
    if train.y is None:
        raise ValueError("the training part has no labels. Pass y= when you make the Cohort")
    if train.task == "multilabel":
        raise ValueError(
            f"tabular takes one label per patient, {train} has {train.schema.n_classes}. Make "
            "a Cohort per label: y=y[:, 0]"
        )
    if not train.x_observed:
        raise ValueError(f"{train} holds no vector and no categorical, so there is no table")
    y = train.y.cpu().numpy()
    known = ~np.isnan(y)
    model = make_pipeline(_preparation(train, flags=flags), clone(classifier))
    model.fit(train.to_frame()[known], y[known])

    def score(test: Cohort) -> Float[np.ndarray, "n k"]:
        with warnings.catch_warnings():
            # a category that training never saw becomes a row of zeros, as it should
            warnings.filterwarnings("ignore", "Found unknown categories", UserWarning)
            known_classes = model.predict_proba(test.to_frame())
        p = np.zeros((len(test), train.schema.n_classes or 0))
        p[:, model.classes_.astype(int)] = known_classes
        return p

    return score


def _classifier(name: str, seed: int) -> ClassifierMixin:
    known = {
        "logistic regression": LogisticRegression(max_iter=1000),
        "gradient boosting": HistGradientBoostingClassifier(random_state=seed),
    }
    if name not in known:
        raise ValueError(
            f"{name!r} is no baseline ({', '.join(known)}). Pass one of them, or a classifier"
        )
    return known[name]


def _preparation(train: Cohort, *, flags: bool) -> ColumnTransformer:
    """Impute and scale, by the kind of each column."""
    columns: dict[str, list[str]] = {"vector": [], "categorical": []}
    for name in train.x_observed:
        columns[train.schema.kinds[name]] += [
            f"{name}.{feature}" for feature in train.schema.features[name]
        ]

    def filled(strategy: str, then: StandardScaler | OneHotEncoder) -> Pipeline:
        impute = SimpleImputer(strategy=strategy, add_indicator=flags, keep_empty_features=True)
        return make_pipeline(impute, then)

    words = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return ColumnTransformer(
        [
            ("numbers", filled("median", StandardScaler()), columns["vector"]),
            ("words", filled("most_frequent", words), columns["categorical"]),
        ]
    )

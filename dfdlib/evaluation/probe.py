"""What a simple reader finds in a representation."""

from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dfdlib.arrays import numbers, same_order
from dfdlib.errors import unknown, wrong_type
from dfdlib.evaluation.bootstrap import MIN_EVENTS

ReaderName = Literal["linear", "knn"]


def probe(
    h: np.ndarray | pd.DataFrame,
    y: np.ndarray | pd.Series | pd.DataFrame,
    h_test: np.ndarray | pd.DataFrame | None = None,
    y_test: np.ndarray | pd.Series | pd.DataFrame | None = None,
    *,
    reader: ReaderName | str = "linear",
    n_neighbors: int = 15,
    seed: int = 0,
) -> pd.DataFrame:
    """Fit a simple reader on a representation, and score it on patients that it has not seen.

    Source: Alain and Bengio 2016 (arXiv 1610.01644). What a reader does not find may be there all
    the same: a linear one misses a product of two features, and none sees better than its patients
    allow.

    Args:
        h: representation of the patients that the reader learns from, one row per patient.
        y: what to read: a label, a group, or several labels in columns. NaN is left out.
        h_test: representation of the patients that it is scored on; without, half of `h`, drawn
            at random, is held out for that.
        y_test: what is to be found there.
        reader: "linear" is logistic regression on standardised features, "knn" the nearest
            neighbours among them.
        n_neighbors: of "knn".
        seed: of the halves.

    Returns:
        A row per label: `label`, `auroc` (several classes: mean of one against the rest), `n` and
        `n_train`, the patients that it was scored on and learned from, `fewest`, how many of `n`
        are of the rarest class, and a note. AUROC is NaN where either part has one class, or lacks
        a class that the other has. There is no interval; with fewer than 5 patients of a class the
        note warns of the value.

    Shapes:
        h (n, d), y (n,) or (n, labels)

    Raises:
        TypeError: A representation or a label that is no array, table or list.
        ValueError: Rows that do not fit or have other labels, NaN in a representation, half of a
            test part, an unknown reader.

    Example:
        >>> h = np.random.default_rng(0).standard_normal((2000, 3))
        >>> product = h[:, 0] * h[:, 1] > 0
        >>> [probe(h, y)["auroc"].round(1).item() for y in (h[:, 0] > 0, product)]
        [1.0, 0.5]
        >>> probe(h, product, reader="knn")["auroc"].item() > 0.9
        True
    """
    if reader not in get_args(ReaderName):
        raise unknown(reader, get_args(ReaderName), "reader")
    if (h_test is None) != (y_test is None):
        present, absent = ("h_test", "y_test") if y_test is None else ("y_test", "h_test")
        raise ValueError(f"{present} is given without {absent}. Pass both, or neither")
    h, label = _rows(h, y, "h", "y")
    if h_test is None or y_test is None:
        order = np.random.default_rng(seed).permutation(len(h))
        here, there = np.split(order, [len(order) // 2])
        parts = (h[here], label[here]), (h[there], label[there])
    else:
        parts = (h, label), _rows(h_test, y_test, "h_test", "y_test")
        if parts[0][0].shape[1] != parts[1][0].shape[1]:
            raise ValueError(
                f"h has {h.shape[1]} columns, h_test {parts[1][0].shape[1]}. Pass one "
                "representation"
            )
    names = list(y.columns) if isinstance(y, pd.DataFrame) else range(label.shape[1])
    lines = []
    for column, name in enumerate(names):
        (x, train_labels), (x_test, test_labels) = (
            _known(rows, targets[:, column]) for rows, targets in parts
        )
        classes, counts = np.unique(test_labels, return_counts=True)
        lines.append(
            {
                "label": name,
                "auroc": _score(_reader(reader, n_neighbors), x, train_labels, x_test, test_labels),
                "n": len(test_labels),
                "n_train": len(train_labels),
                "fewest": int(counts.min(initial=len(test_labels))) if len(classes) > 1 else 0,
                "note": _note(train_labels, test_labels),
            }
        )
    return pd.DataFrame(lines)


def _rows(h: Any, y: Any, name: str, label: str) -> tuple[np.ndarray, np.ndarray]:
    for word, value in ((name, h), (label, y)):
        there = any(hasattr(value, how) for how in ("__array__", "to_numpy", "to_pandas"))
        if not there and not isinstance(value, (list, tuple)):
            takes = f"probe takes an array as {word}, with one row per patient"
            raise wrong_type(value, takes, "Write probe(embeddings, labels)")
    read = same_order(**{name: h, label: y})
    h, targets = numbers(read[name], name), np.asarray(read[label])
    targets = targets.reshape(len(targets), -1)
    if h.ndim != 2 or len(h) != len(targets):
        raise ValueError(
            f"{name} has shape {h.shape}, {label} {np.shape(read[label])}. Pass one row per "
            "patient in both"
        )
    if not np.isfinite(h).all():
        raise ValueError(f"{name} holds NaN or infinite values. Pass a representation without")
    return h, targets


def _known(h: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keep = pd.notna(label)
    return h[keep], label[keep]


def _note(train_labels: np.ndarray, test_labels: np.ndarray) -> str:
    """Why there is no number, or why it says little."""
    for part, where in ((train_labels, "to learn from"), (test_labels, "to score on")):
        if len(np.unique(part)) < 2:
            return f"one class {where}"
    if not np.array_equal(np.unique(train_labels), np.unique(test_labels)):
        return "a class stands in one part only"
    few = np.unique(test_labels, return_counts=True)[1].min() < MIN_EVENTS
    return f"fewer than {MIN_EVENTS} patients of a class" if few else ""


def _reader(name: str, n_neighbors: int) -> object:
    model = (
        LogisticRegression(max_iter=1000)
        if name == "linear"
        else KNeighborsClassifier(n_neighbors=n_neighbors)
    )
    return make_pipeline(StandardScaler(), model)


def _score(
    model: object, x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray
) -> float:
    classes = np.unique(y)
    if len(classes) < 2 or not np.array_equal(classes, np.unique(y_test)):
        return float("nan")
    codes, test_codes = np.searchsorted(classes, y), np.searchsorted(classes, y_test)
    p: Float[np.ndarray, "n k"] = model.fit(x, codes).predict_proba(x_test)  # type: ignore[attr-defined]
    if len(classes) == 2:
        return float(roc_auc_score(test_codes, p[:, 1]))
    return float(roc_auc_score(test_codes, p, multi_class="ovr"))

"""Probes: what they find, what they leave out, and what they refuse."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dfdlib.evaluation import probe


@pytest.fixture
def h():
    return np.random.default_rng(0).standard_normal((600, 4))


def test_linear_is_logistic_regression_on_standardised_features(h):
    y = h[:, 0] + np.random.default_rng(1).standard_normal(600) > 0
    found = probe(h[:300], y[:300], h[300:], y[300:]).iloc[0]
    x = (h - h[:300].mean(0)) / h[:300].std(0)
    score = LogisticRegression(max_iter=1000).fit(x[:300], y[:300]).decision_function(x[300:])
    assert found["auroc"] == pytest.approx(roc_auc_score(y[300:], score), abs=1e-6)
    assert (found["n"], found["n_train"]) == (300, 300)


def test_units_of_a_feature_do_not_matter(h):
    y = h[:, 0] * h[:, 1] > 0
    for reader in ("linear", "knn"):
        a, b = (probe(h * scale, y, reader=reader)["auroc"].item() for scale in (1, [1, 9, 1, 50]))
        assert a == pytest.approx(b, abs=1e-3)


def test_nothing_to_find(h):
    y = np.random.default_rng(2).random(600) < 0.5
    for reader in ("linear", "knn"):
        assert 0.4 < probe(h, y, reader=reader)["auroc"].item() < 0.6


def test_several_labels_and_missing_ones(h):
    y = pd.DataFrame({"a": (h[:, 0] > 0).astype(float), "b": (h[:, 1] > 0).astype(float)})
    y.loc[:99, "b"] = np.nan
    found = probe(h, y).set_index("label")
    assert (found["auroc"] > 0.98).all()
    assert found["n"].sum() + found["n_train"].sum() == 1100


def test_several_classes(h):
    site = np.array(["a", "b", "c"])[np.digitize(h[:, 0], [-0.5, 0.5])]
    assert probe(h, site)["auroc"].item() > 0.85
    assert probe(h[:, 1:], site)["auroc"].item() < 0.6


def test_one_class_gives_no_number(h):
    assert np.isnan(probe(h, np.zeros(600))["auroc"].item())


def test_refusals(h):
    y = h[:, 0] > 0
    with pytest.raises(ValueError, match=r"'lin' is not a reader \(linear, knn\).*'linear'"):
        probe(h, y, reader="lin")
    with pytest.raises(ValueError, match=r"h has shape \(600, 4\), y \(599,\)\. Pass one row"):
        probe(h, y[:-1])
    with pytest.raises(ValueError, match="h_test is given without y_test"):
        probe(h, y, h)
    with pytest.raises(ValueError, match="h has 4 columns, h_test 3"):
        probe(h, y, h[:, 1:], y)
    with pytest.raises(ValueError, match="h holds NaN or infinite values"):
        probe(np.where(h > 2, np.nan, h), y)


def test_what_says_little_is_noted():
    h = np.random.default_rng(0).standard_normal((200, 2))
    half = np.arange(200) % 2
    rare = np.r_[np.arange(100) % 2, np.arange(100) < 3]
    parts = h[:100], h[100:]

    def line(y):
        return probe(parts[0], y[:100], parts[1], y[100:]).iloc[0]

    assert line(half)[["fewest", "note"]].tolist() == [50, ""]
    few = line(rare)
    assert few[["n", "fewest", "note"]].tolist() == [100, 3, "fewer than 5 patients of a class"]
    assert np.isfinite(few["auroc"])
    for y, note in (
        (np.r_[np.zeros(100), half[100:]], "one class to learn from"),
        (np.r_[half[:100], np.zeros(100)], "one class to score on"),
        (np.r_[half[:100], half[100:] + 1], "a class stands in one part only"),
    ):
        assert np.isnan(line(y)["auroc"])
        assert line(y)["note"] == note


def test_rows_belong_together_by_their_labels_and_masked_ones_are_missing(h):
    frame, y = pd.DataFrame(h), pd.Series(h[:, 0] > 0)
    shuffled = y.sample(frac=1, random_state=0)
    assert probe(frame, shuffled)["auroc"].item() == probe(h, h[:, 0] > 0)["auroc"].item() > 0.95
    with pytest.raises(ValueError, match="600 labels of y are not in h"):
        probe(frame, y.set_axis(y.index + 600))
    with pytest.raises(ValueError, match="h holds NaN or infinite values"):
        probe(np.ma.masked_greater(h, 2), y.to_numpy())
    hidden = np.ma.array(np.where(h[:, 1] > 0, 1.0, h[:, 0] > 0), mask=h[:, 1] > 0)
    assert probe(h, hidden)["auroc"].item() > 0.95

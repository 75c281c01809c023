import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from dfdlib.data import Cohort
from dfdlib.evaluation import out_of_group, tabular


def cohort(n=200, seed=0):
    rng = np.random.default_rng(seed)
    labs = rng.normal(size=(n, 2))
    ward = rng.integers(0, 3, size=(n, 1))
    y = (labs[:, 0] + (ward[:, 0] == 2) + rng.normal(size=n) > 0.5).astype(float)
    labs[rng.random((n, 2)) < 0.3] = np.nan
    return Cohort(x={"labs": labs, "ward": ward}, kinds={"ward": "categorical"}, y=y)


def by_hand(train, test, *, flags):
    """The same preparation with pandas, and a plain logistic regression."""
    tables = [part.to_frame() for part in (train, test)]
    numbers = ["labs.labs_0", "labs.labs_1"]
    median = tables[0][numbers].median()
    parts = []
    for table in tables:
        columns = [table[numbers].fillna(median)]
        if flags:
            columns.append(table[numbers].isna().astype(float).add_suffix(" missing"))
        parts.append(pd.concat(columns, axis=1))
    scaler = StandardScaler().fit(parts[0])
    levels = sorted(tables[0]["ward.ward_0"].unique())
    ready = [
        np.column_stack([scaler.transform(part), *(table["ward.ward_0"] == k for k in levels)])
        for part, table in zip(parts, tables, strict=True)
    ]
    model = LogisticRegression(max_iter=1000).fit(ready[0], train.y.numpy())
    return model.predict_proba(ready[1])


@pytest.mark.parametrize("flags", [False, True])
def test_logistic_regression_by_hand(flags):
    train, test = cohort().split((0.6, 0.4))
    p = tabular("logistic regression", flags=flags)(train, test)
    np.testing.assert_allclose(p, by_hand(train, test, flags=flags), atol=1e-4)


def test_a_level_and_an_absence_that_training_never_saw():
    train, test = cohort().split((0.6, 0.4))
    train = train.select((train.x["ward"][:, 0] != 2) & train.x_observed["labs"].all(1))
    p = tabular("logistic regression", flags=True)(train, test)
    assert p.shape == (len(test), 2)
    np.testing.assert_allclose(p.sum(1), 1)


def test_any_classifier_and_seeds():
    train, test = cohort().split((0.6, 0.4))
    tree = tabular(DecisionTreeClassifier(max_depth=1))(train, test)
    assert len(np.unique(tree[:, 1])) == 2
    boosted = [tabular("gradient boosting", seed=s)(train, test) for s in (0, 0)]
    np.testing.assert_array_equal(*boosted)


def test_rows_without_a_label_are_left_out():
    train, test = cohort().split((0.6, 0.4))
    known = torch.arange(len(train)) % 3 > 0
    holed = Cohort(
        x=train.x, x_observed=train.x_observed, kinds=train.schema.kinds,
        y=torch.where(known, train.y, torch.nan), task="binary",
    )  # fmt: skip
    fit_predict = tabular("logistic regression")
    np.testing.assert_allclose(fit_predict(holed, test), fit_predict(train.select(known), test))


def test_refusals():
    train = cohort(20)
    with pytest.raises(ValueError, match=r"'forest' is no baseline \(logistic regression"):
        tabular("forest")
    with pytest.raises(ValueError, match="no labels"):
        tabular("logistic regression")(Cohort(x={"labs": np.ones((2, 1))}), train)
    images = Cohort(x={"xray": torch.zeros(2, 1, 4, 4)}, y=[0, 1])
    with pytest.raises(ValueError, match="no vector and no categorical"):
        tabular("logistic regression")(images, train)
    labels = Cohort(x={"labs": np.ones((2, 1))}, y=[[0, 1], [1, 0]])
    with pytest.raises(
        ValueError, match=r"one label per patient, .* has 2\. Make a Cohort per lab"
    ):
        tabular("logistic regression")(labels, train)


def test_a_class_that_training_never_saw_has_probability_0():
    rng = np.random.default_rng(0)
    three = Cohort(
        x={"labs": rng.normal(size=(60, 2))},
        y=np.r_[np.arange(50) % 2 * 2, [1] * 10],
        groups={"site": np.repeat(["a", "c", "b"], [25, 25, 10])},
    )
    rest, held_out = three.leave_out("site", "b")
    p = tabular("logistic regression")(rest, held_out)
    plain = LogisticRegression(max_iter=1000).fit(
        StandardScaler().fit_transform(rest.to_frame()), rest.y
    )
    scaled = StandardScaler().fit(rest.to_frame()).transform(held_out.to_frame())
    np.testing.assert_allclose(p[:, [0, 2]], plain.predict_proba(scaled), atol=1e-6)
    assert (p[:, 1] == 0).all()
    assert out_of_group(three, "site", tabular("logistic regression")).shape == (60, 3)

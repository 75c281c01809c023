import json

import numpy as np
import pandas as pd
import pytest

from dfdlib.data import Cohort, Schema


def cohort(labs, **options):
    ward = np.array([[1], [2], [1]])
    return Cohort(x={"labs": labs, "ward": ward}, kinds={"ward": "categorical"}, **options)


FRAME = pd.DataFrame({"na": [140.0, 138.0, 133.0], "k": [4.0, 4.2, 5.1]})


def test_a_schema_accepts_what_its_model_can_read():
    schema = cohort(FRAME, y=[0, 1, 0]).schema
    schema.check(cohort(FRAME).schema)
    kinds = {"ward": "categorical"}
    schema.check(Cohort(x={"ward": np.array([[3]])}, kinds=kinds).schema)
    schema.check(Cohort(x={"ward": np.array([[3]] * 3), "labs": FRAME}, kinds=kinds).schema)
    schema.check(cohort(FRAME.to_numpy()).schema)  # a plain array has no names to compare
    schema.check(cohort(FRAME, y=[1, 1, 0]).schema, labels=True)


def test_a_schema_refuses_what_its_model_would_misread():
    schema = cohort(FRAME, y=[0, 1, 0]).schema
    with pytest.raises(
        ValueError, match=r"columns k, na here.*made for na, k. Pass labs\[\['na', 'k'\]\]"
    ):
        schema.check(cohort(FRAME[["k", "na"]]).schema)
    with pytest.raises(ValueError, match=r"columns age, bmi here"):
        schema.check(cohort(FRAME.set_axis(["age", "bmi"], axis=1)).schema)
    with pytest.raises(ValueError, match=r"'labs' has size \(1,\) here.*\(2,\): na, k"):
        schema.check(cohort(FRAME[["na"]]).schema)
    with pytest.raises(
        ValueError, match=r"'ward' is of kind 'vector' here.*kinds=\{'ward': 'categorical'\}"
    ):
        schema.check(Cohort(x={"ward": np.array([[1.0]])}).schema)
    with pytest.raises(
        ValueError, match=r"'lab' is not a modality of this model.*Did you mean 'labs'"
    ):
        schema.check(Cohort(x={"lab": FRAME}).schema)
    with pytest.raises(ValueError, match=r"multiclass with 3 classes here.*binary with 2"):
        schema.check(cohort(FRAME, y=[0, 1, 2]).schema, labels=True)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("names", None), ("names", []), ("names", "labs"), ("names", ["labs", "labs"]),
        ("names", ["labs", 3]), ("names", ["labs", "other"]),
        ("kinds", {}), ("kinds", {"labs": "vector", "ward": "x"}), ("kinds", []),
        ("sizes", {}), ("sizes", {"labs": [-1], "ward": [1]}), ("sizes", {"labs": 2, "ward": [1]}),
        ("sizes", {"labs": [2.5], "ward": [1]}), ("sizes", None),
        ("features", {}), ("features", {"labs": "ab", "ward": ["c"]}), ("features", 3),
        ("task", "x"), ("task", []), ("task", None), ("task", True),
        ("n_classes", None), ("n_classes", 10**12), ("n_classes", "2"), ("n_classes", True),
        ("more", 1),
    ],
)  # fmt: skip
def test_a_stored_schema_that_no_cohort_has_is_refused(part, value):
    schema = cohort(FRAME, y=[0, 1, 0]).schema
    stored = json.loads(json.dumps(schema.to_dict()))
    assert Schema.from_dict(stored) == schema
    with pytest.raises(ValueError, match="the schema is none of a cohort: see its '"):
        Schema.from_dict({**stored, part: value})
    del stored["kinds"]
    with pytest.raises(ValueError, match="see its 'kinds'"):
        Schema.from_dict(stored)


def test_every_schema_of_a_cohort_can_be_stored():
    x = {"labs": np.zeros((3, 2)), "ward": np.array([[0], [1], [2]]), "dx": [[1], [], [2]]}
    x |= {"vitals": [[[0.0, 1.0, 0.0]]] * 3, "xray": np.zeros((3, 1, 4, 4), dtype=np.uint8)}
    kinds = {"labs": "vector", "ward": "categorical", "dx": "codes", "vitals": "series"}
    for y in (None, [0, 1, 1], [0, 1, 2], np.array([[0, 1], [1, 0], [1, 1]])):
        schema = Cohort(x=x, kinds=kinds | {"xray": "image"}, y=y).schema
        assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema

import numpy as np
import pandas as pd
import pytest

from dfdlib.data import Cohort


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

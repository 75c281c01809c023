import numpy as np
import pandas as pd
import pytest

from dfdlib.data import Cohort
from dfdlib.data.flatten import flatten

NAN = np.nan
# time, value, flag
LABS = [
    [[1, 140, 3], [5, 130, 3], [2, 7.1, 8]],
    [[9, 120, 3], [4, 150, 3]],  # not in the order of time
    None,
    [[1, 1.0, 5]],
]


def cohort(labs=LABS, dx=((1, 1, 2), (2,), (), (9,))):
    n = len(labs)
    return Cohort(
        x={"labs": labs, "dx": [list(row) for row in dx], "age": np.arange(1.0, n + 1)},
        kinds={"labs": "series", "dx": "codes"},
        y=np.arange(n) % 2,
        groups={"site": np.repeat("a", n)},
    )


def test_values_are_those_of_a_loop():
    (flat,) = flatten(cohort())
    table = flat.to_frame()
    assert set(flat.schema.kinds.values()) == {"vector"}
    expected = {
        "3 last": [130, 120, NAN, NAN], "3 min": [130, 120, NAN, NAN],
        "3 max": [140, 150, NAN, NAN], "3 count": [2, 2, NAN, 0],
        "8 last": [7.1, NAN, NAN, NAN], "8 count": [1, 0, NAN, 0],
        "5 last": [NAN, NAN, NAN, 1], "5 count": [0, 0, NAN, 1],
    }  # fmt: skip
    for name, column in expected.items():
        np.testing.assert_allclose(table[f"labs.{name}"], column, rtol=1e-6, err_msg=name)
    assert [c for c in table if c.startswith("dx")] == ["dx.1 count", "dx.2 count", "dx.9 count"]
    np.testing.assert_array_equal(table["dx.1 count"], [2, 0, NAN, 0])
    np.testing.assert_array_equal(table["age.age_0"], [1, 2, 3, 4])


def test_columns_are_those_of_the_training_part():
    data = cohort()
    train, test = data.select([0, 1]), data.select([2, 3])
    a, b = flatten(train, test)
    assert a.schema == b.schema
    assert not [name for name in a.schema.features["labs"] if name.startswith("5")]
    # somebody whose codes are all new was looked at, and has none of the known ones
    np.testing.assert_array_equal(b.to_frame()["dx.1 count"], [NAN, 0])
    assert b.observed.tolist() == test.observed.tolist()
    assert b.y.tolist() == test.y.tolist()
    assert b.groups["patient"].tolist() == [2, 3]


def test_the_commonest_have_columns():
    (flat,) = flatten(cohort(), max_columns=1)
    assert flat.schema.features["dx"] == ("2 count",)
    assert {name.split()[0] for name in flat.schema.features["labs"]} == {"3"}


def test_a_cohort_of_vectors_stays_as_it_is():
    data = Cohort(
        x={"labs": pd.DataFrame({"sodium": [1.0, NAN]}), "dx": np.array([1, 2])}, y=[0, 1]
    )
    (same,) = flatten(data)
    assert same.schema == data.schema


@pytest.mark.filterwarnings("ignore:.*nothing observed")
def test_a_modality_that_training_never_had_is_a_count_of_nothing():
    data = cohort(dx=((), (), (), (9,)))
    _, test = flatten(data.select([0, 1]), data.select([2, 3]))
    np.testing.assert_array_equal(test.to_frame()["dx.count"], [NAN, 0])

"""The one door for arrays: what goes in, and what comes out as numpy or pandas."""

import re
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from dfdlib import arrays

NAN = np.nan


class Foreign:
    """A table as another library has it: names of columns, and a way to its values."""

    def __init__(self, **columns):
        self._columns = columns

    @property
    def columns(self):
        return list(self._columns)

    def __len__(self):
        return len(next(iter(self._columns.values())))


class ByColumn(Foreign):
    def __getitem__(self, name):
        return self._columns[name]


class ByValues(Foreign):
    def to_numpy(self):
        return np.column_stack(list(self._columns.values()))


class ByPandas(Foreign):
    def to_pandas(self):
        return pd.DataFrame(self._columns)


class WithoutPyarrow(ByColumn):
    def to_pandas(self):
        raise ModuleNotFoundError("pyarrow is required for converting to pandas")


READ_AS_NUMBERS = {
    "masked integers": (np.ma.masked_equal([1, -9], -9), [1, NAN]),
    "masked booleans": (np.ma.array([True, False], mask=[0, 1]), [1, NAN]),
    "masked float32": (np.ma.array([1, 2], mask=[0, 1], dtype="f4"), [1, NAN]),
    "a mask of nothing": (np.ma.array([1, 2], mask=[0, 0]), [1, 2]),
    "a list with a masked entry": ([1, np.ma.masked], [1, NAN]),
    "a list of masked rows": (
        [np.ma.masked_equal([1, 2], 2), np.ma.array([3, 4])],
        [[1, NAN], [3, 4]],
    ),
    "a masked tensor": (None, [1, NAN]),
    "half precision": (torch.tensor([1.0], dtype=torch.bfloat16, requires_grad=True), [1]),
    "nullable integers": (pd.array([1, None], dtype="Int64"), [1, NAN]),
    "nullable booleans": (pd.Series([True, None], dtype="boolean"), [1, NAN]),
    "arrow booleans": (pd.Series([True, None], dtype="bool[pyarrow]"), [1, NAN]),
    "arrow floats": (pd.Series([1.5, None], dtype="double[pyarrow]"), [1.5, NAN]),
    "pandas NA in a list": ([1, pd.NA, None], [1, NAN, NAN]),
    "decimals": ([Decimal("1.5"), None], [1.5, NAN]),
    "categories of numbers": (pd.Series([3, None, 5], dtype="category"), [3, NAN, 5]),
    "sparse columns of pandas": (pd.Series(pd.arrays.SparseArray([0.0, 0.0, 1.0])), [0, 0, 1]),
    "named fields": (np.array([(1, 2.5)], dtype=[("a", int), ("b", float)]), [[1, 2.5]]),
    "another library by column": (ByColumn(a=[1, 2], b=[3.5, None]), [[1, 3.5], [2, NAN]]),
    "another library by values": (ByValues(a=[1, 2], b=[3, 4]), [[1, 3], [2, 4]]),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
@pytest.mark.parametrize("case", READ_AS_NUMBERS)
def test_numbers_keep_every_value_and_nothing_that_is_masked(case):
    value, expected = READ_AS_NUMBERS[case]
    if case == "a masked tensor":
        value = torch.masked.masked_tensor(torch.tensor([1.0, 9]), torch.tensor([True, False]))
    np.testing.assert_array_equal(arrays.numbers(value, "labs"), np.array(expected, dtype=float))


REFUSED_AS_NUMBERS = {
    "complex": (np.array([1 + 2j]), r"labs holds complex128, not numbers\. Pass two .*\.imag"),
    "complex in a list": ([1 + 2j, None], r"labs holds complex"),
    "dates": (pd.to_datetime(["2020-01-01"]), r"datetime64.*days since an event"),
    "dates with a zone": (pd.to_datetime(["2020-01-01"]).tz_localize("UTC"), "days since"),
    "arrow dates": (pd.Series(["2020-01-01"], dtype="timestamp[ns][pyarrow]"), "days since"),
    "masked dates": (np.ma.array(["2020-01-01"], mask=[1], dtype="M8[D]"), "days since an event"),
    "durations": (pd.to_timedelta(["1D"]), "timedelta64.*days since an event"),
    "months": (pd.period_range("2020-01", periods=1, freq="M"), "period.*days since an event"),
    "numbers as text": (["3.5"], r"pass pd\.to_numeric\(column\), which stops"),
    "numbers beside text": (np.array([3.5, "4"], dtype=object), "holds mixed, not numbers"),
    "arrow text": (pd.Series(["a"], dtype="string[pyarrow]"), "one fixed list"),
    "bytes": ([b"a"], "not numbers"),
    "a sparse matrix": (sparse.eye(2), r"labs is a sparse matrix\. Pass labs\.toarray\(\)"),
    "a sparse array": (sparse.coo_array(np.eye(2)), "labs is a sparse matrix"),
    "a sparse tensor": (torch.eye(2).to_sparse(), r"labs is a sparse tensor\. Pass labs\.to_dense"),
    "rows of other lengths": ([[1], [1, 2]], "labs holds rows of different lengths"),
    "a table without values": (Foreign(a=[1]), r"Foreign, whose columns cannot be read.*to_pandas"),
    "masked fields": (np.ma.array([(1,)], dtype=[("a", int)]), "named fields. Pass a DataFrame"),
}


@pytest.mark.parametrize(("value", "message"), REFUSED_AS_NUMBERS.values(), ids=REFUSED_AS_NUMBERS)
def test_what_is_no_number_is_refused_without_its_value(value, message):
    with pytest.raises(ValueError, match=message) as refused:
        arrays.numbers(value, "labs")
    assert not re.search("2020|3\\.5", str(refused.value))


@pytest.mark.parametrize("table", [ByColumn, ByValues, ByPandas, WithoutPyarrow])
def test_tables_of_other_libraries_keep_their_names(table):
    read = arrays.plain(table(crea=[1.0, 2.0], age=[60.0, 70.0]), "labs")
    assert read.columns.tolist() == ["crea", "age"]
    assert read["age"].tolist() == [60, 70]


def test_polars_and_pyarrow_keep_names_and_holes():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"crea": [1, None], "age": [60.0, 70.0]})
    read = arrays.plain(table, "labs")
    assert read.columns.tolist() == ["crea", "age"]
    np.testing.assert_array_equal(read, [[1, 60], [NAN, 70]])
    np.testing.assert_array_equal(arrays.numbers(pa.chunked_array([[1], [None]]), "y"), [1, NAN])


def test_polars_itself():
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"crea": [1, None], "age": [60.0, 70.0]})
    assert arrays.plain(frame, "labs").columns.tolist() == ["crea", "age"]
    np.testing.assert_array_equal(arrays.numbers(frame, "labs"), [[1, 60], [NAN, 70]])
    np.testing.assert_array_equal(arrays.numbers(frame["crea"], "y"), [1, NAN])
    with pytest.raises(ValueError, match="cannot be read here"):
        arrays.plain(frame.lazy(), "labs")


LEVELS = {
    "words": (["a", "b"], ["a", "b"]),
    "objects": (np.array(["a", "b"], dtype=object), ["a", "b"]),
    "bytes": (np.array([b"va"]), ["va"]),
    "bytes in a list": ([b"va"], ["va"]),
    "numbers beside words": ([1, "unknown"], ["1", "unknown"]),
    "numbers beside words in a column": (pd.Series([2, "x"], dtype=object), ["2", "x"]),
    "large identifiers": ([2**53, 2**53 + 1], [2**53, 2**53 + 1]),
    "identifiers without a sign": (np.array([2**63 + 5], dtype="u8"), [2**63 + 5]),
    "identifiers past 64 bits": ([2**70, 2**70 + 1], [2**70, 2**70 + 1]),
    "categories": (pd.Categorical(["b", "a"]), ["b", "a"]),
    "nullable": (pd.array([1, 2], dtype="Int64"), [1, 2]),
    "truth values beside numbers": ([True, 0], [1, 0]),
    "numbers": ([1, 2.5], [1.0, 2.5]),
}


@pytest.mark.parametrize(("value", "expected"), LEVELS.values(), ids=LEVELS)
def test_levels_stay_apart(value, expected):
    read = arrays.levels(value, "site")
    assert read.tolist() == expected
    assert [type(each) for each in read.tolist()] == [type(each) for each in expected]


@pytest.mark.parametrize("value", [np.ma.masked_equal([1, 2], 2), ["a", None], ["a", 1, NAN]])
def test_a_missing_level_stays_missing(value):
    assert pd.isna(arrays.levels(value, "site")).tolist()[-1]


@pytest.mark.parametrize(
    "value",
    [[1, "1"], [1.0, "1"], pd.Series(["7", 7], dtype=object), ["01", 1, 2], [True, "True"]],
)
def test_a_number_and_a_word_that_read_the_same_are_refused(value):
    with pytest.raises(ValueError, match="site holds numbers and words, and one of each reads"):
        arrays.levels(value, "site")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1e17, 1.0], "float64 numbers so large that neighbours cannot be told apart.*dtype="),
        ([2**53 + 1, 0.5], "so large"),
        (np.array([2.0**24], dtype="f4"), "float32 numbers so large"),
        (np.array([1j]), "site holds complex numbers"),
        ([1j, 2j], "site holds complex numbers"),
        (sparse.eye(2), "sparse matrix"),
    ],
)
def test_levels_that_would_be_merged_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        arrays.levels(value, "site")


def test_levels_are_a_copy():
    site = np.array(["a", "b"])
    read = arrays.levels(site, "site")
    site[0] = "z"
    assert read.tolist() == ["a", "b"]


def test_labels_bring_rows_into_one_order():
    y = pd.Series([1, 2, 3], index=["p", "q", "r"])
    t, z = y.iloc[[2, 0, 1]], pd.DataFrame({"z": y}).iloc[::-1]
    read = arrays.same_order(outcome=y, treatment=t, adjust=z)
    assert read["treatment"].tolist() == [1, 2, 3]
    assert read["adjust"]["z"].tolist() == [1, 2, 3]
    assert arrays.same_order(outcome=y.to_numpy(), treatment=t)["treatment"].tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (["p", "q", "x"], "1 labels of treatment are not in outcome.*of different patients.*to_nu"),
        ([0, 1, 2], "3 labels of treatment are not in outcome"),
        (["p", "p", "q"], "different indexes .labels occur twice, and in another order"),
    ],
)
def test_labels_that_do_not_fit_are_refused_without_showing_them(other, message):
    y = pd.Series([1, 2, 3], index=["p", "q", "r"])
    with pytest.raises(ValueError, match=message) as refused:
        arrays.same_order(outcome=y, treatment=pd.Series([1, 2, 3], index=other))
    assert "'x'" not in str(refused.value)


def test_an_array_without_labels_cannot_follow_two_orders():
    y = pd.Series([1, 2], index=["p", "q"])
    with pytest.raises(ValueError, match="adjust has none, so it is not clear whose order"):
        arrays.same_order(outcome=y, treatment=y.iloc[::-1], adjust=np.zeros(2))
    twice = pd.Series([1, 2], index=["p", "p"])
    assert arrays.same_order(outcome=twice, treatment=twice)["treatment"].tolist() == [1, 2]


def test_the_door_needs_no_torch():
    code = "import dfdlib.causal, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

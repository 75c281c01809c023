import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dfdlib.data import Cohort, Ragged

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=6)


@given(rows=ROWS, seed=st.integers(0, 99))
def test_indexing_takes_what_indexing_the_list_takes(rows, seed):
    index = np.random.default_rng(seed).integers(0, len(rows), size=5)
    taken = Ragged.from_rows(rows)[torch.from_numpy(index)]
    expected = [rows[i] for i in index]
    assert [row.tolist() for row in taken.values.split(taken.lengths.tolist())] == expected
    assert len(taken) == 5


def test_rows_keep_their_trailing_shape_and_type():
    series = Ragged.from_rows([np.ones((2, 3)), None, np.zeros((1, 3))])
    assert series.values.shape == (3, 3)
    assert series.values.dtype == torch.float32
    assert series.lengths.tolist() == [2, 0, 1]
    assert Ragged.from_rows([[], []]).values.dtype == torch.int64


def test_negative_positions_count_from_the_end_like_a_list():
    assert Ragged.from_rows([[1], [2, 3]])[torch.tensor([-1])].values.tolist() == [2, 3]


def test_rows_of_different_width_are_refused():
    with pytest.raises(ValueError, match=r"rows differ in more than their length.*\(length, 3\)"):
        Ragged.from_rows([np.ones((2, 3)), np.ones((2, 4))])


def test_text_is_refused():
    with pytest.raises(ValueError, match=r"not numbers\. Pass integer ids"):
        Ragged.from_rows([["I21.4"], ["E11"]])


def test_words_travel_with_the_rows_and_are_not_printed():
    words = {7: "Admission IC", 9: "lactate"}
    codes = Ragged.from_rows([[7, 9], [], [7]], words=words)
    cohort = Cohort(x={"dx": codes}, y=[1.0, 0, 1], observed=np.ones((3, 1), bool))
    parts = [*cohort.split((0.67, 0.33)), cohort.select([2]), cohort.to("cpu")]
    assert all(part.x["dx"].words == words for part in parts)
    batch = next(cohort.batches(2))
    assert batch.x["dx"].words == batch.rows(torch.tensor([0])).x["dx"].words == words
    assert "Admission" not in repr(codes)
    assert "Admission" not in repr(cohort.schema)
    assert Ragged.from_rows([[7]]).words is None

import itertools
import json
import pickle
import time

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dfdlib import data
from dfdlib.data import Batch, Cohort, Ragged, Schema

NAN = np.nan
MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 8), st.just(5)))

pytestmark = pytest.mark.filterwarnings("ignore:.*rows have nothing observed:UserWarning")


def five_kinds(n=12, seed=0):
    """One modality of each kind; row i of every one of them can be told from its values."""
    rng = np.random.default_rng(seed)
    return Cohort(
        x={
            "labs": pd.DataFrame({"k": np.arange(n) + 0.5, "na": rng.normal(size=n)}),
            "ward": np.arange(n),
            "codes": [list(range(i % 4)) for i in range(n)],
            "icu": [np.full((i % 3, 3), i, dtype=float) for i in range(n)],
            "xray": np.arange(n * 4, dtype=np.uint8).reshape(n, 1, 2, 2),
        },
        kinds={"ward": "categorical"},
        y=[NAN, 0, 1] * (n // 3),
        covariates={"age": np.arange(n) + 40},
        groups={"site": np.array(["a", "b"] * (n // 2)), "patient": np.arange(n) // 2 + 100},
        truth={"p_do": rng.random(n)},
    )


def rows_of(value):
    return value.values.split(value.lengths.tolist()) if isinstance(value, Ragged) else list(value)


# ---------------------------------------------------------------- reading


def test_kinds_are_guessed_and_sizes_and_features_follow():
    schema = five_kinds().schema
    assert schema.names == ("labs", "ward", "codes", "icu", "xray")
    assert list(schema.kinds.values()) == ["vector", "categorical", "codes", "series", "image"]
    assert list(schema.sizes.values()) == [(2,), (1,), (), (3,), (1, 2, 2)]
    assert schema.features == {
        "labs": ("k", "na"),
        "ward": ("ward_0",),
        "codes": (),
        "icu": (),
        "xray": (),
    }


@pytest.mark.parametrize(
    ("value", "kind", "dtype"),
    [
        (np.array([1.0, 2.0]), "vector", torch.float32),
        (torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True), "vector", torch.float32),
        (np.array([[True], [False]]), "vector", torch.float32),
        (pd.DataFrame({"a": [1, 2]}), "vector", torch.float32),
        (torch.tensor([[1], [2]], dtype=torch.int16), "vector", torch.float32),
        (pd.Series([1, None], dtype="Int64"), "vector", torch.float32),
        (pd.Series([1, 2], dtype="category"), "categorical", torch.int64),
        (np.zeros((2, 1, 3, 3)), "image", torch.float32),
        (np.zeros((2, 1, 3, 3), dtype=np.uint8), "image", torch.uint8),
        (pd.Series([[1, 2], None]), "codes", torch.int64),
        (Ragged.from_rows([np.zeros((1, 3)), None]), "series", torch.float32),
    ],
)
def test_a_kind_follows_from_type_and_shape(value, kind, dtype):
    cohort = Cohort(x={"m": value})
    read = cohort.x["m"]
    assert cohort.schema.kinds == {"m": kind}
    assert (read.values if isinstance(read, Ragged) else read).dtype == dtype


def test_kinds_override_the_guess():
    x = {"ward": np.array([0.0, NAN, 2.0]), "score": pd.Categorical([1, 2, 3]), "icu": [None] * 3}
    cohort = Cohort(x=x, kinds={"ward": "categorical", "score": "vector", "icu": "series"})
    assert list(cohort.schema.kinds.values()) == ["categorical", "vector", "series"]
    assert cohort.x["ward"].tolist() == [[0], [0], [2]]
    assert cohort.x_observed["ward"].tolist() == [[True], [False], [True]]
    assert cohort.x["icu"].values.shape == (0, 3)


def test_numpy_torch_and_pandas_read_alike():
    values = np.array([[1.0, NAN], [NAN, NAN], [3.0, 4.0]])
    read = [Cohort(x={"a": f(values)}) for f in (np.asarray, torch.from_numpy, pd.DataFrame)]
    nullable = pd.DataFrame({"u": [1, None, 3], "v": [None, None, 4]}).convert_dtypes()
    for cohort in [*read, Cohort(x={"a": nullable})]:
        assert cohort.x["a"].tolist() == [[1, 0], [0, 0], [3, 4]]
        assert cohort.observed.tolist() == [[True], [False], [True]]


def test_the_users_arrays_stay_as_they_were():
    values = np.array([[1.0, NAN], [2.0, 3.0]], dtype=np.float32)
    cohort = Cohort(x={"a": values})
    cohort.x["a"][:] = 9
    np.testing.assert_array_equal(values, [[1.0, NAN], [2.0, 3.0]])


@given(mask=MASKS, told=st.sampled_from(["nan", "x_observed", "both"]))
def test_any_mask_gives_the_same_cohort_however_it_is_told(mask, told):
    values = np.random.default_rng(0).normal(size=mask.shape).astype(np.float32)
    holes = np.where(mask, values, NAN)
    x = {"a": holes[:, :2], "b": holes[:, 2:]}
    masks = {"a": mask[:, :2], "b": mask[:, 2:]}
    by_modality = np.column_stack([m.any(axis=1) for m in masks.values()])
    given = {} if told == "nan" else {"x_observed": masks}
    cohort = Cohort(x=x, observed=by_modality if told == "both" else None, **given)
    np.testing.assert_array_equal(cohort.observed, by_modality)
    for name in x:
        expected = np.where(masks[name], values[:, :2] if name == "a" else values[:, 2:], 0)
        np.testing.assert_array_equal(cohort.x[name], expected)
        np.testing.assert_array_equal(cohort.x_observed[name], masks[name])
    np.testing.assert_array_equal(cohort.to_frame(), holes)
    expected = ["+".join(n for n, o in zip("ab", row, strict=True) if o) for row in by_modality]
    assert cohort.pattern.tolist() == [p or "nothing" for p in expected]


@given(mask=MASKS)
def test_values_outside_a_mask_leave_no_trace(mask):
    n = len(mask)
    x = {
        "labs": np.where(mask[:, :1], 1.0, np.inf),
        "ward": np.where(mask[:, 1], 7, -1),
        "codes": [[5, 6]] * n,
        "icu": [np.full((2, 3), 1.0 if seen else NAN) for seen in mask[:, 3]],
        "xray": np.where(mask[:, 4, None, None, None], 3.0, NAN) * np.ones((n, 1, 2, 2)),
    }
    cohort = Cohort(x=x, kinds={"ward": "categorical"}, observed=mask)
    np.testing.assert_array_equal(cohort.observed, mask)
    np.testing.assert_array_equal(cohort.x["labs"][:, 0], mask[:, 0] * 1)
    np.testing.assert_array_equal(cohort.x["ward"][:, 0], mask[:, 1] * 7)
    np.testing.assert_array_equal(cohort.x["codes"].lengths, mask[:, 2] * 2)
    np.testing.assert_array_equal(cohort.x["icu"].lengths, mask[:, 3] * 2)
    assert torch.isfinite(cohort.x["icu"].values).all()
    np.testing.assert_array_equal(cohort.x["xray"].sum(dim=(1, 2, 3)), mask[:, 4] * 12)


def test_an_empty_row_is_missing_unless_a_mask_says_it_was_looked_at():
    codes = [[1], [], [2]]
    assert Cohort(x={"codes": codes}).observed.tolist() == [[True], [False], [True]]
    told = Cohort(x={"codes": codes}, observed=np.ones((3, 1), bool))
    assert told.observed.all()


def test_an_image_of_nan_is_missing():
    images = np.ones((2, 1, 2, 2))
    images[1] = NAN
    assert Cohort(x={"xray": images}).observed.tolist() == [[True], [False]]


def test_a_mask_with_names_may_come_in_any_order():
    observed = pd.DataFrame({"b": [True, False], "a": [False, True]})
    cohort = Cohort(x={"a": np.ones(2), "b": np.ones(2)}, observed=observed)
    assert cohort.observed.tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize(
    ("y", "task", "expected", "n_classes", "n_outputs"),
    [
        ([0, 1, NAN], None, "binary", 2, 1),
        ([True, False, True], None, "binary", 2, 1),
        (torch.tensor([1, 1, 1]), None, "binary", 2, 1),
        (pd.Series([1, 0, None], dtype="Int64"), None, "binary", 2, 1),
        ([NAN, NAN, NAN], "binary", "binary", 2, 1),
        ([0, 2, 1], None, "multiclass", 3, 3),
        ([0, 1, 1], "multiclass", "multiclass", 2, 2),
        ([0, 5, NAN], "multiclass", "multiclass", 6, 6),
        ([[0, 1], [NAN, 1], [0, 0]], None, "multilabel", 2, 2),
    ],
)
def test_labels_and_their_task(y, task, expected, n_classes, n_outputs):
    cohort = Cohort(x={"a": np.ones(3)}, y=y, task=task)
    schema = cohort.schema
    assert (cohort.task, schema.n_classes, schema.n_outputs) == (expected, n_classes, n_outputs)
    np.testing.assert_array_equal(
        cohort.y, np.array(pd.DataFrame(y), dtype=float).reshape(cohort.y.shape)
    )
    assert cohort.y.dtype == torch.float32


def test_without_labels_there_is_no_task():
    cohort = Cohort(x={"a": np.ones(3)})
    assert (cohort.y, cohort.task, cohort.schema.n_outputs) == (None, None, None)
    assert cohort.groups["patient"].tolist() == [0, 1, 2]
    assert cohort.covariates.shape == (3, 0)
    assert next(cohort.batches()).y is None


def test_a_cohort_without_a_covariate_is_cut_all_the_same():
    cohort = Cohort(x={"a": np.ones(6)}, covariates={})
    assert [len(part) for part in cohort.split((0.5, 0.5))] == [3, 3]


def test_groups_and_covariates_may_be_frames_with_an_index_of_their_own():
    frame = pd.DataFrame({"site": ["a", "b"], "age": [50, 60]}, index=[7, 3])
    cohort = Cohort(x={"a": np.ones(2)}, groups=frame[["site"]], covariates=frame[["age"]])
    assert cohort.groups["site"].tolist() == ["a", "b"]
    assert cohort.covariates.index.tolist() == [0, 1]
    assert cohort.covariates["age"].tolist() == [50, 60]


def test_a_schema_survives_json():
    schema = five_kinds().schema
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


# ---------------------------------------------------------------- parts


def assert_rows_are(part, whole, positions):
    """Every field of a part holds the given rows of the whole."""
    for name in whole.names:
        rows = rows_of(whole.x[name])
        if isinstance(part, Batch) and name == "xray":  # 8-bit images are scaled in batches
            rows = [row / 255 for row in rows]
        for got, position in zip(rows_of(part.x[name]), positions, strict=True):
            assert torch.equal(got, rows[position])
    assert torch.equal(part.observed, whole.observed[positions])
    for name, mask in part.x_observed.items():
        assert torch.equal(mask, whole.x_observed[name][positions])
    np.testing.assert_array_equal(part.y, whole.y[positions])
    for name, levels in part.groups.items():
        np.testing.assert_array_equal(levels, whole.groups[name][positions])


@pytest.mark.parametrize("seed", [None, 3])
def test_batches_cover_each_row_once_with_all_that_belongs_to_it(seed):
    cohort = five_kinds()
    batches = list(cohort.batches(5, seed=seed))
    order = torch.cat([batch.index for batch in batches]).tolist()
    assert [len(batch) for batch in batches] == [5, 5, 2]
    assert sorted(order) == list(range(12))
    assert (order == sorted(order)) == (seed is None)
    for batch in batches:
        assert_rows_are(batch, cohort, batch.index.tolist())
    again = torch.cat([batch.index for batch in cohort.batches(5, seed=seed)])
    assert again.tolist() == order


def test_select_by_mask_and_by_position():
    cohort = five_kinds()
    assert_rows_are(cohort.select(cohort.groups["site"] == "b"), cohort, list(range(1, 12, 2)))
    assert_rows_are(cohort.select(torch.tensor([-1, 3, 3])), cohort, [11, 3, 3])
    part = cohort.select([5, 2])
    assert part.covariates["age"].tolist() == [45, 42]
    assert part.truth["p_do"].tolist() == cohort.truth["p_do"][[5, 2]].tolist()


def test_select_modalities_cuts_columns_and_schema():
    part = five_kinds().select([1, 5], modalities=["xray", "labs"])
    assert part.names == ("xray", "labs")
    assert part.schema.sizes == {"xray": (1, 2, 2), "labs": (2,)}
    assert part.observed.shape == (2, 2)
    assert list(part.x_observed) == ["labs"]
    assert part.pattern.tolist() == ["xray+labs"] * 2


@given(seed=st.integers(0, 50), by=st.sampled_from(["patient", "site"]))
def test_split_keeps_groups_whole_and_loses_nobody(seed, by):
    n = 40
    patient = np.random.default_rng(seed).integers(0, 25, n)
    groups = {"patient": patient, "site": patient % 5}
    cohort = Cohort(x={"a": np.arange(n)}, groups=groups)
    parts = cohort.split((0.4, 0.3, 0.3), by=by, seed=seed)
    assert sorted(np.concatenate([part.x["a"][:, 0] for part in parts])) == list(range(n))
    levels = [set(part.groups[by].tolist()) for part in parts]
    assert not any(a & b for a, b in itertools.combinations(levels, 2))
    data.check_disjoint(*parts)


def test_split_has_the_asked_sizes_and_depends_on_the_seed_alone():
    cohort = Cohort(x={"a": np.arange(1000)})
    parts = cohort.split((0.7, 0.1, 0.2), seed=1)
    assert [len(part) for part in parts] == [700, 100, 200]
    again, other = cohort.split((0.7, 0.1, 0.2), seed=1), cohort.split((0.7, 0.1, 0.2), seed=2)
    assert torch.equal(parts[0].x["a"], again[0].x["a"])
    assert not torch.equal(parts[0].x["a"], other[0].x["a"])


def test_parts_keep_the_schema_of_the_whole():
    cohort = Cohort(x={"a": np.arange(9)}, y=[0, 1, 2] * 3)
    assert cohort.select([0, 1]).schema == cohort.schema


def test_leave_out_holds_out_one_level():
    cohort = Cohort(x={"a": np.arange(6)}, groups={"site": [*"aabbcc"]})
    rest, held_out = cohort.leave_out("site", "b")
    assert held_out.x["a"][:, 0].tolist() == [2, 3]
    assert rest.x["a"][:, 0].tolist() == [0, 1, 4, 5]
    assert Cohort(x={"a": np.arange(2)}, groups={"ward": [3, 4]}).leave_out("ward", 4)[1].x[
        "a"
    ].tolist() == [[1]]


def test_parts_still_know_their_parent_after_pickling():
    a, b = Cohort(x={"a": np.ones(4)}).split((0.5, 0.5))
    a, overlapping = pickle.loads(pickle.dumps(a)), pickle.loads(pickle.dumps(a))
    data.check_disjoint(a, b)
    with pytest.raises(ValueError, match="share 2 patients"):
        data.check_disjoint(a, overlapping)


def test_to_moves_every_tensor():
    cohort = five_kinds().to("meta")
    assert cohort.device.type == "meta"
    batch = next(five_kinds().batches(4)).to("meta")
    for held in (cohort, batch):
        tensors = [held.observed, held.y, *held.x_observed.values()]
        tensors += [v.values if isinstance(v, Ragged) else v for v in held.x.values()]
        assert {tensor.device.type for tensor in tensors} == {"meta"}


# ---------------------------------------------------------------- looking


def test_summary_counts_and_ranks_by_hand():
    cohort = Cohort(
        x={"labs": np.array([[1, 2], [NAN, NAN], [3, NAN], [4, 5]]), "codes": [[1], [2], [], []]},
        y=[1, 0, 1, NAN],
        groups={"site": ["a", "a", "b", "b"]},
    )
    summary = cohort.summary()
    assert summary["kind"].tolist() == ["vector", "codes"]
    assert summary["size"].tolist() == [2, 1]
    assert summary["observed"].tolist() == [0.75, 0.5]
    assert summary["a"].tolist() == [0.5, 1.0]
    assert summary["b"].tolist() == [1.0, 0.0]
    # pairs (ill, well) among the labelled: labs seen (1, 0), (1, 0); codes (1, 1), (0, 1)
    assert summary["auroc_of_observed"].tolist() == [1.0, 0.25]


def test_summary_leaves_out_what_does_not_exist():
    cohort = Cohort(x={"a": np.ones(3)}, y=[0, 1, 2])
    assert cohort.summary().columns.tolist() == ["kind", "size", "observed"]
    one_class = Cohort(x={"a": np.ones(3)}, y=[1, 1, 1], groups={"site": [1, 1, 2]})
    assert one_class.summary(by=None)["auroc_of_observed"].isna().all()
    assert 1 not in one_class.summary(by=None)


def test_to_frame_holds_vectors_and_categoricals_under_full_names():
    frame = five_kinds().to_frame()
    assert frame.columns.tolist() == ["labs.k", "labs.na", "ward.ward_0"]
    assert frame["labs.k"].tolist() == [i + 0.5 for i in range(12)]
    assert frame["ward.ward_0"].tolist() == list(range(12))


def test_repr_names_what_is_there():
    assert repr(five_kinds().select(modalities=["labs", "codes"])) == (
        "Cohort(12 rows: labs (vector), codes (codes); binary)"
    )


# ---------------------------------------------------------------- cost


def test_cost_is_that_of_array_operations():
    """A loop over patients would take a hundred times as long as reading and cutting here."""
    n = 200_000
    x = {name: np.random.default_rng(0).normal(size=(n, 4)) for name in "abcde"}
    start = time.perf_counter()
    cohort = Cohort(x=x, y=np.arange(n) % 2, groups={"patient": np.arange(n) // 3})
    parts = cohort.split()
    cohort.pattern  # noqa: B018
    data.check_disjoint(*parts)
    assert time.perf_counter() - start < 5


def test_parts_and_batches_are_not_validated_again(monkeypatch):
    cohort = five_kinds()

    def fail(*_, **__):
        raise AssertionError("validated again")

    monkeypatch.setattr("dfdlib.data.cohort.read_modalities", fail)
    monkeypatch.setattr("dfdlib.data.validation.labels", fail)
    assert len(cohort.split((0.5, 0.5))) == 2
    assert len(list(cohort.batches(5))) == 3


def test_rows_of_a_batch_are_those_of_the_cohort():
    cohort = Cohort(
        x={"labs": np.arange(12.0).reshape(6, 2), "drugs": [[1], [2, 3], [4], [], [5], [6]]},
        y=[0, 1, 0, 1, 0, 1],
        groups={"site": np.array(list("aabbcc"))},
    )
    batch = next(cohort.batches(6)).rows(torch.tensor([4, 1]))
    expected = next(cohort.select([4, 1]).batches(2))
    assert batch.index.tolist() == [4, 1]
    assert batch.groups["site"].tolist() == expected.groups["site"].tolist() == ["c", "a"]
    assert torch.equal(batch.x["labs"], expected.x["labs"])
    assert torch.equal(batch.x_observed["labs"], expected.x_observed["labs"])
    assert torch.equal(batch.x["drugs"].values, torch.tensor([5, 2, 3]))
    assert torch.equal(batch.observed, expected.observed)
    assert torch.equal(batch.y, torch.tensor([0.0, 1.0]))
    assert batch.rows(torch.tensor([1])).groups["site"].tolist() == ["a"]


def test_a_feature_mask_is_put_in_the_order_of_the_features():
    labs = pd.DataFrame({"na": [140.0, np.nan], "k": [4.0, 4.1]})
    cohort = Cohort(x={"labs": labs}, x_observed={"labs": labs.notna()[["k", "na"]]})
    assert cohort.x_observed["labs"].tolist() == [[True, True], [False, True]]


def test_pandas_objects_of_one_index_belong_together():
    labs = pd.DataFrame({"na": [140.0, 133.0]}, index=["p", "q"])
    y = pd.Series([1, 0], index=["p", "q"])
    cohort = Cohort(x={"labs": labs, "ecg": np.ones((2, 1))}, y=y, groups={"site": y.astype(str)})
    assert cohort.y.tolist() == [1, 0]
    shuffled = y.loc[["q", "p"]]
    assert Cohort(x={"labs": labs}, y=shuffled.loc[labs.index]).y.tolist() == [1, 0]
    assert Cohort(x={"labs": labs}, y=shuffled.to_numpy()).y.tolist() == [0, 1]


def test_one_label_in_a_column_is_multilabel_where_that_is_said():
    cohort = Cohort(x={"labs": np.ones(2)}, y=[[0], [1]], task="multilabel")
    assert (cohort.task, cohort.schema.n_outputs) == ("multilabel", 1)


def test_the_advice_for_words_gives_every_hospital_the_same_codes():
    words = ["normal", "fixed"]
    for column, codes in ((["fixed", None], [1, 0]), (["normal", "fixed"], [0, 1])):
        place = pd.Categorical(column, categories=words).codes.astype(float)
        thallium = np.where(place < 0, np.nan, place)
        cohort = Cohort(x={"t": thallium, "age": np.ones(2)}, kinds={"t": "categorical"})
        assert cohort.x["t"][:, 0].tolist() == codes
        assert cohort.x_observed["t"][:, 0].tolist() == [word is not None for word in column]


def test_summary_keeps_levels_that_are_called_like_its_columns():
    levels = ["size", "observed", "kind", "auroc_of_observed"]
    labs = np.array([1.0, np.nan, 2.0, 3.0])
    cohort = Cohort(x={"labs": labs, "age": np.ones(4)}, y=[0, 1, 0, 1], groups={"site": levels})
    table = cohort.summary()
    assert table.loc["labs", [f"site={level}" for level in levels]].tolist() == [1, 0, 1, 1]
    assert table.loc["labs", "auroc_of_observed"] == 0.25
    assert table.loc["labs", "observed"] == 0.75


# ---------------------------------------------------------------- what comes in

WHOLE = {
    "int64": np.array([[61, 88], [70, 95], [44, 71]]),
    "uint8": np.array([[61, 88], [70, 95], [44, 71]], dtype=np.uint8),
    "uint64": np.array([[61, 88], [70, 95], [44, 71]], dtype=np.uint64),
    "float16": np.array([[61, 88], [70, 95], [44, 71]], dtype=np.float16),
    "longdouble": np.array([[61, 88], [70, 95], [44, 71]], dtype=np.longdouble),
    "torch": torch.tensor([[61, 88], [70, 95], [44, 71]]),
    "objects": np.array([[61, 88], [70, 95], [44, 71]], dtype=object),
    "frame": pd.DataFrame([[61, 88.0], [70, 95], [44, 71]]),
    "nullable": pd.DataFrame([[61, 88], [70, 95], [44, 71]], dtype="Int64"),
    "arrow": pd.DataFrame([[61, 88], [70, 95], [44, 71]], dtype="int64[pyarrow]"),
    "masked": np.ma.array([[61, 88], [70, 95], [44, 71]]),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_are_numbers_whatever_holds_them(name):
    cohort = Cohort(x={"vitals": WHOLE[name]})
    assert cohort.schema.kinds == {"vitals": "vector"}
    assert cohort.x["vitals"].tolist() == [[61, 88], [70, 95], [44, 71]]
    told = Cohort(x={"vitals": WHOLE[name]}, kinds={"vitals": "categorical"})
    assert told.x["vitals"].dtype == torch.int64
    assert told.x["vitals"].tolist() == [[61, 88], [70, 95], [44, 71]]


@pytest.mark.parametrize("value", [[0, 1, 2], [0, 1, 0], [True, False, True], [300, 20, 1]])
@pytest.mark.parametrize(
    "column",
    [np.array, torch.tensor, lambda v: pd.Series(v, dtype="category"), pd.Categorical, pd.Series],
)
def test_the_kind_does_not_hang_on_a_missing_value(value, column):
    full = Cohort(x={"m": column(value), "n": np.ones(3)})
    given = column(value)
    holed = (
        given.where([True, True, False])
        if isinstance(given, pd.Series)
        else pd.Categorical([*value[:2], None])
        if isinstance(given, pd.Categorical)
        else np.ma.array(np.asarray(given), mask=[0, 0, 1])
    )
    holed = Cohort(x={"m": holed, "n": np.ones(3)})
    assert holed.schema == full.schema
    assert holed.x["m"][:2].tolist() == full.x["m"][:2].tolist()
    assert holed.x_observed["m"][:, 0].tolist() == [True, True, False]


def test_columns_of_categories_are_categorical_together():
    frame = pd.DataFrame({"ward": [3, 0, 3], "unit": [1, 1, 2]}).astype("category")
    cohort = Cohort(x={"place": frame})
    assert cohort.schema.kinds == {"place": "categorical"}
    assert cohort.x["place"].tolist() == [[3, 1], [0, 1], [3, 2]]


def masked(values, mask):
    return np.ma.array(values, mask=mask)


def test_what_is_masked_is_missing_in_every_argument():
    labs = np.ma.masked_equal([[1.0], [-999.0], [3.0]], -999.0)
    cohort = Cohort(
        x={
            "labs": labs,
            "ward": masked([1, -9, 2], [0, 1, 0]),
            "xray": masked(np.full((3, 1, 2, 2), 5.0), np.repeat([0, 1, 0], 4).reshape(3, 1, 2, 2)),
        },
        kinds={"ward": "categorical"},
        y=masked([0, -9, 1], [0, 1, 0]),
        covariates={
            "age": masked([40, 999, 60], [0, 1, 0]),
            "sex": masked(["f", "?", "m"], [0, 1, 0]),
        },
        truth={"p": masked([0.1, 9.0, 0.3], [0, 1, 0])},
    )
    assert cohort.observed.tolist() == [[True] * 3, [False] * 3, [True] * 3]
    assert cohort.x["labs"].tolist() == [[1], [0], [3]]
    assert cohort.x["ward"].tolist() == [[1], [0], [2]]
    assert cohort.x["xray"][1].sum() == 0
    np.testing.assert_array_equal(cohort.y, [0, NAN, 1])
    for column in (*cohort.covariates.items(), *cohort.truth.items()):
        assert column[1].isna().tolist() == [False, True, False]
    assert Cohort(x={"labs": labs}).x["labs"].tolist() == [[1], [0], [3]]


def test_the_callers_arrays_may_change_afterwards():
    x, y, site, seen = (
        np.ones((3, 2)),
        np.array([0.0, 1, 1]),
        np.array([*"aab"]),
        np.ones((3, 2), bool),
    )
    tensor, codes, pixels = (
        torch.ones(3, 1),
        [np.array([1, 2])] * 3,
        np.ones((3, 1, 2, 2), np.uint8),
    )
    ages, frame = np.array([40.0, 50, 60]), pd.DataFrame({"sex": [0, 1, 1]})
    ragged = Ragged.from_rows(codes)
    cohort = Cohort(
        x={"labs": x, "ecg": tensor, "dx": codes, "rx": ragged, "xray": pixels},
        x_observed={"labs": seen},
        y=y,
        groups={"site": site},
        covariates={"age": ages},
        truth=frame,
    )
    for array in (x, y, tensor, codes[0], pixels, ages, ragged.values):
        array[:] = 7
    site[:], seen[:] = "z", False
    frame.loc[:, "sex"] = 9
    assert cohort.x["labs"].tolist() == [[1, 1]] * 3
    assert cohort.x["ecg"].tolist() == [[1]] * 3
    assert cohort.x["dx"].values.tolist() == cohort.x["rx"].values.tolist() == [1, 2] * 3
    assert cohort.x["xray"].sum() == 12
    assert cohort.x_observed["labs"].all()
    assert cohort.y.tolist() == [0, 1, 1]
    assert cohort.groups["site"].tolist() == ["a", "a", "b"]
    assert cohort.covariates["age"].tolist() == [40, 50, 60]
    assert cohort.truth["sex"].tolist() == [0, 1, 1]


class Foreign:
    """A table of another library, as far as it is read: columns by name."""

    def __init__(self, frame):
        self._frame = frame

    @property
    def columns(self):
        return list(self._frame.columns)

    def __getitem__(self, name):
        return self._frame[name].to_numpy()

    def __len__(self):
        return len(self._frame)


LABS = pd.DataFrame({"age": [60.0, 70.0], "crea": [1.0, None]})


@pytest.mark.parametrize("library", ["foreign", "pyarrow", "polars"])
def test_tables_of_other_libraries_keep_the_names_of_their_columns(library):
    if library == "foreign":
        table, other = Foreign(LABS), Foreign(LABS[["crea", "age"]])
    elif library == "pyarrow":
        pa = pytest.importorskip("pyarrow")
        table, other = (pa.Table.from_pandas(f) for f in (LABS, LABS[["crea", "age"]]))
    else:
        pl = pytest.importorskip("polars")
        table, other = (pl.DataFrame(f.to_dict("list")) for f in (LABS, LABS[["crea", "age"]]))
    cohort = Cohort(x={"l": table}, y=[0, 1], covariates=table)
    assert cohort.schema.features == {"l": ("age", "crea")}
    assert cohort.x_observed["l"].tolist() == [[True, True], [True, False]]
    assert cohort.covariates["age"].tolist() == [60, 70]
    # a new patient with the columns in another order is never scored as if they were in this one
    with pytest.raises(
        ValueError, match=r"columns crea, age here.*made for age, crea\. Pass l\[\["
    ):
        cohort.schema.check(Cohort(x={"l": other}).schema)


def test_nullable_covariates_become_numbers_that_can_be_cut():
    frame = pd.DataFrame({"age": pd.array([40, None, 60], dtype="Int64"), "sex": [*"fmm"]})
    listed = {"age": [40, None, 60], "sex": [*"fmm"]}
    for columns in (frame, dict(frame), listed):
        read = Cohort(x={"a": np.ones(3)}, covariates=columns).covariates
        assert read["age"].dtype == np.float64
        np.testing.assert_array_equal(read["age"], [40, NAN, 60])


def test_lists_that_pandas_keeps_as_nan_are_empty_rows():
    codes = pd.Series([[1, 2], None, float("nan"), [3]])
    cohort = Cohort(x={"dx": codes})
    assert cohort.x["dx"].lengths.tolist() == [2, 0, 0, 1]
    mixed = [np.array([5], dtype=np.uint64), np.array([-1])]
    assert Cohort(x={"dx": mixed}).x["dx"].values.tolist() == [5, -1]


def test_a_mask_of_rows_with_row_numbers_as_index():
    cohort = Cohort(x={"a": np.arange(3.0)}, covariates={"age": [70, 40, 50]})
    assert cohort.select(cohort.covariates["age"] > 45).x["a"].flatten().tolist() == [0, 2]
    named = pd.Series([True, False, True], index=["p", "q", "r"])
    assert cohort.select(named).x["a"].flatten().tolist() == [0, 2]


def test_channels_that_come_last_are_not_read_as_the_width():
    told = {"kinds": {"xray": "image"}}
    with pytest.warns(UserWarning, match=r"8 channels of 9 × 3 pixels\? If .*np\.moveaxis"):
        Cohort(x={"xray": np.ones((2, 8, 9, 3))}, **told)
    for shape in ((2, 1, 3, 3), (2, 1, 1, 50), (2, 3, 32, 20), (2, 8, 16, 16)):
        assert Cohort(x={"xray": np.ones(shape)}).schema.sizes["xray"] == shape[1:]


def test_one_hot_labels_as_classes_or_as_labels():
    one_hot = np.eye(3)[[0, 2, 1, 1]]
    classes = Cohort(x={"a": np.ones(4)}, y=one_hot.argmax(axis=1))
    labels = Cohort(x={"a": np.ones(4)}, y=one_hot, task="multilabel")
    with pytest.warns(
        UserWarning, match=r"a single 1 in 3 columns.*y\.argmax\(axis=1\).*'multilab"
    ):
        assert Cohort(x={"a": np.ones(4)}, y=one_hot).task == "multilabel"
    assert (classes.task, labels.task) == ("multiclass", "multilabel")
    assert classes.y.tolist() == [0, 2, 1, 1]


def test_a_level_is_found_by_its_own_type():
    numbers = Cohort(x={"a": np.ones(3)}, groups={"site": [1, 2, 2]})
    words = Cohort(x={"a": np.ones(3)}, groups={"site": ["1", "2", "2"]})
    assert [len(part) for part in numbers.leave_out("site", 1)] == [2, 1]
    assert [len(part) for part in words.leave_out("site", "1")] == [2, 1]
    assert [len(part) for part in numbers.leave_out("site", np.int8(2))] == [1, 2]

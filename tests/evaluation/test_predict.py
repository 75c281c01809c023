"""The door for probabilities: what `evaluate` and the harnesses take, and what they refuse."""

import inspect

import numpy as np
import pandas as pd
import pytest
import torch

from dfdlib.data import Cohort
from dfdlib.evaluation import evaluate, out_of_fold, out_of_group, predict_proba
from dfdlib.models import GRAPE, Classifier

N = 40
Y = np.arange(N) % 2
P = 0.25 + 0.5 * Y


def cohort():
    groups = {"site": np.repeat(["a", "b"], N // 2)}
    return Cohort(x={"age": np.arange(float(N))}, y=Y, groups=groups)


def value(p):
    return evaluate(p, cohort(), n_boot=0).frame.set_index("metric").loc["brier", "value"]


@pytest.mark.parametrize(
    "p", [P, P.astype(np.float32), P.astype(np.float16), P.astype(object), np.ma.array(P)]
)
def test_probabilities_of_any_floating_type_are_read(p):
    assert value(p) == pytest.approx(np.mean((P - Y) ** 2), abs=1e-3)


DATES = np.arange("1970-01-01", "1970-02-10", dtype="M8[D]")

REFUSED = {
    "dates": (DATES, "the array of probabilities holds datetime64"),
    "durations": (DATES - DATES[0], "holds timedelta64"),
    "words": (P.astype(str), "holds <U.*, not numbers"),
    "complex": (P + 1j, r"holds complex128.*\.imag"),
    "decisions": (Y == 1, r"of type bool, which are decisions.*predict_proba\(X\)"),
    "classes": (Y, r"of type int64, which are decisions or classes.*p\.astype\(float\)"),
    "masked": (np.ma.array(P, mask=Y), "probabilities of 20 rows are NaN or infinite, first row 1"),
    "logits": (P * 777.25, r"lie outside 0 to 1 in 40 rows, first row 0\. Pass logits through"),
}


@pytest.mark.parametrize(("p", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_probability_is_refused(p, message):
    with pytest.raises(ValueError, match=message) as refused:
        value(p)
    assert "777" not in str(refused.value)
    assert "194" not in str(refused.value)
    with pytest.raises(ValueError, match=message.partition(" in 40")[0].partition(" of 20")[0]):
        out_of_fold(cohort(), lambda rest, fold: p[: len(fold)], folds=2)


@pytest.mark.parametrize(
    ("p", "how"),
    [
        (pd.Series(P), r"p\.to_numpy\(\)"),
        (pd.DataFrame({"p": P}), r"p\.to_numpy\(\)"),
        (torch.from_numpy(P), r"p\.numpy\(\)"),
        (P.tolist(), r"np\.array\(p\)"),
    ],
)
def test_rows_with_labels_of_their_own_are_not_taken_by_position(p, how):
    with pytest.raises(TypeError, match=f"numpy array to evaluate.*the order of the cohort: {how}"):
        value(p)


def test_a_harness_takes_no_rows_in_another_order():
    def scored(rest, part):
        return pd.Series(0.25 + 0.5 * part.y.numpy())

    whole = out_of_group(cohort(), "site", scored)
    np.testing.assert_allclose(whole[:, 1], P)
    with pytest.raises(ValueError, match=r"whose index is not 0 to the number of rows.*to_numpy"):
        out_of_group(cohort(), "site", lambda rest, part: scored(rest, part).iloc[::-1])


def test_patients_are_counted_and_not_named():
    ids = [f"secret-{i // 2}" for i in range(N)]
    visits = Cohort(x={"a": P}, y=Y, groups={"patient": ids, "place": np.arange(N)})
    with pytest.raises(ValueError, match="20 patients are in several levels of 'place'") as refused:
        out_of_fold(visits, lambda rest, fold: np.full(len(fold), 0.5), by="place")
    assert "secret" not in str(refused.value)
    one = Cohort(x={"a": P}, y=Y, groups={"patient": ["secret"] * N})
    with pytest.raises(ValueError, match=r"'patient' has one level\. Use out_of_fold"):
        out_of_group(one, "patient", lambda rest, fold: np.full(len(fold), 0.5))


@pytest.mark.parametrize("given", [np.ones((3, 2)), pd.DataFrame({"age": [1.0]}), None, Cohort])
def test_what_is_no_cohort_is_refused(given):
    model = Classifier(backbone=GRAPE(d=4), schema=cohort().schema)
    with pytest.raises(TypeError, match=r"cohort is no Cohort, but: .* Pass data\.Cohort\(x="):
        inspect.unwrap(predict_proba)(model, given)
    with pytest.raises(TypeError, match=r"cohort is no Cohort, but: .* Pass data\.Cohort\(x="):
        inspect.unwrap(evaluate)(P, given)


@pytest.mark.parametrize("by", [3, None])
def test_parts_that_are_no_names_are_refused(by):
    with pytest.raises(TypeError, match=r"and not names\. Pass by=\('site', 'pattern'\)"):
        inspect.unwrap(evaluate)(P, cohort(), by=by, n_boot=0)

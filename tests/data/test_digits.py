"""Pairs of handwritten digits: what they are made of, and what they never share."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from dfdlib.data import check_disjoint, digits


def used(cohort):
    return set(cohort.truth.to_numpy().ravel().tolist())


def test_each_view_is_the_image_that_truth_names():
    cohort, source = digits.load(n=200, size=8), load_digits()
    for view in digits.VIEWS:
        rows = cohort.truth[view].to_numpy()
        np.testing.assert_allclose(cohort.x[view][:, 0].numpy() * 16, source.images[rows])
        np.testing.assert_array_equal(cohort.y.numpy(), source.target[rows])


def test_no_image_is_paired_with_itself():
    truth = digits.load(n=20_000, size=8, part="test").truth
    assert (truth["first"] != truth["second"]).all()


def test_parts_share_no_image_and_use_all_of_them():
    train = [digits.load(n=20_000, size=8, seed=seed) for seed in (0, 1)]
    test = [digits.load(n=20_000, size=8, part="test", seed=seed) for seed in (0, 1)]
    assert used(train[0]) == used(train[1])
    assert used(test[0]) == used(test[1])
    assert not used(train[0]) & used(test[0])
    assert used(train[0]) | used(test[0]) == set(range(1797))
    check_disjoint(*train, *test)


def test_a_part_keeps_three_in_ten_of_every_digit():
    target = load_digits().target
    kept = np.bincount(target[sorted(used(digits.load(n=20_000, size=8, part="test")))])
    np.testing.assert_allclose(kept / np.bincount(target), 0.3, atol=0.003)


def test_all_digits_and_all_images_come_about_as_often():
    cohort = digits.load(n=50_000, size=8)
    np.testing.assert_allclose(np.bincount(cohort.y.int()) / 50_000, 0.1, atol=0.005)
    zeros = cohort.truth[cohort.y.numpy() == 0]
    for view in digits.VIEWS:
        times = zeros[view].value_counts()
        assert len(times) == round(0.7 * 178)
        expected = len(zeros) / len(times)
        assert abs(times - expected).max() < 5 * np.sqrt(expected)


def test_views_are_independent_given_the_digit():
    truth = digits.load(n=50_000, size=8).truth
    zeros = truth[truth["first"].isin(np.flatnonzero(load_digits().target == 0))]
    assert abs(np.corrcoef(zeros["first"], zeros["second"])[0, 1]) < 0.03


def test_a_larger_cohort_begins_with_the_same_pairs_and_other_seeds_differ():
    small, large, other = digits.load(n=50), digits.load(n=60), digits.load(n=50, seed=1)
    assert torch.equal(small.x["first"], large.x["first"][:50])
    assert torch.equal(small.y, large.y[:50])
    assert not torch.equal(small.y, other.y)


@pytest.mark.parametrize("size", [16, 32])
def test_larger_pictures_repeat_pixels(size):
    small, large = digits.load(n=20, size=8), digits.load(n=20, size=size)
    pooled = torch.nn.functional.avg_pool2d(large.x["second"], size // 8)
    torch.testing.assert_close(pooled, small.x["second"])
    assert large.x["second"].shape == (20, 1, size, size)
    assert large.x["second"].unique().tolist() == small.x["second"].unique().tolist()


def test_what_is_learnt_from_train_reads_test():
    train, test = digits.load(n=1_000, size=8), digits.load(n=1_000, part="test", size=8)
    model = LogisticRegression(max_iter=300).fit(train.x["first"].flatten(1), train.y)
    assert model.score(test.x["second"].flatten(1), test.y) > 0.9


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"'tset' is not a part of the digits .* mean 'test'"):
        digits.load(part="tset")
    with pytest.raises(ValueError, match=r"size=28 pixels is not on offer. Pass one of \(8, 16"):
        digits.load(size=28)
    with pytest.raises(ValueError, match=r"n=0 is out of range\. Pass 1 to"):
        digits.load(n=0)
    with pytest.raises(ValueError, match=r"seed=-1 is out of range\. Pass 0 to"):
        digits.load(seed=-1)

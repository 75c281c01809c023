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

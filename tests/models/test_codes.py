import math

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfTransformer

from dfdlib.data import Cohort, Ragged
from dfdlib.evaluation import predict_proba
from dfdlib.models import GRAPE, Classifier
from dfdlib.models.encoders import CodeBag
from dfdlib.training import Stage, fit, load_model

BIG = 7_000_000_000_000_000_000  # hashed names are large
ROWS = [[4, 4, BIG], [], [BIG, 9], [4, 5], [9, 9, 9]]


def bag(rows=ROWS, **settings):
    torch.manual_seed(0)
    encoder = CodeBag(d=4, **{"min_count": 1} | settings)
    encoder.fit(Ragged.from_rows(rows))
    return encoder


def tokens(encoder, *rows):
    return encoder(Ragged.from_rows(list(rows)))


def test_vocabulary_is_what_enough_training_patients_have():
    assert bag().words.tolist() == [4, 5, 9, BIG]
    assert bag(min_count=2).words.tolist() == [4, 9, BIG]  # 9 thrice in one, once in another
    assert bag(min_count=3).words.tolist() == []


@pytest.mark.parametrize(("pool", "share"), [("sum", 1), ("mean", 1 / 3)])
def test_sum_and_mean(pool, share):
    encoder = bag(pool=pool)
    table = encoder.embedding.weight
    expected = encoder.net((2 * table[1] + table[4]) * share)
    torch.testing.assert_close(tokens(encoder, [4, 4, BIG])[0], expected)
    torch.testing.assert_close(tokens(encoder, [])[0], encoder.net(torch.zeros(4)))


@pytest.mark.parametrize("empty", [[], [[]]])
def test_tfidf_is_scikit_learns(empty):
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.5, (30, 12))
    counts[:, 3] = 1  # somebody has a code, and every code somebody
    counts[0] += 1
    rows = [np.repeat(np.arange(12), row) for row in counts]
    encoder = bag([*rows, *empty], pool="tfidf")  # a patient without a text is no document
    new = rng.poisson(0.5, (8, 12))
    new[:, 5] += 1
    weight = TfidfTransformer().fit(counts).transform(new).toarray()
    expected = encoder.net(torch.tensor(weight).float() @ encoder.embedding.weight[1:])
    torch.testing.assert_close(
        tokens(encoder, *[np.repeat(np.arange(12), r) for r in new]), expected
    )


@pytest.mark.parametrize("pool", ["mean", "sum", "tfidf"])
def test_order_and_company_do_not_matter(pool):
    encoder = bag(pool=pool)
    whole = tokens(encoder, [4, 5, 9, 9], [], [5])
    torch.testing.assert_close(tokens(encoder, [9, 4, 9, 5])[0], whole[0])
    torch.testing.assert_close(tokens(encoder, [5], [4])[0], whole[2])


@pytest.mark.parametrize("pool", ["mean", "sum", "tfidf"])
def test_an_unknown_code_is_the_unknown_code(pool):
    """All the same, those that are new and those that were too rare; and it is learned."""
    encoder = bag(pool=pool, min_count=2)
    new = tokens(encoder, [4, 5], [4, 123456], [4, -8])
    torch.testing.assert_close(new[0], new[1])
    torch.testing.assert_close(new[0], new[2])
    tokens(encoder, [4, 5]).sum().backward()
    assert encoder.embedding.weight.grad[0].any()


def test_where_training_had_no_rare_code_the_unknown_one_adds_nothing():
    encoder = bag(pool="sum")
    torch.testing.assert_close(tokens(encoder, [4, 123456]), tokens(encoder, [4]))


def test_idf_of_the_unknown_code_counts_patients_with_a_rare_one():
    encoder = bag(pool="tfidf", min_count=2)
    assert encoder.weight[0].item() == pytest.approx(1 + math.log(5 / 2))  # 4 documents, 1 with 5
    assert encoder.weight[1].item() == pytest.approx(1 + math.log(5 / 3))


def test_only_codes_of_the_batch_get_gradients():
    encoder = bag()
    tokens(encoder, [4], []).sum().backward()
    touched = encoder.embedding.weight.grad.ne(0).any(dim=1).tolist()
    assert touched == [False, True, False, False, False]


def test_a_saved_model_scores_the_same_with_the_vocabulary_of_training(tmp_path):
    rng = np.random.default_rng(0)
    often = np.array([0, 1, 2, 3, 4, 5] * 3 + [6, 7, 8])
    rows = [rng.choice(often, rng.integers(0, 5)) for _ in range(80)]
    data = Cohort(x={"age": rng.normal(size=80), "dx": rows}, y=[int(3 in r) for r in rows],
                  kinds={"dx": "codes"})  # fmt: skip
    train, test = data.split((0.5, 0.5))
    model = Classifier(backbone=GRAPE(d=8), schema=data.schema)
    assert isinstance(model.encoders["dx"], CodeBag)
    run = fit(model, train, stages=[Stage(epochs=2)], seed=0)
    before = predict_proba(run.model, test)
    with pytest.warns(UserWarning, match=r"fewer than 10 training patients.*\d of 'dx'"):
        run.save(tmp_path / "m")
    again = load_model(tmp_path / "m")
    batch = next(test.batches(40))
    torch.testing.assert_close(
        again.predict_proba(batch), run.model.predict_proba(batch), atol=0, rtol=0
    )
    count = np.unique(np.concatenate([np.unique(r) for r in train_rows(train)]), return_counts=True)
    assert again.encoders["dx"].words.tolist() == count[0][count[1] >= 10].tolist()
    # scores of those who have no rare code, nor an unknown one, are as they were
    rare = set(range(9)) - set(again.encoders["dx"].words.tolist())
    common = [i for i, row in enumerate(train_rows(test)) if not rare & set(row.tolist())]
    assert 0 < len(common) < len(test)
    np.testing.assert_allclose(predict_proba(again, test)[common], before[common], atol=1e-6)


def train_rows(cohort):
    return [cohort.x["dx"][torch.tensor([i])].values.numpy() for i in range(len(cohort))]


def test_refusals():
    with pytest.raises(ValueError, match=r"'tf-idf' is not a way to pool codes.*'tfidf'"):
        CodeBag(d=4, pool="tf-idf")
    with pytest.raises(ValueError, match=r"min_count is 0\. Pass 1"):
        CodeBag(d=4, min_count=0)


@pytest.mark.gpu
@pytest.mark.parametrize("pool", ["mean", "sum", "tfidf"])
def test_tokens_on_a_gpu_are_those_of_the_cpu(pool):
    encoder, rows = bag(pool=pool, min_count=2), Ragged.from_rows(ROWS)
    expected = encoder(rows)
    found = encoder.to("cuda")(rows.to("cuda"))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)
    encoder.fit(rows.to("cuda"))
    assert encoder.words.is_cuda

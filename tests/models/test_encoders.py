import numpy as np
import pytest
import torch
from torch import nn

from dfdlib.data import Cohort
from dfdlib.models.encoders import CategoricalEncoder, CodeBag, VectorEncoder, make_encoders
from dfdlib.models.series import SeriesGRU


def test_vector_encoder_standardises_by_the_observed_training_values():
    values = torch.tensor([[1.0, 5.0], [3.0, 0.0], [0.0, 5.0]])
    flags = torch.tensor([[True, True], [True, False], [False, True]])
    encoder = VectorEncoder(n_features=2, d=4)
    encoder.fit(values, flags)
    torch.testing.assert_close(encoder.mean, torch.tensor([2.0, 5.0]))
    torch.testing.assert_close(encoder.std, torch.tensor([1.0, 1.0]))  # the second is constant
    expected = encoder.net(torch.tensor([[-1.0, 0.0, 1, 1], [1.0, 0.0, 1, 0], [0.0, 0.0, 0, 1]]))
    torch.testing.assert_close(encoder(values, flags), expected)


def test_a_value_under_the_mask_is_never_read():
    encoder = VectorEncoder(n_features=2, d=4)
    values, flags = torch.randn(5, 2), torch.rand(5, 2) < 0.5
    changed = torch.where(flags, values, torch.full_like(values, 1e6))
    torch.testing.assert_close(encoder(changed, flags), encoder(values, flags), atol=0, rtol=0)


def test_without_flags_missing_is_the_mean():
    encoder = VectorEncoder(n_features=1, d=4, flags=False)
    encoder.fit(torch.tensor([[1.0], [3.0]]), torch.ones(2, 1, dtype=torch.bool))
    missing = encoder(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.bool))
    at_mean = encoder(torch.full((1, 1), 2.0), torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(missing, at_mean)


def categorical(flags=True):
    torch.manual_seed(0)
    encoder = CategoricalEncoder(n_features=2, d=4, flags=flags)
    values = torch.tensor([[7, 1], [7, 2], [-3, 1], [99, 1]])
    observed = torch.tensor([[True, True], [True, True], [True, True], [False, True]])
    encoder.fit(values, observed)
    return encoder


def test_categorical_vocabulary_is_what_training_holds():
    encoder = categorical()
    assert encoder.vocabulary.tolist() == [-3, 7, 1, 2]
    assert encoder.start.tolist() == [0, 2, 4]
    assert encoder.embedding.num_embeddings == 2 + 1 + 4


def test_categorical_looks_each_column_up_in_its_own_words():
    encoder = categorical()
    table = encoder.embedding.weight
    rows = torch.tensor([[7, 2], [-3, 1], [1, 7], [50, 0], [0, 2]])
    there = torch.tensor([[True, True], [True, True], [True, True], [True, True], [False, True]])
    # rows of the table: 0, 1 missing by column; 2 never seen; 3, 4 = -3, 7; 5, 6 = 1, 2
    sums = [
        table[4] + table[6],
        table[3] + table[5],
        2 * table[2],
        2 * table[2],
        table[0] + table[6],
    ]
    torch.testing.assert_close(encoder(rows, there), encoder.net(torch.stack(sums)))
    assert table[2].abs().sum() == 0


def test_categorical_without_flags_is_silent_about_missing():
    encoder = categorical(flags=False)
    never = encoder(torch.tensor([[50, 1]]), torch.tensor([[True, True]]))
    missing = encoder(torch.tensor([[7, 1]]), torch.tensor([[False, True]]))
    torch.testing.assert_close(never, missing)


def test_categorical_state_loads_into_a_fresh_encoder():
    encoder = categorical()
    fresh = CategoricalEncoder(n_features=2, d=4)
    fresh.load_state_dict(encoder.state_dict())
    rows, there = torch.tensor([[7, 2]]), torch.tensor([[True, True]])
    torch.testing.assert_close(fresh(rows, there), encoder(rows, there))


def cohort():
    ward = torch.tensor([[1], [2], [1], [2]])
    return Cohort(x={"labs": torch.randn(4, 3), "ward": ward}, kinds={"ward": "categorical"})


def test_make_encoders_by_kind_and_override():
    own = nn.Linear(3, 8)
    made = make_encoders(cohort().schema, d=8, encoders={"labs": own})
    assert made["labs"] is own
    assert isinstance(made["ward"], CategoricalEncoder)


def test_ragged_kinds_have_encoders_of_their_own():
    data = Cohort(x={"dx": [[1], [7]], "labs": [np.ones((2, 3)), None]})
    made = make_encoders(data.schema, d=8, dropout=0.5)
    assert isinstance(made["dx"], CodeBag)
    assert isinstance(made["labs"], SeriesGRU)
    assert made["dx"].dropout == made["labs"].dropout == 0.5
    assert (
        made["dx"](data.x["dx"], None).shape == made["labs"](data.x["labs"], None).shape == (2, 8)
    )


def test_make_encoders_refuses():
    with pytest.raises(ValueError, match=r"'lab', which is no modality.*labs, ward"):
        make_encoders(cohort().schema, d=8, encoders={"lab": nn.Identity()})
    taken = Cohort(x={"values": torch.randn(2, 2)})
    with pytest.raises(ValueError, match=r"cannot be called 'values'.*'values_'"):
        make_encoders(taken.schema, d=8)
    images = Cohort(x={"xray": torch.zeros(2, 1, 4, 4)})
    with pytest.raises(ValueError, match=r"no encoder yet for 'xray'.*'image'.*encoders="):
        make_encoders(images.schema, d=8)

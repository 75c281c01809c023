import json

import pytest
import torch
from torch import nn

from dfdlib.data import Cohort
from dfdlib.models import GRAPE, Classifier, TokenTransformer
from dfdlib.models.describe import describe, rebuild


def schema():
    x = {"labs": torch.randn(4, 3), "ward": torch.tensor([[1], [2], [1], [2]])}
    return Cohort(x=x, kinds={"ward": "categorical"}, y=[0, 1, 0, 1]).schema


@pytest.mark.parametrize("backbone", [GRAPE(d=8, n_layers=3), TokenTransformer(d=8, n_heads=2)])
def test_round_trip_through_json(backbone):
    model = Classifier(backbone=backbone, schema=schema(), flags=False, dropout=0.1)
    text = json.dumps(describe(model))
    again = rebuild(json.loads(text))
    assert json.dumps(describe(again)) == text
    again.load_state_dict(model.state_dict())


def test_refuses_what_it_could_not_make_again():
    encoders = {"labs": nn.Sequential(nn.Linear(3, 8))}
    model = Classifier(backbone=GRAPE(d=8), schema=schema(), encoders=encoders)
    with pytest.raises(TypeError, match=r"encoders\['labs'\] is a Sequential.*argument 'args'"):
        describe(model)
    with pytest.raises(TypeError, match="model is a set"):
        describe({1})

    class Local(nn.Module):
        pass

    with pytest.raises(TypeError, match=r"Local that was defined in a notebook or in a function"):
        describe(Local())
    with pytest.raises(ImportError, match=r"os:system is no torch module"):
        rebuild({"class": "os:system", "arguments": {"command": "true"}})
    with pytest.raises(ImportError, match=r"cannot import 'Gone' from 'dfdlib.models'"):
        rebuild({"class": "dfdlib.models:Gone", "arguments": {}})

import importlib
import inspect
import json
import pkgutil

import pytest
import torch
from torch import nn

from dfdlib import models
from dfdlib.data import Cohort
from dfdlib.models import GRAPE, Classifier, TokenTransformer
from dfdlib.training.describe import check_trust, describe, rebuild


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
    with pytest.raises(ImportError, match=r"'os:system', which is not among those"):
        rebuild({"class": "os:system", "arguments": {"command": "true"}})
    with pytest.raises(ImportError, match=r"os:system is no torch module"):
        rebuild({"class": "os:system", "arguments": {"command": "true"}}, trust=["os"])
    with pytest.raises(ImportError, match=r"cannot import 'Gone' from 'dfdlib.models'"):
        rebuild({"class": "dfdlib.models:Gone", "arguments": {}}, trust=["dfdlib.models"])


#: Modules of classes that a method makes for itself: no argument holds one.
PARTS = {"dfd_parts", "memory", "patterns", "vae_views"}
BASES = {"Resizable", "Route"}


def test_every_public_class_that_a_model_is_made_of_can_be_loaded():
    """A class that `describe` can describe, in a public module, is on the list of `rebuild`."""
    known = []
    for info in pkgutil.iter_modules(models.__path__, "dfdlib.models."):
        module = importlib.import_module(info.name)
        for name, kind in vars(module).items():
            own = isinstance(kind, type) and kind.__module__ == info.name
            if not own or not issubclass(kind, nn.Module) or inspect.isabstract(kind):
                continue
            if info.name.rpartition(".")[2] not in PARTS and name not in BASES and name[0] != "_":
                known.append(name)
                check_trust({"class": f"{info.name}:{name}", "arguments": {}})
    assert {"Invariant", "Prototypes"} < set(known)
    assert {"Classifier", "DFD", "GRAPE", "MultimodalVAE", "SeriesGRU", "VectorEncoder"} < set(
        known
    )


def test_a_description_of_endless_modules_is_refused_before_any_is_made():
    one = {"class": "torch.nn:Identity", "arguments": {}}
    many = {"class": "torch.nn:ModuleList", "arguments": {"modules": [one] * 10_000}}
    with pytest.raises(ValueError, match="names over 10,000 modules"):
        check_trust(many)

"""Backbones and heads built on no class of this library: what they lack has a default."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dfdlib.data import Cohort
from dfdlib.evaluation import predict_proba
from dfdlib.models import DFD, GRAPE, MUSE, Backbone, Classifier, Head, LfF, Linear, M3Care, Stage
from dfdlib.models.backbone import adapted, is_default
from dfdlib.models.environments import head_weight
from dfdlib.training import fit, load_model

D, N = 4, 60
EPOCHS = [Stage(epochs=2)]


def pooled(tokens, observed, weight):
    weight = weight[0] if isinstance(weight, list) else weight
    seen = observed if weight is None else observed * weight
    return (tokens * seen.unsqueeze(-1)).sum(1)


class Sum(nn.Module):
    """The least that a backbone is."""

    d, n_layers = D, 1

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(D, D)

    def forward(self, tokens, observed, weight=None):
        return self.map(pooled(tokens, observed, weight))


class BuiltSum(Backbone):
    """The same network, built on the base class."""

    d, n_layers = D, 1

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(D, D)

    def forward(self, tokens, observed, weight=None):
        return self.map(pooled(tokens, observed, weight))


class Half(nn.Module):
    """The least that a head is."""

    def __init__(self, *, d=D):
        super().__init__()
        self.d = d
        self.map = nn.Linear(d, 1)

    def forward(self, h, observed):
        return self.map(h) / 2


class BuiltHalf(Head):
    """The same head, built on the base class."""

    def __init__(self, *, d=D):
        super().__init__()
        self.d = d
        self.map = nn.Linear(d, 1)

    def forward(self, h, observed):
        return self.map(h) / 2


def cohort():
    generator = torch.Generator().manual_seed(0)
    x = {name: torch.randn(N, 3, generator=generator) for name in ("labs", "ecg", "notes")}
    x["ecg"][::4] = torch.nan
    y = (x["labs"][:, 0] > 0).float()
    return Cohort(x=x, y=y, groups={"site": np.arange(N) % 2})


METHODS = {
    "Classifier": lambda net, head, s: Classifier(backbone=net, head=head(), schema=s),
    "DFD": lambda net, head, s: DFD(backbone=net, head=head(d=2 * D), schema=s),
    "LfF": lambda net, head, s: LfF(backbone=net, head=head(), schema=s),
    "M3Care": lambda net, head, s: Classifier(
        backbone=M3Care(backbone=net, n_memory=4), head=head(), schema=s
    ),
}


@pytest.mark.filterwarnings("ignore:the bias stream|the causal stream|the gate is|H_c and H_b")
@pytest.mark.parametrize("method", METHODS)
def test_with_forward_alone_all_is_as_if_built_on_the_base_classes(method, tmp_path):
    """The same scores, the same names of weights; saved and made again, both."""
    data = cohort()
    scores, names = [], []
    for net, head in ((Sum, Half), (BuiltSum, BuiltHalf)):
        model = METHODS[method](net(), head, data.schema)
        run = fit(model, data, stages=EPOCHS, batch_size=20)
        assert sum("backbone.map" in name for name, _ in model.named_parameters()) in (2, 4)
        run.save(tmp_path / net.__name__)
        with pytest.raises(ImportError, match=r"trust="):
            load_model(tmp_path / net.__name__)
        again = load_model(tmp_path / net.__name__, trust=[__name__])
        scores += [predict_proba(run.model, data), predict_proba(again, data)]
        names += [list(model.state_dict()), list(again.state_dict())]
    assert {f"backbone.{k}" for k in ("map.weight", "map.bias")} <= {
        name.replace("backbone.backbone.", "backbone.") for name in names[0]
    }
    for other_scores, other_names in zip(scores[1:], names[1:], strict=True):
        np.testing.assert_array_equal(other_scores, scores[0])
        assert other_names == names[0]


def with_method(kind, name, function):
    """A class that has one method more."""
    return type(f"With_{name}", (kind,), {name: function})


def loss_of(model, data):
    """The terms of the loss of all patients, in training."""
    model.prepare(data)
    torch.manual_seed(0)
    return {k: v.item() for k, v in model.train().loss(next(data.batches(N))).items()}


# ---------------------------------------------------------------- one method of a backbone's


def test_a_backbone_with_build_alone():
    asked = []
    kind = with_method(Sum, "build", lambda self, n: asked.append(n))
    Classifier(backbone=kind(), schema=cohort().schema)
    assert asked == [3]
    backbone = M3Care(backbone=kind())
    backbone.build(5)
    assert asked == [3, 5]


@pytest.mark.parametrize("method", METHODS)
def test_a_backbone_with_fix_states_alone(method):
    """It is shown every patient of the training part, once for each network."""
    data, seen = cohort(), []
    kind = with_method(Sum, "fix_states", lambda self, stream: seen.append(list(stream())))
    model = METHODS[method](kind(), Half, data.schema)
    model.prepare(data)
    model.fix_states(lambda: data.batches(25))
    assert len(seen) == (2 if method in ("DFD", "LfF") else 1)
    for parts in seen:
        tokens, observed, weight = zip(*parts, strict=True)
        assert torch.cat(tokens).shape == (N, 3, D)
        # what is imputed counts as there
        assert method == "M3Care" or torch.equal(torch.cat(observed), data.observed)
        assert (weight[0] is None) == (method != "DFD")


@pytest.mark.parametrize("method", METHODS)
def test_a_backbone_with_auxiliary_alone(method):
    """Its terms join the loss, computed of the embedding that it gave."""
    data, seen = cohort(), []

    def auxiliary(self, h, tokens, observed, y, weight):
        torch.testing.assert_close(h, self(tokens, observed, weight))
        assert torch.equal(y, data.y)
        seen.append(weight)
        return {"size": h.square().mean()}

    def make(kind):
        torch.manual_seed(0)
        return METHODS[method](kind(), Half, data.schema)

    plain = loss_of(make(Sum), data)
    terms = loss_of(make(with_method(Sum, "auxiliary", auxiliary)), data)
    two = method in ("DFD", "LfF")
    added = terms.keys() - plain.keys()
    assert added == ({"size", "bias_size"} if two else {"size"})
    assert len(seen) == len(added)
    assert all((weight is None) == (method != "DFD") for weight in seen)
    total = plain["total"] + sum(terms[name] for name in added)
    assert terms["total"] == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("method", ["Classifier", "DFD", "LfF"])
def test_a_backbone_with_auxiliary_and_what_it_hands_on(method):
    """What `embed_for_training` gives by name reaches `auxiliary` by that name."""
    data, seen = cohort(), []

    def embed_for_training(self, tokens, observed, weight=None):
        h = self(tokens, observed, weight)
        return h, {"mark": h}

    def auxiliary(self, h, tokens, observed, y, weight, *, mark):
        seen.append(torch.equal(mark, h))
        return {}

    kind = with_method(Sum, "embed_for_training", embed_for_training)
    loss_of(METHODS[method](with_method(kind, "auxiliary", auxiliary)(), Half, data.schema), data)
    assert seen == [True] * (2 if method in ("DFD", "LfF") else 1)


def test_nothing_is_computed_for_terms_that_there_are_not():
    """The gate is read once in a step, and nothing imputed twice."""
    data, read = cohort(), []
    model = DFD(backbone=Sum(), schema=data.schema)
    model.gate_net.register_forward_hook(lambda *_: read.append("gate"))
    loss_of(model, data)
    backbone = M3Care(backbone=GRAPE(d=D))
    backbone.register_forward_hook(lambda *_: read.append("backbone"))
    backbone.mix.register_forward_hook(lambda *_: read.append("imputed"))
    loss_of(Classifier(backbone=backbone, schema=data.schema), data)
    assert read == ["gate", "imputed", "backbone"]


# ---------------------------------------------------------------- one method of a head's


def test_a_head_with_build_alone():
    asked = []
    kind = with_method(Half, "build", lambda self, *, d, n_outputs: asked.append((d, n_outputs)))
    Classifier(backbone=GRAPE(d=D), head=kind(), schema=cohort().schema)
    DFD(backbone=GRAPE(d=D), head=kind(d=2 * D), schema=cohort().schema)
    assert asked == [(D, 1), (2 * D, 1)]


def test_a_head_with_prepare_alone():
    data, seen = cohort(), []
    kind = with_method(Half, "prepare", lambda self, train: seen.append(train))
    model = Classifier(backbone=GRAPE(d=D), head=kind(), schema=data.schema)
    model.prepare(data.select(modalities=["notes", "labs", "ecg"]))
    assert [train.names for train in seen] == [data.names]


def test_a_head_with_mask_alone():
    """The loss of training is that of a cohort which lacks what the head hides."""
    data = cohort()
    hidden = torch.arange(N) % 3 == 0

    def mask(self, observed):
        return observed & ~torch.stack([hidden, *[torch.zeros_like(hidden)] * 2], dim=1)

    losses = []
    for kind, observed in (
        (Half, mask(None, data.observed)),
        (with_method(Half, "mask", mask), None),
    ):
        torch.manual_seed(0)
        model = Classifier(backbone=Sum(), head=kind(), schema=data.schema)
        model.prepare(data)
        batch = next(data.batches(N))
        batch = batch if observed is None else replace(batch, observed=observed)
        losses.append(model.train().loss(batch)["total"].item())
    assert losses[0] == pytest.approx(losses[1])
    assert model.eval().loss(batch)["total"].item() != pytest.approx(losses[1])


@pytest.mark.parametrize("name", ["sample_weight", "row_weight"])
def test_a_head_with_weights_alone(name):
    """Half of the patients count three times as much: the mean of losses with these weights."""
    data = cohort()
    row = torch.arange(N)
    read = {"sample_weight": lambda self, observed: 1.0 + 2 * (~observed[:, 1]).float()}
    read["row_weight"] = lambda self, index: 1.0 + 2 * (index % 4 == 0).float()
    weight = torch.where(row % 4 == 0, 3.0, 1.0)  # who has no ecg
    torch.manual_seed(0)
    model = Classifier(
        backbone=Sum(), head=with_method(Half, name, read[name])(), schema=data.schema
    )
    terms = loss_of(model, data)
    batch = next(data.batches(N))
    with torch.no_grad():
        logits = model.score(*model.tokens(batch))[:, 0]
    each = nn.functional.binary_cross_entropy_with_logits(logits, data.y, reduction="none")
    assert terms == {key: pytest.approx(float((weight * each).mean())) for key in terms}
    assert torch.equal(head_weight(model.head, data.observed, batch), weight)


def test_a_head_with_a_penalty_alone():
    data = cohort()

    def penalty(self, h, observed, y):
        assert torch.equal(y, data.y)
        return h.new_tensor(2.0)

    torch.manual_seed(0)
    head = with_method(Half, "penalty", penalty)()
    terms = loss_of(Classifier(backbone=Sum(), head=head, schema=data.schema), data)
    assert set(terms) == {"total", "cross_entropy", "penalty"}
    assert terms["total"] == pytest.approx(terms["cross_entropy"] + 2)


@pytest.mark.parametrize("method", ["Classifier", "DFD"])
def test_a_head_with_fix_states_alone(method):
    data, seen = cohort(), []
    kind = with_method(Half, "fix_states", lambda self, stream: seen.extend(stream()))
    model = METHODS[method](Sum(), kind, data.schema)
    model.prepare(data)
    model.fix_states(lambda: data.batches(25))
    h, observed = (torch.cat(part) for part in zip(*seen, strict=True))
    assert torch.equal(observed, data.observed)
    torch.testing.assert_close(h, model.embed(next(data.batches(N))).detach())


def test_a_head_with_explain_alone():
    data = cohort()

    def explain(self, h, observed, *, names):
        return pd.DataFrame({"row": range(len(h)), "lacks": names[1]})[~observed[:, 1].numpy()]

    model = Classifier(
        backbone=Sum(), head=with_method(Half, "explain", explain)(), schema=data.schema
    )
    model.prepare(data)
    batch = next(data.batches(N, seed=1))
    table = model.explain(batch)
    assert table["row"].tolist() == [int(i) for i in batch.index if i % 4 == 0]
    assert set(table["lacks"]) == {"ecg"}
    model.head.map.weight.data.zero_()
    other = Classifier(backbone=Sum(), head=Half(), schema=data.schema)
    with pytest.raises(ValueError, match=r"Half has nothing to explain.*head=Deconfounder"):
        other.explain(batch)  # said before anybody fits it


# ---------------------------------------------------------------- the adapter itself


def test_what_is_built_on_the_base_class_is_left_as_it_is():
    for backbone in (GRAPE(d=D), MUSE(d=D), M3Care(backbone=GRAPE(d=D)), BuiltSum()):
        assert adapted(backbone, Backbone) is backbone
    for head in (Linear(), BuiltHalf()):
        assert adapted(head, Head) is head
        assert is_default(head.penalty, Head.penalty)
    assert not is_default(MUSE(d=D).auxiliary, Backbone.auxiliary)


def test_the_module_s_own_method_comes_first_also_one_put_on_the_object():
    head = Half()
    assert adapted(head, Head).sample_weight(torch.ones(2, 3, dtype=torch.bool)) is None
    head.sample_weight = lambda observed: torch.full((len(observed),), 2.0)
    assert adapted(head, Head).sample_weight(torch.ones(2, 3)).tolist() == [2, 2]
    assert not is_default(adapted(head, Head).sample_weight, Head.sample_weight)
    with pytest.raises(AttributeError, match="'Head' has no attribute 'sampel_weight'"):
        adapted(head, Head).sampel_weight  # noqa: B018


def test_a_base_class_is_not_made():
    for kind in (Backbone, Head):
        with pytest.raises(TypeError, match="abstract"):
            kind()

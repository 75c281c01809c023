import pytest
import torch
from torch import nn

from dfdlib.data import Cohort
from dfdlib.models import GRAPE, Classifier, TokenTransformer
from dfdlib.models.encoders import VectorEncoder
from small_cohorts import random_labels

BACKBONES = [GRAPE, TokenTransformer]


def cohort(n=600, task="binary", seed=0):
    generator = torch.Generator().manual_seed(seed)
    labs = torch.randn(n, 3, generator=generator)
    labs[torch.rand(n, 3, generator=generator) < 0.3] = torch.nan
    ward = torch.randint(0, 4, (n, 1), generator=generator)
    ecg = torch.randn(n, 2, generator=generator)
    ecg[torch.rand(n, generator=generator) < 0.4] = torch.nan
    y = random_labels(task, n, generator)
    x = {"labs": labs, "ward": ward, "ecg": ecg}
    return Cohort(x=x, kinds={"ward": "categorical"}, y=y, task=task)


def prepared(data, backbone=GRAPE):
    torch.manual_seed(0)
    model = Classifier(backbone=backbone(d=8), schema=data.schema)
    model.prepare(data)
    model.fix_states(lambda: data.batches(100))
    return model.eval()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_probability_does_not_depend_on_the_batch(backbone):
    data = cohort()
    model = prepared(data, backbone)
    batches = list(data.batches(512))
    whole = torch.cat([model.predict_proba(b) for b in batches])
    assert whole.std(0).min() > 0
    alone = torch.cat([model.predict_proba(b) for b in data.select(range(64)).batches(1)])
    torch.testing.assert_close(alone, whole[:64], atol=1e-6, rtol=0)
    shuffled = list(data.batches(512, seed=3))
    p = torch.cat([model.predict_proba(b) for b in shuffled])
    index = torch.cat([b.index for b in shuffled])
    torch.testing.assert_close(p, whole[index], atol=1e-6, rtol=0)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_loss_is_the_mean_log_probability_of_known_labels(task):
    data = cohort(60, task)
    model = prepared(data)
    batch = next(data.batches(60))
    p, y = model.predict_proba(batch).double(), data.y
    known = ~y.isnan()
    if task == "multilabel":
        chosen = torch.where(y == 1, p, 1 - p)[known]
    else:
        chosen = p[known].gather(1, y[known].long()[:, None])
        torch.testing.assert_close(p.sum(1), torch.ones(60, dtype=torch.double))
    expected = -chosen.log().mean()
    torch.testing.assert_close(model.loss(batch)["total"].double(), expected, atol=1e-5, rtol=0)


def test_a_batch_without_labels_costs_nothing():
    data = cohort(20)
    model = prepared(data)
    loss = model.loss(next(data.select(range(5)).batches(5)))["total"]
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in model.parameters())


def test_a_modality_that_is_not_there_counts_as_missing():
    data = cohort(30)
    model = prepared(data)
    without = data.select(modalities=["ecg", "labs"])
    masked = Cohort(
        x={name: data.x[name] for name in data.names},
        kinds=data.schema.kinds,
        observed=data.observed & torch.tensor([True, False, True]),
        x_observed={"labs": data.x_observed["labs"], "ecg": data.x_observed["ecg"]},
        y=data.y,
    )
    p = model.predict_proba(next(without.batches(30)))
    torch.testing.assert_close(p, model.predict_proba(next(masked.batches(30))))


def test_every_parameter_gets_a_gradient():
    data = cohort(60)
    model = prepared(data).train()
    model.loss(next(data.batches(60)))["total"].backward()
    assert [name for name, p in model.named_parameters() if p.grad.abs().sum() == 0] == []


def test_a_backbone_of_ones_own():
    class Mean(nn.Module):
        d = 8

        def forward(self, tokens, observed, weight=None):
            return (tokens * observed.unsqueeze(-1)).sum(1)

    data = cohort(30)
    model = Classifier(backbone=Mean(), schema=data.schema)
    model.prepare(data)
    assert model.predict_proba(next(data.batches(30))).shape == (30, 2)


def test_a_method_that_embeds_otherwise_is_trained_and_scored_by_that():
    class Doubled(Classifier):
        def represent_for_training(self, tokens, observed):
            h, shared = super().represent_for_training(tokens, observed)
            return 2 * h, shared

    data = cohort(30)
    torch.manual_seed(0)
    model = Doubled(backbone=GRAPE(d=8), schema=data.schema)
    model.prepare(data)
    batch = next(data.batches(30))
    h = model.backbone(*model.tokens(batch))
    torch.testing.assert_close(model.embed(batch), 2 * h)
    known = ~batch.y.isnan()
    logits = model.head.map(2 * h)[known, 0]
    expected = nn.functional.binary_cross_entropy_with_logits(logits, batch.y[known])
    torch.testing.assert_close(model.train().loss(batch)["total"], expected)
    with pytest.raises(TypeError, match=r"Own overrides represent, .*represent_for_training"):
        type("Own", (Classifier,), {"represent": lambda self, tokens, observed: tokens.sum(1)})


def test_refusals():
    data = cohort(30)
    model = Classifier(backbone=GRAPE(d=8), schema=data.schema)
    with pytest.raises(RuntimeError, match=r"not fitted.*fit\(model, train\)"):
        model.predict_proba(next(data.batches(30)))
    model.prepare(data)
    with pytest.raises(ValueError, match=r"does not know the modality 'notes'.*labs, ward, ecg"):
        model.tokens(next(Cohort(x={"notes": torch.randn(2, 2)}).batches(2)))
    with pytest.raises(ValueError, match=r"'labs' has 2 features here.*3: labs_0, labs_1, labs_2"):
        model.tokens(next(Cohort(x={"labs": torch.randn(2, 2)}).batches(2)))
    with pytest.raises(ValueError, match=r"kind 'categorical'.*kinds=\{'ward': 'categorical'\}"):
        model.tokens(next(Cohort(x={"ward": torch.randn(2, 1)}).batches(2)))
    wide = Classifier(
        backbone=GRAPE(d=8), schema=data.schema, encoders={"labs": VectorEncoder(n_features=3, d=9)}
    )
    with pytest.raises(ValueError, match=r"encoder of 'labs' gives \(30, 9\).*\(30, 8\)"):
        wide.tokens(next(data.batches(30)))
    with pytest.raises(ValueError, match=r"no task.*Pass y="):
        Classifier(backbone=GRAPE(d=8), schema=Cohort(x={"labs": torch.randn(2, 2)}).schema)
    with pytest.raises(ValueError, match=r"Identity has no integer attribute d"):
        Classifier(backbone=nn.Identity(), schema=data.schema)

import numpy as np
import pytest
import torch

from dfdlib import data
from dfdlib.data import Cohort
from dfdlib.evaluation import predict_proba
from dfdlib.losses import RelativeDifficulty, gce
from dfdlib.models import GRAPE, Deconfounder
from dfdlib.models.lff import LfF
from dfdlib.training import Stage, fit, load_model


def cohort(task="binary", n=60):
    generator = torch.Generator().manual_seed(0)
    labs = torch.randn(n, 3, generator=generator)
    ecg = torch.randn(n, 2, generator=generator)
    ecg[torch.rand(n, generator=generator) < 0.4] = torch.nan
    shape = (n, 2) if task == "multilabel" else (n,)
    y = torch.randint(0, 3 if task == "multiclass" else 2, shape, generator=generator).float()
    y[:4] = torch.nan
    return Cohort(x={"labs": labs, "ecg": ecg}, y=y, task=task)


def make(data, **options):
    torch.manual_seed(0)
    model = LfF(backbone=GRAPE(d=8), schema=data.schema, **options)
    for module in model.modules():  # as fit does: the two networks begin apart
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    model.prepare(data)
    return model.train()


def both(model, batch):
    """Logits of the debiased and of the biased network."""
    result = []
    for network in (model, model.biased):
        tokens, observed = network.tokens(batch)
        result.append(network.logits(network.represent(tokens, observed), observed))
    return result


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_two_steps_against_the_formulas(task):
    data = cohort(task)
    model = make(data)
    n_classes = 3 if task == "multiclass" else 2
    smoothed = {}
    for step in range(2):
        batch = next(data.batches(60))
        logits = [part.detach() for part in both(model, batch)]
        assert not torch.allclose(*logits)
        known = ~batch.y.isnan()
        loss = [gce(part, batch.y, q=0, reduction="none").double() for part in logits]
        relative = []
        for s in range(2):
            smoothed[s] = 0.7 * smoothed[s] + 0.3 * loss[s] if step else loss[s]
            share = torch.zeros_like(smoothed[s])
            for c in range(n_classes):
                for column in range(share[0].numel()):
                    rows = (batch.y == c).reshape(60, -1)[:, column]
                    view = smoothed[s].reshape(60, -1)[:, column]
                    share.reshape(60, -1)[rows, column] = view[rows] / view[rows].max()
            relative.append(share)
        weight = relative[1] / (relative[0] + relative[1] + 1e-8)
        terms = model.loss(batch)
        expected = (weight * loss[0])[known].sum() / known.sum()
        torch.testing.assert_close(terms["cross_entropy"].double(), expected, rtol=1e-4, atol=0)
        p = torch.exp(-loss[1][known])
        expected = (0.7 * p**0.7 * loss[1][known]).mean()
        torch.testing.assert_close(terms["bias_gce"].double(), expected, rtol=1e-4, atol=0)
        torch.testing.assert_close(terms["total"], terms["cross_entropy"] + terms["bias_gce"])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.9)


def test_neither_network_learns_from_the_others_loss():
    data = cohort()
    model = make(data)
    batch = next(data.batches(60))
    own = [p for name, p in model.named_parameters() if not name.startswith("biased.")]
    biased = list(model.biased.parameters())
    assert len(own) == len(biased)
    terms = model.loss(batch)
    for term, zero in (("cross_entropy", biased), ("bias_gce", own)):
        for gradient in torch.autograd.grad(
            terms[term], zero, retain_graph=True, allow_unused=True
        ):
            assert gradient is None
    terms["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_weights_are_per_patient():
    data = cohort()
    model = make(data)
    batch = next(data.batches(60))
    logits, bias_logits = both(model, batch)
    loss = [gce(part, batch.y, q=0, reduction="none") for part in (logits, bias_logits)]
    weight = RelativeDifficulty()(*loss, batch.y, batch.index)
    (gradient,) = torch.autograd.grad(model.loss(batch)["cross_entropy"], model.head.map.bias)
    slope = (logits.sigmoid() - batch.y[:, None]).squeeze(1).nan_to_num()
    expected = (weight * slope).sum() / (~batch.y.isnan()).sum()
    torch.testing.assert_close(gradient, expected[None])


def test_what_is_saved_holds_no_labels_and_scores_as_the_debiased_network(tmp_path):
    train, test = data.load("synthetic", n=300).split((0.7, 0.3))
    model = LfF(backbone=GRAPE(d=8), schema=train.schema)
    run = fit(model, train, test, stages=[Stage(epochs=2)], batch_size=70)
    assert model.difficulty.label.numel() == model.difficulty.smoothed.numel() == 0
    run.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    expected = predict_proba(run.model, test)
    unknown = Cohort(x=test.x, x_observed=test.x_observed, observed=test.observed)
    np.testing.assert_array_equal(predict_proba(loaded, unknown), expected)
    logits = both(loaded, next(test.batches(90)))
    np.testing.assert_allclose(logits[0].sigmoid().detach()[:, 0], expected[:, 1], atol=1e-6)
    biased = predict_proba(loaded.biased, test)
    np.testing.assert_allclose(logits[1].sigmoid().detach()[:, 0], biased[:, 1], atol=1e-6)
    assert np.abs(biased - expected).max() > 1e-3
    alone = [run.model.predict_proba(batch) for batch in test.batches(1)]
    np.testing.assert_allclose(torch.cat(alone), expected, atol=1e-6)


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    train = data.load("synthetic", n=120)

    def run(folder):
        model = LfF(backbone=GRAPE(d=8), schema=train.schema)
        stages = [Stage(epochs=4)]
        return fit(model, train, stages=stages, batch_size=40, folder=folder).model

    whole = predict_proba(run(None), train)
    steps, loss = [], LfF.loss

    def stopped(model, batch):
        steps.append(1)
        if len(steps) > 7:  # in the third epoch
            raise KeyboardInterrupt
        return loss(model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(LfF, "loss", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    np.testing.assert_array_equal(predict_proba(run(tmp_path), train), whole)


def test_heads_work_in_both_networks():
    train = data.load("synthetic", n=200, missing="mnar_latent")
    model = make(train, head=Deconfounder(route="invariant"))
    terms = model.loss(next(train.batches(200)))
    assert {"penalty", "bias_penalty"} <= set(terms)
    assert model.biased.head is not model.head


def test_lff_refuses():
    for q in (0, 1.5):
        with pytest.raises(ValueError, match=f"LfF needs 0 < gce_q <= 1, got gce_q={q}"):
            make(cohort(), gce_q=q)
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\), got alpha=1"):
        make(cohort(), alpha=1)

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dfdlib import data
from dfdlib.evaluation import predict_proba
from dfdlib.models import GRAPE, Classifier, TokenTransformer
from dfdlib.models.m3care import M3Care, alike_cells
from dfdlib.training import Stage, fit, load_model


class Flat(nn.Module):
    """A backbone that shows what it is given."""

    def __init__(self, *, d):
        super().__init__()
        self.d = d

    def forward(self, tokens, observed, weight=None):
        return torch.where(observed.unsqueeze(-1), tokens, 0).sum(1)


def grid(n=9, m=3, d=4, seed=0, share=0.6):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(n, m, d, generator=generator).double()
    return tokens, torch.rand(n, m, generator=generator) < share


def made(backbone=None, m=3, d=4, **options):
    torch.manual_seed(0)
    module = M3Care(backbone=Flat(d=d) if backbone is None else backbone, **options)
    module.build(m)
    with torch.no_grad():
        module.log_sigma.copy_(torch.linspace(-0.3, 0.4, m))
    return module.double()


def slow(module, tokens, observed, others, there):
    """Imputation with loops."""
    tokens, observed, others, there = (
        t.detach().numpy() for t in (tokens, observed, others, there)
    )
    sigma = module.log_sigma.detach().exp().numpy()
    weight, bias = module.mix.weight.detach().numpy(), module.mix.bias.detach().numpy()
    result, now = tokens.copy(), observed.copy()
    for i, own in enumerate(tokens):
        similar = {}
        for j, other in enumerate(others):
            shared = [m for m in range(len(own)) if observed[i, m] and there[j, m]]
            if shared:
                a = own / np.linalg.norm(own, axis=1, keepdims=True)
                b = other / np.maximum(np.linalg.norm(other, axis=1, keepdims=True), 1e-30)
                distance = ((a - b) ** 2).sum(1)
                s = np.mean([np.exp(-distance[m] / (2 * sigma[m] ** 2)) for m in shared])
                if s >= module.threshold:
                    similar[j] = s
        for m in np.flatnonzero(~observed[i]):
            donors = [j for j in similar if there[j, m]]
            if donors:
                mean = sum(similar[j] * others[j, m] for j in donors)
                result[i, m] = weight @ (mean / sum(similar[j] for j in donors)) + bias
                now[i, m] = True
    return result, now


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8])
def test_imputation_in_a_batch_against_loops(threshold):
    tokens, observed = grid()
    module = made(threshold=threshold)
    imputed, now = module.impute(tokens, observed)
    expected = slow(module, tokens, observed, tokens, observed)
    np.testing.assert_array_equal(now, expected[1])
    np.testing.assert_allclose(imputed.detach(), expected[0], atol=1e-12)
    assert (now & ~observed).any()


def test_imputation_from_the_memory_against_loops():
    tokens, observed = grid()
    others, there = grid(n=200, seed=1)
    module = made(threshold=0.6, n_memory=7)
    parts = [(others[:110], there[:110], None), (others[110:], there[110:], None)]
    module.eval().fix_states(lambda: parts)
    imputed, now = module.impute(tokens, observed)
    expected = slow(module, tokens, observed, module.memory, module.memory_observed)
    np.testing.assert_array_equal(now, expected[1])
    np.testing.assert_allclose(imputed.detach(), expected[0], atol=1e-12)
    assert (now & ~observed).any()


@pytest.mark.parametrize("n", [9, 10, 35, 300])
def test_the_memory_holds_means_of_ten_patients_or_more(n):
    """Each row is the mean of a set of patients, found here among all cells by brute force."""
    others, there = grid(n=n, seed=2)
    others = torch.where(there.unsqueeze(-1), others, torch.nan)  # what is not there is not read
    read = others.nan_to_num(7.0)
    cells = alike_cells(read, there, 16)
    assert torch.cat(cells).sort().values.tolist() == list(range(n))  # everybody in one cell
    assert all(len(cell) >= min(n, 10) for cell in cells)
    assert len(cells) <= 16
    module = made(n_memory=16)
    module.eval().fix_states(lambda: [(read, there, None)])
    for row, have, cell in zip(module.memory, module.memory_observed, cells, strict=False):
        holders = there[cell].sum(0)
        np.testing.assert_array_equal(have, holders >= 10)
        expected = others[cell].nanmean(dim=0)
        torch.testing.assert_close(row[have], expected[have])
        assert not row[~have].any()
    assert not module.memory_observed[len(cells) :].any()
    assert not module.memory[len(cells) :].any()
    # nobody stands there as they are
    distance = torch.cdist(module.memory.flatten(0, 1), read.flatten(0, 1))
    kept = module.memory_observed.flatten()
    assert module.memory_observed.any() == (n > 10)  # of 10 nobody lacks nothing
    assert not kept.any() or float(distance[kept].min()) > 1e-6


def test_who_has_a_rare_modality_stays_together():
    others, there = grid(n=200, seed=3)
    there[:, 2] = torch.arange(200) < 12
    module = made(n_memory=16)
    module.eval().fix_states(lambda: [(others, there, None)])
    assert module.memory_observed[:, 2].sum() == 1


def test_twins_give_what_the_other_lacks():
    tokens, observed = grid(n=2)
    tokens[1, :2] = tokens[0, :2]
    observed[:] = True
    observed[0, 2] = False
    module = made(threshold=1 - 1e-9)
    with torch.no_grad():
        module.mix.weight.copy_(torch.eye(4))
        module.mix.bias.zero_()
    imputed, now = module.impute(tokens, observed)
    assert now.all()
    torch.testing.assert_close(imputed[0, 2], tokens[1, 2])
    torch.testing.assert_close(imputed[now & observed], tokens[observed])


def test_nobody_similar_leaves_a_hole():
    tokens, observed = grid()
    for module, case in (
        (made(threshold=1.0), (tokens, observed)),
        (made(), (tokens, torch.zeros_like(observed))),
        (made(), (tokens[:1], observed[:1])),
        (made().eval(), (tokens, observed)),  # before fix_states
    ):
        imputed, now = module.impute(*case)
        assert torch.equal(now, case[1])
        assert torch.equal(imputed, case[0])


def test_what_is_not_observed_is_not_read():
    tokens, observed = grid()
    noise = torch.where(observed.unsqueeze(-1), tokens, tokens + 100)
    for module in (made(), made().eval()):
        module.fix_states(lambda: [(tokens, observed, None)])
        torch.testing.assert_close(module(noise, observed), module(tokens, observed))


def test_order_of_patients_does_not_matter():
    tokens, observed = grid()
    module = made()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        module(tokens[order], observed[order]), module(tokens, observed)[order]
    )


def test_gradients_reach_everything():
    tokens, observed = grid()
    tokens.requires_grad_()
    module = made(threshold=0.0)
    assert torch.autograd.gradcheck(lambda t: module(t, observed), tokens)
    module(tokens, observed).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert (parameter.grad != 0).all(), name


@pytest.mark.parametrize("inner", [GRAPE, TokenTransformer])
def test_a_score_does_not_depend_on_the_batch_and_survives_saving(inner, tmp_path):
    train, test = data.load("synthetic", n=300, missing="mcar").split((0.7, 0.3))
    backbone = M3Care(backbone=inner(d=8), n_memory=50)
    model = Classifier(backbone=backbone, schema=train.schema)
    run = fit(model, train, test, stages=[Stage(epochs=2)], batch_size=70)
    whole = predict_proba(run.model, test)
    alone = torch.cat([run.model.predict_proba(batch) for batch in test.batches(1)])
    np.testing.assert_allclose(alone, whole, atol=1e-6)
    run.save(tmp_path / "model")
    np.testing.assert_array_equal(predict_proba(load_model(tmp_path / "model"), test), whole)
    plain = backbone.backbone(*model.tokens(next(test.batches(90))))
    imputed = model.embed(next(test.batches(90)))
    assert not torch.allclose(plain, imputed)
    assert backbone.memory_observed.any(1).sum() > 2
    again = fit(
        Classifier(backbone=M3Care(backbone=inner(d=8), n_memory=50), schema=train.schema),
        train, test, stages=[Stage(epochs=2)], batch_size=70,
    )  # fmt: skip
    np.testing.assert_array_equal(predict_proba(again.model, test), whole)


def test_states_of_the_backbone_are_those_of_imputed_tokens():
    tokens, observed = (t.float() if t.is_floating_point() else t for t in grid(n=40, d=8))
    module = M3Care(backbone=GRAPE(d=8))
    module.build(3)
    module.eval()
    parts = [(tokens[:15], observed[:15], None), (tokens[15:], observed[15:], None)]
    module.fix_states(lambda: parts)
    alone = copy.deepcopy(module.backbone)
    alone.modality_states.zero_()
    alone.fix_states(lambda: [(*module.impute(tokens, observed), None)])
    torch.testing.assert_close(module.backbone.modality_states, alone.modality_states)
    assert alone.modality_states.any()


def test_weights_and_terms_of_the_loss_reach_the_backbone():
    class Talks(GRAPE):
        def auxiliary(self, h, tokens, observed, y, weight=None):
            return {"seen": observed.float().sum() + weight.sum()}

    tokens, observed = (t.float() if t.is_floating_point() else t for t in grid(n=40, d=8))
    y, weight = torch.zeros(40), torch.rand(40, 3)
    module = M3Care(backbone=Talks(d=8), threshold=0.0)
    module.build(3)
    h = module(tokens, observed, weight)
    now = module.impute(tokens, observed)
    torch.testing.assert_close(h, module.backbone(*now, weight))
    terms = module.auxiliary(h, tokens, observed, y, weight)
    torch.testing.assert_close(terms["seen"], now[1].sum() + weight.sum())
    assert M3Care(backbone=GRAPE(d=8)).auxiliary(h, tokens, observed, y) == {}
    assert module.n_layers == 2
    assert not hasattr(M3Care(backbone=Flat(d=8)), "n_layers")


def test_drawing_weights_empties_the_memory():
    tokens, observed = grid()
    module = made()
    module.fix_states(lambda: [(tokens, observed, None)])
    module.reset_parameters()
    assert not module.memory_observed.any()
    assert (module.log_sigma == 0).all()


def test_m3care_refuses():
    with pytest.raises(ValueError, match=r"threshold must lie between 0 and 1, got 1\.5"):
        M3Care(backbone=GRAPE(d=8), threshold=1.5)
    with pytest.raises(ValueError, match="n_memory must be 1 or more, got 0"):
        M3Care(backbone=GRAPE(d=8), n_memory=0)
    with pytest.raises(ValueError, match="Identity has no integer attribute d"):
        M3Care(backbone=nn.Identity())

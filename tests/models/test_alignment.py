"""The correction of a score by what differs between hospitals, against closed forms."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dfdlib import data
from dfdlib.evaluation import predict_proba
from dfdlib.models import DFD, GRAPE
from dfdlib.models.dfd_parts import Alignment
from dfdlib.training import Stage, fit

M = 3


def hospitals(follows=(0.95, 0.7), n=4000, seed=0):
    """Cause a and bias b; b follows y more closely in some hospitals. A score and the votes."""
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(len(follows)), n)
    y = rng.integers(0, 2, len(code))
    a = rng.normal(size=len(code)) + y
    b = np.where(rng.random(len(code)) < np.array(follows)[code], 2 * y - 1, 1 - 2 * y)
    seen = [np.where(rng.random(len(b)) < 0.9, b, -b) for _ in range(M)]
    votes = np.stack([a / M + s for s in seen], axis=1)
    score = a + sum(seen) / M
    return tuple(map(torch.as_tensor, (score, votes, y.astype(float), code, a, b)))


def fixed(score, votes, y, code, observed=None):
    module = Alignment(d=1, n_modalities=M, n_outputs=1, task="binary")
    observed = torch.ones(votes.shape, dtype=torch.bool) if observed is None else observed
    module.fix(score[:, None], votes[..., None], observed, y, code)
    for vote in module.voters:  # votes are what tokens say
        torch.nn.init.ones_(vote.weight)
        torch.nn.init.zeros_(vote.bias)
    tokens = votes[..., None].float()
    return module, module(score[:, None].float(), tokens, observed)[:, 0].detach().double()


def contrast(s, y, code):
    return torch.stack(
        [s[(code == e) & (y == 1)].mean() - s[(code == e) & (y == 0)].mean() for e in code.unique()]
    )


def test_two_hospitals_agree_afterwards_and_what_is_left_is_the_cause():
    score, votes, y, code, a, b = hospitals()
    module, out = fixed(score, votes, y, code)
    before, after = contrast(score, y, code), contrast(out, y, code)
    assert abs(before[0] - before[1]) > 0.2
    assert after[0].item() == pytest.approx(after[1].item(), abs=1e-4)
    # by hand: both hold s / M and s of the bias, so 1 / M of the votes are to be subtracted
    assert module.kappa.item() == pytest.approx(1 / M, abs=0.05)
    assert abs(np.corrcoef(score, b)[0, 1]) > 0.6
    partial = LogisticRegression(C=1e6).fit(np.stack([a, b], 1), out > out.median()).coef_[0]
    assert abs(partial[1]) < 0.1 * abs(partial[0])


def test_kappa_and_the_test_are_a_weighted_regression_over_hospitals():
    score, votes, y, code, *_ = hospitals(follows=(0.9, 0.8, 0.6), n=500)
    module, _ = fixed(score, votes, y, code)
    vote = votes.sum(1) - votes.sum(1).mean()
    f, v = contrast(score, y, code).numpy(), contrast(vote, y, code).numpy()
    cells = [[vote[(code == e) & (y == k)].numpy() for k in (0, 1)] for e in range(3)]
    w = 1 / np.array([sum(np.var(c, ddof=1) / len(c) for c in pair) for pair in cells])
    slope = np.polyfit(v, f, 1, w=np.sqrt(w))[0]
    q = (w * (v - np.average(v, weights=w)) ** 2).sum()
    assert module.kappa.item() == pytest.approx(slope, rel=1e-5)
    assert module.p_value.item() == pytest.approx(chi2.sf(q, 2), rel=1e-4)


def test_where_hospitals_do_not_differ_nothing_is_corrected():
    generator = np.random.default_rng(1)
    small = 0
    for seed in range(200):
        score, votes, y, code, *_ = hospitals(n=100, seed=seed)
        shuffled = torch.as_tensor(generator.permutation(code.numpy()))
        module, out = fixed(score, votes, y, shuffled)
        small += int(module.p_value.item() < 0.1)
        if module.p_value.item() >= 0.01:
            assert torch.equal(out, score.float().double())
            assert "do not differ" in module.advice("site")[0]
    assert 8 <= small <= 34  # about a tenth: p-values are uniform


def test_unknown_labels_missing_modalities_and_hospitals_of_one_class_change_nothing():
    score, votes, y, code, *_ = hospitals(n=500)
    module, _ = fixed(score, votes, y, code)
    extra = torch.tensor([torch.nan, torch.nan, 1.0, 1.0])
    where = torch.tensor([0, 1, 2, 2])  # nobody of hospital 2 is without the disease
    more = [torch.cat([t, t[:4]]) for t in (score, votes)]
    observed = torch.ones(len(more[1]), M, dtype=torch.bool)
    observed[-4:] = False  # no votes, so centres stay
    other, out = fixed(*more, torch.cat([y, extra]), torch.cat([code, where]), observed)
    assert other.kappa.item() == pytest.approx(module.kappa.item(), rel=1e-5)
    alone = other.scale * score[:4].float() + other.shift  # who has no votes keeps the score
    torch.testing.assert_close(out[-4:], alone.double())


def test_one_hospital_only_or_no_votes_leave_the_score():
    score, votes, y, code, *_ = hospitals(n=50)
    for args in ((score, votes, y, code * 0), (score, votes * 0, y, code)):
        module, out = fixed(*args)
        assert module.kappa.item() == 0
        assert torch.equal(out, score.float().double())


def test_several_classes_are_corrected_one_against_the_rest():
    score, votes, y, code, *_ = hospitals()
    binary, _ = fixed(score, votes, y, code)
    module = Alignment(d=1, n_modalities=M, n_outputs=2, task="multiclass")
    both, of_votes = torch.stack([-score, score], 1), torch.stack([-votes, votes], 2)
    observed = torch.ones(votes.shape, dtype=torch.bool)
    module.fix(both, of_votes, observed, y, code)
    torch.testing.assert_close(module.kappa, binary.kappa.expand(2))
    torch.testing.assert_close(module.scale, binary.scale.expand(2), rtol=1e-3, atol=0)
    assert module.shift[0].item() == pytest.approx(-module.shift[1].item(), rel=1e-2)


def test_dfd_closes_the_gap_with_hospitals_and_not_with_shuffled_ones():
    worlds = {
        w: data.load("synthetic", n=4000, structure="anticausal", world=w, seed=100)
        for w in ("train", "shifted")
    }
    train, shifted = worlds.values()
    auroc = {}
    for kind in ("real", "shuffled"):
        if kind == "shuffled":
            mixed = np.random.default_rng(0).permutation(train.groups["site"])
            train.groups["site"] = mixed
        model = DFD(
            backbone=GRAPE(d=8), schema=train.schema, environment="site", mi=None, predict="causal"
        )
        fit(model, train, stages=[Stage(epochs=8)], lr=1e-2, batch_size=256)
        auroc[kind] = roc_auc_score(shifted.y, predict_proba(model, shifted)[:, 1])
    oracle = roc_auc_score(shifted.y, shifted.truth.p_do)
    assert auroc["real"] > oracle - 0.08
    assert auroc["shuffled"] < oracle - 0.25

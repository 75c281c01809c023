import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from dfdlib.models import fusion

GRID = torch.linspace(-30, 30, 60_001, dtype=torch.double)
STEP = float(GRID[1] - GRID[0])


def posteriors(n=5, m=3, d=2, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    mean = spread * torch.randn(n, m, d, generator=generator, dtype=torch.double)
    log_variance = torch.randn(n, m, d, generator=generator, dtype=torch.double)
    return mean, log_variance


def all_there(n=5, m=3):
    return torch.ones(n, m, dtype=torch.bool)


def density(mean, log_variance):
    return Normal(mean, (0.5 * log_variance).exp()).log_prob(GRID).exp()


# ---------------------------------------------------------------- divergences


def test_divergences_are_those_of_torch():
    mean, log_variance = posteriors()
    a = Normal(mean[:, 0], (0.5 * log_variance[:, 0]).exp())
    b = Normal(mean[:, 1], (0.5 * log_variance[:, 1]).exp())
    found = fusion.kl(mean[:, 0], log_variance[:, 0], mean[:, 1], log_variance[:, 1])
    torch.testing.assert_close(found, kl_divergence(a, b).sum(-1))
    standard = kl_divergence(a, Normal(torch.zeros_like(a.mean), 1.0)).sum(-1)
    torch.testing.assert_close(fusion.kl_standard(mean[:, 0], log_variance[:, 0]), standard)
    z = mean[:, 2]
    found = fusion.log_density(z, mean[:, 0], log_variance[:, 0])
    torch.testing.assert_close(found, a.log_prob(z).sum(-1))


# ---------------------------------------------------------------- one joint posterior


@pytest.mark.parametrize("prior_expert", [False, True])
def test_poe_is_the_normalised_product_of_the_densities(prior_expert):
    mean, log_variance = posteriors(d=1)
    observed = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0]]).bool()
    found = fusion.poe(mean, log_variance, observed, prior_expert=prior_expert)
    for i, there in enumerate(observed):
        product = torch.ones_like(GRID)
        for j in there.nonzero():
            product = product * density(mean[i, j], log_variance[i, j])
        if prior_expert:
            product = product * density(torch.zeros(1), torch.zeros(1))
        product = product / (product.sum() * STEP)
        expected = (product * GRID).sum() * STEP
        variance = (product * (GRID - expected).square()).sum() * STEP
        assert float(found[0][i, 0]) == pytest.approx(float(expected), abs=1e-6)
        assert float(found[1][i, 0].exp()) == pytest.approx(float(variance), rel=1e-6)


def test_avg_by_hand():
    mean = torch.tensor([[[1.0], [5.0], [99.0]]])
    log_variance = torch.tensor([[[1.0], [16.0], [99.0]]]).log()
    observed = torch.tensor([[True, True, False]])
    for average, variance in (("variance", 8.5), ("deviation", 2.5**2)):
        found = fusion.avg(mean, log_variance, observed, average=average)
        assert float(found[0]) == 3
        assert float(found[1].exp()) == pytest.approx(variance)


@pytest.mark.parametrize("fuse", [fusion.avg, fusion.poe])
def test_one_view_is_itself_and_none_is_the_standard_normal(fuse):
    mean, log_variance = posteriors(n=2, m=2)
    found = fuse(mean, log_variance, torch.tensor([[False, True], [False, False]]))
    torch.testing.assert_close(found[0][0], mean[0, 1])
    torch.testing.assert_close(found[1][0], log_variance[0, 1])
    assert torch.equal(found[0][1], torch.zeros(2, dtype=torch.double))
    assert torch.equal(found[1][1], torch.zeros(2, dtype=torch.double))


# ---------------------------------------------------------------- mixtures


def test_mopoe_has_poe_and_moe_as_its_ends():
    mean, log_variance = posteriors()
    full = torch.ones(1, 3, dtype=torch.bool)
    found = fusion.mopoe(mean, log_variance, all_there(), among=full)
    product = fusion.poe(mean, log_variance, all_there())
    for a, b in zip(found, product, strict=False):
        assert torch.equal(a.squeeze(1), b)
    singletons = torch.eye(3, dtype=torch.bool)
    found = fusion.mopoe(mean, log_variance, all_there(), among=singletons)
    experts = fusion.moe(mean, log_variance, all_there())
    for a, b in zip(found, experts, strict=True):
        torch.testing.assert_close(a, b)


def test_mopoe_takes_every_subset_that_a_patient_has():
    mean, log_variance = posteriors(n=2)
    observed = torch.tensor([[True, True, True], [True, False, True]])
    found = fusion.mopoe(mean, log_variance, observed, prior_expert="full")
    assert found[2].sum(1).tolist() == [7, 3]
    assert fusion.subsets(3).sum(1).tolist() == [1, 1, 1, 2, 2, 2, 3]
    for s, subset in enumerate(fusion.subsets(3)):
        prior = bool(subset.all())
        product = fusion.poe(mean[:1], log_variance[:1], subset[None], prior_expert=prior)
        torch.testing.assert_close(found[0][:1, s], product[0])
        torch.testing.assert_close(found[1][:1, s], product[1])
        assert bool(found[2][1, s]) == (not subset[1])


def test_pick_gives_each_component_the_same_share():
    mean = torch.arange(3.0).view(1, 3, 1).expand(12, 3, 1)
    available = torch.ones(12, 3, dtype=torch.bool)
    available[6:, 0] = False
    place = torch.tensor([0, 0.2, 0.35, 0.5, 0.7, 0.999] * 2)
    found, _ = fusion.pick(mean, mean, available, place)
    assert found.flatten().tolist() == [0, 0, 1, 1, 2, 2, 1, 1, 1, 2, 2, 2]
    assert fusion.pick(mean, mean, available, torch.ones(12))[0].flatten().tolist() == [2] * 12


# ---------------------------------------------------------------- MMVM


@pytest.mark.parametrize("regulariser", ["pairwise", "mixture"])
def test_nothing_to_share_costs_nothing(regulariser):
    mean, log_variance = posteriors()
    one = torch.tensor([[False, True, False]]).expand(5, 3)
    for q, observed in (
        ((mean, log_variance), one),
        ((mean[:, :1].expand(5, 3, 2), log_variance[:, :1].expand(5, 3, 2)), all_there()),
    ):
        found = fusion.mmvm(*q, observed, regulariser=regulariser, z=mean)
        torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-12, rtol=0)


def test_pairwise_is_half_the_symmetrised_divergence_of_two_views():
    mean, log_variance = posteriors(m=2)
    forth = fusion.kl(mean[:, 0], log_variance[:, 0], mean[:, 1], log_variance[:, 1])
    back = fusion.kl(mean[:, 1], log_variance[:, 1], mean[:, 0], log_variance[:, 0])
    found = fusion.mmvm(mean, log_variance, all_there(m=2))
    torch.testing.assert_close(found, (forth + back) / 2)


def test_mixture_is_the_divergence_from_the_mixture():
    mean, log_variance = posteriors(n=3, d=1)
    observed = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1]]).bool()
    n = 40_000
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(n, 3, 1, generator=generator, dtype=torch.double)
    for i, there in enumerate(observed):
        q = [density(mean[i, j], log_variance[i, j]) for j in there.nonzero()]
        mixed = torch.stack(q).mean(0)
        expected = sum(
            float((p * (p / mixed.clamp(min=1e-300)).clamp(min=1e-300).log()).sum()) * STEP
            for p in q
        )
        rows = mean[i].expand(n, 3, 1), log_variance[i].expand(n, 3, 1), there.expand(n, 3)
        draws = fusion.mmvm(*rows, regulariser="mixture", z=rows[0] + noise * (rows[1] / 2).exp())
        error = float(draws.std()) / math.sqrt(n)
        assert abs(float(draws.mean()) - expected) < 4 * error
        pairwise = float(fusion.mmvm(*(r[:1] for r in rows)))
        assert pairwise >= expected


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0, 50.0])
def test_mixture_is_bounded_and_pairwise_lies_above_it(spread):
    mean, log_variance = posteriors(n=400, spread=spread)
    generator = torch.Generator().manual_seed(2)
    observed = torch.rand(400, 3, generator=generator) < 0.7
    limit = observed.sum(1) * observed.sum(1).clamp(min=1).log()
    total = 0.0
    for _ in range(20):
        noise = torch.randn(mean.shape, generator=generator, dtype=torch.double)
        z = mean + noise * (log_variance / 2).exp()
        draw = fusion.mmvm(mean, log_variance, observed, regulariser="mixture", z=z)
        assert (draw <= limit + 1e-9).all()
        total += draw.mean() / 20
    assert fusion.mmvm(mean, log_variance, observed).mean() > total


@pytest.mark.parametrize("regulariser", ["pairwise", "mixture"])
def test_alpha_goes_from_the_shared_to_the_standard_prior(regulariser):
    mean, log_variance = posteriors()
    observed = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()
    standard = (fusion.kl_standard(mean, log_variance) * observed).sum(1)

    def at(alpha):
        return fusion.mmvm(
            mean, log_variance, observed, regulariser=regulariser, alpha=alpha, z=mean
        )

    torch.testing.assert_close(at(1.0), standard)
    torch.testing.assert_close(at(0.25), 0.75 * at(0.0) + 0.25 * standard)


# ---------------------------------------------------------------- every one of them


def everything(mean, log_variance, observed):
    """Each fusion, as one number per row that does not know the order of the views."""

    def mixed(components, spread, available):
        return ((components + 0.3 * spread).sin().sum(-1) * available).sum(1)

    yield (fusion.avg(mean, log_variance, observed)[1]).sum(1)
    yield (fusion.avg(mean, log_variance, observed, average="deviation")[1]).sum(1)
    yield sum(fusion.poe(mean, log_variance, observed)).sum(1)
    yield mixed(*fusion.mopoe(mean, log_variance, observed))
    for regulariser in ("pairwise", "mixture"):
        yield fusion.mmvm(mean, log_variance, observed, regulariser=regulariser, alpha=0.3, z=mean)


def test_no_order_of_views_or_rows_changes_anything():
    mean, log_variance = posteriors()
    observed = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()
    views, rows = torch.tensor([2, 0, 1]), torch.tensor([4, 2, 0, 3, 1])
    q = mean, log_variance, observed
    moved = [t[:, views][rows] for t in q]
    for before, after in zip(everything(*q), everything(*moved), strict=True):
        torch.testing.assert_close(before[rows], after)


def test_what_is_missing_is_never_read_and_gets_no_gradient():
    mean, log_variance = posteriors()
    observed = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()
    clean = list(everything(mean, log_variance, observed))
    holes = ~observed.unsqueeze(-1)
    dirty = [t.masked_fill(holes, torch.nan).requires_grad_() for t in (mean, log_variance)]
    found = list(everything(*dirty, observed))
    for a, b in zip(found, clean, strict=True):
        assert torch.equal(a, b)
    torch.stack(found).sum().backward()
    for t in dirty:
        assert (t.grad[~observed] == 0).all()
        assert (t.grad[observed[:, :, None].expand_as(t)] != 0).any()


def test_gradients_are_those_of_finite_differences():
    mean, log_variance = posteriors(n=2, m=2)
    observed = torch.tensor([[True, True], [True, False]])
    for k in range(6):
        torch.autograd.gradcheck(
            lambda a, b, k=k: list(everything(a, b, observed))[k],
            (mean.requires_grad_(), log_variance.requires_grad_()),
        )


def test_options_that_do_not_exist():
    q = (*posteriors(n=1), all_there(n=1))
    with pytest.raises(ValueError, match=r"'varience' is not a way to average .*'variance'"):
        fusion.avg(*q, average="varience")
    with pytest.raises(ValueError, match="'some' is not a choice of prior_expert"):
        fusion.mopoe(*q, prior_expert="some")
    with pytest.raises(ValueError, match=r"'pair' is not a regulariser .*'pairwise'"):
        fusion.mmvm(*q, regulariser="pair")
    with pytest.raises(ValueError, match=r"needs a draw of each posterior. Pass z="):
        fusion.mmvm(*q, regulariser="mixture")


def test_large_numbers_stay_finite():
    mean = torch.tensor([[[0.0], [1e4]]])
    log_variance = torch.tensor([[[-20.0], [20.0]]])
    both = torch.tensor([[True, True]])
    assert np.isfinite(sum(float(t) for t in fusion.poe(mean, log_variance, both)))
    draw = fusion.mmvm(mean, log_variance, both, regulariser="mixture", z=mean)
    assert float(draw) <= 2 * math.log(2) + 1e-6

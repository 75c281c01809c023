import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from dfdlib.information import (
    CLUB,
    MINE,
    InfoNCE,
    audit,
    distance_correlation,
    hsic,
    learn,
    permutation_test,
)

D_C, D_B = 3, 2
MAKE = {
    "mine": lambda **k: MINE(d_c=D_C, d_b=D_B, **k),
    "mine, all pairs": lambda **k: MINE(d_c=D_C, d_b=D_B, negatives=None, **k),
    "nce": lambda **k: InfoNCE(d_c=D_C, d_b=D_B, **k),
    "nce given y": lambda **k: InfoNCE(d_c=D_C, d_b=D_B, n_classes=2, **k),
    "club": lambda **k: CLUB(d_c=D_C, d_b=D_B, **k),
    "club given y": lambda **k: CLUB(d_c=D_C, d_b=D_B, n_classes=2, **k),
}
every = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def batch(n=12, seed=0, dtype=torch.double):
    """Two dependent representations and labels."""
    g = torch.Generator().manual_seed(seed)
    h_c = torch.randn(n, D_C, generator=g, dtype=dtype)
    h_b = h_c[:, :D_B] + torch.randn(n, D_B, generator=g, dtype=dtype)
    return h_c, h_b, (torch.arange(n) % 2).to(dtype)


def fresh(make, **options):
    torch.manual_seed(0)
    return make(**options).double()


def gaussian(rho, d, n=4000, seed=0):
    """Normal pairs, correlated one to one."""
    g = torch.Generator().manual_seed(seed)
    a, e = torch.randn(2, n, d, generator=g)
    return a, rho * a + math.sqrt(1 - rho**2) * e


def parity(n=2000, seed=0):
    g = torch.Generator().manual_seed(seed)
    bits = torch.randint(2, (n, 2), generator=g).float() * 2 - 1
    return bits, bits[:, :1] * bits[:, 1:]


# ------------------------------------------------------------------ two terms, one backward pass


@every
@pytest.mark.parametrize("options", [{}, {"noise": 0.5, "refits": 2}])
def test_cross_gradients_are_exactly_zero(make, options):
    estimator = fresh(make, **options)
    h_c, h_b, y = batch()
    leaves = [h_c.requires_grad_(), h_b.requires_grad_()]
    learn, features = estimator(h_c, h_b, y)
    weights = list(estimator.parameters())

    to_features = torch.autograd.grad(learn, leaves, allow_unused=True, retain_graph=True)
    to_weights = torch.autograd.grad(features, weights, allow_unused=True, retain_graph=True)
    assert all(g is None or (g == 0).all() for g in (*to_features, *to_weights))

    own = torch.autograd.grad(learn, weights, retain_graph=True)
    theirs = torch.autograd.grad(features, leaves, retain_graph=True)
    assert all((g != 0).any() for g in (*own, *theirs))
    (learn + 0.3 * features).backward()
    for leaf, g in zip(leaves, theirs, strict=True):
        torch.testing.assert_close(leaf.grad, 0.3 * g)
    for weight, g in zip(weights, own, strict=True):
        torch.testing.assert_close(weight.grad, g)


@every
def test_gradcheck_of_both_terms(make):
    estimator = fresh(make, hidden=3).eval()
    h_c, h_b, y = batch(6)
    h_c.requires_grad_()
    h_b.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: estimator(a, b, y).features, (h_c, h_b))
    names = [name for name, _ in estimator.named_parameters()]

    def loss(*weights):
        named = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(estimator, named, (h_c, h_b, y)).learn

    assert torch.autograd.gradcheck(loss, tuple(estimator.parameters()))


def test_one_optimiser_removes_a_dependence():
    """The encoder of h_b may keep or drop what it shares with h_c, and drops it."""
    g = torch.Generator().manual_seed(0)
    h_c, own = torch.randn(2, 600, 1, generator=g)
    torch.manual_seed(0)
    encoder, club = nn.Linear(2, 1), CLUB(d_c=1, d_b=1, hidden=16, refits=2, lr=1e-2)
    nn.init.ones_(encoder.weight)
    optimizer = torch.optim.Adam([*encoder.parameters(), *club.parameters()], lr=1e-2)
    x = torch.cat([h_c, own], dim=1)
    before = float(distance_correlation(h_c, encoder(x).detach()))
    for _ in range(150):
        h_b = encoder(x)
        learn, features = club(h_c, h_b)
        task = (h_b - h_c - own).square().mean()  # wants both
        (learn + 20 * features + task).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = float(distance_correlation(h_c, encoder(x).detach()))
    assert before > 0.6
    assert after < 0.12
    assert abs(encoder.weight[0, 1]) > 0.6  # what is its own stays


@every
def test_rows_of_other_processes_come_in_through_gather(make):
    estimator = fresh(make).eval()
    h_c, h_b, y = batch()
    whole = estimator(h_c, h_b, y)
    rest = {id(t): t[5:] for t in (h_c, h_b, y)}
    parts = [t[:5] for t in (h_c, h_b, y)]
    others = iter(rest.values())
    part = estimator(*parts, gather=lambda t: torch.cat([t, next(others)]))
    torch.testing.assert_close(part, whole)


@every
def test_refits_are_steps_of_adam_that_a_checkpoint_resumes(make):
    h_c, h_b, y = batch()
    ours, by_torch = fresh(make, refits=3, lr=0.01), fresh(make, refits=0)
    by_torch.load_state_dict(
        {k: v for k, v in ours.state_dict().items() if k != "moments"}, strict=False
    )
    adam = torch.optim.Adam(by_torch.parameters(), lr=0.01)
    for _ in range(2):
        ours(h_c, h_b, y)
        for _ in range(3):
            adam.zero_grad()
            by_torch(h_c, h_b, y).learn.backward()
            adam.step()
        if isinstance(ours, MINE):  # the call itself moves the average once more
            by_torch(h_c, h_b, y)
    for a, b in zip(ours.parameters(), by_torch.parameters(), strict=True):
        torch.testing.assert_close(a, b)

    resumed = fresh(make, refits=3, lr=0.01)
    resumed.load_state_dict(copy.deepcopy(ours.state_dict()))
    torch.testing.assert_close(resumed(h_c, h_b, y), ours(h_c, h_b, y), atol=0, rtol=0)
    before = copy.deepcopy(ours.state_dict())
    ours.eval()(h_c, h_b, y)
    with torch.no_grad():
        ours.train()(h_c, h_b, y)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} moved outside training"
    ours.reset_parameters()
    assert (ours.moments == 0).all()


# ------------------------------------------------------------------ values, by brute force


def q_of(club, h_c):
    mean, log_var = club.net(h_c).chunk(2, dim=1)
    return mean.detach().numpy(), (8 * np.tanh(log_var.detach().numpy() / 8))


@pytest.mark.parametrize("given_y", [False, True])
def test_club_is_the_mean_over_all_pairs_of_different_patients(given_y):
    h_c, h_b, y = batch(11)
    y[[0, 4]] = math.nan
    club = fresh(MAKE["club given y" if given_y else "club"])
    one_hot = y.unsqueeze(1) == torch.arange(2)
    mean, log_var = q_of(club, torch.cat([h_c, one_hot], dim=1) if given_y else h_c)
    b = h_b.numpy()

    def log_q(i, j):
        return -((b[j] - mean[i]) ** 2 / np.exp(log_var[i]) + log_var[i]).sum() / 2

    values, likelihood = [], []
    for i in range(11):
        others = [j for j in range(11) if j != i and (not given_y or y[j] == y[i])]
        if given_y and y[i].isnan():
            continue
        likelihood.append(log_q(i, i))
        values.append(log_q(i, i) - np.mean([log_q(i, j) for j in others]))
    learn, features = club(h_c, h_b, y)
    assert features.item() == pytest.approx(np.mean(values))
    assert learn.item() == pytest.approx(-np.mean(likelihood))


@pytest.mark.parametrize("critic", ["bilinear", "separable", "mlp"])
@pytest.mark.parametrize("given_y", [False, True])
def test_nce_by_loops(critic, given_y):
    h_c, h_b, y = batch(9)
    y[2] = math.nan
    nce = fresh(MAKE["nce given y" if given_y else "nce"], critic=critic)
    one_hot = y.unsqueeze(1) == torch.arange(2)
    a = torch.cat([h_c, one_hot], dim=1) if given_y else h_c
    values = []
    for i in range(9):
        if given_y and i == 2:
            continue
        score = [nce.net(a[[i]], h_b[[j]], grid=False).item() for j in range(9)]
        mates = [s for j, s in enumerate(score) if not given_y or y[j] == y[i]]
        values.append(score[i] - math.log(np.mean(np.exp(mates))))
    learn, features = nce(h_c, h_b, y)
    assert features.item() == pytest.approx(np.mean(values))
    assert learn.item() == -features.item()


@pytest.mark.parametrize("negatives", [None, 1, 3, 50])
def test_mine_by_loops(negatives):
    h_c, h_b, _ = batch(8)
    mine = fresh(lambda: MINE(d_c=D_C, d_b=D_B, negatives=negatives)).eval()
    score = np.array([[mine.net(a[None], b[None], grid=False).item() for b in h_b] for a in h_c])
    shifts = {None: range(1, 8), 1: [4], 3: [2, 4, 6], 50: range(1, 8)}[negatives]
    products = [score[i, (i - shift) % 8] for i in range(8) for shift in shifts]
    expected = np.trace(score) / 8 - math.log(np.mean(np.exp(products)))
    assert mine(h_c, h_b).features.item() == pytest.approx(expected)


def test_mines_gradient_divides_by_the_moving_average():
    """Equation 12 of the paper, written out for one bilinear weight matrix."""
    mine = fresh(lambda: MINE(d_c=D_C, d_b=D_B, critic="bilinear", negatives=None, ema=0.2))
    first, second = batch(8, seed=0)[:2], batch(8, seed=1)[:2]
    mine(*first)
    (grad,) = torch.autograd.grad(mine(*second).learn, mine.net.map.weight)

    off = ~torch.eye(8, dtype=torch.bool)
    score = [(mine.net(a, b, grid=True)[off]).exp().detach() for a, b in (first, second)]
    average = 0.8 * score[0].mean() + 0.2 * score[1].mean()
    a, b = second
    each = torch.einsum("id,jc->ijcd", a, b)  # gradient of b'Wa in W is ba'
    joint = each.diagonal(dim1=0, dim2=1).mean(-1)
    product = (each[off] * score[1][:, None, None]).mean(0)
    torch.testing.assert_close(grad, -(joint - product / average))


# ------------------------------------------------------------------ values that are known

GAUSSIAN = [(0.5, 1, 0.143841, 0.3333), (0.8, 1, 0.510826, 1.7778), (0.9, 5, 4.151828, 21.3158)]


@pytest.mark.parametrize(("rho", "d", "exact", "exact_club"), GAUSSIAN)
def test_bound_directions_on_normal_pairs(rho, d, exact, exact_club):
    train, test = gaussian(rho, d), gaussian(rho, d, seed=1)
    error = 3 * math.sqrt(d * rho**2 / len(test[0]))  # the log ratio's variance is d ρ²
    torch.manual_seed(0)
    value = {}
    for cls in (MINE, CLUB, InfoNCE):
        estimator = learn(cls(d_c=d, d_b=d), *train, steps=200, lr=5e-3)
        with torch.no_grad():
            # InfoNCE in blocks, since all pairs of 4,000 are many
            parts = zip(*(t.split(1000 if cls is InfoNCE else 4000) for t in test), strict=True)
            value[cls] = np.mean([estimator(a, b).features.item() for a, b in parts])
    assert 0.75 * exact - error < value[MINE] < exact + error
    assert 0.75 * exact - error < value[InfoNCE] < exact + error
    assert value[CLUB] > exact
    assert value[CLUB] == pytest.approx(exact_club, rel=0.15)


class Affine(nn.Module):
    """The q of N(slope · c, variance), as the network of a `CLUB`."""

    def __init__(self, slope, variance):
        super().__init__()
        self.slope, self.log_var = slope, 8 * math.atanh(math.log(variance) / 8)

    def forward(self, a):
        return torch.cat([self.slope * a, torch.full_like(a, self.log_var)], dim=1)


@pytest.mark.parametrize(("slope", "var", "value"), [(0.8, 0.36, 1.778), (0.2, 0.36, 0.444)])
def test_club_with_a_given_q(slope, var, value):
    """The second q is too flat: its value lies below I = .511, so it bounds nothing."""
    club = CLUB(d_c=1, d_b=1)
    club.net = Affine(slope, var)
    a, b = gaussian(0.8, 1, n=200_000)
    assert club(a, b).features.item() == pytest.approx(value, abs=0.03)
    club.net = Affine(0.0, 1.0)
    assert club(a, b).features.item() == pytest.approx(0, abs=1e-3)


def test_nce_is_capped_at_the_log_of_the_batch():
    a, b = gaussian(0.9, 20, n=1500)
    torch.manual_seed(0)
    nce = learn(InfoNCE(d_c=20, d_b=20), a, b, steps=200)
    value = nce(a[-64:], b[-64:]).features.item()
    assert math.log(64) - 0.3 < value <= math.log(64) + 1e-5  # while I = 16.6
    sharp = InfoNCE(d_c=1, d_b=1, critic="bilinear")
    nn.init.constant_(sharp.net.map.weight, 1e4)
    x = torch.arange(16.0).unsqueeze(1) - 7.5
    assert sharp(x, x).features.item() <= math.log(16) + 1e-4


def test_donsker_varadhan_is_no_bound_in_a_finite_sample():
    """Even with the optimal critic, 640 patients give more than I = 16.6 more often than not."""

    class Optimal(nn.Module):
        def forward(self, a, b, *, grid):
            def log_ratio(a, b, rho=0.9):
                gap = (a**2 + b**2) / 2 - (b - rho * a) ** 2 / (2 * (1 - rho**2)) - a**2 / 2
                return gap.sum(-1) - a.shape[-1] / 2 * math.log(1 - rho**2)

            return log_ratio(a.unsqueeze(1), b) if grid else log_ratio(a, b)

    mine = MINE(d_c=20, d_b=20)
    mine.net = Optimal()
    values = [mine(*gaussian(0.9, 20, n=640, seed=s)).features.item() for s in range(20)]
    assert np.mean(values) > 16.607312
    assert np.mean(np.array(values) > 16.607312) > 0.5


def test_noise_makes_the_information_finite():
    """x against itself with noise of sd 1: correlation 1/2, so I = .1438 and CLUB = .3333."""
    x, _ = gaussian(0, 1, n=2000)
    torch.manual_seed(0)
    nce = learn(InfoNCE(d_c=1, d_b=1, noise=1.0), x, x, steps=100)
    club = learn(CLUB(d_c=1, d_b=1, noise=1.0), x, x, steps=150)
    values = [[m(x, x).features.item() for _ in range(5)] for m in (nce, club)]
    assert np.mean(values[0]) == pytest.approx(0.143841, abs=0.03)
    assert np.mean(values[1]) == pytest.approx(0.3333, abs=0.06)
    assert len(set(values[0])) == 5  # drawn anew at each call


@pytest.mark.parametrize("cls", [MINE, InfoNCE])
def test_parity_fools_a_bilinear_critic(cls):
    bits, xor = parity()
    found = {}
    for critic in ("bilinear", "separable", "mlp"):
        torch.manual_seed(0)
        estimator = learn(
            cls(d_c=2, d_b=1, critic=critic, hidden=32), bits[:1000], xor[:1000], steps=150
        )
        with torch.no_grad():
            # in blocks: the grid of an mlp is large
            parts = zip(bits[1000:].split(250), xor[1000:].split(250), strict=True)
            found[critic] = np.mean([estimator(a, b).features.item() for a, b in parts])
    assert abs(found["bilinear"]) < 0.02
    assert found["separable"] == pytest.approx(math.log(2), abs=0.1)
    assert 0.45 < found["mlp"] < math.log(2) + 0.02


def test_parity_fools_a_normal_q():
    """Given its two bits, the parity's mean is theirs, and q finds it; given one, nothing does."""
    bits, xor = parity()
    one = learn(CLUB(d_c=1, d_b=1), bits[:, :1], xor, steps=100)
    assert abs(one(bits[:, :1], xor).features.item()) < 0.05
    torch.manual_seed(0)
    both = learn(CLUB(d_c=2, d_b=1), bits, xor, steps=150)
    assert both(bits, xor).features.item() > math.log(2)


@pytest.mark.parametrize("cls", [InfoNCE, CLUB])
def test_what_both_know_of_the_label_is_not_counted_given_the_label(cls):
    g = torch.Generator().manual_seed(0)
    y = (torch.rand(2000, generator=g) < 0.5).float()
    h_c, h_b = 3 * y[:, None] + torch.randn(2, 2000, 1, generator=g)
    plain = learn(cls(d_c=1, d_b=1), h_c, h_b, steps=150)
    given = learn(cls(d_c=1, d_b=1, n_classes=2), h_c, h_b, y, steps=150)
    assert plain(h_c[:500], h_b[:500]).features.item() > 0.3
    assert abs(given(h_c[:500], h_b[:500], y[:500]).features.item()) < 0.05


@pytest.mark.parametrize("name", ["nce given y", "club given y"])
def test_a_missing_label_is_left_out(name):
    h_c, h_b, y = batch()
    y[3] = math.nan
    keep = torch.arange(12) != 3
    estimator = fresh(MAKE[name])
    torch.testing.assert_close(estimator(h_c, h_b, y), estimator(h_c[keep], h_b[keep], y[keep]))
    nothing = estimator(h_c.requires_grad_(), h_b, torch.full_like(y, math.nan))
    assert nothing.learn.item() == nothing.features.item() == 0
    sum(nothing).backward()
    assert (h_c.grad == 0).all()


@every
def test_the_order_of_the_classes_and_of_the_rows(make):
    estimator = fresh(make)
    h_c, h_b, y = batch()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    if not isinstance(estimator, MINE) or estimator.negatives is None:
        torch.testing.assert_close(
            estimator.eval()(h_c, h_b, y), estimator(h_c[order], h_b[order], y[order])
        )
    if estimator.n_classes:
        swapped = copy.deepcopy(estimator)
        first = swapped.net[0] if isinstance(estimator, CLUB) else swapped.net.f[0]
        with torch.no_grad():
            first.weight[:, D_C:] = first.weight[:, D_C:].flip(1)
        torch.testing.assert_close(swapped(h_c, h_b, 1 - y), estimator(h_c, h_b, y))


def test_learn_keeps_the_best_step_and_the_callers_random_state():
    a, b = gaussian(0, 4, n=150)
    torch.manual_seed(0)
    nce = InfoNCE(d_c=4, d_b=4)
    by_heart = learn(copy.deepcopy(nce), a, b, steps=200, held_out=0, weight_decay=0)
    state = torch.get_rng_state()
    stopped = learn(copy.deepcopy(nce), a, b, steps=200)
    again = learn(copy.deepcopy(nce), a, b, steps=200)
    assert torch.equal(torch.get_rng_state(), state)
    test = gaussian(0, 4, n=150, seed=1)
    # I = 0; learned by heart, the patients of training promise a lot
    assert by_heart(a, b).features.item() > 0.5
    assert stopped(*test).features.item() > by_heart(*test).features.item() + 0.5
    assert not stopped.training
    for p, q in zip(stopped.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)


# ------------------------------------------------------------------ dependence without a model


def slow_centred(k):
    n = len(k)
    out = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            out[i, j] = k[i, j] - k[i].mean() - k[:, j].mean() + k.mean()
    return out


def slow_distance(x):
    n = len(x)
    return np.array([[math.sqrt(((x[i] - x[j]) ** 2).sum()) for j in range(n)] for i in range(n)])


def slow_dcor(x, y):
    a, b = (slow_centred(slow_distance(v)) for v in (x, y))
    return math.sqrt((a * b).mean() / math.sqrt((a * a).mean() * (b * b).mean()))


def slow_hsic(x, y, bandwidth=None):
    n, kernels = len(x), []
    for v in (x, y):
        distance = slow_distance(v)
        sigma = bandwidth or np.sort(distance[~np.eye(n, dtype=bool)])[(n * (n - 1) - 1) // 2]
        kernels.append(np.exp(-(distance**2) / (2 * sigma**2)))
    h = np.eye(n) - np.ones((n, n)) / n
    return np.trace(kernels[0] @ h @ kernels[1] @ h) / n**2


def test_dcor_and_hsic_by_loops():
    x, y, _ = batch(25)
    assert distance_correlation(x, y).item() == pytest.approx(slow_dcor(x.numpy(), y.numpy()))
    assert hsic(x, y).item() == pytest.approx(slow_hsic(x.numpy(), y.numpy()))
    assert hsic(x, y, bandwidth=2).item() == pytest.approx(slow_hsic(x.numpy(), y.numpy(), 2))


@pytest.mark.parametrize(("rho", "population"), [(0.5, 0.454127), (0.8, 0.754897)])
def test_dcor_of_normal_pairs(rho, population):
    closed = rho * math.asin(rho) + math.sqrt(1 - rho**2)
    closed -= rho * math.asin(rho / 2) + math.sqrt(4 - rho**2) - 1
    assert math.sqrt(closed / (1 + math.pi / 3 - math.sqrt(3))) == pytest.approx(
        population, abs=1e-6
    )
    values = [distance_correlation(*gaussian(rho, 1, n=1500, seed=s)).item() for s in range(4)]
    assert np.mean(values) == pytest.approx(population, abs=0.03)


def test_invariances_and_gradients():
    x, y, _ = batch(15)
    rotation = torch.linalg.qr(torch.randn(D_C, D_C, dtype=torch.double))[0]
    for statistic in (distance_correlation, hsic):
        value = statistic(x, y)
        torch.testing.assert_close(statistic(5 * x @ rotation - 3, y), value)
        torch.testing.assert_close(statistic(y, x), value)
    assert distance_correlation(x, 2 * x).item() == pytest.approx(1)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: distance_correlation(x, y), x)
    assert torch.autograd.gradcheck(lambda x: hsic(x, y, bandwidth=1.0), x)


@pytest.mark.parametrize("statistic", ["dcor", "hsic"])
def test_p_values_without_and_with_dependence(statistic):
    """Uniform under independence: of 150, mean .5 ± .071 and 5 % ± 5.4 % below .05 (3 sd)."""
    p = [
        permutation_test(
            *gaussian(0, 2, n=20, seed=s), statistic=statistic, n_permutations=39, seed=s
        ).p_value
        for s in range(150)
    ]
    assert np.mean(p) == pytest.approx(0.5, abs=0.08)
    assert np.mean(np.array(p) <= 0.05) < 0.11
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.13)
    bits, xor = parity(250)
    joint = permutation_test(bits, xor, statistic=statistic, n_permutations=99)
    alone = permutation_test(bits[:, :1], xor, statistic=statistic, n_permutations=99)
    assert joint.p_value == 0.01
    assert alone.p_value > 0.1


@pytest.mark.parametrize("statistic", ["dcor", "hsic"])
def test_the_test_within_classes(statistic):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(120.0) % 2
    x, z = 3 * y[:, None] + torch.randn(2, 120, 1, generator=g)
    options = {"statistic": statistic, "n_permutations": 99}
    assert permutation_test(x, z, **options).p_value == 0.01
    assert permutation_test(x, z, within=y, **options).p_value > 0.05
    w = x + 0.5 * torch.randn(120, 1, generator=g)
    assert permutation_test(x, w, within=y, **options).p_value == 0.01
    y[:10] = math.nan
    part = permutation_test(x[10:], w[10:], within=y[10:], **options)
    assert permutation_test(x, w, within=y, **options) == part
    # one class: the plain test
    same = permutation_test(x, w, within=torch.zeros(120), **options)
    assert same.statistic == pytest.approx(permutation_test(x, w, **options).statistic)


def test_the_statistic_of_the_test_is_the_function():
    x, y, _ = batch(25)
    for name, function in (("dcor", distance_correlation), ("hsic", hsic)):
        result = permutation_test(x, y, statistic=name, n_permutations=19)
        assert result.statistic == pytest.approx(function(x, y).item())
    # nothing varies within the classes
    constant = permutation_test(y[:, :1].sign(), x, within=y[:, 0].sign(), n_permutations=19)
    assert constant == (0, 1)


# ------------------------------------------------------------------ audit


def test_audit_of_a_product_needs_a_critic_that_sees_products():
    """On parity a bilinear critic finds nothing, and its power says that this means nothing."""
    bits, xor = parity(400)
    options = {"noise": 0.3, "plant": "product", "planted": 0.3, "n_planted": 3, "steps": 100}
    weak = audit(bits, xor, critic="bilinear", **options).loc["critic"]
    strong = audit(bits, xor, critic="separable", **options).loc["critic"]
    assert weak["p_value"] > 0.05
    assert weak["power"] <= 0.5
    assert strong["p_value"] <= 0.01
    assert strong["power"] > 0.5
    assert 0.3 < strong["estimate"] < math.log(2)


def test_audit_of_independent_features_has_power():
    a, b = gaussian(0, 3, n=500)
    frame = audit(a, b.numpy(), planted=0.15, n_planted=3, steps=50)
    assert (frame["p_value"] > 0.05).all()
    assert (frame["power"] > 0.5).all()
    assert frame["n"].to_dict() == {"critic": 250, "dcor": 500, "hsic": 500}
    none = audit(a, b, n_planted=0, steps=25)["power"]
    assert none.isna().all()


def test_audit_within_classes_asks_another_question():
    g = torch.Generator().manual_seed(1)
    y = torch.arange(400.0) % 2
    a, b = 3 * y[:, None] + torch.randn(2, 400, 1, generator=g)
    options = {"n_planted": 0, "steps": 100}
    assert (audit(a, b, **options)["p_value"] <= 0.01).all()
    assert (audit(a, b, y, **options)["p_value"] > 0.05).all()
    linked = audit(a, a + torch.randn(400, 1, generator=g), y.numpy(), n_planted=2, steps=100)
    assert (linked["p_value"] <= 0.01).all()
    y[:4] = math.nan
    assert audit(a, b, y, **options).loc["critic", "n"] == 198


def test_the_planted_dependence_has_the_size_asked_for():
    """One feature each: the pairing alone makes normal pairs with ρ, so I is exact."""
    from dfdlib.information.audit import _plant

    a, b = gaussian(0.9, 1, n=20_000)  # what was there is gone
    g = torch.Generator().manual_seed(0)
    new_a, new_b = _plant(a, b, torch.arange(20_000) % 3, 0.3, "linear", g)
    rho = np.corrcoef(new_a[:, 0], new_b[:, 0])[0, 1]
    assert -math.log(1 - rho**2) / 2 == pytest.approx(0.3, abs=0.02)
    for old, new in ((a, new_a), (b, new_b)):
        for k in range(3):
            assert torch.equal(old[k::3].sort(0).values, new[k::3].sort(0).values)
    product, _ = _plant(a, b, torch.zeros(20_000, dtype=torch.long), 0.3, "product", g)
    assert torch.equal(product.sort(0).values, a.sort(0).values)


def test_audit_depends_on_the_seed_alone():
    a, b = gaussian(0.3, 2, n=100)
    options = {"n_planted": 1, "steps": 25, "n_permutations": 19, "noise": 0.1}
    first = audit(a, b, **options)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert audit(a, b, **options).equals(first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not audit(a, b, seed=1, **options).equals(first)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: MINE(d_c=2, d_b=2, noise=-1), "noise is a standard deviation"),
        (lambda: MINE(d_c=2, d_b=2, critic="deep"), r"'deep' is not a critic \(bilinear"),
        (lambda: MINE(d_c=2, d_b=2, negatives=0), "negatives must be 1 or more, or None"),
        (lambda: MINE(d_c=2, d_b=2, ema=1), "ema must lie between 0 and 1, got 1"),
        (lambda: CLUB(d_c=2, d_b=2, refits=-1), "refits must be at least 0"),
        (lambda: CLUB(d_c=2, d_b=2, n_classes=1), "n_classes must be 2 or more"),
    ],
)
def test_constructors_refuse(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_estimators_refuse():
    h_c, h_b, y = batch(dtype=torch.float)
    with pytest.raises(ValueError, match=r"made for h_c \(n, 3\) and h_b \(n, 2\), got \(12, 2\)"):
        CLUB(d_c=3, d_b=2)(h_b, h_b)
    with pytest.raises(ValueError, match="needs 2 or more, got 1"):
        InfoNCE(d_c=3, d_b=2)(h_c[:1], h_b[:1])
    given = CLUB(d_c=3, d_b=2, n_classes=2)
    with pytest.raises(ValueError, match=r"needs labels of shape \(12,\), got None"):
        given(h_c, h_b)
    with pytest.raises(ValueError, match="a label is not one of 0 to 1"):
        given(h_c, h_b, y + 1)
    with pytest.raises(ValueError, match="held_out is a share"):
        learn(given, h_c, h_b, y, held_out=1)
    with pytest.raises(ValueError, match=r"4 patients are too few for held_out=0\.2"):
        learn(given, h_c[:4], h_b[:4], y[:4])


@pytest.mark.parametrize("statistic", ["dcor", "hsic"])
def test_tests_refuse(statistic):
    x, y, label = batch()

    def check(*args, **kwargs):
        permutation_test(*args, statistic=statistic, **kwargs)

    with pytest.raises(ValueError, match=r"shapes \(12, 3\) and \(11, 2\)"):
        check(x, y[1:])
    with pytest.raises(ValueError, match="4 rows or more, got 3"):
        check(x[:3], y[:3])
    with pytest.raises(ValueError, match="y holds NaN or infinity"):
        check(x, y / 0)
    with pytest.raises(ValueError, match="all rows of x are alike"):
        check(torch.ones(12, 1), y)
    with pytest.raises(ValueError, match="n_permutations must be 1 or more"):
        check(x, y, n_permutations=0)
    with pytest.raises(ValueError, match="within has shape"):
        check(x, y, within=label[1:])
    with pytest.raises(ValueError, match="no class has 4 rows"):
        check(x, y, within=torch.arange(12))
    with pytest.raises(ValueError, match="'r2' is not a statistic"):
        permutation_test(x, y, statistic="r2")
    with pytest.raises(ValueError, match="bandwidth must be positive, got 0"):
        hsic(x, y, bandwidth=0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"h_c": np.zeros(60)}, r"shapes \(60,\) and \(60, 2\)"),
        ({"h_c": np.zeros((59, 3))}, r"shapes \(59, 3\) and \(60, 2\)"),
        ({"h_b": np.full((60, 2), np.nan)}, "h_b holds NaN or infinity"),
        ({"y": np.zeros(60)}, "y holds one class, so nothing is gained"),
        ({"y": np.zeros(59)}, r"y has shape \(59,\)"),
        ({"y": np.arange(60) % 2}, "needs 40 patients, got 30 in the smallest class"),
        ({"h_c": np.zeros((39, 3)), "h_b": np.zeros((39, 2))}, "needs 40 patients, got 39"),
        ({"critic": "deep"}, "'deep' is not a critic"),
        ({"plant": "cubic"}, "'cubic' is not a planting"),
        ({"planted": 0}, "planted > 0"),
        ({"noise": -1}, "noise >= 0"),
    ],
)
def test_audit_refuses(change, match):
    rng = np.random.default_rng(0)
    arguments = {"h_c": rng.random((60, 3)), "h_b": rng.random((60, 2)), **change}
    with pytest.raises(ValueError, match=match):
        audit(arguments.pop("h_c"), arguments.pop("h_b"), arguments.pop("y", None), **arguments)

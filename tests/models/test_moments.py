from itertools import combinations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from dfdlib.data import Cohort
from dfdlib.models.environments import Environments, MomentMatching


def batch(n=60, d=3, n_classes=2, n_environments=3, seed=0, dtype=torch.double):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=generator, dtype=dtype) + 5
    y = torch.randint(0, n_classes, (n,), generator=generator).to(dtype)
    y[torch.rand(n, generator=generator) < 0.1] = torch.nan
    codes = torch.randint(0, n_environments, (n,), generator=generator)
    known = torch.rand(n, d, generator=generator) < 0.7
    return features, y, codes, known


def matching(d=3, n_classes=2, n_environments=3, **options):
    options = {"momentum": 0.0} | options
    return MomentMatching(
        d=d, n_classes=n_classes, n_environments=n_environments, **options
    ).double()


def moments(features, y, codes, known, n_classes, n_environments):
    """Moments in units of the spread within cells, one by one; NaN where nobody tells of them."""
    d = features.shape[1]
    cells = [(e, c) for e in range(n_environments) for c in range(n_classes)]
    rows = {(e, c): (codes == e) & (y == c) for e, c in cells}
    variance = np.zeros(d)
    for j in range(d):
        parts = [features[rows[cell] & known[:, j], j] for cell in cells]
        parts = [part for part in parts if len(part)]
        variance[j] = sum(((p - p.mean()) ** 2).sum() for p in parts) / sum(
            len(p) - 1 for p in parts
        )
    features = features / np.sqrt(variance)
    mean = np.full((n_environments, n_classes, d), np.nan)
    covariance = np.full((n_environments, n_classes, d, d), np.nan)
    for e, c in cells:
        for j in range(d):
            one = rows[e, c] & known[:, j]
            if one.any():
                mean[e, c, j] = features[one, j].mean()
            for k in range(d):
                both = one & known[:, k]
                if both.sum() > 1:
                    covariance[e, c, j, k] = np.cov(features[both][:, [j, k]].T)[0, 1]
    return mean, covariance


def difference(moment):
    pairs = [
        (moment[e, c] - moment[f, c]) ** 2
        for c in range(moment.shape[1])
        for e, f in combinations(range(len(moment)), 2)
    ]
    return np.nanmean(pairs)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("n_environments", [2, 3])
@pytest.mark.parametrize("order", [1, 2])
def test_one_batch_against_loops(order, n_environments, holes):
    features, y, codes, known = batch(n_environments=n_environments)
    ours = matching(n_environments=n_environments, order=order)
    value = ours(features, y, codes, known if holes else None)
    mean, covariance = moments(
        features.numpy(), y.numpy(), codes.numpy(),
        known.numpy() if holes else np.ones((60, 3), bool), 2, n_environments,
    )  # fmt: skip
    expected = difference(mean) + (difference(covariance) if order == 2 else 0)
    assert float(value) == pytest.approx(expected, rel=1e-9)


def test_cells_without_patients_are_left_out():
    features, y, codes, known = batch(n=40, n_classes=4, n_environments=5, seed=3)
    y[y == 2] = 1
    codes[(y == 3) & (codes > 0)] = 1
    value = matching(n_classes=4, n_environments=5)(features, y, codes, known)
    expected = moments(*(t.numpy() for t in (features, y, codes, known)), 4, 5)
    assert float(value) == pytest.approx(sum(map(difference, expected)), rel=1e-9)


def test_environments_that_are_alike_cost_nothing():
    features, y, _, known = batch()
    twice = [torch.cat([t, t]) for t in (features, y)]
    codes = torch.arange(2).repeat_interleave(60)
    value = matching(n_environments=2)(*twice, codes, torch.cat([known, known]))
    assert float(value) == pytest.approx(0, abs=1e-20)


def test_means_one_standard_deviation_apart_cost_one():
    torch.manual_seed(0)
    features = torch.randn(200_000, 2).double()
    codes = torch.arange(200_000) % 2
    features[:, 0] += codes  # one of two features, apart by one standard deviation
    y = torch.ones(200_000).double()
    value = matching(d=2, n_environments=2, order=1)(7 * features, y, codes)
    assert float(value) == pytest.approx(1 / 2, abs=0.01)


def test_scales_and_shifts_do_not_matter_and_the_gradient_knows_it():
    features, y, codes, known = batch()
    features.requires_grad_()
    value = matching()(features, y, codes, known)
    (gradient,) = torch.autograd.grad(value, features)
    scaled = features.detach() * torch.tensor([1e-3, 2.0, 1e3]) - 7
    torch.testing.assert_close(matching()(scaled, y, codes, known), value.detach())
    # neither shrinking a feature nor moving it changes anything to first order
    for direction in (features.detach(), torch.ones_like(features)):
        assert (gradient * direction).sum(0).abs().max() < 1e-12
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("order", [1, 2])
def test_gradient(order):
    features, y, codes, known = batch(n=30)
    features.requires_grad_()
    module = matching(order=order)
    assert gradcheck(lambda f: module(f, y, codes, known), features)
    assert gradcheck(lambda f: module(f, y, codes), features)


def test_features_that_are_not_known_say_nothing():
    features, y, codes, known = batch()
    value = matching()(features, y, codes, known)
    other = torch.where(known, features, torch.nan).requires_grad_()
    changed = matching()(other, y, codes, known)
    assert torch.equal(changed, value)
    (gradient,) = torch.autograd.grad(changed, other)
    assert (gradient[~known] == 0).all()
    assert (gradient[y.isnan()] == 0).all()


def test_the_order_of_rows_and_the_names_of_environments_do_not_matter():
    features, y, codes, known = batch()
    value = matching()(features, y, codes, known)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    shuffled = [t[order] for t in (features, y, codes, known)]
    torch.testing.assert_close(matching()(*shuffled), value)
    torch.testing.assert_close(matching()(features, y, 2 - codes, known), value)


def test_the_average_moves_by_hand():
    # one feature, whose values are -1 and 1 in environment 0, and by `gap` more in environment 1
    module = matching(d=1, n_classes=1, n_environments=2, momentum=0.9, order=1)
    total = weight = squares = dof = 0.0
    for gap, repeat in ((1.0, 1), (2.0, 1), (-1.0, 3), (0.5, 2)):
        base, n = torch.tensor([-1.0, 1.0]).double().repeat(repeat), 2 * repeat
        features = torch.cat([base, base + gap])[:, None]
        value = module(features, torch.zeros(2 * n).double(), torch.arange(2).repeat_interleave(n))
        squares, dof = 0.9 * squares + 2 * n, 0.9 * dof + 2 * (n - 1)
        total, weight = 0.9 * total + n * gap / np.sqrt(squares / dof), 0.9 * weight + n
        assert float(value) == pytest.approx((total / weight) ** 2)


def test_the_value_is_smoothed_and_the_gradient_is_the_batchs():
    features, y, codes, _ = batch(n_environments=2)
    first, second = features[:30], features[30:].clone().requires_grad_()
    module = matching(d=3, n_environments=2, momentum=0.9, order=1)
    module(first, y[:30], codes[:30])
    smoothed = module(second, y[30:], codes[30:])
    (gradient,) = torch.autograd.grad(smoothed, second)
    # with gap = smoothed difference, the gradient is 2 gap d(difference of this batch)
    gap = module.mean_sum / module.mean_weight
    gap = gap[0] - gap[1]
    rows, code, label = second, codes[30:], y[30:]
    cells = [rows[(code == e) & (label == c)] for e in (0, 1) for c in (0, 1)]
    squares = sum((cell - cell.mean(0)).square().sum(0) for cell in cells)
    variance = squares / sum(len(cell) - 1 for cell in cells)
    unit = (module.variance_sum / module.variance_weight + variance - variance.detach()).sqrt()
    means = torch.stack([cell.mean(0) / unit for cell in cells]).reshape(2, 2, 3)
    (expected,) = torch.autograd.grad((2 * gap * (means[0] - means[1])).mean(), second)
    torch.testing.assert_close(gradient, expected)
    assert float(smoothed.detach()) == pytest.approx(float(gap.square().mean()))


def test_who_is_absent_leaves_the_average_as_it_was():
    features, y, codes, known = batch(n_environments=3)
    module = matching(momentum=0.9)
    module(features, y, codes, known)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    value = module.eval()(features, y, torch.full_like(codes, -1))
    module.train()
    alone = module(features, y, torch.ones_like(codes))  # one environment is no comparison
    nobody = module(features[:0], y[:0], codes[:0])
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, before[name]) or name.startswith("variance")
    assert value == alone == nobody > 0
    two = codes != 2
    module(features[two], y[two], codes[two], known[two])
    assert torch.equal(module.mean_sum[2], before["mean_sum"][2])
    assert not torch.equal(module.mean_sum[0], before["mean_sum"][0])


def test_evaluation_leaves_the_averages_alone_and_reset_clears_them():
    features, y, codes, known = batch()
    module = matching(momentum=0.9)
    first = module(features, y, codes, known)
    module.eval()
    saved = {k: v.clone() for k, v in module.state_dict().items()}
    module(features * 2, y, codes)
    assert all(torch.equal(saved[k], v) for k, v in module.state_dict().items())
    fresh = MomentMatching(d=3, n_classes=2).double()
    fresh.load_state_dict(saved)
    torch.testing.assert_close(fresh.eval()(features, y, codes), module(features, y, codes))
    module.reset_parameters()
    assert module.train()(features, y, codes, known) == first


def test_a_constant_feature_and_half_precision_give_no_nan():
    features, y, codes, _ = batch(dtype=torch.float)
    features[:, 1] = 3
    features.requires_grad_()
    module = MomentMatching(d=3, n_classes=2, n_environments=3)
    value = module(features, y, codes)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(features.grad).all()
    half = module.eval()(features.detach().bfloat16(), y, codes)
    assert half.dtype == torch.float
    assert float(half) == pytest.approx(float(value.detach()), rel=0.05)


def test_a_small_batch_does_no_harm():
    features, y, codes, _ = batch(n=512, n_environments=2, dtype=torch.float)
    module = MomentMatching(d=3, n_classes=2, n_environments=2)
    before = module(features, y, codes)
    # two patients who are alike by chance but for the environment, then two with no spread at all
    for rows in ([5.0, 5.001, 6.0, 6.001], [5.0, 6.0]):
        few = torch.tensor(rows)[:, None].expand(-1, 3).clone().requires_grad_()
        half = len(rows) // 2
        value = module(few, torch.ones(len(rows)), torch.arange(2).repeat_interleave(half))
        value.backward()
        assert float(value.detach()) == pytest.approx(float(before), abs=0.01)
        assert few.grad.abs().max() < 1
    first = MomentMatching(d=3, n_classes=2, n_environments=2)
    assert first(few, torch.ones(2), torch.arange(2)) == 0


def test_the_noise_of_rounding_is_no_difference():
    features, y, codes, _ = batch(n=512, dtype=torch.float)
    features = 5 + 1e-6 * (features - 5)
    features.requires_grad_()
    value = MomentMatching(d=3, n_classes=2, n_environments=3)(features, y, codes)
    value.backward()
    assert value < 1e-5
    assert features.grad.abs().max() < 1


def test_far_from_zero_nothing_is_lost():
    features, y, codes, _ = batch(n=512, dtype=torch.float)
    module = MomentMatching(d=3, n_classes=2, n_environments=3, momentum=0)
    near = float(module(features - 5, y, codes))
    assert float(module(features + 995, y, codes)) == pytest.approx(near, rel=1e-3)


def test_moments_refuse():
    features, y, codes, _ = batch()
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\), got momentum=1"):
        matching(momentum=1)
    with pytest.raises(ValueError, match=r"order must be 1 .* got order=3"):
        matching(order=3)
    with pytest.raises(ValueError, match="several labels per patient make no classes"):
        matching()(features, y.unsqueeze(1).expand(-1, 2), codes)
    with pytest.raises(ValueError, match="these moments are of 3 features, got 2"):
        matching()(features[:, :2], y, codes)
    with pytest.raises(ValueError, match="the code 2 does not exist: there are 2"):
        matching(n_environments=2)(features, y, codes)


# ------------------------------------------------------------------ environments


def cohort(site):
    return Cohort(x={"labs": torch.zeros(len(site), 1)}, groups={"site": site})


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        (["b", "a", "c", "a"], [1, 0, 2, 0]),
        ([10, 7, 10], [1, 0, 1]),
        (np.array(["b", 3, "b"], dtype=object), [1, 0, 1]),
    ],
)
def test_codes_are_the_places_in_sorted_order(site, expected):
    data = cohort(site)
    environments = Environments("site")
    environments.prepare(data)
    assert len(environments) == len(set(expected))
    assert environments.codes(next(data.batches(9))).tolist() == expected
    for shuffled in data.batches(2, seed=1):
        wanted = torch.tensor(expected)[shuffled.index]
        assert torch.equal(environments.codes(shuffled), wanted)


def test_environments_refuse():
    environments = Environments("sites")
    with pytest.raises(ValueError, match=r"'sites' is not a group .* Did you mean 'site'"):
        environments.prepare(cohort(["a", "b", "a"]))
    environments = Environments("site")
    with pytest.raises(RuntimeError, match=r"not kept with a saved model. Call model.prepare"):
        environments.codes(next(cohort(["a"]).batches(1)))
    with pytest.raises(ValueError, match="'site' is a for all 3 patients, so there are no env"):
        environments.prepare(cohort(["a", "a", "a"]))
    with pytest.raises(ValueError, match="'site' has another level for each of 3 patients"):
        environments.prepare(cohort(["a", "b", "c"]))
    environments.prepare(cohort(["a", "b", "b"]))
    for new in ("aa", "z"):
        with pytest.raises(ValueError, match=f"the level {new} of the group 'site' was not in"):
            environments.codes(next(cohort(["a", new]).batches(2)))
    without = Cohort(x={"labs": torch.zeros(2, 1)})
    with pytest.raises(ValueError, match=r"'site' is not a group \(patient\)"):
        environments.codes(next(without.batches(2)))

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dfdlib.losses import RelativeDifficulty, gce, gce_weighted_ce, swap

F = torch.nn.functional
FORMS = [gce, gce_weighted_ce]


def task(name, n=12, seed=0):
    """Logits in double precision and labels of one task."""
    generator = torch.Generator().manual_seed(seed)
    shape = {"binary": (n,), "multiclass": (n, 4), "multilabel": (n, 3)}[name]
    logits = torch.randn(shape, generator=generator, dtype=torch.double)
    if name == "multiclass":
        return logits, torch.randint(4, (n,), generator=generator).double()
    return logits, torch.randint(2, shape, generator=generator).double()


def p_of(logits, y, name):
    """The probability of each label, the slow way."""
    if name == "multiclass":
        return logits.softmax(1)[torch.arange(len(y)), y.long()]
    return torch.where(y == 1, logits.sigmoid(), 1 - logits.sigmoid())


TASKS = ["binary", "multiclass", "multilabel"]

# ------------------------------------------------------------------ generalised cross-entropy


@pytest.mark.parametrize(("p", "value"), [(0.9, 0.101569), (0.5, 0.549183), (0.1, 1.143534)])
def test_known_values(p, value):
    p = torch.tensor([p], dtype=torch.double)
    one_logit = gce(torch.logit(p), torch.ones(1), q=0.7)
    three_classes = torch.cat([p, (1 - p) * 0.3, (1 - p) * 0.7]).log().unsqueeze(0)
    assert one_logit.item() == pytest.approx(value, abs=5e-7)
    assert gce(three_classes, torch.zeros(1), q=0.7).item() == pytest.approx(value, abs=5e-7)


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_ratio_of_an_easy_to_a_hard_patient(form):
    p = torch.tensor([0.9, 0.1], dtype=torch.double)
    logits = torch.logit(p).requires_grad_()
    form(logits, torch.ones(2), q=0.7, reduction="sum").backward()
    relative = logits.grad / (p - 1)  # over the gradient of cross-entropy
    assert (relative[0] / relative[1]).item() == pytest.approx(4.655537, abs=5e-7)


@pytest.mark.parametrize("name", TASKS)
def test_the_ends_of_q(name):
    logits, y = task(name)
    if name == "multiclass":
        ce = F.cross_entropy(logits, y.long(), reduction="none")
        half_l1 = (logits.softmax(1) - F.one_hot(y.long(), 4)).abs().sum(1) / 2
    else:
        ce = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
        half_l1 = (logits.sigmoid() - y).abs()
    torch.testing.assert_close(gce(logits, y, q=0, reduction="none"), ce)
    torch.testing.assert_close(gce(logits, y, q=1e-9, reduction="none"), ce)
    torch.testing.assert_close(gce(logits, y, q=1, reduction="none"), half_l1)
    assert gce(logits, y, q=0).item() == pytest.approx(ce.mean().item())


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("q", [0.3, 0.7, 1])
def test_both_forms_against_their_formulas(name, q):
    logits, y = task(name)
    p = p_of(logits, y, name)
    torch.testing.assert_close(gce(logits, y, q=q, reduction="none"), (1 - p**q) / q)
    ancestor = gce_weighted_ce(logits, y, q=q, reduction="none")
    torch.testing.assert_close(ancestor, -q * p**q * p.log())


@pytest.mark.parametrize("name", TASKS)
def test_the_ancestors_gradient_is_q_times_ours(name):
    logits, y = task(name)
    a, b = (
        torch.autograd.grad(form(x := logits.clone().requires_grad_(), y, q=0.7), x)[0]
        for form in FORMS
    )
    torch.testing.assert_close(b, 0.7 * a)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("q", [0, 0.3, 0.7, 1])
def test_gradcheck(name, q):
    logits, y = task(name, n=5)
    y[0] = math.nan
    weight = torch.rand(5, dtype=torch.double)
    for reduction in ("mean", "sum", "none"):
        assert torch.autograd.gradcheck(
            lambda x, r=reduction: gce(x, y, q=q, weight=weight, reduction=r),
            logits.requires_grad_(),
        )


@pytest.mark.parametrize("q", [0.2, 0.7])
def test_gradcheck_of_the_ancestors_form_with_its_weight_held_fixed(q):
    logits, y = task("multiclass", n=5)
    fixed = q * p_of(logits, y, "multiclass") ** q
    x = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: (fixed * F.cross_entropy(x, y.long(), reduction="none")).mean(), x
    )
    expected = (fixed * F.cross_entropy(x, y.long(), reduction="none")).mean()
    (grad,) = torch.autograd.grad(expected, x)
    (ours,) = torch.autograd.grad(gce_weighted_ce(x, y, q=q), x)
    torch.testing.assert_close(ours, grad)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_where_the_probability_is_rounded(form, dtype):
    logits = torch.tensor([-1000.0, -200.0, 40.0, 200.0], dtype=dtype, requires_grad=True)
    loss = form(logits, torch.ones(4), q=0.7, reduction="none")
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()
    if form is gce:
        assert loss[0].item() == pytest.approx(1 / 0.7)  # the largest value there is
        # 1 - p is below float32's resolution at 1; the loss keeps it
        assert loss[2].item() == pytest.approx(math.exp(-40), rel=1e-2)
    classes = torch.tensor([[0.0, 1000.0], [0.0, -1000.0]], requires_grad=True)
    form(classes, torch.zeros(2), q=0.7).backward()
    assert classes.grad.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_invariance_to_the_names_of_the_classes(form):
    logits, y = task("multiclass")
    new_name = torch.tensor([2, 0, 3, 1])
    renamed = torch.empty_like(logits)
    renamed[:, new_name] = logits
    expected = form(logits, y, q=0.7, reduction="none")
    torch.testing.assert_close(form(renamed, new_name[y.long()], q=0.7, reduction="none"), expected)
    binary, z = task("binary")
    torch.testing.assert_close(form(-binary, 1 - z, q=0.7), form(binary, z, q=0.7))
    two = torch.stack([torch.zeros_like(binary), binary], dim=1)
    torch.testing.assert_close(form(two, z, q=0.7), form(binary, z, q=0.7))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TASKS)
@given(times=st.lists(st.integers(0, 3), min_size=12, max_size=12).filter(any))
def test_weight_equals_repetition(form, name, times):
    logits, y = task(name)
    weight = torch.tensor(times, dtype=torch.double)
    rows = torch.repeat_interleave(torch.arange(12), torch.tensor(times))
    for reduction in ("mean", "sum"):
        torch.testing.assert_close(
            form(logits, y, q=0.7, weight=weight, reduction=reduction),
            form(logits[rows], y[rows], q=0.7, reduction=reduction),
        )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TASKS)
def test_a_missing_label_is_left_out(form, name):
    logits, y = task(name)
    y[3] = math.nan
    logits.requires_grad_()
    keep = torch.arange(12) != 3
    for reduction in ("mean", "sum"):
        loss = form(logits, y, q=0.7, reduction=reduction)
        torch.testing.assert_close(loss, form(logits[keep], y[keep], q=0.7, reduction=reduction))
    assert (form(logits, y, q=0.7, reduction="none")[3] == 0).all()
    loss.backward()
    assert (logits.grad[3] == 0).all()
    assert (logits.grad[4] != 0).any()
    nothing = form(logits, torch.full_like(y, math.nan), q=0.7)
    assert nothing.item() == 0
    assert (torch.autograd.grad(nothing, logits)[0] == 0).all()


def test_single_labels_of_a_multilabel_task_may_be_missing():
    logits, y = task("multilabel")
    y[0, 1] = y[5, 2] = math.nan
    known = ~y.isnan()
    expected = F.binary_cross_entropy_with_logits(logits[known], y[known])
    torch.testing.assert_close(gce(logits, y, q=0), expected)
    assert gce(logits, y, q=0.5, reduction="none").shape == y.shape


def test_a_column_of_logits_and_integer_labels():
    logits, y = task("binary")
    expected = gce(logits, y, q=0.7, reduction="none")
    torch.testing.assert_close(gce(logits.unsqueeze(1), y, q=0.7, reduction="none"), expected)
    torch.testing.assert_close(gce(logits, y.long(), q=0.7, reduction="none"), expected)
    torch.testing.assert_close(
        gce(logits.unsqueeze(1), y.unsqueeze(1), q=0.7, reduction="none"), expected.unsqueeze(1)
    )


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_q_outside_is_refused(q):
    logits, y = task("binary")
    with pytest.raises(ValueError, match="q must lie between 0"):
        gce(logits, y, q=q)
    with pytest.raises(ValueError, match="needs 0 < q <= 1"):
        gce_weighted_ce(logits, y, q=q)


def test_the_ancestors_form_refuses_q_0():
    with pytest.raises(ValueError, match=r"got q=0\. Take q=0.7; cross-entropy is gce"):
        gce_weighted_ce(*task("binary"), q=0)


@pytest.mark.parametrize(
    ("logits", "y"),
    [((5,), (4,)), ((5, 3), (4,)), ((5, 3), (5, 2)), ((5, 1), (5, 2)), ((5, 2, 2), (5, 2))],
)
def test_shapes_that_do_not_fit_are_refused(logits, y):
    with pytest.raises(ValueError, match="do not fit labels of shape"):
        gce(torch.zeros(logits), torch.zeros(y), q=0.7)


@pytest.mark.parametrize(("name", "bad"), [("binary", 2), ("multiclass", 4), ("multilabel", 0.5)])
def test_labels_that_do_not_exist_are_refused(name, bad):
    logits, y = task(name)
    y[2] = bad
    with pytest.raises(ValueError, match=f"the label {bad:g} does not exist"):
        gce(logits, y, q=0.7)


def test_bad_weights_and_reductions_are_refused():
    logits, y = task("multilabel")
    with pytest.raises(ValueError, match=r"weight has shape \(3,\)"):
        gce(logits, y, q=0.7, weight=torch.ones(3))
    for bad in (-1.0, math.nan):
        with pytest.raises(ValueError, match="a weight is negative or NaN"):
            gce(logits, y, q=0.7, weight=torch.full((12,), bad))
    with pytest.raises(ValueError, match="'median' is not a reduction"):
        gce(logits, y, q=0.7, reduction="median")


# ------------------------------------------------------------------ relative difficulty


class Slow:
    """LfF's weights with dictionaries and loops."""

    def __init__(self, alpha):
        self.alpha, self.state, self.label = alpha, {}, {}

    def __call__(self, loss_c, loss_b, y, index):
        for stream, losses in (("c", loss_c), ("b", loss_b)):
            for loss, target, i in zip(losses, y, index, strict=True):
                if not math.isnan(target):
                    old = self.state.get((stream, i), loss)
                    self.state[stream, i] = self.alpha * old + (1 - self.alpha) * loss
                    self.label[i] = target
        return [self.weight(i, target) for i, target in zip(index, y, strict=True)]

    def weight(self, i, target):
        if math.isnan(target):
            return 0.0
        largest = {
            s: max(self.state[s, j] for j, label in self.label.items() if label == target)
            for s in "cb"
        }
        c, b = (self.state[s, i] / largest[s] for s in "cb")
        return b / (c + b + 1e-8)


def visits(n=23, seed=0, n_classes=3, missing=0.15):
    """Batches that come in any order, in which some patients are rare."""
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=n).astype(float)
    y[rng.random(n) < missing] = np.nan
    for _ in range(15):
        index = rng.permutation(n)[: rng.integers(1, 9)]
        yield rng.exponential(size=len(index)), rng.exponential(size=len(index)), y[index], index


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_relative_difficulty_against_loops(alpha):
    fast, slow = RelativeDifficulty(n_classes=3, alpha=alpha), Slow(alpha)
    for batch in visits():
        weight = fast(*map(torch.tensor, batch))
        assert weight.shape == batch[0].shape
        np.testing.assert_allclose(weight, slow(*batch), rtol=1e-5)


def test_labels_of_a_multilabel_task_are_kept_apart():
    rng = np.random.default_rng(0)
    together = RelativeDifficulty()
    apart = [RelativeDifficulty() for _ in range(3)]
    y = (rng.random((10, 3)) < 0.5).astype(float)
    y[0, 1] = np.nan
    for _ in range(5):
        index = torch.tensor(rng.permutation(10)[:6])
        loss_c, loss_b = torch.tensor(rng.exponential(size=(2, 6, 3)))
        target = torch.tensor(y)[index]
        columns = [
            module(loss_c[:, k], loss_b[:, k], target[:, k], index)
            for k, module in enumerate(apart)
        ]
        torch.testing.assert_close(
            together(loss_c, loss_b, target, index), torch.stack(columns, dim=1)
        )


def test_the_order_of_a_batch_and_the_scale_of_a_stream_do_not_matter():
    a, b = RelativeDifficulty(n_classes=3), RelativeDifficulty(n_classes=3)
    for loss_c, loss_b, y, index in visits(missing=0):
        order = np.random.default_rng(1).permutation(len(index))
        first = a(*map(torch.tensor, (loss_c, loss_b, y, index)))
        batch = (loss_c[order] * 10, loss_b[order], y[order], index[order])
        torch.testing.assert_close(b(*map(torch.tensor, batch)), first[order], atol=1e-6, rtol=0)


def test_state_survives_saving_and_is_forgotten_on_reset():
    batches = [tuple(map(torch.tensor, batch)) for batch in visits()]
    whole = RelativeDifficulty(n_classes=3)
    for batch in batches[:8]:
        whole(*batch)
    resumed = RelativeDifficulty(n_classes=3)
    resumed.load_state_dict(whole.state_dict())
    for batch in batches[8:]:
        torch.testing.assert_close(resumed(*batch), whole(*batch), atol=0, rtol=0)
    whole.reset_parameters()
    fresh = RelativeDifficulty(n_classes=3)
    torch.testing.assert_close(whole(*batches[0]), fresh(*batches[0]), atol=0, rtol=0)


def test_the_largest_is_kept_exactly_when_its_owner_falls_rises_or_changes_class():
    rng = np.random.default_rng(0)
    fast, slow = RelativeDifficulty(n_classes=2, alpha=0.3), Slow(0.3)
    for step in range(200):
        index = rng.permutation(12)[: rng.integers(1, 7)]
        y = (index + (step > 100)) % 2  # at half time every patient changes class
        loss = rng.exponential(size=(2, len(index))) ** 3
        weight = fast(*map(torch.tensor, (*loss, y.astype(float), index)))
        np.testing.assert_allclose(weight, slow(*loss, y.astype(float), index), rtol=1e-4)
        if step == 150:  # other patients' state in the same room
            other = RelativeDifficulty(n_classes=2, alpha=0.3)
            other(*map(torch.tensor, (*np.ones((2, 12)), np.zeros(12), np.arange(12))))
            other.load_state_dict(fast.state_dict())
            fast = other


def test_a_step_looks_through_all_patients_only_where_the_largest_is_gone(monkeypatch):
    module, n = RelativeDifficulty(), 1000
    looked = []
    scatter = torch.Tensor.scatter_reduce
    monkeypatch.setattr(
        torch.Tensor,
        "scatter_reduce",
        lambda self, dim, cell, *rest: (
            looked.append(cell.shape[1]) or scatter(self, dim, cell, *rest)
        ),
    )
    generator = torch.Generator().manual_seed(0)
    hard = torch.rand(n, generator=generator)
    y = (torch.arange(n) % 2).float()
    for epoch in range(10):
        for index in torch.randperm(n, generator=generator).split(10):
            module(hard[index] / (1 + epoch), hard[index], y[index], index)
    assert len(looked) == 1000
    assert 0 < sum(size > 10 for size in looked) < 100


def test_weights_are_per_patient_and_carry_no_gradient():
    loss = torch.rand(2, 6, requires_grad=True)
    weight = RelativeDifficulty()(*loss, torch.tensor([0.0, 1] * 3), torch.arange(6))
    assert weight.shape == (6,)
    assert len(weight.unique()) > 1
    assert not weight.requires_grad


def test_a_loss_of_zero_gives_no_nan():
    zero = torch.zeros(3)
    weight = RelativeDifficulty()(zero, zero, torch.zeros(3), torch.arange(3))
    assert (weight == 0).all()


def test_relative_difficulty_refuses():
    one, y = torch.ones(3), torch.zeros(3)
    index = torch.arange(3)
    module = RelativeDifficulty()
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\), got alpha=1"):
        RelativeDifficulty(alpha=1.0)
    with pytest.raises(ValueError, match="need the same shape with one row per index"):
        module(one, one.mean(), y, index)
    with pytest.raises(ValueError, match="loss_b holds a negative loss or NaN"):
        module(one, torch.tensor([1, math.nan, 1]), y, index)
    with pytest.raises(ValueError, match="loss_c holds a negative loss"):
        module(-one, one, y, index)
    for bad in ([0, 0, 1], [-1, 0, 1]):
        with pytest.raises(ValueError, match="index must name each patient of the batch once"):
            module(one, one, y, torch.tensor(bad))
    with pytest.raises(ValueError, match="the label 2 does not exist"):
        module(one, one, y + 2, index)
    module(one, one, y, index)
    wide = torch.ones(3, 2)
    with pytest.raises(ValueError, match="kept for 1 labels per patient, got 2"):
        module(wide, wide, wide, index)


# ------------------------------------------------------------------ swap


def test_swap_moves_rows_with_their_labels():
    h_b = torch.arange(20.0).reshape(10, 2).requires_grad_()
    swapped, y = swap(h_b, torch.arange(10), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(swapped, h_b[y])
    assert sorted(y.tolist()) == list(range(10))
    assert y.tolist() != list(range(10))
    swapped[0].sum().backward()
    assert h_b.grad[y[0]].tolist() == [1, 1]
    assert h_b.grad.sum() == 2


def test_swap_cuts_the_dependence_on_the_label():
    y = (torch.arange(4000) % 2).double()
    (swapped,) = swap(y.unsqueeze(1), generator=torch.Generator().manual_seed(0))
    assert abs(torch.corrcoef(torch.stack([y, swapped[:, 0]]))[0, 1]) < 4 / math.sqrt(4000)


def test_swap_refuses_other_rows():
    with pytest.raises(ValueError, match=r"h_b has 3 rows, what goes with it \[4\]"):
        swap(torch.zeros(3, 2), torch.zeros(4))

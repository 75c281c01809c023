import functools
import inspect
import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score
from torch import nn

from dfdlib import data
from dfdlib.data import Cohort
from dfdlib.data.synthetic import PRESETS
from dfdlib.evaluation import predict_proba
from dfdlib.models import GRAPE, Classifier, Deconfounder, Invariant, TokenTransformer
from dfdlib.models.heads import ROUTES
from dfdlib.models.patterns import LatentClasses, Patterns, average, pattern_propensity
from dfdlib.models.routes import check_option
from dfdlib.training import Stage, fit, load_model

TASKS = ["binary", "multiclass", "multilabel"]


def cohort(n=400, task="binary", seed=0):
    rng = np.random.default_rng(seed)
    x = {name: rng.normal(size=(n, 2)) for name in ("labs", "ecg", "notes")}
    observed = rng.random((n, 3)) < (0.9, 0.6, 0.5)
    observed[~observed.any(axis=1), 0] = True
    y = {
        "binary": rng.integers(0, 2, n).astype(float),
        "multiclass": rng.integers(0, 3, n).astype(float),
        "multilabel": rng.integers(0, 2, (n, 4)).astype(float),
    }[task]
    y[:5] = np.nan
    return Cohort(
        x=x,
        observed=observed,
        y=y,
        task=task,
        covariates=pd.DataFrame({"age": rng.normal(50, 9, n), "sex": rng.choice(["f", "m"], n)}),
    )


def trained(route, task="binary", train=None, **options):
    train = cohort(task=task) if train is None else train
    model = Classifier(
        backbone=GRAPE(d=8), schema=train.schema, head=Deconfounder(route=route, **options)
    )
    fit(model, train, stages=[Stage(epochs=2)], batch_size=100, lr=0.01)
    return model, train


def embedded(model, cohort):
    with torch.no_grad():
        tokens, observed = model.tokens(next(cohort.batches(len(cohort))))
        return model.backbone(tokens, observed), observed


# ---------------------------------------------------------------- what is averaged


@pytest.mark.parametrize("task", TASKS)
def test_stratified_is_the_sum_over_patterns_by_hand(task):
    model, train = trained("stratified", task)
    h, _ = embedded(model, train)
    patterns, count = np.unique(train.observed.numpy(), axis=0, return_counts=True)
    assert len(patterns) == 7
    weights = {k: v.double().numpy() for k, v in model.head.state_dict().items()}
    a, b = weights["adjustment.hidden.weight"], weights["adjustment.hidden.bias"]
    v, c = weights["adjustment.out.weight"], weights["adjustment.out.bias"]
    expected = 0
    for r, n in zip(patterns, count, strict=True):
        z = np.maximum(h.numpy() @ a.T + b + r @ weights["adjustment.by_pattern"], 0) @ v.T + c
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True) if task == "multiclass" else expit(z)
        expected = expected + n / len(train) * p
    got = predict_proba(model, train)
    got = got[:, 1:] if task == "binary" else got
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_nwgm_is_the_head_at_the_mean_pattern():
    model, train = trained("nwgm")
    h, _ = embedded(model, train)
    route = model.head.adjustment
    mean = train.observed.float().mean(0).expand(len(train), -1)
    with torch.no_grad():
        inside = (route.hidden(h) + mean @ route.by_pattern).relu() @ route.out.weight.T
        expected = (inside + route.out.bias).sigmoid().squeeze(1)
    np.testing.assert_allclose(predict_proba(model, train)[:, 1], expected, atol=1e-6)


def test_the_mean_inside_is_not_the_mean_outside():
    # c = -2 or 2, f = 1, logit f + c: the reference's numbers
    logits = torch.tensor([[[3.0], [-1.0]]])
    outside = average(logits, torch.tensor([[0.5, 0.5]]), multiclass=False).sigmoid()
    assert outside.item() == pytest.approx(0.6108, abs=5e-5)
    assert logits.mean(1).sigmoid().item() == pytest.approx(0.7311, abs=5e-5)


def test_averages_do_not_overflow():
    logits = torch.tensor([[[200.0], [-200.0]]], requires_grad=True)
    out = average(logits, torch.tensor([[0.25, 0.75]]), multiclass=False)
    assert out.sigmoid().item() == pytest.approx(0.25)
    out.sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dictionary", ["kmeans", "learned"])
def test_prototypes_are_a_mixture_by_attention(dictionary):
    model, train = trained("prototypes", dictionary=dictionary, n_prototypes=3, temperature=0.5)
    h, observed = embedded(model, train)
    route = model.head.adjustment
    with torch.no_grad():
        keys = route.centres @ route.by_pattern
        score = route.prior * torch.exp((h @ route.query.weight.T) @ keys.T / (0.5 * 8**0.5))
        p = torch.stack([route.under(route.hidden(h), c).sigmoid() for c in route.centres], 1)
    expected = (score / score.sum(1, keepdim=True) * p.squeeze(2)).sum(1)
    np.testing.assert_allclose(predict_proba(model, train)[:, 1], expected, atol=1e-5)
    if dictionary == "kmeans":
        # the centres are means of masks, so their mean by share is that of the masks
        mean = model.head.strata(train.names).drop(columns="share").T @ route.prior.numpy()
        np.testing.assert_allclose(mean, observed.float().mean(0), atol=1e-5)


def test_as_many_prototypes_as_patterns_are_the_patterns():
    model, train = trained("prototypes", n_prototypes=50)
    centres = model.head.adjustment.centres.numpy().round(6)
    patterns = np.unique(train.observed.numpy(), axis=0)
    assert sorted(map(tuple, centres)) == sorted(map(tuple, patterns.astype(float)))


# ---------------------------------------------------------------- invariant


@pytest.mark.parametrize("task", TASKS)
def test_after_training_the_mean_logit_is_the_same_in_every_pattern(task):
    model, train = trained("invariant", task)
    h, observed = embedded(model, train)
    route = model.head.adjustment
    with torch.no_grad():
        before = pd.DataFrame(route.map(h).numpy()).groupby(train.pattern).mean()
        after = pd.DataFrame(route.score(h, observed).numpy()).groupby(train.pattern).mean()
    assert before.std().min() > 1e-3
    assert np.abs(after - after.iloc[0]).to_numpy().max() < 1e-5


def test_invariant_averages_the_pattern_term_out():
    model, train = trained("invariant")
    h, _ = embedded(model, train)
    route = model.head.adjustment
    c, g = route.map(h).detach().numpy()[:, 0], route.effect.detach().numpy()[:, 0]
    names = model.head.strata(train.names).index
    m = pd.Series(c).groupby(train.pattern).mean().reindex(names).to_numpy()
    own = names.get_indexer(train.pattern)
    share = pd.Series(train.pattern).value_counts(normalize=True).reindex(names).to_numpy()
    expected = expit((c - m[own])[:, None] + m + g) @ share
    np.testing.assert_allclose(predict_proba(model, train)[:, 1], expected, atol=1e-5)


@pytest.mark.parametrize("route", ["invariant", "substitute"])
def test_without_subtraction_c_is_scored(route):
    model, train = trained(route, subtract=False)
    h, observed = embedded(model, train)
    adjustment = model.head.adjustment
    torch.testing.assert_close(adjustment.score(h, observed), adjustment.map(h))


def test_the_penalty_is_the_variance_of_the_moving_means():
    train = cohort(300)
    head = Deconfounder(route="invariant", weight=2.0, momentum=0.5, d=4, n_outputs=1)
    head.prepare(train)
    h = torch.randn(300, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    sums = pd.DataFrame()
    for rows in (slice(0, 150), slice(150, 300)):
        value = head.penalty(h[rows], train.observed[rows], None)
        c = head.adjustment.map(h[rows]).detach().numpy()[:, 0]
        now = pd.Series(c).groupby(train.pattern[rows]).agg(["sum", "size"])
        sums = now if sums.empty else (0.5 * sums).add(now, fill_value=0)
    share = pd.Series(train.pattern).value_counts(normalize=True)
    mean = (sums["sum"] / sums["size"]).reindex(share.index)
    variance = share @ (mean - share @ mean) ** 2
    assert value.item() == pytest.approx(2 * variance, rel=1e-4)

    # its gradient is that of the batch's own means, not damped by the moving average
    (gradient,) = torch.autograd.grad(value, h)
    own = pd.Series(train.pattern[150:])
    size = own.map(own.value_counts()).to_numpy()
    slope = 2 * 2 * own.map(share * (mean - share @ mean)).to_numpy() / size
    expected = slope[:, None] * head.adjustment.map.weight.detach().numpy()
    np.testing.assert_allclose(gradient[150:], expected, atol=1e-6)
    assert (gradient[:150] == 0).all()


def test_a_penalty_in_evaluation_leaves_the_moving_means_alone():
    model, train = trained("invariant")
    h, observed = embedded(model, train)
    before = model.head.adjustment.moving_sum.clone()
    model.head.penalty(h, observed, None)
    torch.testing.assert_close(model.head.adjustment.moving_sum, before)


def test_the_pattern_term_begins_at_the_log_odds_of_each_pattern():
    train = cohort(2000)
    head = Deconfounder(route="invariant", d=4, n_outputs=1)
    head.prepare(train)
    y = pd.Series(train.y.numpy())[5:]
    group = y.groupby(train.pattern[5:])
    rate = (group.sum() + 0.5) / (group.size() + 1)
    expected = logit(rate).reindex(head.strata(train.names).index)
    np.testing.assert_allclose(head.adjustment.effect.detach()[:, 0], expected, atol=1e-5)


# ---------------------------------------------------------------- substitute


@pytest.mark.parametrize("route", ["invariant", "substitute"])
def test_fit_leaves_the_pattern_term_where_prepare_puts_it(route):
    """`fit` draws the weights after `prepare`; the term must not be drawn back to zero."""
    train = cohort()
    prepared = Deconfounder(route=route)
    prepared.build(d=8, n_outputs=1)
    prepared.prepare(train)
    model = Classifier(backbone=GRAPE(d=8), schema=train.schema, head=Deconfounder(route=route))
    fit(model, train, stages=[Stage(epochs=1, lr=1e-12)], weight_decay=0.0)
    effect = model.head.adjustment.effect.detach()
    assert effect.abs().max() > 0.01
    torch.testing.assert_close(effect, prepared.adjustment.effect.detach(), atol=1e-6, rtol=0)


def latent(n=20_000, seed=0):
    """Three indicators, independent given C: 30 % of C = 1, who have more."""
    rng = np.random.default_rng(seed)
    c = rng.random(n) < 0.3
    p = np.where(c[:, None], (0.95, 0.9, 0.8), (0.4, 0.5, 0.3))
    return c, rng.random((n, 3)) < p


def test_latent_classes_recover_what_drives_the_mask():
    c, observed = latent()
    classes = LatentClasses()
    classes.fit(observed, np.zeros((len(c), 0)))
    np.testing.assert_allclose(classes.share, [0.7, 0.3], atol=0.03)
    expected = [[0.4, 0.5, 0.3], [0.95, 0.9, 0.8]]
    np.testing.assert_allclose(classes.availability, expected, atol=0.04)
    # Bayes' formula, by hand, for each of the eight patterns
    for r in itertools.product([False, True], repeat=3):
        odds = [s * np.prod(np.where(r, a, 1 - np.array(a)))
                for s, a in zip((0.7, 0.3), expected, strict=True)]  # fmt: skip
        posterior = classes.posterior(torch.tensor([r]))[0, 1]
        assert posterior == pytest.approx(odds[1] / sum(odds), abs=0.07)


def test_proxies_make_two_indicators_enough():
    c, observed = latent()
    rng = np.random.default_rng(1)
    proxy = np.column_stack([rng.normal(2.0 * c), rng.random(len(c)) < np.where(c, 0.8, 0.2)])
    with pytest.warns(UserWarning, match=r"2 indicators vary.*three.*Name proxies"):
        LatentClasses().fit(observed[:, :2], np.zeros((len(c), 0)))
    classes = LatentClasses()
    classes.fit(observed[:, :2], proxy)
    np.testing.assert_allclose(classes.availability, [[0.4, 0.5], [0.95, 0.9]], atol=0.03)


def test_substitute_estimates_the_effect_of_the_confounder_of_the_cohort():
    train = data.load("synthetic", n=10_000, **PRESETS["mnar-latent"])
    head = Deconfounder(route="substitute", d=4, n_outputs=1)
    head.prepare(train)
    table = head.strata(train.names)
    high = train.truth["confounder"].to_numpy() == 1
    truth = pd.DataFrame(train.observed.numpy(), columns=train.names).groupby(high).mean()
    np.testing.assert_allclose(table[list(train.names)], truth, atol=0.05)


def test_substitute_removes_the_regression_on_the_posterior():
    model, train = trained("substitute", train=cohort(3000))
    h, observed = embedded(model, train)
    route = model.head.adjustment
    q = route.membership(observed).double()
    left = np.linalg.lstsq(q.numpy(), route.score(h, observed).detach().double().numpy())[0]
    assert q.std(0).min() > 0.01
    assert np.abs(q.numpy() @ left).max() < 1e-3


# ---------------------------------------------------------------- weights and masks


def test_ipw_weights_are_inverse_shares_with_a_mean_of_one():
    train = cohort()
    head = Deconfounder(route="ipw", clip=1000.0, d=4, n_outputs=1)
    head.prepare(train)
    share = pd.Series(train.pattern).map(pd.Series(train.pattern).value_counts(normalize=True))
    weight = head.sample_weight(train.observed).numpy()
    np.testing.assert_allclose(weight, (1 / share) / (1 / share).mean(), rtol=1e-5)
    # every pattern then weighs the same
    assert pd.Series(weight).groupby(train.pattern).sum().std() < 1e-3
    assert head.row_weight(torch.arange(3)).tolist() == [1, 1, 1]


def test_ipw_cuts_and_says_so():
    train = cohort()
    head = Deconfounder(route="ipw", clip=1.5, d=4, n_outputs=1)
    share = pd.Series(train.pattern).map(pd.Series(train.pattern).value_counts(normalize=True))
    raw = (1 / share) / (1 / share).mean()
    cut = raw.clip(upper=1.5)
    size = cut.sum() ** 2 / (cut**2).sum()
    with pytest.warns(UserWarning, match=rf"of {(raw > 1.5).sum()} of 400.*clip=1.5.*{size:.0f}"):
        head.prepare(train)
    np.testing.assert_allclose(head.sample_weight(train.observed), cut / cut.mean(), rtol=1e-5)


def test_propensities_are_those_of_the_mechanism():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(20_000, 1))
    p = expit(np.hstack([0.5 + w, -0.5 - 2 * w]))
    observed = np.hstack([np.ones((20_000, 1), bool), rng.random(p.shape) < p])
    expected = np.where(observed[:, 1:], p, 1 - p).prod(axis=1)
    np.testing.assert_allclose(pattern_propensity(observed, w), expected, atol=0.03)


def test_weights_by_proxies_make_the_mask_independent_of_them():
    train = data.load("synthetic", n=10_000, missing="severity", strength=0.5, bias="none")
    head = Deconfounder(route="ipw", proxies=["severity"], clip=50.0, d=4, n_outputs=1)
    head.prepare(train)
    weight = head.row_weight(torch.arange(len(train))).double().numpy()
    assert weight.mean() == pytest.approx(1, abs=1e-5)
    severity, there = train.covariates["severity"], train.observed[:, 1].numpy()
    before = severity[there].mean() - severity[~there].mean()
    after = np.average(severity[there], weights=weight[there])
    after -= np.average(severity[~there], weights=weight[~there])
    assert before > 0.5
    assert abs(after) < 0.1 * before
    assert (head.sample_weight(train.observed) == 1).all()


def test_weights_enter_the_loss():
    model, train = trained("ipw")
    model.train()
    batch = next(train.select(range(100)).batches(100))
    loss = model.loss(batch)["cross_entropy"].item()
    tokens, observed = model.tokens(batch)
    with torch.no_grad():
        p = model.head(model.backbone(tokens, observed), observed).sigmoid()[:, 0].double()
    known = ~batch.y.isnan()
    each = -torch.where(batch.y == 1, p, 1 - p).log()[known]
    weight = model.head.sample_weight(observed)[known]
    assert loss == pytest.approx((each * weight).mean().item(), rel=1e-5)
    assert loss != pytest.approx(each.mean().item(), rel=1e-3)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_dropout_hides_never_adds_and_leaves_something(rate):
    observed = cohort(5000).observed
    observed[:10] = False
    head = Deconfounder(route="dropout", rate=rate)
    torch.manual_seed(0)
    left = head.mask(observed)
    assert not (left & ~observed).any()
    assert (left.any(1) == observed.any(1)).all()
    if rate == 0:
        assert torch.equal(left, observed)
    several = observed.sum(1) == 3
    # of three, rate³ would be left with nothing, and keep one
    expected = 3 * (1 - rate) + rate**3
    assert left[several].sum(1).double().mean() == pytest.approx(expected, abs=0.08)


def test_dropout_masks_in_training_only():
    model, train = trained("dropout", rate=0.5)
    batch = next(train.batches(400))
    torch.manual_seed(0)
    assert model.loss(batch)["total"] == model.loss(batch)["total"]
    model.train()
    assert model.loss(batch)["total"] != model.loss(batch)["total"]


# ---------------------------------------------------------------- every route


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("task", TASKS)
def test_a_score_does_not_depend_on_the_batch(route, task):
    model, train = trained(route, task)
    whole = predict_proba(model, train)
    assert whole.std(0).min() > 0
    alone = predict_proba(model, train.select(range(30)), batch_size=1)
    np.testing.assert_allclose(alone, whole[:30], atol=1e-6)


@pytest.mark.parametrize("route", ROUTES)
def test_a_saved_model_scores_and_explains_alike(route, tmp_path):
    train = cohort()
    options = {"proxies": ["age", "sex"]} if route in ("ipw", "substitute") else {}
    head = Deconfounder(route=route, **options)
    model = Classifier(backbone=TokenTransformer(d=8), schema=train.schema, head=head)
    run = fit(model, train, stages=[Stage(epochs=2)], batch_size=100)
    run.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    np.testing.assert_array_equal(predict_proba(loaded, train), predict_proba(model, train))
    batch = next(train.batches(50))
    pd.testing.assert_frame_equal(loaded.explain(batch), model.explain(batch))


def with_few(n_few, n=200):
    """So many patients have a combination of modalities of their own; each other one has 40."""
    observed = np.repeat([[1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 0, 0], [0, 1, 1]], n // 5, axis=0)
    observed[:n_few] = [0, 1, 0]
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(n, 2)) for name in ("labs", "ecg", "notes")}
    return Cohort(x=x, observed=observed.astype(bool), y=rng.integers(0, 2, n))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("n_few", [1, 9, 10])
def test_rare_patterns_are_saved_with_the_nearest(route, n_few, tmp_path):
    model, train = trained(route, train=with_few(n_few))
    before = predict_proba(model, train)
    run = fit(model, train, stages=[Stage(epochs=1)], init="keep", lr=1e-9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.save(tmp_path / "model")
    told = [str(warning.message) for warning in caught if "fewer than 10" in str(warning.message)]
    patterns = model.head.adjustment.patterns
    table = [tuple(row) for row in patterns.table.int().tolist()]
    assert ((0, 1, 0) in table) == (n_few == 10)
    # levels of a latent are never of whole patients: some of these have few
    assert len(told) == (n_few < 10 or route == "substitute")
    assert all("missing patterns" in text and "'head.adjustment'" in text for text in told)
    # the nearest took them: 40 - few of the first pattern and the rest add up to all
    count = dict(zip(table, (patterns.share * 200).tolist(), strict=True))
    wanted = {(1, 1, 1): 40 - n_few, (1, 1, 0): 40, (1, 0, 1): 40, (1, 0, 0): 40, (0, 1, 1): 40}
    nearest = (0, 1, 1) if n_few < 10 else (0, 1, 0)
    # (1, 1, 0) is as near, and as frequent: the first of them
    options = {nearest, (1, 1, 0)} if n_few < 10 else {nearest}
    sums = [wanted | {place: wanted.get(place, 0) + n_few} for place in options]
    assert any(count == pytest.approx(each, abs=1e-3) for each in sums)
    state = model.head.state_dict()
    for name in ("start", "moving_sum", "moving_count"):  # counts of outcomes by pattern
        assert not state.get(f"adjustment.{name}", torch.zeros(1)).any()
    loaded = load_model(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these patients are new to the model now
        after = predict_proba(model, train)
        np.testing.assert_array_equal(predict_proba(loaded, train), after)
        if n_few == 10 and route != "substitute":
            np.testing.assert_allclose(after, before, atol=1e-5)
        assert np.abs(after - before).max() < 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.save(tmp_path / "model")  # there is no more to forget


def test_where_every_pattern_is_rare_none_is_saved(tmp_path):
    train = with_few(0).select(range(0, 200, 6))
    for route in ("stratified", "invariant", "prototypes", "ipw"):
        model, _ = trained(route, train=train)
        run = fit(model, train, stages=[Stage(epochs=1)])
        with pytest.warns(UserWarning, match="5 of 'head.adjustment'"):
            run.save(tmp_path / route)
        loaded = load_model(tmp_path / route)
        assert loaded.head.adjustment.patterns.table.tolist() == [[True] * 3]
        with pytest.warns(UserWarning, match="combination of modalities"):
            assert np.isfinite(predict_proba(loaded, train)).all()


def test_latent_classes_tell_no_small_count():
    rng = np.random.default_rng(0)
    level = rng.random(300) < 0.5
    observed = rng.random((300, 4)) < np.where(level, 0.9, 0.4)[:, None]
    observed[:, 3] = np.arange(300) >= 3  # three patients lack the last one
    classes = LatentClasses()
    classes.fit(observed, np.zeros((300, 0)))
    assert float(300 * classes.share @ (1 - classes.availability[:, 3])) < 5
    assert classes.round_rare() >= 1
    size = 300 * classes.share.double().numpy()
    tens = np.round(size / 10) * 10
    np.testing.assert_allclose(size, tens * 300 / tens.sum(), rtol=1e-5)
    lacking = tens[:, None] * (1 - classes.availability.double().numpy())
    np.testing.assert_allclose(lacking, np.round(lacking / 10) * 10, atol=1e-3)
    assert lacking.min() > 9.9
    assert classes.round_rare() == 0


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("task", TASKS)
def test_every_parameter_gets_a_gradient(route, task):
    model, train = trained(route, task)
    model.train()
    model.zero_grad()
    model.loss(next(train.batches(400)))["total"].backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert missing == []
    assert [name for name, p in model.named_parameters() if p.grad.abs().sum() == 0] == []


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("task", TASKS)
def test_contributions_add_up_to_what_is_predicted(route, task):
    model, train = trained(route, task)
    part = train.select(range(40, 60))
    table = model.explain(next(part.batches(20)))
    p = predict_proba(model, part)
    p = p[:, 1:] if task == "binary" else p
    sums = table.groupby(["row", "output"])[["weight", "contribution"]].sum()
    np.testing.assert_allclose(sums["contribution"], p.ravel(), atol=1e-6)
    np.testing.assert_allclose(sums["weight"], 1, atol=1e-6)
    np.testing.assert_allclose(table["contribution"], table["weight"] * table["probability"])
    assert sorted(table["output"].unique()) == list(
        {"binary": [1], "multiclass": [0, 1, 2], "multilabel": [0, 1, 2, 3]}[task]
    )
    if route in ("ipw", "dropout"):
        np.testing.assert_allclose(table["naive"], table["adjusted"], atol=1e-6)
        assert set(table["stratum"]) == {"as observed"}
    if route in ("stratified", "invariant"):
        own = table[table["stratum"] == pd.Series(part.pattern).reindex(table["row"]).to_numpy()]
        np.testing.assert_allclose(own["naive"], own["probability"], atol=1e-5)
        assert len(own) == len(part) * table["output"].nunique()


@pytest.mark.parametrize("route", ["prototypes", "invariant", "substitute"])
def test_a_run_that_was_stopped_ends_in_the_same_weights(route, tmp_path, monkeypatch):
    train = cohort()

    def run(folder):
        head = Deconfounder(route=route, **({"weight": 5.0} if route != "prototypes" else {}))
        model = Classifier(backbone=GRAPE(d=8), schema=train.schema, head=head)
        return fit(model, train, stages=[Stage(epochs=3)], batch_size=100, folder=folder).model

    whole = predict_proba(run(tmp_path / "whole"), train)
    calls, loss = itertools.count(), Classifier.loss

    def stop(self, batch):
        if next(calls) == 6:  # in the second epoch of four steps each
            raise KeyboardInterrupt
        return loss(self, batch)

    monkeypatch.setattr(Classifier, "loss", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped")
    monkeypatch.undo()
    np.testing.assert_array_equal(predict_proba(run(tmp_path / "stopped"), train), whole)


@pytest.mark.parametrize("route", ROUTES)
def test_modalities_may_come_in_another_order(route):
    train = cohort()
    other = train.select(modalities=["notes", "labs", "ecg"])
    assert other.names != train.names
    head = Deconfounder(route=route)
    model = Classifier(backbone=GRAPE(d=8), schema=train.schema, head=head)
    fit(model, other, stages=[Stage(epochs=1)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p = predict_proba(model, train)
    np.testing.assert_allclose(p, predict_proba(model, other), atol=1e-6)


def test_a_pattern_that_training_never_saw_is_told():
    train = cohort()
    train = train.select(train.pattern != "labs+notes")
    other = cohort(seed=1)
    new = int((other.pattern == "labs+notes").sum())
    for route, done in (
        ("stratified", "averaged over the patterns of the training part"),
        ("invariant", "fewest other entries"),
        ("substitute", r"P\(level \| pattern\) is computed"),
    ):
        model, _ = trained(route, train=train)
        with pytest.warns(UserWarning, match=rf"{new} of 400 patients.*{done}"):
            predict_proba(model, other)


def test_the_nearest_pattern_is_the_most_frequent_of_the_nearest():
    patterns = Patterns(limit=10)
    table = {(1, 1, 0): 5, (1, 0, 1): 9, (0, 1, 1): 2}
    patterns.fit(torch.tensor([r for r, n in table.items() for _ in range(n)], dtype=torch.bool))
    index, new = patterns.nearest(torch.tensor([[1, 1, 1], [0, 1, 1], [0, 1, 0]], dtype=torch.bool))
    assert patterns.table[index].int().tolist() == [[1, 0, 1], [0, 1, 1], [1, 1, 0]]
    assert new.tolist() == [True, False, True]
    np.testing.assert_allclose(patterns.share, [9 / 16, 5 / 16, 2 / 16])


def test_many_modalities_are_sampled_and_stay_the_same():
    rng = np.random.default_rng(0)
    observed = torch.tensor(rng.random((3000, 12)) < 0.5)
    patterns = Patterns(limit=64)
    patterns.fit(observed)
    assert 1 < len(patterns) <= 64
    assert patterns.share.sum().item() == pytest.approx(1)
    again = Patterns(limit=64)
    again.fit(observed)
    assert torch.equal(patterns.table, again.table)
    few = Patterns(limit=64)
    few.fit(observed[:, :8])
    assert len(few) == len(observed[:, :8].unique(dim=0)) > 64


def test_a_head_of_ones_own_may_have_any_part_of_the_protocol():
    class Doubled(nn.Linear):
        def __init__(self):
            super().__init__(8, 1)

        def forward(self, h, observed):
            return super().forward(h)

        def sample_weight(self, observed):
            return torch.full((len(observed),), 2.0)

        def penalty(self, h, observed, y):
            assert y is not None
            return torch.tensor(3.0)

    train = cohort()
    model = Classifier(backbone=GRAPE(d=8), schema=train.schema, head=Doubled())
    model.prepare(train)
    batch = next(train.batches(400))
    terms = {k: v.item() for k, v in model.train().loss(batch).items()}
    assert terms["total"] == pytest.approx(terms["cross_entropy"] + 3)
    model.head.sample_weight = lambda observed: torch.ones(len(observed))
    assert terms["cross_entropy"] == pytest.approx(2 * model.loss(batch)["cross_entropy"].item())


# ---------------------------------------------------------------- refusals


def test_refused_options():
    with pytest.raises(ValueError, match=r"'stratfied' is not a route.*Did you mean 'stratified'"):
        Deconfounder(route="stratfied")
    for name, value, route in (
        ("temperature", 0, "prototypes"),
        ("weight", -1.0, "invariant"),
        ("momentum", 1.0, "invariant"),
        ("n_prototypes", 0, "prototypes"),
        ("dictionary", "som", "prototypes"),
        ("clip", 1.0, "ipw"),
        ("rate", 1.0, "dropout"),
        ("n_patterns", 0, "stratified"),
        ("proxies", "age", "ipw"),
    ):
        with pytest.raises(ValueError, match=rf"{name}={value!r} is out of range. Pass "):
            Deconfounder(route=route, **{name: value})
    with pytest.raises(ValueError, match=r"rate=0.5 has no effect with route='ipw'.*dropout"):
        Deconfounder(route="ipw", rate=0.5)
    with pytest.raises(ValueError, match=r"'stratified'; it is an option of substitute and ipw"):
        Deconfounder(route="stratified", proxies=["age"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("stratified", {}),
        ("nwgm", {"n_patterns": 3}),
        ("prototypes", {"n_prototypes": 3, "dictionary": "learned", "temperature": 0.5}),
        ("substitute", {"proxies": ["age"], "weight": 1.0}),
        ("ipw", {"proxies": ["sex"], "clip": 5.0}),
        ("dropout", {"rate": 0.5}),
        ("invariant", {"momentum": 0.5, "subtract": False}),
    ],
)
def test_a_route_with_options_is_the_name_with_the_same_options(name, options, tmp_path):
    """Bit for bit; and it can be saved with them, and loaded."""
    train = cohort()
    heads = Deconfounder(route=name, **options), Deconfounder(route=ROUTES[name](**options))
    assert heads[0].route == name
    assert isinstance(heads[1].route, ROUTES[name])
    runs = []
    for head in heads:
        model = Classifier(backbone=GRAPE(d=8), schema=train.schema, head=head)
        runs.append(fit(model, train, stages=[Stage(epochs=2)], batch_size=100, lr=0.01))
    states = [run.model.state_dict() for run in runs]
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    runs[1].save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert type(loaded.head.route) is ROUTES[name]
    for option, value in options.items():
        assert getattr(loaded.head.route, option) == value
    np.testing.assert_array_equal(predict_proba(loaded, train), predict_proba(runs[1].model, train))


def test_an_option_has_one_default():
    """`Deconfounder` and every route that has the option agree on it."""
    said = inspect.signature(Deconfounder).parameters
    names = {name for kind in ROUTES.values() for name in kind.defaults()}
    assert names == set(said) - {"route", "d", "n_outputs"}
    for kind in ROUTES.values():
        for name, default in kind.defaults().items():
            assert said[name].default == default


def test_options_beside_a_route_are_refused():
    with pytest.raises(ValueError, match=r"momentum=0.5 .*Write route=Invariant\(momentum=0.5\)"):
        Deconfounder(route=Invariant(), momentum=0.5)
    with pytest.raises(ValueError, match=r"rate=0.5 has no effect with route=Invariant.*Leave it"):
        Deconfounder(route=Invariant(), rate=0.5)


def test_refused_data():
    train = cohort()
    x = {name: train.x[name] for name in train.names}
    head = Deconfounder(route="stratified", d=4, n_outputs=1)
    with pytest.raises(ValueError, match=r"no labels. Pass y="):
        head.prepare(Cohort(x=x, observed=train.observed))
    with pytest.raises(RuntimeError, match=r"knows no missing pattern yet. Call fit"):
        head.eval()(torch.zeros(1, 4), train.observed[:1])
    head.prepare(train)
    with pytest.raises(ValueError, match=r"fitted on 3 modalities and got 2"):
        head(torch.zeros(1, 4), train.observed[:1, :2])
    with pytest.raises(ValueError, match=r"'aeg' is not a covariate or group.*mean 'age'"):
        Deconfounder(route="ipw", proxies=["aeg"], d=4, n_outputs=1).prepare(train)
    train.covariates.loc[3:5, "age"] = np.nan
    with pytest.raises(ValueError, match=r"proxy 'age' is missing for 3 training patients"):
        Deconfounder(route="substitute", proxies=["age"], d=4, n_outputs=1).prepare(train)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.filterwarnings("ignore:0 indicators vary")
def test_one_pattern_only_is_said(route):
    full = cohort()
    train = Cohort(x={name: full.x[name] for name in full.names}, y=full.y)
    head = Deconfounder(route=route)
    model = Classifier(backbone=GRAPE(d=8), schema=train.schema, head=head)
    with pytest.warns(UserWarning, match="no missing pattern to adjust for"):
        fit(model, train, stages=[Stage(epochs=1)])
    assert np.isfinite(predict_proba(model, train)).all()


def test_a_loaded_model_has_no_weights_by_proxies(tmp_path):
    train = cohort()
    head = Deconfounder(route="ipw", proxies=["age"])
    model = Classifier(backbone=GRAPE(d=8), schema=train.schema, head=head)
    fit(model, train, stages=[Stage(epochs=1)]).save(tmp_path / "model")
    loaded = load_model(tmp_path / "model").train()
    batch = next(train.batches(50))
    with pytest.raises(RuntimeError, match=r"not kept with a saved model. Call model.prepare"):
        loaded.loss(batch)
    loaded.prepare(train)
    loaded.loss(batch)


def test_a_linear_head_explains_nothing():
    train = cohort()
    model = Classifier(backbone=GRAPE(d=8), schema=train.schema)
    model.prepare(train)
    with pytest.raises(ValueError, match=r"Linear has nothing to explain.*head=Deconfounder"):
        model.explain(next(train.batches(5)))


# ---------------------------------------------------------------- against the truth


@functools.cache
def scores(preset, route, *, flags=True, seeds=(0,), epochs=12, **options):
    """AUROC in distribution and shifted, mean over seeds."""
    found = []
    for seed in seeds:
        train = data.load("synthetic", n=3000, seed=seed, **PRESETS[preset])
        head = None if route is None else Deconfounder(route=route, **options)
        model = Classifier(
            backbone=GRAPE(d=16, dropout=0.2), schema=train.schema, head=head, flags=flags
        )
        fit(model, train, stages=[Stage(epochs=epochs)], batch_size=256, lr=3e-3, seed=seed)
        tests = [
            data.load("synthetic", n=10_000, world=world, seed=seed, **PRESETS[preset])
            for world in ("id", "shifted")
        ]
        found.append([roc_auc_score(test.y, predict_proba(model, test)[:, 1]) for test in tests])
    return np.mean(found, axis=0)


def test_invariant_survives_the_shift_of_a_latent_that_drives_the_mask():
    naive, blind = scores("mnar-latent", None), scores("mnar-latent", None, flags=False)
    for route in ("invariant", "substitute"):
        adjusted = scores("mnar-latent", route)
        assert adjusted[1] > naive[1] + 0.12
        assert adjusted[0] < naive[0] - 0.05
    assert naive[1] < 0.6
    assert blind[1] < 0.6  # zeros tell a network the mask, flags or no flags


def test_invariant_loses_where_severity_orders_the_tests():
    assert scores("severity", "invariant")[1] < scores("severity", None)[1] - 0.05


@pytest.mark.parametrize("route", ["stratified", "substitute", "invariant"])
def test_where_values_are_missing_at_random_nothing_is_lost(route):
    seeds = range(2)
    loss = scores("mcar", None, seeds=seeds) - scores("mcar", route, seeds=seeds)
    assert loss.max() < 0.01


def test_an_option_of_another_type_is_refused_as_out_of_range():
    """Past the type hints, which pytest enforces before the message has a chance."""
    with pytest.raises(ValueError, match=r"momentum='a' is out of range\. Pass under 1"):
        check_option("momentum", "a", lambda value: value < 1, "under 1")

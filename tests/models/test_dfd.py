"""The loss of DFD: its terms by hand, what each of them teaches, and what is refused."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dfdlib.data import Cohort
from dfdlib.models import DFD, GRAPE, MUSE, Deconfounder, TokenTransformer
from dfdlib.models.dfd import WEIGHT_OF
from dfdlib.training import Stage, fit
from small_cohorts import random_labels, three_modalities


def muse(*, d):
    return MUSE(d=d, dropout=0.0)


BACKBONES = [GRAPE, TokenTransformer, muse]
INFORMATION = ["club", "mine", "infonce", "hsic", "dcor"]


def cohort(task="binary", n=60):
    generator = torch.Generator().manual_seed(0)
    x, observed = three_modalities(n, generator)
    y = random_labels(task, n, generator)
    site = torch.randint(0, 2, (n,), generator=generator).numpy()
    return Cohort(x=x, observed=observed, y=y, task=task, groups={"site": site})


def prepared(data, backbone=GRAPE, **options):
    torch.manual_seed(0)
    model = DFD(backbone=backbone(d=8), schema=data.schema, **options)
    model.prepare(data)
    for module in model.bias_backbone.modules():  # as fit does: the streams differ
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model.train()


def loss(model, data, seed=0):
    """The terms on all patients, with the noise of a seed, and nothing left behind in the model."""
    torch.manual_seed(seed)
    return copy.deepcopy(model).loss(next(data.batches(len(data))))


def log_p(logits, y, task):
    """Log-probability of each known label, in floating point numbers of Python."""
    known = ~y.isnan()
    if task == "multiclass":
        return logits.double().log_softmax(1)[known, y[known].long()]
    logits = logits.double().reshape(y.shape)[known]
    return torch.log(torch.where(y[known] == 1, logits.sigmoid(), 1 - logits.sigmoid()))


def by_hand(model, data):
    """H_c and H_b, from the parts."""
    tokens, observed = model.tokens(next(data.batches(len(data))))
    tau = model.gate_net(tokens)
    h_c = model.backbone(tokens, observed, [tau, None])
    return h_c, model.bias_backbone(tokens, observed, [1 - tau, None])


def heads(model, h_c, h_b):
    z = torch.cat([h_c, h_b], 1)
    return z @ model.head.map.weight.T + model.head.map.bias, model.bias_head(z)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_both_losses_by_hand(backbone, task):
    data = cohort(task)
    model = prepared(data, backbone, gce_q=0.6)
    terms = loss(model, data)
    f_c, f_b = (log_p(logits, data.y, task) for logits in heads(model, *by_hand(model, data)))
    assert terms["cross_entropy"].item() == pytest.approx(-f_c.mean().item(), abs=1e-6)
    expected = ((1 - f_b.exp() ** 0.6) / 0.6).mean()
    assert terms["bias_gce"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_swapped_pairs_by_hand(monkeypatch):
    data = cohort()
    model = prepared(data, swap_weight=1.0)
    monkeypatch.setattr("dfdlib.models.dfd.swap", lambda h_b, y: (h_b.flip(0), y.flip(0)))
    terms = loss(model, data)
    h_c, h_b = by_hand(model, data)
    f_c, f_b = heads(model, h_c, h_b.flip(0))
    expected = -log_p(f_c, data.y, "binary").mean()
    assert terms["swap"].item() == pytest.approx(expected.item(), abs=1e-6)
    p = log_p(f_b, data.y.flip(0), "binary").exp()
    expected = ((1 - p**0.7) / 0.7).mean()
    assert terms["bias_swap"].item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_relative_difficulty_by_hand(task):
    data = cohort(task)
    model = prepared(data, difficulty=True)
    terms = loss(model, data)
    known = ~data.y.isnan()
    label = data.y[known]
    # the largest loss of the class; a label of several has classes of its own
    column = torch.zeros(data.y.shape) if data.y.ndim == 1 else torch.arange(4).expand_as(data.y)
    group = label + 10 * column[known]
    relative = []
    for logits in heads(model, *by_hand(model, data)):
        each = -log_p(logits, data.y, task)
        relative.append(each / torch.stack([each[group == g].max() for g in group]))
    weight = relative[1] / (relative[0] + relative[1])
    f_c = -log_p(heads(model, *by_hand(model, data))[0], data.y, task)
    assert terms["cross_entropy"].item() == pytest.approx((weight * f_c).mean().item(), abs=1e-6)


EVERYTHING = {
    "swap_weight": 0.5,
    "difficulty": True,
    "environment": "site",
    "mi_within": True,
    "mi_refits": 1,
}


def test_every_term_enters_the_total_with_its_weight():
    data = cohort()
    head = Deconfounder(route="invariant")
    model = prepared(data, head=head, **EVERYTHING)
    terms = loss(model, data)
    names = set(terms) - {"total"}
    assert names == {
        "cross_entropy", "penalty", "bias_gce", "mi", "mi_learn", "swap", "bias_swap", "alone",
        "votes",
    }  # fmt: skip
    weight = {name: getattr(model, WEIGHT_OF[name]) if name in WEIGHT_OF else 1 for name in names}
    expected = sum(weight[name] * terms[name].item() for name in names)
    assert terms["total"].item() == pytest.approx(expected, abs=1e-5)
    for option in set(WEIGHT_OF.values()):
        other = copy.deepcopy(model)
        setattr(other, option, getattr(model, option) + 0.25)
        change = sum(terms[name].item() for name in names if WEIGHT_OF.get(name) == option)
        assert abs(change) > 1e-6, option
        total = loss(other, data)["total"].item()
        assert total - terms["total"].item() == pytest.approx(0.25 * change, abs=1e-5), option


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("mi", ["club", "mine", "infonce"])
@pytest.mark.parametrize("gate", [{}, {"gate_channels": True, "gate_layers": "all"}])
def test_every_parameter_gets_a_gradient(backbone, mi, gate):
    data = cohort()
    options = EVERYTHING | {"mi_within": mi != "mine"}
    model = prepared(data, backbone, mi=mi, **options, **gate)
    model.loss(next(data.batches(60)))["total"].backward()
    parts = dict(model.named_parameters())
    if mi == "infonce":  # compares scores of one h_c, to which this bias adds the same
        del parts["decorrelation.estimator.net.g.2.bias"]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parts.values())
    assert [name for name, p in parts.items() if p.grad.abs().max() < 1e-7] == []


def reach(term, model):
    """By first name: the largest gradient that a term leaves in the model's parts."""
    named = list(model.named_parameters())
    if not term.requires_grad:
        return {name.partition(".")[0]: 0.0 for name, _ in named}
    grads = torch.autograd.grad(term, [p for _, p in named], allow_unused=True, retain_graph=True)
    found = {}
    for (name, _), grad in zip(named, grads, strict=True):
        part = name.partition(".")[0]
        found[part] = max(found.get(part, 0.0), 0.0 if grad is None else float(grad.abs().max()))
    return found


@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_loss_teaches_its_own_stream_only(backbone):
    data = cohort()
    model = prepared(data, backbone, **EVERYTHING)
    terms = model.loss(next(data.batches(60)))
    for name in ("cross_entropy", "swap", "alone"):
        found = reach(terms[name], model)
        assert found["bias_backbone"] == found["bias_head"] == 0, name
        assert found["backbone"] > 0, name
    for name in ("bias_gce", "bias_swap"):
        found = reach(terms[name], model)
        assert found["backbone"] == found["head"] == found["alignment"] == 0, name
        assert found["bias_backbone"] > 0, name


def test_the_terms_of_a_backbone_teach_its_own_stream():
    data = cohort()
    model = prepared(data, muse, environment="site")
    terms = model.loss(next(data.batches(60)))
    for kind in ("unsupervised", "supervised"):
        found = reach(terms[kind], model)
        assert found["backbone"] > 0 == found["bias_backbone"]
        found = reach(terms[f"bias_{kind}"], model)
        assert found["bias_backbone"] > 0 == found["backbone"]
        assert found["alignment"] == 0
        assert found["gate_net"] > 0
    alone = prepared(data, environment="site").loss(next(data.batches(60)))
    assert set(terms) - set(alone) == {
        "unsupervised", "supervised", "bias_unsupervised", "bias_supervised"
    }  # fmt: skip
    rest = (0.1 if k == "mi" else 1 for k in terms if k != "total")
    values = (v.item() for k, v in terms.items() if k != "total")
    total = sum(w * v for w, v in zip(rest, values, strict=True))
    assert terms["total"].item() == pytest.approx(total, abs=1e-5)


def test_without_stop_gradient_each_loss_teaches_both_streams():
    data = cohort()
    model = prepared(data, stop_gradient=False, swap_weight=1.0)
    terms = model.loss(next(data.batches(60)))
    for name in ("cross_entropy", "bias_gce", "swap", "bias_swap"):
        found = reach(terms[name], model)
        assert min(found["backbone"], found["bias_backbone"]) > 0, name


@pytest.mark.parametrize("mi", INFORMATION)
def test_estimator_and_features_learn_apart(mi):
    data = cohort()
    model = prepared(data, mi=mi)
    terms = model.loss(next(data.batches(60)))
    found = reach(terms["mi"], model)
    assert found.pop("decorrelation", 0.0) == 0
    assert min(found[part] for part in ("encoders", "backbone", "bias_backbone", "gate_net")) > 0
    assert found["head"] == found["bias_head"] == 0
    found = reach(terms["mi_learn"], model)
    assert found.pop("decorrelation", 0.0) > 0 or mi in ("hsic", "dcor")
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize("mi", INFORMATION)
def test_without_weight_the_information_reaches_nobody(mi):
    data = cohort()
    model = prepared(data, mi=mi, mi_weight=0.0)
    assert not loss(model, data)["mi"].requires_grad
    model.mi_weight = 0.1
    assert loss(model, data)["mi"].requires_grad


def test_the_paper_has_fifteen_and_eighty_five_epochs():
    data = cohort()
    stages = prepared(data).default_stages
    assert [(s.epochs, s.overrides) for s in stages] == [(15, {"mi_weight": 0.0}), (85, {})]


@pytest.mark.filterwarnings("ignore:(the bias stream|the gate|the estimate|H_c and H_b)")
def test_in_stage_1_the_estimator_learns_and_the_streams_do_not_feel_it():
    data = cohort()

    def run(**options):
        model = DFD(backbone=GRAPE(d=8), schema=data.schema, **options)
        stages = [Stage(epochs=4, mi_weight=0.0)]
        history = fit(model, data, stages=stages, batch_size=32, lr=0.01).history
        return dict(model.named_parameters()), history

    (ours, history), (plain, _) = run(mi_noise=0), run(mi=None)
    assert {name for name in ours if name not in plain} == {
        name for name in ours if name.startswith("decorrelation.")
    }
    assert all(torch.equal(value, ours[name]) for name, value in plain.items())
    learn = history["train_mi_learn"]
    assert learn.iloc[-1] < learn.iloc[0]


def test_the_loss_names_its_term_where_it_is_not_finite():
    data = cohort()
    with pytest.raises(FloatingPointError, match=r"'\w*mi\w*' is inf in epoch 1, step 1"):
        fit(
            DFD(backbone=GRAPE(d=8), schema=data.schema, mi_noise=1e38), data,
            stages=[Stage(epochs=1)],
        )  # fmt: skip


class Deaf(nn.Module):
    d = n_layers = 2

    def forward(self, tokens, observed):
        return tokens.mean(1)


class Layerless(nn.Module):
    d = 2

    def forward(self, tokens, observed, weight=None):
        return tokens.mean(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": Deaf()}, r"Deaf.forward has no argument `weight`.*weight=None"),
        ({"backbone": Layerless()}, r"how many layers.*self.n_layers.*gate_layers='all'"),
        ({"gate": "learnd"}, r"'learnd' is not a gate of DFD.*Did you mean 'learned'"),
        ({"gate_layers": "frist"}, r"'frist' is not a value of gate_layers.*mean 'first'"),
        ({"mi": "clubb"}, r"'clubb' is not a value of mi.*mean 'club'"),
        ({"predict": "margnal"}, r"'margnal' is not a value of predict.*mean 'marginal'"),
        ({"gce_q": 1.2}, r"gce_q must lie between 0 .*got gce_q=1.2. Take gce_q=0.7"),
        ({"gce_q": -0.1}, r"gce_q must lie between 0 .*got gce_q=-0.1"),
        ({"mi_weight": -1}, r"mi_weight must be at least 0, got -1"),
        ({"swap_weight": float("nan")}, r"swap_weight must be at least 0, got nan"),
        ({"n_memory": 0}, r"n_memory must be at least 1, got 0"),
        ({"mi": "mine", "mi_within": True}, r"mi='mine' has no form within classes.*'club'"),
        ({"mi_refits": -1}, "refits must be at least 0, got -1"),
        *(
            ({"mi": mi, "mi_noise": -1}, r"mi_noise is .* at least 0, got mi_noise=-1. Take")
            for mi in ("club", "hsic", "dcor")
        ),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        DFD(**{"backbone": GRAPE(d=8), "schema": cohort().schema} | options)


def test_refusals_of_data():
    several = cohort("multilabel").schema
    for option in ({"environment": "site"}, {"mi_within": True}):
        with pytest.raises(
            ValueError, match=rf"{next(iter(option))} compares.*one model per label"
        ):
            DFD(backbone=GRAPE(d=8), schema=several, **option)
    data = cohort()
    one = Cohort(
        x=data.x, observed=data.observed, y=data.y, groups={"site": np.zeros(len(data), int)}
    )
    for train, group, message in [
        (one, "site", r"'site' is 0 for all 60 patients.*without environment="),
        (data, "sit", r"'sit' is not a group.*mean 'site'"),
        (data, "patient", r"another level for each of 60 patients.*coarser group"),
    ]:
        model = DFD(backbone=GRAPE(d=8), schema=train.schema, environment=group)
        with pytest.raises(ValueError, match=message):
            fit(model, train, stages=[Stage(epochs=1)])
    model = DFD(backbone=GRAPE(d=8), schema=data.schema)
    with pytest.raises(ValueError, match=r"'mi_wieght' is no stage option of DFD.*mi_weight"):
        fit(model, data, stages=[Stage(epochs=1, mi_wieght=0)])
    for weight in (-0.1, float("nan")):
        with pytest.raises(
            ValueError, match=rf"got Stage\(mi_weight={weight}\)\. Type mi_weight=0"
        ):
            Stage(epochs=1, mi_weight=weight)
    with pytest.raises(ValueError, match="the stages hold no epoch"):
        fit(model, data, stages=[Stage(epochs=0), Stage(epochs=0)])
    with pytest.raises(ValueError, match=r"q must lie between 0 .*got q=1.2"):
        fit(model, data, stages=[Stage(epochs=1, gce_q=1.2)])
    with pytest.raises(ValueError, match="only the class 1"):
        fit(model, data.select(data.y == 1))

import copy
import math
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dfdlib.data import Cohort
from dfdlib.graph import EdgeListGRAPE
from dfdlib.models import Classifier
from dfdlib.models.grape import Grid
from dfdlib.models.muse import MUSE, drop_edges, same_label, same_patient
from dfdlib.training import Stage, fit

N, M, D = 7, 4, 6


def pair(n_layers=2, **options):
    """MUSE without dropout and the edge-list twin with its parameters, in double precision."""
    torch.manual_seed(0)
    dense = MUSE(d=D, n_layers=n_layers, n_modalities=M, dropout=0, **options).double()
    twin = EdgeListGRAPE(d=D, n_modalities=M, n_layers=n_layers).double()
    own = ("modality_states", "project")
    state = {k: v for k, v in dense.state_dict().items() if not k.startswith(own)}
    twin.load_state_dict(state)
    return dense, twin


@pytest.fixture(params=["list", "grid"])
def layout(request, monkeypatch):
    """Both ways to keep edges: the one for CPUs, and the one for other devices."""
    if request.param == "grid":
        monkeypatch.setattr("dfdlib.models.muse.Listed", Grid)
    return request.param


def grid(n=N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(n, M, D, generator=generator, dtype=torch.double)
    return tokens, torch.rand(n, M, generator=generator) < 0.6


def edge_weight(k=1):
    weight = torch.rand(N, M, k, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    return [weight, None]


LABELS = {
    "binary": [0, 1, 1, 0, 1, 0, 0],
    "some missing": [0, math.nan, 1, 0, math.nan, 0, 1],
    "one known": [math.nan] * 6 + [1],
    "multiclass": [0, 1, 2, 0, math.nan, 1, 2],
    "multilabel": [[0, 1], [1, math.nan], [math.nan] * 2, [0, 0], [1, 1], [math.nan, 1], [0, 1]],
}


def bce(score, target):
    p = 1 / (1 + math.exp(-score))
    return -math.log(p if target else 1 - p)


def by_loops(h, other, y, project, temperature):
    """Both terms (without weights) from the embeddings, patient by patient, in plain Python."""

    def unit(row):
        row = project(row).tolist()
        norm = math.sqrt(sum(v * v for v in row))
        return [v / norm for v in row]

    def similarity(a, b):
        return sum(v * w for v, w in zip(a, b, strict=True)) / temperature

    u, v = [unit(row) for row in h], [unit(row) for row in other]
    n = len(u)
    unsupervised = 0.0
    for i in range(n):
        found = math.exp(similarity(u[i], v[i]))
        there = sum(math.exp(similarity(u[i], v[j])) for j in range(n))
        back = sum(math.exp(similarity(u[j], v[i])) for j in range(n))
        unsupervised -= math.log(found / there) / 2 + math.log(found / back) / 2
    supervised, pairs = 0.0, 0
    rows = y.reshape(n, -1).tolist()
    for i in range(n):
        for j in range(n):
            for a, b in zip(rows[i], rows[j], strict=True):
                if math.isnan(a) or math.isnan(b):
                    continue
                pairs += 1
                supervised += bce(similarity(u[i], u[j]), a == b) / 2
                supervised += bce(similarity(u[i], v[j]), a == b) / 2
    return unsupervised / n, supervised / pairs if pairs else 0.0


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize("k", [0, 1, D])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_equals_the_edge_list_twin_with_gradients(n_layers, k, layout):
    tokens, observed = grid()
    weight = [*edge_weight(k), *[None] * n_layers][:n_layers] if k else None
    given = weight if k != 1 else [weight[0].squeeze(-1), *weight[1:]]
    results = []
    for network, scale in zip(pair(n_layers), (given, weight), strict=True):
        leaf = tokens.clone().requires_grad_()
        out = network(leaf, observed, scale)
        (out * torch.linspace(-1, 1, D, dtype=torch.double)).sum().backward()
        results.append((out, leaf.grad, network.w[0].weight.grad, network.q[-1].weight.grad))
    for dense, twin in zip(*results, strict=True):
        torch.testing.assert_close(dense, twin, atol=1e-10, rtol=0)


def test_patients_without_modalities_and_batches_without_patients(layout):
    dense, twin = pair()
    tokens, _ = grid()
    observed = torch.zeros(N, M, dtype=torch.bool)
    torch.testing.assert_close(dense(tokens, observed), twin(tokens, observed))
    observed[2, 1] = True
    torch.testing.assert_close(dense(tokens, observed), twin(tokens, observed))
    h = dense(tokens[:0], observed[:0])
    assert h.shape == (0, D)


def test_a_patient_alone_gets_the_score_of_the_batch(layout):
    backbone, _ = pair()
    tokens, observed = grid()
    whole = backbone.train()(tokens, observed)
    backbone.eval()
    backbone.fix_states(
        lambda: [(tokens[:3], observed[:3], None), (tokens[3:], observed[3:], None)]
    )
    alone = torch.cat([backbone(tokens[i : i + 1], observed[i : i + 1]) for i in range(N)])
    torch.testing.assert_close(alone, whole, atol=1e-12, rtol=0)


# ---------------------------------------------------------------- the second view


def test_edge_drop_keeps_one_adds_none_and_leaves_the_mask_alone():
    observed = torch.rand(5_000, M) < 0.5
    before = observed.clone()
    fewer = drop_edges(observed, 1.0)
    assert torch.equal(observed, before)
    assert not (fewer & ~observed).any()
    k, kept = observed.sum(1), fewer.sum(1)
    assert torch.equal(kept[k <= 1], k[k <= 1])
    assert ((kept >= 1) & (kept < k))[k > 1].all()
    assert torch.equal(drop_edges(observed, 0.0), observed)


def test_edge_drop_draws_patients_sizes_and_subsets_evenly():
    """Four observed of five: half of the patients drawn, sizes 1 to 3 alike, each subset alike."""
    torch.manual_seed(0)
    n = 60_000
    observed = torch.tensor([True, True, False, True, True]).repeat(n, 1)
    fewer = drop_edges(observed, 0.5)
    drawn = fewer.sum(1) < 4
    assert drawn.double().mean() == pytest.approx(0.5, abs=0.01)
    sets, count = fewer[drawn].unique(dim=0, return_counts=True)
    expected = torch.tensor([1 / 3 / math.comb(4, int(s.sum())) for s in sets])
    assert len(sets) == 4 + 6 + 4
    torch.testing.assert_close(count / drawn.sum(), expected, atol=0.006, rtol=0)


def views(backbone, tokens, observed, y, weight=None, seed=3):
    """The terms, and the mask of the second view that they were computed with."""
    torch.manual_seed(seed)
    h = backbone(tokens, observed, weight)
    terms = backbone.auxiliary(h, tokens, observed, y, weight)
    torch.manual_seed(seed)
    return h, terms, drop_edges(observed, backbone.edge_drop)


@pytest.mark.parametrize("weight", [None, edge_weight()], ids=["plain", "weighted"])
@pytest.mark.parametrize("labels", LABELS)
def test_terms_are_those_of_loops_over_the_twins_embeddings(labels, weight, layout):
    options = {"temperature": 0.3, "contrast_weight": 0.7, "supervised_weight": 0.2}
    backbone, twin = pair(**options)
    tokens, observed = grid()
    y = torch.tensor(LABELS[labels], dtype=torch.float)
    given = None if weight is None else [weight[0].squeeze(-1), None]
    _, terms, fewer = views(backbone, tokens, observed, y, given)
    assert not torch.equal(fewer, observed)
    h, other = twin(tokens, observed, weight), twin(tokens, fewer, weight)
    unsupervised, supervised = by_loops(h, other, y, backbone.project, 0.3)
    assert terms["unsupervised"].item() == pytest.approx(0.7 * unsupervised, rel=1e-9)
    assert terms["supervised"].item() == pytest.approx(0.2 * supervised, rel=1e-7)


def test_terms_of_known_similarities():
    """Nothing known of anybody: log n and log 2. All certain and right: zero."""
    y = torch.arange(8.0) % 2
    assert float(same_patient(torch.zeros(8, 8))) == pytest.approx(math.log(8))
    assert float(same_label(torch.zeros(8, 8), y)) == pytest.approx(math.log(2))
    certain = 100 * (2 * (y[:, None] == y).float() - 1)
    assert float(same_label(certain, y)) == pytest.approx(0, abs=1e-6)
    assert float(same_patient(100 * torch.eye(8))) == pytest.approx(0, abs=1e-6)


def test_missing_labels_count_in_the_unsupervised_term_only():
    backbone, _ = pair()
    tokens, observed = grid()
    y = torch.full((N,), torch.nan)
    _, terms, _ = views(backbone, tokens, observed, y)
    assert terms["supervised"] == 0
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in backbone.parameters())
    _, known, _ = views(backbone, tokens, observed, torch.arange(float(N)))
    assert torch.equal(known["unsupervised"], terms["unsupervised"])


def test_terms_do_not_depend_on_the_order_of_patients(monkeypatch):
    monkeypatch.setattr("dfdlib.models.muse.drop_edges", lambda observed, share: observed)
    backbone, _ = pair()
    tokens, observed = grid()
    y = torch.tensor(LABELS["some missing"], dtype=torch.float)
    rows = torch.randperm(N)
    _, terms, _ = views(backbone, tokens, observed, y)
    _, shuffled, _ = views(backbone, tokens[rows], observed[rows], y[rows])
    torch.testing.assert_close(terms, shuffled)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_views_share_messages_without_changing_values_or_gradients(n_layers, layout):
    """What is handed on spares the messages of the first of several layers, and nothing else."""
    torch.manual_seed(0)
    backbone = MUSE(d=D, n_layers=n_layers, n_modalities=M).double()
    tokens, observed = grid()
    y = torch.tensor(LABELS["binary"], dtype=torch.float)
    results, flops = [], []
    for share in (True, False):
        backbone.zero_grad()
        leaf = tokens.clone().requires_grad_()
        torch.manual_seed(0)
        h, shared = backbone.embed_for_training(leaf, observed)
        with FlopCounterMode(display=False) as counter:
            terms = backbone.auxiliary(h, leaf, observed, y, **(shared if share else {}))
        flops.append(counter.get_total_flops())
        (h.sum() + sum(terms.values())).backward()
        gradients = [leaf.grad, *(p.grad.clone() for p in backbone.parameters())]
        results.append([h, *terms.values(), *gradients])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    assert (flops[0] < flops[1]) == (n_layers > 1)
    torch.manual_seed(0)
    torch.testing.assert_close(h, backbone(tokens, observed))


def test_a_step_of_training_computes_the_first_layer_once():
    """In floating-point operations: a step is two views less the maps W e and U e of one layer."""
    data, d = cohort(), 8
    model = Classifier(backbone=MUSE(d=d, dropout=0, edge_drop=0), schema=data.schema)
    model.prepare(data)
    batch = next(data.batches(50))
    with FlopCounterMode(display=False) as step:
        model.train().loss(batch)
    tokens, observed = model.tokens(batch)
    with FlopCounterMode(display=False) as apart:
        h = model.backbone(tokens, observed)
        model.backbone.auxiliary(h, tokens, observed, batch.y)
    with FlopCounterMode(display=False) as rest:
        model.tokens(batch), model.head(h, observed)
    saved = apart.get_total_flops() + rest.get_total_flops() - step.get_total_flops()
    n_edges, n_modalities = int(observed.sum()), observed.shape[1]
    maps = 2 * n_edges * 2 * d * d  # W e and U e
    # W h of the modalities with its way to the edges, and W h of the patients, who are all one
    nodes = 2 * n_modalities * d * d + 2 * n_edges * n_modalities * d + 2 * d * d
    assert saved == maps + nodes


def test_keeps_nothing_of_a_batch():
    backbone, _ = pair()
    tokens, observed = grid()
    before = set(vars(backbone))
    h, _ = backbone.embed_for_training(tokens, observed)
    assert set(vars(backbone)) == before
    torch.testing.assert_close(copy.deepcopy(backbone)(tokens, observed), h)


# ---------------------------------------------------------------- in training


def cohort(n=50, task="binary"):
    generator = torch.Generator().manual_seed(0)
    x = {name: torch.randn(n, 3, generator=generator) for name in "abc"}
    x["a"][::4] = torch.nan
    x["b"][1::3] = torch.nan
    y = (x["c"][:, 0] > 0).float()
    y[::5] = torch.nan
    return Cohort(x=x, y=y)


def test_every_parameter_of_a_classifier_gets_a_gradient_and_every_term_counts():
    data = cohort()
    torch.manual_seed(0)
    model = Classifier(backbone=MUSE(d=8), schema=data.schema)
    model.prepare(data)
    terms = model.train().loss(next(data.batches(50)))
    assert set(terms) == {"total", "cross_entropy", "unsupervised", "supervised"}
    parts = [value for name, value in terms.items() if name != "total"]
    torch.testing.assert_close(terms["total"], sum(parts))
    terms["total"].backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    assert set(model.eval().loss(next(data.batches(50)))) == {"total", "cross_entropy"}


def test_contrast_lets_more_patients_be_found_by_fewer_modalities():
    data = cohort(60)
    found = []
    for contrast_weight in (0.0, 1.0):
        backbone = MUSE(d=16, contrast_weight=contrast_weight, supervised_weight=0, dropout=0)
        model = Classifier(backbone=backbone, schema=data.schema)
        model = fit(model, data, stages=[Stage(epochs=150)], batch_size=60, lr=0.01).model
        tokens, observed = model.tokens(next(data.batches(60)))
        torch.manual_seed(1)
        whole, fewer = (
            torch.nn.functional.normalize(backbone.project(backbone(tokens, mask)), dim=1)
            for mask in (observed, drop_edges(observed, 1.0))
        )
        near = (fewer @ whole.T).argmax(1) == torch.arange(60)
        found.append(float(near.double().mean()))
    assert found[1] > found[0] + 0.2


TWO_PROCESSES = """
import sys
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, {tests!r})
from test_muse import distributed

def work(rank):
    torch.distributed.init_process_group(
        "gloo", init_method="file://{out}", rank=rank, world_size=2
    )
    torch.save(distributed(rank, 2), f"{out}{{rank}}.pt")

# both processes start from this one, so that libraries are imported once
torch.multiprocessing.start_processes(work, nprocs=2, start_method="fork")
"""


def distributed(rank, world):
    """Gradients of a process that holds every patient, or every other: 4 and 3 of 7."""
    backbone, _ = pair(edge_drop=0)
    tokens, observed = grid()
    y = torch.tensor(LABELS["multilabel"], dtype=torch.float)
    mine = torch.arange(rank, N, world)
    h = backbone(tokens[mine], observed[mine])
    terms = backbone.auxiliary(h, tokens[mine], observed[mine], y[mine])
    total = terms["unsupervised"] + terms["supervised"]
    # as in training: shares of the processes add up to their number, then gradients are averaged
    (total * len(mine) / N * world).backward()
    return {k: p.grad / world for k, p in backbone.named_parameters()}, total.detach()


def test_two_processes_give_the_gradients_of_one(tmp_path):
    script, out = tmp_path / "two.py", tmp_path / "rank"
    script.write_text(TWO_PROCESSES.format(tests=os.path.dirname(__file__), out=out))
    subprocess.run([sys.executable, script], check=True, capture_output=True)
    one, total = distributed(0, 1)
    parts = [torch.load(f"{out}{rank}.pt") for rank in range(2)]
    for grads, value in parts:
        torch.testing.assert_close(value, total)
        assert grads.keys() == one.keys()
    for name, grad in one.items():
        torch.testing.assert_close(parts[0][0][name] + parts[1][0][name], grad)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edge_drop": 1.5}, r"between 0 and 1, got 1.5. Take 0.5"),
        ({"temperature": 0}, r"positive, got 0. Take 0.07"),
        ({"contrast_weight": -1}, r"contrast_weight must be 0 or more, got -1"),
        ({"supervised_weight": math.nan}, r"supervised_weight must be 0 or more, got nan"),
        ({"n_layers": 0}, r"MUSE needs n_layers >= 1"),
    ],
)
def test_refuses_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        MUSE(d=4, **options)


def test_refuses_another_number_of_modalities():
    with pytest.raises(ValueError, match=r"this MUSE was built for 4 .* got 3.*MUSE\(d=4\)"):
        MUSE(d=4, n_modalities=4)(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))

"""Two processes against one: rows put together, gradients of the information, whole fits."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from dfdlib.data import Cohort
from dfdlib.models import DFD, GRAPE
from dfdlib.models.dfd_parts import Decorrelation
from dfdlib.training import Stage, fit

# models of a few steps have the signatures of failure
pytestmark = pytest.mark.filterwarnings(
    "ignore:(the bias stream|the gate|the estimate|H_c and H_b)"
)

#: rows of a batch on each process
SHARES = [(11, 20), (30, 1), (31, 0), (1, 0)]
TERMS = [
    {"kind": "club", "n_classes": None},
    {"kind": "club", "n_classes": 2},
    {"kind": "mine", "n_classes": None},
    {"kind": "infonce", "n_classes": None},
    {"kind": "infonce", "n_classes": 2},
    {"kind": "hsic", "n_classes": None},
    {"kind": "hsic", "n_classes": 2},
    {"kind": "dcor", "n_classes": None},
]
#: 50 patients in batches of 7: uneven shares, and one process gets nobody of the last patient
PLAN = {
    "stages": [Stage(epochs=1, mi_weight=0.0), Stage(epochs=2)],
    "batch_size": 7,
    "lr": 0.01,
    "weight_decay": 0.0,
}
#: nothing is drawn in training, which processes would draw apart
QUIET = {"mi_noise": 0.0, "mi_within": True, "difficulty": True}
AWARE = QUIET | {"mi": "hsic", "environment": "site"}


def cohort(n=50):
    generator = torch.Generator().manual_seed(0)
    x = {name: torch.randn(n, 2, generator=generator) for name in ("labs", "ecg")}
    y = (x["labs"][:, 0] + torch.randn(n, generator=generator) > 0).float()
    y[3] = torch.nan
    site = torch.randint(0, 2, (n,), generator=generator).numpy()
    return Cohort(x=x, y=y, groups={"site": site})


def run(**settings):
    data = cohort()
    model = DFD(backbone=GRAPE(d=8), schema=data.schema, mi_weight=0.01, **QUIET)
    return fit(model, data, **PLAN, **settings)


def first_step(rank=0, world=1):
    """Gradient of the first step; this process's part of it."""
    data = cohort()
    torch.manual_seed(0)
    model = DFD(backbone=GRAPE(d=8), schema=data.schema, **AWARE)
    model.prepare(data)
    whole = next(data.batches(50))
    batch = whole.rows(torch.arange(rank, 50, world))
    share = (~batch.y.isnan()).sum() * world / (~whole.y.isnan()).sum()
    (model.loss(batch)["total"] * share).backward()
    return {name: p.grad / world for name, p in model.named_parameters() if p.grad is not None}


def rows(n):
    generator = torch.Generator().manual_seed(0)
    h_c, h_b = torch.randn(2, n, 4, generator=generator)
    h_b = h_b + h_c
    y = (torch.arange(n) % 2).float()
    y[::5] = torch.nan
    return h_c, h_b, y


def decorrelation(options):
    torch.manual_seed(0)
    return Decorrelation(d=4, noise=0.0, hidden=8, refits=0, **options).train()


def gradients(term, h_c, h_b, y):
    """Both terms, and what they teach features and estimator."""
    h_c, h_b = h_c.clone().requires_grad_(), h_b.clone().requires_grad_()
    learn, features = term(h_c, h_b, y)
    (learn + features + 0 * (h_c.sum() + h_b.sum())).backward()
    return {
        "terms": torch.stack([learn, features]).detach(),
        "h_c": h_c.grad,
        "h_b": h_b.grad,
        "estimator": [p.grad for p in term.parameters()],
    }


SCRIPT = """
    import importlib.util, sys, warnings
    import torch
    import torch.distributed as dist
    from lightning_fabric import Fabric

    warnings.simplefilter("ignore")
    spec = importlib.util.spec_from_file_location("two", {here!r})
    two = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(two)

    def main(fabric):
        from dfdlib.models.backbone import batch_rows, batch_sum
        rank, found = dist.get_rank(), {{}}
        for shares in two.SHARES:
            start = sum(shares[:rank])
            mine = slice(start, start + shares[rank])
            own = [part[mine] for part in two.rows(sum(shares))]
            weighed = own[0].clone().requires_grad_()
            put = batch_rows(weighed)
            (put * torch.arange(put.numel()).view_as(put)).sum().backward()
            found[shares] = put.detach(), weighed.grad, batch_rows(own[2]), [
                two.gradients(two.decorrelation(options), *own) for options in two.TERMS
            ]
        step = two.first_step(rank, 2)
        run = two.run(fabric=fabric)
        whole = run.model.state_dict(), run.history
        torch.save((found, step, whole), f"{out}-{{rank}}")

    if __name__ == "__main__":
        Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn").launch(main)
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What the two processes found."""
    folder = tmp_path_factory.mktemp("two")
    script = folder / "two.py"
    code = SCRIPT.format(here=str(Path(__file__).resolve()), out=str(folder / "found"))
    script.write_text(textwrap.dedent(code))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"found-{rank}", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("shares", SHARES)
def test_rows_of_all_processes(both, shares):
    h, _, y = rows(sum(shares))
    factor = torch.arange(h.numel()).view_as(h)
    for rank in range(2):
        put, grad, label, _ = both[rank][0][shares]
        assert torch.equal(put, h)
        torch.testing.assert_close(label, y, equal_nan=True)
        # the same loss on both processes, each of which tells the rows of its own
        torch.testing.assert_close(grad, 2.0 * factor.split(shares)[rank])


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("i", range(len(TERMS)), ids=lambda i: f"{TERMS[i]}")
def test_gradients_of_the_information(both, shares, i):
    one = gradients(decorrelation(TERMS[i]), *rows(sum(shares)))
    for rank in range(2):
        two = both[rank][0][shares][3][i]
        torch.testing.assert_close(two["terms"], one["terms"], atol=1e-5, rtol=1e-5)
        for name in ("h_c", "h_b"):  # twice, which the mean over processes halves again
            expected = 2 * one[name].split(shares)[rank]
            torch.testing.assert_close(two[name], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(two["estimator"], one["estimator"], atol=1e-5, rtol=1e-4)
    if sum(shares) > 8:
        assert one["h_c"].abs().max() > 0


def test_gradients_with_environments(both):
    one = first_step()
    parts = [both[rank][1] for rank in range(2)]
    assert one.keys() == parts[0].keys() == parts[1].keys()
    for name, expected in one.items():
        found = parts[0][name] + parts[1][name]
        # features of little spread are divided by it, and so are errors of rounding
        torch.testing.assert_close(found, expected, atol=5e-4, rtol=1e-3, msg=name)


def test_a_whole_run(both):
    one = run()
    for rank in range(2):
        state, history = both[rank][2]
        for name, expected in one.model.state_dict().items():
            if not name.startswith("kept"):  # k-means may part ties otherwise
                torch.testing.assert_close(state[name], expected, atol=2e-4, rtol=1e-3, msg=name)
        for name in history:
            torch.testing.assert_close(
                torch.tensor(history[name]), torch.tensor(one.history[name]), atol=1e-3, rtol=1e-3
            )

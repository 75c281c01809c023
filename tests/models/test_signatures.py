"""How a run goes wrong: each limit on both sides, and whole runs that do and do not."""

import warnings

import pandas as pd
import pytest
import torch

from dfdlib.data import Cohort
from dfdlib.models import DFD, GRAPE
from dfdlib.models.dfd_parts import ADVICE, LIMITS, GateReading, likeness, signatures
from dfdlib.training import Stage, fit

HEALTHY = {
    "causal prediction sd": 0.1,
    "bias prediction sd": 0.1,
    "gate sd": 0.1,
    "gate saturated": 0.3,
    "likeness": 0.4,
}


def history(mi, *, before=()):
    """A stage of information left alone, then one with the values given."""
    stage = [1] * len(before) + [2] * len(mi)
    return pd.DataFrame({"stage": stage, "train_mi": [*before, *mi]})


def failing(measured, mi=()):
    table = signatures(measured, history(mi) if len(mi) else pd.DataFrame())
    assert table["advice"].astype(bool).tolist() == (~table["ok"]).tolist()
    return table.loc[~table["ok"], "quantity"].tolist()


def test_a_healthy_run_fails_nothing():
    assert failing(HEALTHY, [0.5] * 30) == []


@pytest.mark.parametrize("quantity", ["causal prediction sd", "bias prediction sd", "gate sd"])
def test_too_low(quantity):
    limit = LIMITS[quantity]
    assert failing(HEALTHY | {quantity: limit}) == []
    assert failing(HEALTHY | {quantity: 0.99 * limit}) == [quantity]


@pytest.mark.parametrize("quantity", ["gate saturated", "likeness"])
def test_too_high(quantity):
    limit = LIMITS[quantity]
    assert failing(HEALTHY | {quantity: limit}) == []
    assert failing(HEALTHY | {quantity: 1.01 * limit}) == [quantity]


def test_what_is_not_a_number_fails():
    assert failing(HEALTHY | {"likeness": float("nan")}) == ["likeness"]


def test_a_negative_estimate():
    assert failing({}, [0.5] * 5 + [-0.04] * 5) == []
    assert failing({}, [0.5] * 5 + [-0.06] * 5) == ["mi"]
    table = signatures({}, history([1.0] * 9 + [2.0])).set_index("quantity")
    assert table.loc["mi", "value"] == pytest.approx(1.2)  # the mean of the last five epochs


@pytest.mark.parametrize(
    ("tail", "drift"),
    [
        ([1.0] * 5 + [1.2] * 5, 0.2 / 1.2),
        ([2.0] * 5 + [1.5] * 5, 0.5 / 1.5),
        ([0.05] * 5 + [0.1] * 5, 0.05 / 0.4),  # near zero, a tenth of a nat is no drift
    ],
)
def test_drift_is_over_the_last_third_of_the_last_stage(tail, drift):
    mi = [9.0] * 20 + tail
    table = signatures({}, history(mi, before=[50.0] * 15)).set_index("quantity")
    assert table.loc["mi drift", "value"] == pytest.approx(drift)
    assert table.loc["mi drift", "ok"] == (drift <= LIMITS["mi drift"])


def test_a_short_run_has_no_drift():
    assert signatures({}, history([3.0, 2.0, 1.0])).quantity.tolist() == ["mi"]


def test_without_information_nothing_is_said_of_it():
    table = signatures(HEALTHY, pd.DataFrame({"stage": [1], "train_total": [1.0]}))
    assert set(table["quantity"]) == set(HEALTHY)
    assert set(ADVICE) == set(LIMITS)


def test_likeness_is_linear_cka():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 50, 4, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator))
    assert likeness(a, 3 * a @ turn + 7) == pytest.approx(1, abs=1e-6)
    assert likeness(a, torch.ones(50, 2)) == 0
    # as the similarity of the two Gram matrices, Kornblith et al. 2019, equation 4
    centring = torch.eye(50, dtype=torch.double) - 1 / 50
    k, m = (centring @ p.double() @ p.double().T @ centring for p in (a, b))
    expected = (k * m).sum() / (k.norm() * m.norm())
    assert likeness(a, b) == pytest.approx(float(expected), abs=1e-9)


def test_likeness_of_independent_streams_is_small():
    a, b = torch.randn(2, 4000, 4, generator=torch.Generator().manual_seed(0))
    assert likeness(a, b) < 0.01


@pytest.mark.parametrize("channels", [(), (4,)])
def test_the_gate_is_read_on_observed_edges(channels):
    generator = torch.Generator().manual_seed(0)
    tau = torch.rand(30, 3, *channels, generator=generator)
    tau = torch.where(tau > 0.6, 0.99, tau)
    observed = torch.rand(30, 3, generator=generator) < 0.5
    reading = GateReading()
    for part in (slice(0, 13), slice(13, 30)):
        reading.read(tau[part], observed[part])
    values = tau[observed].numpy().ravel()
    found = reading.measured()
    assert found["gate sd"] == pytest.approx(values.std(), abs=1e-6)
    assert found["gate saturated"] == pytest.approx((values > 0.95).mean())


def test_a_gate_that_splits_the_edges_is_not_saturated():
    reading = GateReading()
    tau = torch.tensor([[0.99, 0.01]]).expand(10, 2)
    reading.read(tau, torch.ones(10, 2, dtype=torch.bool))
    found = reading.measured()
    assert found["gate saturated"] == 0.5
    assert found["gate sd"] == pytest.approx(0.49, abs=1e-6)


def cohort(n=300):
    """One modality says much of the label, another something else."""
    generator = torch.Generator().manual_seed(0)
    x = {name: torch.randn(n, 3, generator=generator) for name in ("labs", "ecg")}
    score = 2 * x["labs"][:, 0] + x["ecg"][:, 0] + 0.5 * torch.randn(n, generator=generator)
    return Cohort(x=x, y=(score > 0).float())


def run(*, stages, **settings):
    data = cohort()
    options = settings.pop("options", {})
    model = DFD(backbone=GRAPE(d=8), schema=data.schema, **options)
    return fit(model, data, stages=stages, batch_size=64, **settings).model


def test_a_bias_stream_that_nothing_teaches_is_told_of():
    with pytest.warns(UserWarning, match=r"bias stream has collapsed.*Lower gce_q") as told:
        model = run(stages=[Stage(epochs=3, gce_weight=0.0)], lr=0.02, weight_decay=45.0)
    table = model.signatures.set_index("quantity")
    assert not table.loc["bias prediction sd", "ok"]
    assert table.loc["bias prediction sd", "value"] < 0.01
    # one warning for each row that is not ok, in the order of the table
    advice = [str(w.message) for w in told if w.category is UserWarning]
    assert [a for a in advice if a in ADVICE.values()] == table.query("not ok")["advice"].tolist()


def test_a_causal_stream_that_nothing_teaches_is_told_of():
    with pytest.warns(UserWarning, match=r"causal stream is empty.*Lower mi_weight"):
        run(stages=[Stage(epochs=3, causal_weight=0.0)], lr=0.02, weight_decay=45.0)


def test_a_gate_that_does_not_move_is_told_of():
    with pytest.warns(UserWarning, match="the gate is constant"):
        run(stages=[Stage(epochs=3)], lr=0.02, weight_decay=45.0)
    model = run(stages=[Stage(epochs=12)], lr=0.02, options={"gate": "constant", "mi": None})
    assert not any("gate" in quantity for quantity in model.signatures["quantity"])


def test_a_healthy_run_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        stages = [Stage(epochs=8, mi_weight=0.0), Stage(epochs=12)]
        options = {"mi_noise": 1.0, "mi_weight": 0.003}
        model = run(stages=stages, lr=0.01, seed=2, options=options)
    assert model.signatures["ok"].all()
    assert set(model.signatures["quantity"]) == set(LIMITS)

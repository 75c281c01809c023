import pytest
import torch
from torch import nn

from dfdlib.data import Cohort
from dfdlib.models import DFD, GRAPE, MUSE, TokenTransformer
from dfdlib.models.gate import Gate
from dfdlib.training import Stage, fit
from small_cohorts import three_modalities

# models of a few steps have the signatures of failure
pytestmark = pytest.mark.filterwarnings(
    "ignore:(the bias stream|the gate|the estimate|H_c and H_b)"
)


def cohort(n=40):
    generator = torch.Generator().manual_seed(0)
    x, observed = three_modalities(n, generator)
    y = (x["labs"][:, 0] + torch.randn(n, generator=generator) > 0).float()
    return Cohort(x=x, observed=observed, y=y)


def prepared(data, backbone, **options):
    torch.manual_seed(0)
    model = DFD(backbone=backbone, schema=data.schema, **options)
    model.prepare(data)
    return model


class Recording(nn.Module):
    """A backbone that keeps the edge weights it is given."""

    d, n_layers = 4, 3

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, tokens, observed, weight=None):
        self.seen.append(weight)
        return tokens.mean(1)


@pytest.mark.parametrize("channels", [False, True])
def test_tau_is_the_sigmoid_of_a_perceptron_on_token_and_modality(channels):
    torch.manual_seed(0)
    gate = Gate(d=4, n_modalities=3, channels=channels)
    tokens = torch.randn(5, 3, 4)
    tau = gate(tokens)
    assert tau.shape == ((5, 3, 4) if channels else (5, 3))
    for i in range(5):
        for j in range(3):
            hidden = gate.from_token.weight @ tokens[i, j] + gate.from_token.bias
            hidden = torch.clamp(hidden + gate.of_modality[j], min=0)
            logit = gate.out.weight @ hidden + gate.out.bias
            torch.testing.assert_close(tau[i, j].reshape(-1), 1 / (1 + torch.exp(-logit)))


def test_the_same_token_is_gated_by_its_modality():
    torch.manual_seed(0)
    tau = Gate(d=4, n_modalities=3)(torch.randn(1, 1, 4).expand(6, 3, 4))
    assert tau.std(0).max() < 1e-6
    assert tau.std(1).min() > 1e-3


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("layers", ["first", "all"])
def test_the_streams_share_each_edge(layers, channels):
    data = cohort()
    model = prepared(data, Recording(), gate_layers=layers, gate_channels=channels)
    model.embed(next(data.batches(40)))
    (tau,), (omega,) = model.backbone.seen, model.bias_backbone.seen
    if layers == "first":
        assert tau[1:] == omega[1:] == [None, None]
        tau, omega = tau[0], omega[0]
    assert tau.shape == ((40, 3, 4) if channels else (40, 3))
    assert ((tau > 0) & (tau < 1)).all()
    assert tau.std() > 0
    torch.testing.assert_close(tau + omega, torch.ones_like(tau))


@pytest.mark.parametrize("backbone", [GRAPE, TokenTransformer, MUSE])
@pytest.mark.parametrize("layers", ["first", "all"])
def test_a_constant_gate_halves_every_message(backbone, layers):
    data = cohort()
    model = prepared(data, backbone(d=8), gate="constant", gate_layers=layers).eval()
    tokens, observed = model.tokens(next(data.batches(40)))
    half = torch.full(observed.shape, 0.5)
    weight = half if layers == "all" else [half, None]
    expected = [net(tokens, observed, weight) for net in (model.backbone, model.bias_backbone)]
    torch.testing.assert_close(model.represent(tokens, observed), torch.cat(expected, dim=1))
    assert not list(model.gate_net.parameters())


def test_only_a_learned_gate_learns():
    data = cohort()

    def gates(kind, epochs):
        model = DFD(backbone=GRAPE(d=8), schema=data.schema, gate=kind)
        fit(model, data, stages=[Stage(epochs=epochs)], lr=0.01)
        return model.gate_net

    for kind in ("frozen", "learned"):
        drawn, trained = gates(kind, 1), gates(kind, 4)
        same = [
            torch.equal(a, b) for a, b in zip(drawn.parameters(), trained.parameters(), strict=True)
        ]
        assert all(same) if kind == "frozen" else not any(same)
        grads = [p.grad for p in trained.parameters()]
        assert kind == "learned" or grads == [None] * len(grads)


def test_a_frozen_gate_is_drawn_by_the_seed():
    data = cohort()
    nets = []
    for seed in (0, 0, 1):
        model = DFD(backbone=GRAPE(d=8), schema=data.schema, gate="frozen")
        nets.append(fit(model, data, stages=[Stage(epochs=1)], seed=seed).model.gate_net)
    first, again, other = (torch.cat([p.flatten() for p in net.parameters()]) for net in nets)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_refusals():
    with pytest.raises(ValueError, match=r"'learnd' is not a gate of DFD.*'learned'"):
        Gate(d=4, n_modalities=3, kind="learnd")
    with pytest.raises(ValueError, match=r"constant gate has no channels.*gate='learned'"):
        Gate(d=4, n_modalities=3, kind="constant", channels=True)

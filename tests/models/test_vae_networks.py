"""Networks and likelihoods of single views."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from dfdlib.data import Cohort
from dfdlib.models.vae import MultimodalVAE
from dfdlib.models.vae_networks import (
    ImageDecoder,
    ImageEncoder,
    ResidualDecoder,
    ResidualEncoder,
    VectorDecoder,
    VectorEncoder,
)
from dfdlib.models.vae_views import View


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 32, 32), (1, 28, 33), (2, 9, 20), (1, 64, 48)])
def test_any_size_goes_in_and_comes_out(size):
    torch.manual_seed(0)
    x = torch.rand(3, *size)
    mean, log_variance = ImageEncoder(size=size, d=5, width=4)(x)
    assert mean.shape == log_variance.shape == (3, 5)
    assert ImageDecoder(size=size, d=5, width=4)(mean).shape == x.shape


def test_small_networks_can_learn_a_picture_by_heart():
    torch.manual_seed(0)
    size = (1, 16, 16)
    x = torch.rand(4, *size)
    encoder, decoder = ImageEncoder(size=size, d=8), ImageDecoder(size=size, d=8)
    weights = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(weights, lr=5e-3)
    for _ in range(150):
        loss = (decoder(encoder(x)[0]) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1 / 12  # a tenth of the variance of the pixels


def test_every_pixel_is_drawn_from_weights_of_its_own_neighbourhood():
    decoder = ImageDecoder(size=(1, 16, 16), d=3, width=4)
    z = torch.randn(1, 3)
    for pixel in ((0, 0), (7, 8), (15, 15)):
        decoder.zero_grad()
        decoder(z)[0, 0][pixel].backward()
        used = decoder.patch.weight.grad.abs().sum(1) > 0
        assert used.tolist() == [2 * (pixel[0] % 2) + pixel[1] % 2 == k for k in range(4)]


def test_no_patient_depends_on_the_others():
    torch.manual_seed(0)
    x = torch.rand(6, 1, 16, 16)
    for network, values in (
        (ImageEncoder(size=(1, 16, 16), d=3), x),
        (ImageDecoder(size=(1, 16, 16), d=3), torch.randn(6, 3)),
        (VectorEncoder(n_features=4, d=3), torch.randn(6, 4)),
        (VectorDecoder(n_features=4, d=3), torch.randn(6, 3)),
    ):
        whole, alone = network(values), network(values[2:3])
        for a, b in zip(whole, alone, strict=True) if isinstance(whole, tuple) else ():
            torch.testing.assert_close(a[2:3], b)
        if not isinstance(whole, tuple):
            torch.testing.assert_close(whole[2:3], alone)


def test_residual_networks_are_those_of_the_paper():
    torch.manual_seed(0)
    size = (1, 224, 224)
    encoder, decoder = ResidualEncoder(size=size, d=256), ResidualDecoder(size=size, d=256)
    shapes = []
    for layers in (encoder.layers, decoder.layers):
        for layer in layers:
            layer.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[1:])))
    with torch.no_grad():
        mean, log_variance = encoder.eval()(torch.rand(1, *size))
        assert decoder.eval()(mean).shape == (1, *size)
    assert mean.shape == log_variance.shape == (1, 256)
    down = [(64, 112), (128, 56), (192, 28), (256, 14), (320, 4), (320, 1)]
    up = [(256, 4), (192, 8), (128, 16), (64, 32), (64, 64), (64, 128), (1, 224)]
    assert shapes == [(c, s, s) for c, s in down + up]
    dropped = [m.p for m in encoder.modules() if isinstance(m, nn.Dropout2d)]
    assert dropped == [0.5] * 10
    assert encoder.latent.bias is None


def test_residual_networks_take_a_batch_of_one_and_are_chosen_by_size():
    data = Cohort(x={"frontal": torch.rand(2, 1, 224, 224), "lateral": torch.rand(2, 1, 32, 32)})
    model = MultimodalVAE(schema=data.schema, d_latent=3, width=4)
    assert isinstance(model.encoders["frontal"], ResidualEncoder)
    assert isinstance(model.decoders["lateral"], ImageDecoder)
    small = MultimodalVAE(schema=data.schema, d_latent=3, width=4, network="small")
    assert isinstance(small.encoders["frontal"], ImageEncoder)
    batch = next(data.batches(1))
    before = model.encoders["frontal"].state_dict()
    running = {k: v.clone() for k, v in before.items() if "running" in k}
    model.train().loss(batch)["total"].backward()
    grads = [p.grad for p in model.parameters()]
    assert all(g is not None and g.isfinite().all() for g in grads)
    assert any((before[k] != v).any() for k, v in running.items())


# ---------------------------------------------------------------- likelihoods


def view(likelihood, kind="vector", size=(3,), scale=0.75):
    return View(name="v", kind=kind, size=size, likelihood=likelihood, scale=scale)


@pytest.mark.parametrize("likelihood", ["laplace", "gaussian", "bernoulli", "poisson"])
def test_likelihoods_are_those_of_scipy(likelihood):
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(20, 3, generator=generator)
    x = torch.randn(20, 3, generator=generator)
    if likelihood == "bernoulli":
        x = (x > 0).float()
    if likelihood == "poisson":
        x = x.abs().mul(3).floor()
    flags = torch.rand(20, 3, generator=generator) < 0.7
    c = centre.double().numpy()
    expected = {
        "laplace": lambda x: stats.laplace(c, 0.75).logpdf(x),
        "gaussian": lambda x: stats.norm(c, 0.75).logpdf(x),
        "bernoulli": lambda x: stats.bernoulli(1 / (1 + np.exp(-c))).logpmf(x),
        "poisson": lambda x: stats.poisson(np.exp(c)).logpmf(x),
    }[likelihood](x.double().numpy())
    model = view(likelihood)
    found = model.log_likelihood(centre, model.read(x, flags))
    np.testing.assert_allclose(found, (expected * flags.numpy()).sum(1), rtol=1e-4, atol=1e-4)


def test_bytes_are_shares_of_255():
    picture = view("bernoulli", kind="image", size=(1, 2, 2))
    x = torch.tensor([[[[0, 51], [102, 255]]]], dtype=torch.uint8)
    seen = picture.read(x, None)
    torch.testing.assert_close(seen.target.flatten(), torch.tensor([0, 0.2, 0.4, 1.0]))
    assert torch.equal(seen.encoded, seen.target)


def test_vectors_are_standardised_and_come_back_in_their_units():
    generator = torch.Generator().manual_seed(0)
    x = 100 + torch.tensor([1.0, 10.0, 0.0]) * torch.randn(500, 3, generator=generator)
    flags = torch.rand(500, 3, generator=generator) < 0.8
    for likelihood in ("laplace", "gaussian"):
        model = view(likelihood)
        model.fit(x, flags, torch.ones(500, dtype=torch.bool))
        seen = model.read(x, flags)
        values = seen.target[:, :2][flags[:, :2]]
        assert abs(float(values.mean())) < 0.01
        assert float(values.std()) == pytest.approx(1, abs=0.01)
        assert (seen.target[~flags] == 0).all()
        torch.testing.assert_close(seen.encoded[:, 3:], flags.float())
        torch.testing.assert_close(model.expected(seen.target)[flags], x[flags])


def test_counts_are_counted_and_encoded_on_a_log_scale():
    generator = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.tensor([2.0, 50.0, 0.0]).expand(400, 3), generator=generator)
    flags = torch.ones(400, 3, dtype=torch.bool)
    model = view("poisson")
    model.fit(x, flags, flags[:, 0])
    seen = model.read(x, flags)
    assert torch.equal(seen.target, x)
    logs = x[:, :2].log1p()
    expected = (logs - logs.mean(0)) / logs.std(0, correction=0)
    torch.testing.assert_close(seen.encoded[:, :2], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        model.expected(torch.tensor([[math.log(7.0)]])), torch.tensor([[7.0]])
    )


def test_a_feature_that_training_never_saw_counts_as_missing():
    x, flags = torch.randn(10, 3), torch.ones(10, 3, dtype=torch.bool)
    flags[:, 2] = False
    model = view("laplace")
    model.fit(torch.where(flags, x, 0), flags, flags[:, 0])
    all_there = torch.ones_like(flags)
    seen = model.read(x, all_there)
    assert not seen.counts[:, 2].any()
    assert (seen.encoded[:, [2, 5]] == 0).all()

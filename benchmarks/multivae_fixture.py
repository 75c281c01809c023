"""What MVAE and MoPoE of multivae 1.0.3 make of small weights and data, for a test of ours.

    peers/bin/python benchmarks/multivae_fixture.py

writes tests/fixtures/multivae.safetensors; the environment is that of requirements-peers.txt.
Latents are the posterior means in the place of draws, so that everything is a function of weights
and data; but the likelihood by importance sampling and the coherence are of many draws.
"""

from pathlib import Path

import torch
from multivae_peer import (
    MVAE,
    Decoder,
    Encoder,
    IncompleteDataset,
    MoPoE,
    MoPoEConfig,
    MultimodalBaseDataset,
    MVAEConfig,
    mopoe_model,
    mvae_model,
)
from safetensors.torch import save_file
from torch import nn

DRAWS, WIDER = 100_000, 2.0
N, D, SIZES = 14, 3, {"a": 5, "b": 4, "c": 2}


class Halves(nn.Linear):
    """A linear map to mean and log-variance."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return super().forward(x).chunk(2, 1)


def main() -> None:
    """Make the networks and the data, ask both models, write what they say."""
    drawn = mvae_model.rsample_from_gaussian
    for module in (mopoe_model, mvae_model):
        module.rsample_from_gaussian = lambda mean, *_, **__: mean
    torch.manual_seed(0)
    encoders = {name: Encoder(Halves(size, 2 * D), D) for name, size in SIZES.items()}
    decoders = {name: Decoder(nn.Linear(D, size), D) for name, size in SIZES.items()}
    x = {name: torch.randn(N, size) for name, size in SIZES.items()}
    masks = {name: torch.rand(N) < 0.7 for name in SIZES}
    masks["a"] |= ~(masks["b"] | masks["c"])
    options = {
        "n_modalities": 3,
        "latent_dim": D,
        "input_dims": {name: (size,) for name, size in SIZES.items()},
        "decoders_dist": dict.fromkeys(SIZES, "laplace"),
    }

    def scales() -> dict[str, dict[str, float]]:  # the models take their entries out
        return {name: {"scale": 0.75} for name in SIZES}

    product = MVAE(
        MVAEConfig(**options, decoder_dist_params=scales(), use_subsampling=False, warmup=0),
        encoders,
        decoders,
    )
    mixture = MoPoE(MoPoEConfig(**options, decoder_dist_params=scales()), encoders, decoders)
    whole = MultimodalBaseDataset(data=x)
    holes = IncompleteDataset(
        data={name: x[name] * masks[name].unsqueeze(1) for name in SIZES}, masks=masks
    )
    result = {f"x.{name}": x[name] for name in SIZES}
    result |= {f"observed.{name}": masks[name] for name in SIZES}
    for part, networks in (("encoder", encoders), ("decoder", decoders)):
        for name, network in networks.items():
            for key, value in network.network.state_dict().items():
                result[f"{part}.{name}.{key}"] = value.clone()
    with torch.no_grad():
        for kind, data in (("whole", whole), ("holes", holes)):
            mean, log_variance = product.compute_mu_log_var_subset(data, list(SIZES))
            answer = product(data)
            result |= {
                f"poe.{kind}.mean": mean,
                f"poe.{kind}.log_variance": log_variance,
                f"poe.{kind}.loss": answer.loss.reshape(1),
            }
        latents, answer = mixture.inference(whole), mixture(whole)
        result |= {
            "mopoe.mean": latents["mus"],
            "mopoe.log_variance": latents["logvars"],
            "mopoe.joint": latents["joint"][0],
            "mopoe.kl": answer.metrics["joint_divergence"].reshape(1),
            "mopoe.loss": answer.loss.reshape(1),
            "mopoe.holes.weight": mixture.inference(holes)["weights"],
        }
    mvae_model.rsample_from_gaussian = drawn
    for encoder in encoders.values():  # wide proposals: narrow ones take millions of draws
        encoder.network.bias.data[D:] += WIDER
    result["poe.log_likelihood"] = torch.stack(
        [
            -product.compute_joint_nll(
                MultimodalBaseDataset(data={name: x[name][row, None] for name in SIZES}),
                K=DRAWS, batch_size_K=DRAWS,
            )
            for row in range(N)
        ]
    )  # fmt: skip
    # a class is the sign of a view's first value
    share = [
        [
            (product.predict(whole, source, target, N=DRAWS)[target][..., 0] > 0).float().mean()
            for target in SIZES
        ]
        for source in SIZES
    ]
    result["poe.positive"] = torch.tensor(share)
    save_file(
        {key: value.detach().contiguous() for key, value in result.items()},
        Path(__file__).parents[1] / "tests" / "fixtures" / "multivae.safetensors",
    )
    print({key: tuple(value.shape) for key, value in result.items()})


if __name__ == "__main__":
    main()

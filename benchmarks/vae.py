"""Training steps of the multimodal VAEs against multivae 1.0.3, and their share of the peak.

    OMP_NUM_THREADS=1 peers/bin/python benchmarks/vae.py

in an environment that has both (requirements-peers.txt, and `peers/bin/pip install -e .`). All
models have the same networks with weights of their own, see the same batches of two views, and take
turns in one process on one thread: forward, backward and a step of AdamW. multivae gets these
networks twice: the very modules of dfdlib, and written as is usual, from PyTorch's own layers in
their default memory format (`plain`), as whoever uses that library would write them.

Times are CPU time; ratios are taken round by round, so that they are of the same moments of a busy
machine. Matrix products and a convolution that suit the machine take their turns too: the larger of
their rates is the peak that a step's operations per second are a share of.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from multivae_peer import (
    MVAE,
    Decoder,
    Encoder,
    MoPoE,
    MoPoEConfig,
    MultimodalBaseDataset,
    MVAEConfig,
)
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import dfdlib
from dfdlib.data import Batch, Cohort
from dfdlib.models.vae import MultimodalVAE
from dfdlib.models.vae_networks import ImageDecoder, ImageEncoder

VIEWS, D, BATCH, SIZES = ("frontal", "lateral"), 64, 64, (32, 64)
OURS = ("independent", "poe", "mopoe", "mmvm")
RESULT = Path(__file__).parents[1] / "results" / "benchmarks" / "vae.json"

Loss = Callable[[Batch], Tensor]


def networks(size: int) -> dict[str, dict[str, nn.Module]]:
    """An encoder and a decoder for each view: the same weights at every call."""
    torch.manual_seed(0)
    shape = (1, size, size)
    return {
        "encoders": {name: ImageEncoder(size=shape, d=D) for name in VIEWS},
        "decoders": {name: ImageDecoder(size=shape, d=D) for name in VIEWS},
    }


class PlainEncoder(nn.Module):
    """The same encoder, written as is usual."""

    def __init__(self, like: ImageEncoder) -> None:
        super().__init__()
        layers = [
            nn.Conv2d(layer.in_channels, layer.out_channels, 4, 2, 1)
            if isinstance(layer, nn.Conv2d)
            else nn.ReLU()
            for layer in like.layers
        ]
        width, height, breadth = ImageDecoder(size=like.size, d=D).start
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.mean = nn.Linear(width * height * breadth, D)
        self.log_variance = nn.Linear(width * height * breadth, D)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.layers(x)
        return self.mean(h), self.log_variance(h)


class PlainDecoder(nn.Module):
    """The same decoder, written as is usual: its last layer is a transposed convolution too."""

    def __init__(self, like: ImageDecoder) -> None:
        super().__init__()
        layers = [
            nn.ConvTranspose2d(layer.in_channels, layer.out_channels, 4, 2, 1)
            if isinstance(layer, nn.ConvTranspose2d)
            else nn.ReLU()
            for layer in like.layers
        ]
        self.layers = nn.Sequential(
            nn.Linear(D, like.first.out_features),
            nn.ReLU(),
            nn.Unflatten(1, like.start),
            *layers,
            nn.ConvTranspose2d(like.patch.in_features, 1, 2, 2),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


def ours(prior: str, cohort: Cohort, size: int) -> tuple[nn.Module, Loss]:
    """One of our models, and its loss."""
    model = MultimodalVAE(schema=cohort.schema, prior=prior, d_latent=D, **networks(size))
    model.prepare(cohort)
    return model.train(), lambda batch: model.loss(batch)["total"]


def peer(kind: str, size: int, *, plain: bool) -> tuple[nn.Module, Loss]:
    """One of multivae's models, and its loss."""
    parts = networks(size)
    if plain:
        for part, make in (("encoders", PlainEncoder), ("decoders", PlainDecoder)):
            parts[part] = {name: make(network) for name, network in parts[part].items()}
    encoders = {name: Encoder(network, D) for name, network in parts["encoders"].items()}
    decoders = {name: Decoder(network, D) for name, network in parts["decoders"].items()}
    options = {
        "n_modalities": len(VIEWS),
        "latent_dim": D,
        "input_dims": dict.fromkeys(VIEWS, (1, size, size)),
        "decoders_dist": dict.fromkeys(VIEWS, "laplace"),
        "decoder_dist_params": {name: {"scale": 0.75} for name in VIEWS},
    }
    if kind == "MVAE":
        model: nn.Module = MVAE(
            MVAEConfig(**options, use_subsampling=False, warmup=0), encoders, decoders
        )
    else:
        model = MoPoE(MoPoEConfig(**options), encoders, decoders)
    return model.train(), lambda batch: model(MultimodalBaseDataset(data=dict(batch.x))).loss


def stepper(model: nn.Module, loss: Loss) -> Callable[[Batch], None]:
    """A training step: forward, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(batch: Batch) -> None:
        loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def cpu_ms(work: Callable[[], object]) -> float:
    """CPU time of the process, which a busy neighbour does not lengthen as it does wall time."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def peaks() -> dict[str, tuple[Callable[[], object], float]]:
    """Work that suits the machine, and its floating-point operations."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    x, w = torch.randn(64, 128, 8, 8), torch.randn(128, 128, 3, 3)
    x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
    return {
        "matrix product": (lambda: a @ b, 2 * 1024**3),
        "convolution": (
            lambda: nn.functional.conv2d(x, w, padding=1),
            2 * 64 * 64 * 128 * 128 * 9,
        ),
    }


def measure(size: int, rounds: int) -> dict[str, object]:
    """Let all models and the peak take turns at one image size."""
    torch.manual_seed(0)
    cohort = Cohort(x={name: torch.rand(8 * BATCH, 1, size, size) for name in VIEWS})
    batches = list(cohort.batches(BATCH, seed=0))
    models = {f"dfdlib {prior}": ours(prior, cohort, size) for prior in OURS}
    for kind in ("MVAE", "MoPoE"):
        models[f"multivae {kind}"] = peer(kind, size, plain=False)
        models[f"multivae {kind}, plain"] = peer(kind, size, plain=True)
    weights = {
        name: sum(p.numel() for p in model.parameters()) for name, (model, _) in models.items()
    }
    # a patch of 2 by 2 pixels has four biases, a transposed convolution one
    assert max(weights.values()) - min(weights.values()) in (0, 3 * len(VIEWS)), weights
    with FlopCounterMode(display=False) as counter:
        models["dfdlib poe"][1](batches[0]).backward()
    operations = counter.get_total_flops()
    steps = {name: stepper(*parts) for name, parts in models.items()}
    work = peaks()
    times: dict[str, list[float]] = {name: [] for name in (*steps, *work)}
    for k in range(rounds + 3):
        names = list(steps)[k % len(steps) :] + list(steps)[: k % len(steps)]
        batch = batches[k % len(batches)]
        found = {name: cpu_ms(partial(steps[name], batch)) for name in names}
        found |= {name: cpu_ms(run) for name, (run, _) in work.items()}
        if k >= 3:
            for name, ms in found.items():
                times[name].append(ms)
    rates = {
        name: flops / statistics.median(times[name]) / 1e6 for name, (_, flops) in work.items()
    }

    def ratio(slow: str, fast: str) -> float:
        pairs = zip(times[slow], times[fast], strict=True)
        return round(statistics.median(s / f for s, f in pairs), 3)

    return {
        "pixels": size,
        "parameters": weights["dfdlib poe"],
        "operations_per_step": operations,
        "rounds": rounds,
        "cpu_ms": {name: round(statistics.median(times[name]), 2) for name in steps},
        "cpu_ms_least": {name: round(min(times[name]), 2) for name in steps},
        "multivae_over_dfdlib": {
            f"{theirs} / {mine}": ratio(f"multivae {theirs}", f"dfdlib {mine}")
            for theirs in ("MVAE", "MVAE, plain", "MoPoE", "MoPoE, plain")
            for mine in OURS
        },
        "peak_gflop_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "share_of_peak": {
            f"dfdlib {prior}": round(
                operations
                / statistics.median(times[f"dfdlib {prior}"])
                / 1e6
                / max(rates.values()),
                3,
            )
            for prior in OURS
        },
    }


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "benchmark": "training steps of multimodal VAEs: dfdlib against multivae, same networks",
        "setting": {"views": len(VIEWS), "d_latent": D, "batch": BATCH, "threads": 1},
        "speed": [measure(size, given.rounds) for size in SIZES],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "multivae": version("multivae"),
            "dfdlib": dfdlib.__version__,
        },
        "command": "OMP_NUM_THREADS=1 peers/bin/python benchmarks/vae.py",
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    part = given.out.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.rename(given.out)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

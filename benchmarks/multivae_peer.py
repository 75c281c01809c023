"""multivae 1.0.3 beside a CPU build of torch: importable without a torchvision that works."""

import sys
import types
from typing import Any

import torch
from torch import nn


class _StandIn(types.ModuleType):
    """A module from which anything may be imported."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


# multivae imports these for its data sets and metrics; none of it is used here
for name in ("", ".datasets", ".datasets.utils", ".models", ".transforms", ".utils"):
    sys.modules[f"torchvision{name}"] = _StandIn(f"torchvision{name}")

from multivae.data.datasets.base import IncompleteDataset, MultimodalBaseDataset  # noqa: E402
from multivae.models import MVAE, MoPoE, MoPoEConfig, MVAEConfig  # noqa: E402
from multivae.models.mopoe import mopoe_model  # noqa: E402
from multivae.models.mvae import mvae_model  # noqa: E402
from multivae.models.nn.default_architectures import BaseDecoder, BaseEncoder  # noqa: E402
from pythae.models.base.base_utils import ModelOutput  # noqa: E402

__all__ = [
    "MVAE",
    "Decoder",
    "Encoder",
    "IncompleteDataset",
    "MVAEConfig",
    "MoPoE",
    "MoPoEConfig",
    "MultimodalBaseDataset",
    "mopoe_model",
    "mvae_model",
]


class Encoder(BaseEncoder):
    """A network that gives mean and log-variance, as multivae wants it."""

    def __init__(self, network: nn.Module, d: int) -> None:
        super().__init__()
        self.latent_dim, self.network = d, network

    def forward(self, x: torch.Tensor) -> ModelOutput:
        mean, log_variance = self.network(x)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):
    """A network that draws a view from latents, as multivae wants it."""

    def __init__(self, network: nn.Module, d: int) -> None:
        super().__init__()
        self.latent_dim, self.network = d, network

    def forward(self, z: torch.Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.network(z))

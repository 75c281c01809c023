"""What a multimodal VAE can be told: options, their checks, the annealing, the networks."""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import nn

from dfdlib.data import Schema
from dfdlib.data._validate import unknown
from dfdlib.models._residual import ResidualDecoder, ResidualEncoder
from dfdlib.models._vae_networks import ImageDecoder, ImageEncoder, VectorDecoder, VectorEncoder
from dfdlib.models._views import View
from dfdlib.models.fusion import Average, PriorExpert, Regulariser

Prior = Literal["independent", "avg", "poe", "moe", "mopoe", "mmvm"]
Times = Literal["views", "once"]
Experts = Literal["split", "all"]
Annealing = Literal["exp", "linear", "cosine", "none"]
Network = Literal["auto", "small", "residual"]

#: Steps of the public code's annealing, as a share of the paper's 240 epochs of 3,212 steps.
ANNEALED = 150_000 / (240 * 3_212)

_CHOICES = {
    "prior": Prior,
    "regulariser": Regulariser,
    "kl_times": Times,
    "prior_expert": PriorExpert,
    "experts": Experts,
    "average": Average,
    "annealing": Annealing,
    "network": Network,
}


def check_options(model: nn.Module) -> None:
    """Refuse options that do not exist, and numbers that mean nothing."""
    for name, kind in _CHOICES.items():
        value = getattr(model, name)
        if value not in get_args(kind):
            raise unknown(value, get_args(kind), f"choice of {name}")
    d: Any = model.d_latent
    if type(d) is not int or d < 1:
        raise ValueError(f"d_latent must be a whole number from 1 on, got {d!r}. Take d_latent=64")
    for name, low, high, example in (
        ("beta", 0.0, math.inf, 1.0),
        ("alpha", 0.0, 1.0, 0.0),
        ("annealed", 0.0, 1.0, 0.2),
        ("scale", 1e-12, math.inf, 0.75),
        ("dropout", 0.0, 1.0 - 1e-12, 0.5),
    ):
        value = getattr(model, name)
        if value is not None and not low <= value <= high:
            limits = "positive" if name == "scale" else f"between {low:g} and {high:g}"
            raise ValueError(f"{name} must be {limits}, got {value!r}. Take {name}={example}")


def prior_weight(
    done: float, *, alpha: float, annealing: Annealing | str, annealed: float
) -> float:
    r"""Weight of the standard normal distribution when a share of the training is done.

    It falls from 1 to alpha. Source: the public code of Sutter et al. 2024, which anneals over
    150,000 steps whatever the length of the run: :math:`\alpha(t) = 10^{-10 t / 150000}`.

    Example:
        >>> at = lambda done: prior_weight(done, alpha=0.0, annealing="exp", annealed=0.2)
        >>> [round(at(done), 4) for done in (0.0, 0.02, 0.1, 0.2)]
        [1.0, 0.1, 0.0, 0.0]
    """
    # DIFF: the annealing is a share of the run, not a number of steps
    t = done / annealed if annealed else 1.0
    if annealing == "none" or t >= 1:
        return alpha
    falls = {"exp": 10 ** (-10 * t), "linear": 1 - t, "cosine": (1 + math.cos(math.pi * t)) / 2}
    return alpha + (1 - alpha) * falls[annealing]


def make_views(schema: Schema, *, likelihood: Any, scale: float) -> nn.ModuleDict:
    """Make the view of each modality."""
    given = {} if isinstance(likelihood, str) else dict(likelihood)
    default = likelihood if isinstance(likelihood, str) else "laplace"
    for name in given:
        if name not in schema.names:
            raise unknown(name, schema.names, "modality, but stands in likelihood")
    views = nn.ModuleDict()
    for name in schema.names:
        if hasattr(views, name) or name == "joint":
            raise ValueError(
                f"a view cannot be called {name!r}, which means something else here. Rename it, "
                f"for example to '{name}_'"
            )
        views[name] = View(
            name=name,
            kind=schema.kinds[name],
            size=schema.sizes[name],
            likelihood=given.get(name, default),
            scale=scale,
        )
    return views


def make_networks(
    views: nn.ModuleDict,
    *,
    d: int,
    network: Network | str,
    width: int | None,
    dropout: float | None,
    encoders: Mapping[str, nn.Module] | None,
    decoders: Mapping[str, nn.Module] | None,
) -> tuple[nn.ModuleDict, nn.ModuleDict]:
    """Make encoders and decoders: those that are passed in, and defaults by kind and size."""
    made = nn.ModuleDict(), nn.ModuleDict()
    for kind, given in (("encoders", encoders), ("decoders", decoders)):
        for name in given or {}:
            if name not in views:
                raise unknown(name, views, f"modality, but stands in {kind}")
    for name, view in views.items():
        assert isinstance(view, View)
        options: dict[str, object] = {"d": d}
        if view.kind == "vector":
            classes: tuple[type[nn.Module], ...] = VectorEncoder, VectorDecoder
            sizes: tuple[dict[str, Any], ...] = (
                {"n_features": view.n_inputs},
                {"n_features": view.n_values},
            )
        else:
            residual = network == "residual" or (
                network == "auto" and tuple(view.size[1:]) == (224, 224)
            )
            classes = ImageEncoder, ImageDecoder
            if residual:
                classes = ResidualEncoder, ResidualDecoder
            options |= {} if width is None else {"width": width}
            sizes = {"size": view.size}, {"size": view.size}
        options |= {} if dropout is None else {"dropout": dropout}
        for part, given, make, size in zip(
            made, (encoders or {}, decoders or {}), classes, sizes, strict=True
        ):
            part[name] = given[name] if name in given else make(**size, **options)
    return made

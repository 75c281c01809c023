"""One view of a multimodal VAE: its scale, its likelihood, what it accepts."""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dfdlib.data import Schema
from dfdlib.errors import unknown
from dfdlib.models.backbone import LEAST
from dfdlib.models.encoders import mean_and_std

Likelihood = Literal["laplace", "gaussian", "bernoulli", "poisson"]

#: What a likelihood is defined on, and what to pass in the place of anything else.
_RANGE = {
    "bernoulli": "between 0 and 1. Divide by the largest possible value, or pass uint8 images",
    "poisson": "whole numbers from 0. Pass counts, or likelihood='laplace'",
}


def wide(x: Tensor) -> Tensor:
    """Leave half precision, which densities and divergences do not bear."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class Seen(NamedTuple):
    """A view of a batch: what the likelihood is of, which entries count, what is encoded."""

    target: Float[Tensor, "n ..."]
    counts: Bool[Tensor, "n k"] | None
    encoded: Float[Tensor, "n ..."]

    def repeat(self, times: int) -> "Seen":
        """Each row several times, one after the other."""
        target, counts, encoded = (
            None if part is None else part.repeat_interleave(times, 0) for part in self
        )
        return Seen(target, counts, encoded)  # type: ignore[arg-type]


class View(nn.Module):
    """Scale and likelihood of one view.

    Images are taken as they are, uint8 as shares of 255. Of a vector, values under a Laplace or
    Gaussian likelihood are standardised with the training part's moments and counts are encoded as
    standardised log(1 + count); the likelihood is of observed values only.

    Args:
        name: of the view.
        kind: "image" or "vector".
        size: shape of one patient's value.
        likelihood: of the view given the latents.
        scale: of the Laplace or Gaussian likelihood, in standard deviations if a vector.
    """

    mean: Tensor
    std: Tensor
    known: Tensor

    def __init__(
        self, *, name: str, kind: str, size: tuple[int, ...], likelihood: str, scale: float
    ) -> None:
        super().__init__()
        if kind not in ("image", "vector"):
            raise ValueError(
                f"{name!r} is of kind {kind!r}, and a view is an image or a vector. Leave it out, "
                f"or pass it as numbers: kinds={{{name!r}: 'vector'}}"
            )
        if likelihood not in get_args(Likelihood):
            raise ValueError(
                f"{likelihood!r}, given for {name!r}, is not a likelihood "
                f"({', '.join(get_args(Likelihood))}). Take 'laplace'"
            )
        self.name, self.kind, self.size = name, kind, tuple(size)
        self.likelihood, self.scale = likelihood, float(scale)
        self.n_values = math.prod(size)
        self.n_inputs = self.n_values * (2 if kind == "vector" else 1)
        columns = self.n_values if kind == "vector" else 0
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("std", torch.ones(columns))
        self.register_buffer("known", torch.ones(columns, dtype=torch.bool))
        self.holders: Tensor | None = None  # patients of the training part; not saved

    def fit(self, values: Tensor, flags: Tensor | None, there: Bool[Tensor, " n"]) -> None:
        """Check the range and take the moments of what was observed in the training part."""
        self.check(values[there], None if flags is None else flags[there])
        if not bool(there.any()):
            raise ValueError(
                f"{self.name!r} is observed for nobody in the training part, so there is nothing "
                "to learn of it. Leave it out: cohort.select(modalities=[...])"
            )
        if flags is None:
            return
        wide, flag = values.double(), flags.double()
        wide = wide.log1p() if self.likelihood == "poisson" else wide
        mean, std = mean_and_std(wide, flag)
        self.known.copy_(flags.any(0))
        if self.likelihood != "bernoulli":
            self.mean.copy_(mean)
            self.std.copy_(std)
        self.holders = flags.sum(0)

    def forget_rare(self) -> int:
        """Take columns that fewer than 10 patients had as missing; gives how many there are."""
        if self.holders is None:
            return 0
        rare = self.known & (self.holders < LEAST).to(self.known.device)
        self.known.masked_fill_(rare, False)
        self.mean.masked_fill_(rare, 0)
        self.std.masked_fill_(rare, 1)
        return int(rare.sum())

    def check(self, values: Tensor, flags: Tensor | None) -> None:
        """Refuse another shape than the model was made for, and values that cannot be."""
        if tuple(values.shape[1:]) != self.size:
            raise ValueError(
                f"{self.name!r} has entries of shape {tuple(values.shape[1:])} here, and the model "
                f"was made for {self.size}. Resize them all to one shape"
            )
        if self.likelihood not in _RANGE:
            return
        seen = values if flags is None else torch.where(flags, values, 0)
        if self.likelihood == "poisson":
            bad = (seen < 0) | (seen != seen.round())
        else:
            bad = (seen < 0) | (seen > (255 if values.dtype == torch.uint8 else 1))
        if bool(bad.any()):
            raise ValueError(
                f"{self.name!r} has {int(bad.sum())} values that a {self.likelihood} likelihood "
                f"does not have: it is of values {_RANGE[self.likelihood]}"
            )

    def read(self, values: Tensor, flags: Tensor | None) -> Seen:
        """Bring the rows that have the view to the scale of networks and likelihood."""
        self.check(values, flags)
        if values.dtype == torch.uint8 and self.likelihood != "poisson":
            values = values.float() / 255
        if flags is None:
            return Seen(values.float(), None, values.float())
        counts = flags & self.known
        x = values.log1p() if self.likelihood == "poisson" else values
        x = torch.where(counts, (x - self.mean) / self.std, 0)
        target = values if self.likelihood == "poisson" else x
        return Seen(target, counts, torch.cat([x, counts.to(x.dtype)], dim=1))

    def log_likelihood(self, centre: Float[Tensor, "n ..."], seen: Seen) -> Float[Tensor, " n"]:
        r"""Logarithm of :math:`p(x_m \mid z)`, summed over the values that were observed."""
        x, centre = seen.target, wide(centre)
        # summed before it is scaled: fewer passes over all pixels
        factor, constant = 1.0, 0.0
        if self.likelihood == "laplace":
            terms = (x - centre).abs()
            factor, constant = -1 / self.scale, math.log(2 * self.scale)
        elif self.likelihood == "gaussian":
            terms = (x - centre).square()
            factor = -0.5 / self.scale**2
            constant = math.log(self.scale) + 0.5 * math.log(2 * math.pi)
        elif self.likelihood == "bernoulli":
            terms = -nn.functional.binary_cross_entropy_with_logits(centre, x, reduction="none")
        else:
            terms = x * centre - centre.exp() - (x + 1).lgamma()
        n: Tensor | int = self.n_values
        if seen.counts is not None:
            terms, n = torch.where(seen.counts, terms, 0), seen.counts.sum(1)
        return factor * terms.flatten(1).sum(1) - constant * n

    def log_units(self, seen: Seen) -> Float[Tensor, " n"]:
        """Logarithm of the volume, in the units of the data, of a unit of what was observed.

        Minus this turns the density of standardised values into that of the data: 0 where nothing
        is standardised.
        """
        if seen.counts is None or self.likelihood in ("bernoulli", "poisson"):
            return seen.target.new_zeros(len(seen.target))
        return (seen.counts * self.std.log()).sum(1)

    def expected(self, centre: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """The value that the likelihood expects, in the units of the data (uint8: of 0 to 1)."""
        if self.likelihood == "bernoulli":
            return centre.sigmoid()
        if self.likelihood == "poisson":
            return centre.exp()
        return centre if self.kind == "image" else centre * self.std + self.mean


def make_views(
    schema: Schema, *, likelihood: str | Mapping[str, str], scale: float
) -> nn.ModuleDict:
    """Make the view of each modality."""
    by_view = {} if isinstance(likelihood, str) else dict(likelihood)
    default = likelihood if isinstance(likelihood, str) else "laplace"
    for name in by_view:
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
            likelihood=by_view.get(name, default),
            scale=scale,
        )
    return views

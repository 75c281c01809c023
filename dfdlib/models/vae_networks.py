"""Encoders and decoders of one view each: images of any size, and vectors.

An encoder is a module with `forward(x) -> (mean, log_variance)`, (n, d) each; a decoder one with
`forward(z)`, from (n, d) to what the view's likelihood is centred on, of the view's own shape.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, channels_last, nn

from dfdlib.errors import unknown
from dfdlib.models.vae_views import View

Network = Literal["auto", "small", "residual"]

SMALLEST = 8


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
    for kind, replaced in (("encoders", encoders), ("decoders", decoders)):
        for name in replaced or {}:
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
        for part, replaced, make, size in zip(
            made, (encoders or {}, decoders or {}), classes, sizes, strict=True
        ):
            part[name] = replaced[name] if name in replaced else make(**size, **options)
    return made


class ImageEncoder(nn.Module):
    """Small convolutional encoder: each layer halves the picture, down to 4 to 7 pixels a side.

    Layers have width, 2 width, then 4 width channels.

    Args:
        size: channels, height, width.
        d: latent dimensions.
        width: channels of the first layer.
        dropout: rate at which whole channels are dropped after each layer.

    Shapes:
        (n, channels, height, width) -> (n, d), (n, d)
    """

    def __init__(
        self, *, size: Sequence[int], d: int, width: int = 16, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.size, self.d, self.width, self.dropout = tuple(size), d, width, dropout
        shapes = _halvings(size, width)
        layers: list[nn.Module] = []
        for before, after in pairwise(shapes):
            layers += [nn.Conv2d(before[0], after[0], 4, 2, 1), nn.ReLU(inplace=True)]
            layers += [nn.Dropout2d(dropout)] if dropout else []
        channels, height, breadth = shapes[-1]
        self.layers = nn.Sequential(*layers)
        self.latent = nn.Linear(channels * height * breadth, 2 * d)
        self.to(memory_format=channels_last)  # type: ignore[call-overload]

    def forward(self, x: Float[Tensor, "n c h w"]) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of each patient's posterior."""
        h = self.layers(x.contiguous(memory_format=channels_last))
        mean, log_variance = self.latent(h.permute(0, 2, 3, 1).flatten(1)).chunk(2, dim=1)
        return mean, log_variance


class ImageDecoder(nn.Module):
    """Mirror of `ImageEncoder`, but for its last layer, which draws patches of 2 by 2 pixels.

    A transposed convolution to one channel would take half of the decoder's time.

    Args:
        size: channels, height, width.
        d: latent dimensions.
        width: channels before the last layer.
        dropout: rate at which whole channels are dropped before each layer.

    Shapes:
        (n, d) -> (n, channels, height, width)
    """

    def __init__(
        self, *, size: Sequence[int], d: int, width: int = 16, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.size, self.d, self.width, self.dropout = tuple(size), d, width, dropout
        shapes = _halvings(size, width)[::-1]
        self.start = shapes[0]
        self.first = nn.Linear(d, shapes[0][0] * shapes[0][1] * shapes[0][2])
        layers: list[nn.Module] = [nn.Dropout2d(dropout)] if dropout else []
        for before, after in pairwise(shapes[:-1]):
            odd = (after[1] - 2 * before[1], after[2] - 2 * before[2])
            layers += [nn.ConvTranspose2d(before[0], after[0], 4, 2, 1, output_padding=odd)]
            layers += [nn.ReLU(inplace=True), *([nn.Dropout2d(dropout)] if dropout else [])]
        self.layers = nn.Sequential(*layers)
        self.patch = nn.Linear(shapes[-2][0], 4 * shapes[-1][0])
        self.to(memory_format=channels_last)  # type: ignore[call-overload]

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n c h w"]:
        """Draw each patient's picture."""
        channels, height, breadth = self.start
        # rectified before it is seen as a picture: in place on a view costs copies backwards
        h = self.first(z).relu_().unflatten(1, (height, breadth, channels)).permute(0, 3, 1, 2)
        h = self.layers(h).permute(0, 2, 3, 1)
        _, height, breadth = self.size
        x = nn.functional.pixel_shuffle(self.patch(h).permute(0, 3, 1, 2), 2)
        odd = (0, breadth % 2, 0, height % 2)
        return nn.functional.pad(x, odd, mode="replicate") if any(odd) else x


def _halvings(size: Sequence[int], width: int) -> list[tuple[int, int, int]]:
    """Channels, height and width of the picture before, between and after the layers."""
    channels, height, breadth = size
    if min(height, breadth) < SMALLEST:
        raise ValueError(
            f"images of {height} by {breadth} pixels are too small for a convolutional network, "
            f"which needs {SMALLEST}. Pass the pixels as a vector: x={{name: a.reshape(n, -1)}}"
        )
    shapes = [(channels, height, breadth)]
    while min(height, breadth) >= SMALLEST:
        height, breadth = height // 2, breadth // 2
        shapes.append((width * min(4, 2 ** (len(shapes) - 1)), height, breadth))
    return shapes


class VectorEncoder(nn.Module):
    """Perceptron with one hidden layer.

    Args:
        n_features: numbers that come in: values, and the flags of what was observed.
        d: latent dimensions.
        width: of the hidden layer.
        dropout: rate on the hidden layer.

    Shapes:
        (n, n_features) -> (n, d), (n, d)
    """

    def __init__(self, *, n_features: int, d: int, width: int = 128, dropout: float = 0.0) -> None:
        super().__init__()
        self.n_features, self.d, self.width, self.dropout = n_features, d, width, dropout
        self.layers = nn.Sequential(
            nn.Linear(n_features, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 2 * d)
        )

    def forward(self, x: Float[Tensor, "n k"]) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of each patient's posterior."""
        mean, log_variance = self.layers(x).chunk(2, dim=1)
        return mean, log_variance


class VectorDecoder(nn.Module):
    """Mirror of `VectorEncoder`.

    Shapes:
        (n, d) -> (n, n_features)
    """

    def __init__(self, *, n_features: int, d: int, width: int = 128, dropout: float = 0.0) -> None:
        super().__init__()
        self.n_features, self.d, self.width, self.dropout = n_features, d, width, dropout
        self.layers = nn.Sequential(
            nn.Linear(d, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, n_features)
        )

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Make each patient's values."""
        return self.layers(z)


# ---------------- The residual encoder and decoder of the paper, for images of 224 by 224
# pixels

#: channels in and out, stride and padding of each block, for 64 filters
_DOWN = ((1, 2, 2, 1), (2, 3, 2, 1), (3, 4, 2, 1), (4, 5, 4, 1), (5, 5, 2, 0))
_UP = ((5, 4, 1, 0), (4, 3, 2, 1), (3, 2, 2, 1), (2, 1, 2, 1), (1, 1, 2, 1), (1, 1, 2, 1))


class _Norm(nn.BatchNorm2d):
    """Batch normalisation that takes its running moments where a batch has one value a channel."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(x)


class _Block(nn.Module):
    """Norm, ReLU, 1 by 1, dropout, norm, ReLU, 4 by 4, dropout; and a shortcut beside them."""

    def __init__(
        self,
        conv: Callable[..., nn.Module],
        a: int,
        b: int,
        stride: int,
        padding: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _Norm(a),
            nn.ReLU(),
            conv(a, a, 1, bias=False),
            nn.Dropout2d(dropout),
            _Norm(a),
            nn.ReLU(),
            conv(a, b, 4, stride, padding, bias=False),
            nn.Dropout2d(dropout),
        )
        self.shortcut = nn.Sequential(conv(a, b, 4, stride, padding), _Norm(b))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.residual(x)


def _check(size: Sequence[int]) -> None:
    if tuple(size[1:]) != (224, 224):
        raise ValueError(
            f"the residual networks are for images of 224 by 224 pixels, got {size[1]} by "
            f"{size[2]}. Take network='small', or resize the images."
        )


class ResidualEncoder(nn.Module):
    """Residual encoder: a convolution and five residual blocks, down to one pixel.

    Source: the public code of Sutter et al. 2024 (arXiv 2403.05300) for MIMIC-CXR, as described in
    its appendix B.4.2: 64 filters, channel dropout of 0.5 in every block, latents without bias.

    Args:
        size: channels, 224, 224.
        d: latent dimensions.
        width: filters.
        dropout: rate at which whole channels are dropped.

    Shapes:
        (n, channels, 224, 224) -> (n, d), (n, d)
    """

    def __init__(
        self, *, size: Sequence[int], d: int, width: int = 64, dropout: float = 0.5
    ) -> None:
        super().__init__()
        _check(size)
        self.size, self.d, self.width, self.dropout = tuple(size), d, width, dropout
        self.layers = nn.Sequential(
            nn.Conv2d(size[0], width, 3, 2, 1, bias=False),
            *(_Block(nn.Conv2d, a * width, b * width, s, p, dropout) for a, b, s, p in _DOWN),
        )
        self.latent = nn.Linear(5 * width, 2 * d, bias=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Float[Tensor, "n c h w"]) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of each patient's posterior."""
        h = self.layers(x.contiguous(memory_format=torch.channels_last)).flatten(1)
        mean, log_variance = self.latent(h).chunk(2, dim=1)
        return mean, log_variance


class ResidualDecoder(nn.Module):
    """Residual decoder: one pixel, six residual blocks, a transposed convolution; see the encoder.

    That its blocks are those of the encoder with transposed convolutions is our reading.

    Shapes:
        (n, d) -> (n, channels, 224, 224)
    """

    def __init__(
        self, *, size: Sequence[int], d: int, width: int = 64, dropout: float = 0.5
    ) -> None:
        super().__init__()
        _check(size)
        self.size, self.d, self.width, self.dropout = tuple(size), d, width, dropout
        self.first = nn.Linear(d, 5 * width)
        up = nn.ConvTranspose2d
        self.layers = nn.Sequential(
            *(_Block(up, a * width, b * width, s, p, dropout) for a, b, s, p in _UP),
            nn.ConvTranspose2d(width, size[0], 3, 2, 17, output_padding=1),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n c h w"]:
        """Draw each patient's picture."""
        return self.layers(self.first(z)[..., None, None])

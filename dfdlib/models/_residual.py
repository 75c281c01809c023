"""The residual encoder and decoder of the paper, for images of 224 by 224 pixels."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

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

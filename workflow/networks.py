"""Supervised networks on pictures, which are no methods of the library."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad


class Convolutions(nn.Module):
    """Five convolutions with batch norms; the mean and the maximum of what they find."""

    def __init__(self, widths: Sequence[int], strides: Sequence[int], n_labels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide, out, stride in zip((1, *widths), widths, strides, strict=False):
            layers += [
                nn.Conv2d(wide, out, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(inplace=True),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * widths[-1], n_labels)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of all labels."""
        maps = self.body((images - 0.4) / 0.25)
        return self.head(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1))


def convolutions(
    images: Tensor, y: Tensor, seed: int, *, widths: Sequence[int], strides: Sequence[int],
    epochs: int, batch: int, lr: float, weight_decay: float, shift: int,
) -> Convolutions:  # fmt: skip
    """AdamW with one cycle of the learning rate; images shifted by a few pixels."""
    torch.manual_seed(seed)
    model = Convolutions(widths, strides, y.shape[1])
    steps = epochs * (len(y) // batch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=lr, total_steps=steps)
    wide = pad(images, (shift,) * 4, mode="replicate")
    size = images.shape[-1]
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(batch):
            if len(rows) < batch:
                continue
            top, left = torch.randint(2 * shift + 1, (2,)).tolist()
            here = wide[rows, :, top : top + size, left : left + size]
            loss = binary_cross_entropy_with_logits(model(here), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()

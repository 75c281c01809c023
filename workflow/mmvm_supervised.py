"""Supervised nets with the VAEs' own encoders: as published, and trained correctly."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, pad

from dfdlib.data import Cohort
from dfdlib.models.vae_networks import ImageEncoder


class Network(nn.Module):
    """An encoder per view; their mean is read by one linear layer."""

    def __init__(self, views: dict[str, tuple[int, ...]], d: int, n_labels: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {name: ImageEncoder(size=size, d=d) for name, size in views.items()}
        )
        self.head = nn.Linear(2 * d, n_labels)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        found = [torch.cat(encoder(x[name]), 1) for name, encoder in self.encoders.items()]
        return self.head(torch.relu(torch.stack(found).mean(0)))


def loss(kind: str, logits: Tensor, y: Tensor) -> Tensor:
    """Binary cross-entropy, or what the public code has: a softmax over the sigmoids."""
    if kind != "correct":
        return cross_entropy(logits.sigmoid(), y)
    return binary_cross_entropy_with_logits(logits, y)


def train(
    kind: str,
    views: tuple[str, ...],
    cohort: Cohort,
    rows: np.ndarray,
    y: np.ndarray,
    val: Cohort,
    settings: dict[str, Any],
    *,
    steps: int,
    seed: int,
) -> Network:
    """Train on the labelled rows; keep the best validation loss, or, "published", the worst.

    `y` are the labels of all rows, flipped or not. Only the net trained correctly sees pictures
    shifted by a few pixels.
    """
    torch.manual_seed(seed)
    model = Network(
        {v: tuple(cohort.x[v].shape[1:]) for v in views}, settings["d"], cohort.y.shape[1]
    )
    rate, target = settings["lr"], torch.as_tensor(y, dtype=torch.float32)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=rate, weight_decay=settings["weight_decay"]
    )
    shift = settings["shift"] if kind == "correct" else 0
    wide = {v: pad(cohort.x[v][rows], (shift,) * 4, mode="replicate") for v in views}
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=rate, total_steps=steps)
    labelled, kept = target[rows], (np.inf, model.state_dict())
    order, size = torch.randperm(len(rows)), settings["batch_size"]
    sign = -1 if kind == "published" else 1
    for step in range(steps):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(len(rows))])
        batch, order = order[:size], order[size:]
        top, left = torch.randint(2 * shift + 1, (2,)).tolist()
        model.train()
        x = {
            v: image[batch][
                ..., top : top + cohort.x[v].shape[-2], left : left + cohort.x[v].shape[-1]
            ]
            for v, image in wide.items()
        }
        value = loss(kind, model(x), labelled[batch])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        if (step + 1) % settings["every"] == 0:
            now = sign * loss(kind, scores(model, val), val.y).item()
            if now < kept[0]:
                kept = now, {name: part.clone() for name, part in model.state_dict().items()}
    model.load_state_dict(kept[1])
    return model


@torch.no_grad()
def scores(model: Network, cohort: Cohort) -> Tensor:
    """Logits of all patients."""
    model.eval()
    parts = torch.arange(len(cohort)).split(500)
    return torch.cat([model({v: cohort.x[v][at] for v in model.encoders}) for at in parts])

"""What a plain supervised network sees of each finding in each view of the phantom.

    F=runs/phantom
    python workflow/phantom_check.py run --view frontal --seed 0 --out $F/frontal-0.json
    python workflow/phantom_check.py run --view lateral --seed 0 --out $F/lateral-0.json
    python workflow/phantom_check.py collect $F/*.json --out results/phantom.json

One small convolutional network per view and seed, binary cross-entropy over all labels, a fixed
number of epochs, no choice of weights. Training and test patients are those of the worlds train and
id. The generator is frozen with these numbers, before any model is compared on it.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad

from dfdlib.data import phantom
from dfdlib.evaluation.bootstrap import WeightedMetrics
from dfdlib.evaluation.results import commit, versions

N_TRAIN, N_TEST, SIZE, TEST_SEED = 4_500, 3_000, 64, 1_000
EPOCHS, BATCH, LR, DECAY, SHIFT = 14, 64, 3e-3, 1e-2, 3
WIDTHS, STRIDES = (16, 32, 48, 64, 96), (2, 2, 1, 2, 2)
N_BOOT = 1_000
FLOOR, MACRO = 0.60, 0.75
# Fluid that does not reach the lateral sulcus (cm above the dome): in the sulcus at the back only.
SMALL = -3.5
# One grey level is .0039; sums over 65,536 pixels differ by less than a tenth of this where
# last bits do.
ATOL = {"signed": 2e-3, "truth": 1e-3}


class Network(nn.Module):
    """Five convolutions with batch norms; the mean and the maximum of what they find."""

    def __init__(self, n_labels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide, out, stride in zip((1, *WIDTHS), WIDTHS, STRIDES, strict=False):
            layers += [
                nn.Conv2d(wide, out, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(inplace=True),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * WIDTHS[-1], n_labels)

    def forward(self, images: Tensor) -> Tensor:
        found = self.body((images - 0.4) / 0.25)
        return self.head(torch.cat([found.mean((2, 3)), found.amax((2, 3))], 1))


def train(images: Tensor, y: Tensor, seed: int) -> Network:
    """AdamW with one cycle of the learning rate; images shifted by a few pixels."""
    torch.manual_seed(seed)
    model = Network(y.shape[1])
    steps = EPOCHS * (len(y) // BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=LR, total_steps=steps)
    wide = pad(images, (SHIFT,) * 4, mode="replicate")
    size = images.shape[-1]
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(y)).split(BATCH):
            if len(rows) < BATCH:
                continue
            top, left = torch.randint(2 * SHIFT + 1, (2,)).tolist()
            batch = wide[rows, :, top : top + size, left : left + size]
            loss = binary_cross_entropy_with_logits(model(batch), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def run(view: str, seed: int, out: Path) -> None:
    """Train one network; keep its scores on the test patients."""
    cohort = phantom.load(n=N_TRAIN, size=SIZE, world="train", seed=seed)
    model = train(cohort.x[view], cohort.y, seed)
    test = phantom.load(n=N_TEST, size=SIZE, world="id", seed=TEST_SEED)
    with torch.no_grad():
        scores = torch.cat([model(part) for part in test.x[view].split(500)]).sigmoid()
    record = {
        "view": view,
        "seed": seed,
        "drawn": drawn(),
        "scores": scores.numpy().round(5).tolist(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record), encoding="utf-8")
    for label, value in zip(phantom.LABELS, _auroc(test.y.numpy(), scores.numpy()), strict=True):
        print(f"{label:20s} {value:.3f}")


def drawn() -> dict[str, Any]:
    """What the generator draws for a few patients: a digest, and numbers that bear rounding.

    The digest is of pixels (of 255 grey levels), labels and truth. Where an arithmetic rounds the
    last bit otherwise, a pixel may fall on the other side of a level and the digest be another one;
    so `same` compares sums of all pixels with random signs, which one grey level of one pixel
    moves and last bits do not, the labels and the sums of the truth.
    """
    hashed = hashlib.sha256()
    signed: dict[str, list[float]] = {}
    labels: list[int] = []
    truth: dict[str, float] = {}
    for k, options in enumerate(({}, {"world": "shifted", "shortcut": "Edema", "missing": "mnar"})):
        cohort = phantom.load(n=64, size=32, seed=k, **options)
        y = cohort.y.numpy().astype(np.uint8)
        hashed.update(y.tobytes())
        labels += y.sum(0).tolist()
        for view in phantom.VIEWS:
            pixels = cohort.x[view].double().numpy()
            hashed.update((255 * pixels).round().astype(np.uint8).tobytes())
            signs = np.random.default_rng(k).choice([-1.0, 1.0], (8, pixels.size))
            signed[f"{view} {k}"] = (signs @ pixels.ravel()).round(6).tolist()
        for name in sorted(cohort.truth):
            column = cohort.truth[name].to_numpy(dtype=float)
            # -0 is 0, and a patient without a value counts as one that no value has
            hashed.update((np.nan_to_num(column, nan=-1e3).round(3) + 0.0).tobytes())
            truth[f"{name} {k}"] = round(float(np.nansum(column)), 6)
    return {"sha256": hashed.hexdigest(), "signed": signed, "labels": labels, "truth": truth}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two times the same patients were drawn, whatever the last bits."""
    return (
        one["labels"] == other["labels"]
        and all(one[key].keys() == other[key].keys() for key in ("signed", "truth"))
        and all(
            np.allclose(one[key][name], other[key][name], atol=ATOL[key], rtol=0)
            for key in ("signed", "truth")
            for name in one[key]
        )
    )


def _auroc(y: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """One per label; with weights (B, n) one row per replicate."""
    once = np.ones((1, len(y))) if weights is None else weights
    columns = [
        WeightedMetrics(
            y[:, k], np.column_stack([1 - scores[:, k], scores[:, k]]), task="binary"
        ).replicates(once)[:, 0]
        for k in range(y.shape[1])
    ]
    table = np.stack(columns, 1)
    return table[0] if weights is None else table


def collect(files: list[Path], out: Path) -> None:
    """AUROC of each finding and view, mean over seeds, with intervals by bootstrap of patients."""
    records = [json.loads(file.read_text("utf-8")) for file in sorted(files)]
    now = drawn()
    if not all("drawn" in record and same(record["drawn"], now) for record in records):
        raise ValueError("some runs are of another generator. Run them again")
    # labels and truth only, so the smallest pictures do
    test = phantom.load(n=N_TEST, size=16, world="id", seed=TEST_SEED)
    y = test.y.numpy()
    weights = np.random.default_rng(0).multinomial(N_TEST, np.full(N_TEST, 1 / N_TEST), N_BOOT)
    weights = np.vstack([np.ones(N_TEST), weights]).astype(float)
    lesion, wet = phantom.LABELS.index("Lung Lesion"), phantom.LABELS.index("Pleural Effusion")
    behind = test.truth["lesion_behind_heart"].to_numpy()
    fluid = test.truth[["fluid_right", "fluid_left"]].max(axis=1).to_numpy()
    hidden = {
        "lesion behind the heart": (lesion, behind),
        "lesion elsewhere": (lesion, (y[:, lesion] == 1) & ~behind),
        "effusion in the posterior sulcus only": (wet, fluid < SMALL),
        "effusion that rises higher": (wet, fluid >= SMALL),
    }
    tables: dict[str, np.ndarray] = {}
    special: dict[str, dict[str, np.ndarray]] = {name: {} for name in hidden}
    for view in phantom.VIEWS:
        scores = [np.array(r["scores"]) for r in records if r["view"] == view]
        tables[view] = np.mean([_auroc(y, each, weights) for each in scores], 0)
        for name, (label, positive) in hidden.items():
            rows = positive | (y[:, label] == 0)
            special[name][view] = np.mean(
                [
                    _auroc(
                        positive[rows, None].astype(float), s[rows][:, [label]], weights[:, rows]
                    )
                    for s in scores
                ],
                0,
            )[:, 0]
    result = {
        "data": "phantom",
        "generator": now["sha256"],
        "drawn": {key: now[key] for key in ("signed", "labels", "truth")},
        "labels": list(phantom.LABELS),
        "prevalence": dict(zip(phantom.LABELS, y.mean(0).round(4).tolist(), strict=True)),
        "n_train": N_TRAIN,
        "n_test": N_TEST,
        "size": SIZE,
        "seeds": sorted({record["seed"] for record in records}),
        "network": {
            "widths": WIDTHS, "strides": STRIDES, "epochs": EPOCHS, "batch": BATCH, "lr": LR,
            "weight_decay": DECAY, "shift": SHIFT,
        },
        "interval": f"bootstrap over test patients of the mean over seeds, {N_BOOT}, 95 %",
        "asked_for": {"macro_at_least": MACRO, "each_at_least": FLOOR},
        "auroc": {
            view: {
                "macro": _interval(table.mean(1)),
                **{label: _interval(table[:, k]) for k, label in enumerate(phantom.LABELS)},
            }
            for view, table in tables.items()
        },
        "by_view": {
            name: {
                "n": int(hidden[name][1].sum()),
                **{view: _interval(values) for view, values in views.items()},
                "lateral minus frontal": _interval(views["lateral"] - views["frontal"]),
            }
            for name, views in special.items()
        },
        "commit": commit(),
        "versions": versions(),
        "command": "make results",
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _interval(values: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("--view", choices=phantom.VIEWS, required=True)
    one.add_argument("--seed", type=int, required=True)
    one.add_argument("--out", type=Path, required=True)
    both = commands.add_parser("collect")
    both.add_argument("files", type=Path, nargs="+")
    both.add_argument("--out", type=Path, required=True)
    given: dict[str, Any] = vars(parser.parse_args())
    torch.set_num_threads(1)
    {"run": run, "collect": collect}[given.pop("command")](**given)


if __name__ == "__main__":
    main()

"""What a plain supervised network sees of each finding in each view of the phantom."""

import hashlib
from typing import Any

import numpy as np
import torch
from cohorts import Data
from networks import Convolutions
from recipes import Recipe, Setting

from dfdlib.data import phantom
from measures import Plan, measure

# One grey level is .0039; sums over 65,536 pixels differ by less than a tenth of this where
# last bits do.
ATOL = {"signed": 2e-3, "truth": 1e-3}


def plan(recipe: Recipe, setting: Setting) -> Plan:
    """Train one network on a view; keep its scores of the test patients."""
    sizes = {key: recipe[key] for key in ("n_train", "n_test", "size", "test_seed")}
    return Plan(
        cohort={"kind": "pictures", **sizes},
        methods={"network": {"view": setting["view"], "network": recipe["network"]}},
        measures={"findings": {"view": setting["view"]}},
        of_cohort={"generator": {}},
    )


@measure
@torch.no_grad()
def findings(model: Convolutions, data: Data, *, view: str) -> list[list[float]]:
    """Each test patient's probability of each finding."""
    parts = data.worlds["id"].x[view].split(500)
    return torch.cat([model(part) for part in parts]).sigmoid().numpy().round(5).tolist()


@measure
def generator(data: Data) -> dict[str, Any]:
    """What the generator draws: runs of another one are refused."""
    del data
    return drawn()


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

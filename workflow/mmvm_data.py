"""The cohorts of mmvm.yaml: training, validation and test patients, all of them other ones."""

from typing import Any

import numpy as np
import torch

from dfdlib import data
from dfdlib.data import Cohort
from dfdlib.data.phantom import VIEWS

PARTS = ("train", "val", "test")
# How often a report mentions a finding that is there, one that is not, and what has no meaning.
MENTIONED, INVENTED, COMMON = 0.75, 0.05, (0.5, 0.3, 0.3, 0.1, 0.1, 0.1)


def load(settings: dict[str, Any], given: dict[str, Any], seed: int) -> dict[str, Cohort]:
    """Draw the parts of a data set.

    `settings` are the sizes; `given` the changes: `missing` (a mechanism, of the training part
    only), `degraded` (the share of the second picture that noise replaces, in all parts),
    `report` (mentions of findings in the place of the lateral picture), `digits`.
    """
    sizes = {part: settings["n" if part == "train" else f"n_{part}"] for part in PARTS}
    make = _digits if given.get("digits") else _phantom
    parts = make(sizes, settings["size"], seed, given.get("missing", "none"))
    for k, (name, part) in enumerate(parts.items()):
        rng = np.random.default_rng([seed, k])
        if "degraded" in given:
            view = part.names[1]
            parts[name] = _with(part, view, _degraded(part.x[view], given["degraded"], rng))
        if given.get("report"):
            parts[name] = _reported(part, rng)
    return parts


def _phantom(sizes: dict[str, int], size: int, seed: int, missing: str) -> dict[str, Cohort]:
    both = data.load("phantom", n=sizes["val"] + sizes["test"], size=size, world="id", seed=seed)
    return {
        "train": data.load("phantom", n=sizes["train"], size=size, missing=missing, seed=seed),
        "val": both.select(np.arange(sizes["val"])),
        "test": both.select(np.arange(sizes["val"], len(both))),
    }


def _degraded(images: torch.Tensor, share: float, rng: np.random.Generator) -> torch.Tensor:
    noise = torch.as_tensor(rng.random(images.shape, dtype=np.float32))
    return (1 - share) * images + share * noise


def _reported(cohort: Cohort, rng: np.random.Generator) -> Cohort:
    """A picture and what somebody wrote of it: findings, forgotten or invented, and small talk."""
    present = cohort.y.numpy()
    found = rng.random(present.shape) < np.where(present == 1, MENTIONED, INVENTED)
    other = rng.random((len(cohort), len(COMMON))) < COMMON
    words = torch.as_tensor(np.hstack([found, other]), dtype=torch.float32)
    return Cohort(
        x={VIEWS[0]: cohort.x[VIEWS[0]], "report": words},
        y=cohort.y,
        task=cohort.task,
        groups=_own(cohort),
    )


def _with(cohort: Cohort, view: str, images: torch.Tensor) -> Cohort:
    x = {**cohort.x, view: images}
    return Cohort(x=x, observed=cohort.observed, y=cohort.y, task=cohort.task, groups=_own(cohort))


def _own(cohort: Cohort) -> dict[str, np.ndarray]:
    return {"patient": np.asarray(cohort.groups["patient"])}


def _digits(sizes: dict[str, int], size: int, seed: int, _: str) -> dict[str, Cohort]:
    """Validation pairs are of the images of the training part: few are left for the test."""
    train = data.load("digits", n=sizes["train"] + sizes["val"], size=size, seed=seed)
    parts = {
        "train": train.select(np.arange(sizes["train"])),
        "val": train.select(np.arange(sizes["train"], len(train))),
        "test": data.load("digits", n=sizes["test"], part="test", size=size, seed=seed),
    }
    # a label per digit, as there is one per finding
    each = torch.arange(10)
    return {
        name: Cohort(
            x=dict(part.x),
            y=(part.y[:, None] == each).float(),
            task="multilabel",
            groups=_own(part),
        )
        for name, part in parts.items()
    }

"""Cohorts of the evidence grid: a training part, and the worlds that a model is tried in."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from dfdlib import data
from dfdlib.data import Cohort

#: Training part, and the cohorts that it is tried on.
Worlds = tuple[Cohort, dict[str, Cohort]]

#: How much each modality's cause counts in `mapped`; unlike, so that no two causes cancel.
WEIGHTS = np.array([1.5, 1.0, 1.0, 1.0])
#: A modality shows the spurious attribute wrong for this share, as in the synthetic cohorts.
WRONG = 0.1


def load(kind: str, *, seed: int, n: int, n_test: int, test_seed: int, **options: Any) -> Worlds:
    """Draw the training part with `seed`, and the worlds, which are the same for every seed."""
    makers = {"synthetic": _synthetic, "heart": _heart, "tagged": _tagged, "mapped": _mapped}
    return makers[kind](seed=seed, n=n, n_test=n_test, test_seed=test_seed, **options)


def _synthetic(*, seed: int, n: int, n_test: int, test_seed: int, **options: Any) -> Worlds:
    train = data.load("synthetic", n=n, seed=seed, world="train", **options)
    return train, {
        world: data.load("synthetic", n=n_test, seed=test_seed, world=world, **options)
        for world in ("id", "shifted", "randomised")
    }


def _heart(*, site: str, seed: int, **_: Any) -> Worlds:
    """Three hospitals, a fifth of whose patients are held out, and the fourth."""
    others, there = data.load("heart").leave_out("site", site)
    train, held_out = others.split((0.8, 0.2), by="patient", seed=seed)
    return train, {"id": held_out, "shifted": there}


def _tagged(
    *, source: str, strength: float, seed: int, n: int, n_test: int, test_seed: int
) -> Worlds:
    """Give a cohort a modality of its own that agrees with the label: an injected hospital id.

    The tag is −1 or 1 and agrees with the label with probability (1 + strength) / 2. In `shifted`
    the very same patients carry the other tag, in `randomised` a coin.
    """
    if source == "heart":
        train, test = data.load("heart").split((0.7, 0.3), by="patient", seed=seed)
        parts, seeds = {"train": train, "id": test}, {"train": seed, "id": test_seed + seed}
    else:
        options = {"bias": "none"}
        parts = {
            "train": data.load("synthetic", n=n, seed=seed, **options),
            "id": data.load("synthetic", n=n_test, seed=test_seed, world="id", **options),
        }
        seeds = {"train": seed, "id": test_seed}
    tags = {}
    for part, cohort in parts.items():
        rng = np.random.default_rng((seeds[part], round(100 * strength)))
        agrees = rng.random(len(cohort)) < (1 + strength) / 2
        tags[part] = np.where(agrees, 1, -1) * (2 * cohort.y.numpy() - 1)
    coin = np.random.default_rng((test_seed, 1)).choice([-1.0, 1.0], len(parts["id"]))
    return _tag(parts["train"], tags["train"]), {
        "id": _tag(parts["id"], tags["id"]),
        "shifted": _tag(parts["id"], -tags["id"]),
        "randomised": _tag(parts["id"], coin),
    }


def _tag(cohort: Cohort, tag: np.ndarray) -> Cohort:
    names = cohort.names
    return Cohort(
        x={**{name: cohort.x[name] for name in names}, "tag": tag[:, None]},
        kinds=cohort.schema.kinds,
        observed=np.column_stack([cohort.observed.numpy(), np.full(len(cohort), True)]),
        x_observed={name: cohort.x_observed[name] for name in names if name in cohort.x_observed},
        y=cohort.y,
        groups=cohort.groups,
        truth=pd.DataFrame({"bias": tag}),
    )


def _mapped(*, slope: float, hidden: int, seed: int, n: int, n_test: int, test_seed: int) -> Worlds:
    r"""Cohorts of the map: how certain the label is, and how much easier the bias than the cause.

    Four modalities show a cause :math:`A_m = \pm 1` each, `hidden` of them as the product of two
    signs, and the spurious attribute as one sign, wrong for one patient in ten:

    .. math:: P(Y = 1 \mid A) = \sigma(\mathrm{slope} \cdot \textstyle\sum_m w_m A_m)

    B equals the label for 95 % of the training patients, for 5 % in the shifted world, and is a
    coin in the randomised one, so the estimand P(Y = 1 | do(causes)) is the formula itself.
    """

    def draw(world: str, n: int, seed: int) -> Cohort:
        # the same patients in the two worlds that training never sees, and others in training
        first = ("train", "id", "shifted", "randomised").index(world)
        rng = np.random.default_rng((seed, first))
        cause = rng.choice([-1, 1], (n, 4))
        p = expit(slope * cause @ WEIGHTS)
        y = (rng.random(n) < p).astype(int)
        agrees = {"shifted": 0.05, "randomised": 0.5}.get(world, 0.95)
        bias = np.where(rng.random(n) < agrees, 1, -1) * (2 * y - 1)
        shown = bias[:, None] * np.where(rng.random((n, 4)) < WRONG, -1, 1)
        sign, size = rng.choice([-1, 1], (n, 4)), rng.random((n, 4, 3)) + 0.5
        in_product = np.arange(4) < hidden
        first_sign = np.where(in_product, sign * cause, cause)
        x = np.stack([first_sign, sign, shown], axis=2) * size
        return Cohort(
            x={f"m{m}": x[:, m].astype(np.float32) for m in range(4)},
            y=y,
            groups={"patient": 10**9 * (8 * seed + first) + np.arange(n)},
            truth=pd.DataFrame({"p_do": p, "bias": bias}),
        )

    return draw("train", n, seed), {
        world: draw(world, n_test, test_seed) for world in ("id", "shifted", "randomised")
    }

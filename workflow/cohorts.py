"""Cohorts by kind and options: a training part, and the worlds that a model is tried in."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit

from dfdlib.data import Cohort, phantom, synthetic
from dfdlib.data import heart as hospitals

Drawn = tuple[Cohort, dict[str, Cohort]]

#: How much each modality's cause counts in `mapped`; unlike, so that no two causes cancel.
WEIGHTS = np.array([1.5, 1.0, 1.0, 1.0])
#: A modality of `mapped` shows the spurious attribute wrong for this share, as in `preset`.
WRONG = 0.1


class Data(NamedTuple):
    """The training part, and the cohorts that a model is tried on, by name."""

    train: Cohort
    worlds: dict[str, Cohort]
    seed: int


def draw(kind: str, *, seed: int, **options: Any) -> Data:
    """Draw what a job trains and tries its models on, with one seed."""
    train, worlds = globals()[kind](seed=seed, **options)
    return Data(train, worlds, seed)


def preset(
    *,
    preset: str,
    n: int,
    n_test: int,
    test_seed: int,
    worlds: list[str],
    seed: int,
    **options: Any,
) -> Drawn:
    """A preset of the synthetic cohorts; its test patients are the same for every seed."""
    given = synthetic.PRESETS[preset] | options
    tests = {world: _synthetic(n_test, test_seed, world, **given) for world in worlds}
    return synthetic.load(n=n, seed=seed, world="train", **given), tests


def heart(*, seed: int) -> Drawn:
    """The four hospitals, from which folds and hospitals are left out later."""
    del seed
    return hospitals.load(), {}


def left_out(*, site: str, seed: int) -> Drawn:
    """Three hospitals, a fifth of whose patients are held out, and the fourth."""
    others, there = hospitals.load().leave_out("site", site)
    train, held_out = others.split((0.8, 0.2), by="patient", seed=seed)
    return train, {"id": held_out, "shifted": there}


def tagged(
    *, source: str, strength: float, n: int, n_test: int, test_seed: int, worlds: list[str],
    seed: int,
) -> Drawn:  # fmt: skip
    """Give a cohort a modality of its own that agrees with the label: an injected hospital id.

    The tag is −1 or 1 and agrees with the label with probability (1 + strength) / 2. In `shifted`
    the very same patients carry the other tag, in `randomised` a coin.
    """
    if source == "heart":
        train, test = hospitals.load().split((0.7, 0.3), by="patient", seed=seed)
        seeds = (seed, test_seed + seed)
    else:
        train = synthetic.load(n=n, seed=seed, bias="none")
        test = synthetic.load(n=n_test, seed=test_seed, world="id", bias="none")
        seeds = (seed, test_seed)
    own, tag = (
        _agreeing(cohort, strength, of) for cohort, of in zip((train, test), seeds, strict=True)
    )
    coin = np.random.default_rng((test_seed, 1)).choice([-1.0, 1.0], len(test))
    tags = {"id": tag, "shifted": -tag, "randomised": coin}
    return _tag(train, own), {world: _tag(test, tags[world]) for world in worlds}


def _agreeing(cohort: Cohort, strength: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng((seed, round(100 * strength)))
    agrees = rng.random(len(cohort)) < (1 + strength) / 2
    return np.where(agrees, 1, -1) * (2 * cohort.y.numpy() - 1)


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


def mapped(
    *, slope: float, hidden: int, n: int, n_test: int, test_seed: int, worlds: list[str], seed: int
) -> Drawn:
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

    return draw("train", n, seed), {world: draw(world, n_test, test_seed) for world in worlds}


def pictures(*, n_train: int, n_test: int, size: int, test_seed: int, seed: int) -> Drawn:
    """The X-ray phantom; its test patients are the same for every seed."""
    test = phantom.load(n=n_test, size=size, world="id", seed=test_seed)
    return phantom.load(n=n_train, size=size, world="train", seed=seed), {"id": test}


@cache
def _synthetic(n: int, seed: int, world: str, **options: Any) -> Cohort:
    return synthetic.load(n=n, seed=seed, world=world, **options)

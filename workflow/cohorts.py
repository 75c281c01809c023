"""Cohorts by kind and options: a training part, and the worlds that a model is tried in."""

from functools import cache
from typing import Any, NamedTuple

from dfdlib.data import Cohort, phantom, synthetic
from dfdlib.data import heart as hospitals


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
) -> tuple[Cohort, dict[str, Cohort]]:
    """A preset of the synthetic cohorts; its test patients are the same for every seed."""
    given = synthetic.PRESETS[preset] | options
    tests = {world: _synthetic(n_test, test_seed, world, **given) for world in worlds}
    return synthetic.load(n=n, seed=seed, world="train", **given), tests


def heart(*, seed: int) -> tuple[Cohort, dict[str, Cohort]]:
    """The four hospitals, from which folds and hospitals are left out later."""
    del seed
    return hospitals.load(), {}


def pictures(
    *, n_train: int, n_test: int, size: int, test_seed: int, seed: int
) -> tuple[Cohort, dict[str, Cohort]]:
    """The X-ray phantom; its test patients are the same for every seed."""
    test = phantom.load(n=n_test, size=size, world="id", seed=test_seed)
    return phantom.load(n=n_train, size=size, world="train", seed=seed), {"id": test}


@cache
def _synthetic(n: int, seed: int, world: str, **options: Any) -> Cohort:
    return synthetic.load(n=n, seed=seed, world=world, **options)

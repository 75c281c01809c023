"""What a grid reads off cohorts and models: one module per kind, each measure a function by name.

A module of a recipe has `plan(recipe, setting)`, which says what a job trains and measures. A
measure of a cohort takes the `Data` of a job, one of a model the model too; either gives what JSON
can hold.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

MEASURES: dict[str, Callable[..., Any]] = {}


class Plan(NamedTuple):
    """What a job does: a cohort, methods that are trained on it, and measures by name.

    `cohort` is what `cohorts.draw` takes; `methods` and `training` are what `methods.train` takes;
    `measures` (of each model), `also` (of one method more) and `of_cohort` hold their options.
    """

    cohort: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]] = {}
    training: Mapping[str, Any] = {}
    measures: Mapping[str, Mapping[str, Any]] = {}
    also: Mapping[str, Mapping[str, Mapping[str, Any]]] = {}
    of_cohort: Mapping[str, Mapping[str, Any]] = {}


def measure(function: Callable[..., Any]) -> Callable[..., Any]:
    """Enter a function among the measures, by its name."""
    MEASURES[function.__name__] = function
    return function


def tests(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What recipes on synthetic patients say of the test patients."""
    return {key: recipe[key] for key in ("n_test", "test_seed", "worlds")}


def training(recipe: Mapping[str, Any], backbone: str, **changed: Any) -> dict[str, Any]:
    """What `methods.train` takes, from a recipe: its `network` may hold all of it."""
    network = dict(recipe["network"])
    given = {key: network.pop(key) for key in ("lr", "weight_decay")}
    for key in ("epochs", "batch_size"):
        given[key] = network.pop(key) if key in network else recipe[key]
    return {"backbone": backbone, "network": network} | given | changed

"""The routes by strength of the mechanism: a result per mechanism and route, a slope."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from collect import Record, complete, judged
from measures.routes import routes
from recipes import Recipe

from answers.routes import NAIVE, SHARED, claim_of, difference, in_world, intervals, scored
from dfdlib.data.synthetic import ESTIMAND

UNRELATED = "mcar"  # what every mechanism is at strength 0


def answers(recipe: Recipe, records: list[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write one result per mechanism and route."""
    backbone, strengths = recipe["backbone"], recipe["strengths"]
    for preset in recipe["presets"]:
        tables = {}
        for strength in strengths:
            where: dict[str, Any] = {"preset": preset, "strength": strength}
            if strength in (0, 1):
                where = {"preset": preset if strength else UNRELATED, "family": backbone}
            tables[strength] = scored(complete(records, recipe["seeds"], **where))
        gains = {
            world: np.array(
                [
                    [difference({backbone: t}, backbone, name, world) for t in tables.values()]
                    for name in recipe["routes"]
                ]
            )
            for world in recipe["worlds"]
        }  # of each world: routes × strengths × seeds
        # least squares over the strengths: (routes, strengths, seeds) to (routes, seeds)
        slopes = [np.polyfit(strengths, gain, 1)[0] for gain in gains[recipe["world"]]]
        rows = intervals(recipe, slopes)
        for k, name in enumerate(recipe["routes"]):
            by_strength = {
                f"{strength:g}": {
                    world: in_world(
                        recipe, table, table, name, world, intervals(recipe, each[:, j]).iloc[k]
                    )
                    for world, each in gains.items()
                }
                for j, (strength, table) in enumerate(tables.items())
            }
            gain = (
                "the oracle's AUROC minus that of the naive network (how far missingness biases it)"
                if name == NAIVE
                else "AUROC minus that of the naive network on the same backbone"
            )
            parameters = {key: recipe[key] for key in SHARED}
            parameters["options"] = routes(recipe, preset)[name]
            yield (
                f"{preset}-{name}",
                {
                    "claim": claim_of(name),
                    "reach": "truth",
                    "dataset": f"synthetic, {preset}, strength {strengths[0]:g} to "
                    f"{strengths[-1]:g}",
                    "method": f"{name}, {backbone}",
                    "parameters": parameters | {"strengths": by_strength},
                    "estimand": f"{ESTIMAND}; effect: slope per unit of strength of {gain}, in the "
                    f"{recipe['world']} world",
                    "margin": recipe["margin"],
                    "metric": "auroc",
                    **judged(rows.iloc[k], recipe["seeds"]),
                    "selection": "last epoch, fixed settings",
                    "command": "make results",
                },
            )

"""The deconfounding grid: a result per preset and method, its gain over the naive network."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from collect import Record, complete, judged
from measures.routes import CEILING, FLOOR, TABLES, routes
from recipes import Recipe

from dfdlib.data.synthetic import ESTIMAND
from dfdlib.evaluation.compare import paired_intervals

SHARED = ("network", "n_train", "n_test", "test_seed", "alpha")
NAIVE = "naive"
#: What each method, and each oracle, scored by seed, with one family of methods.
Answers = pd.DataFrame


def answers(recipe: Recipe, records: list[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write one result per preset and method."""
    for preset in recipe["presets"]:
        families = {
            family: scored(complete(records, recipe["seeds"], preset=preset, family=family))
            for family in (*recipe["backbones"], TABLES)
        }
        lines = [
            (family, name)
            for family, table in families.items()
            for name in table
            if name not in (CEILING, FLOOR, "recovered")
        ]
        effects = {
            world: intervals(recipe, [difference(families, *line, world) for line in lines])
            for world in recipe["worlds"]
        }
        for k, line in enumerate(lines):
            by_world = {world: table.iloc[k] for world, table in effects.items()}
            yield _result(recipe, preset, families, *line, by_world)


def scored(runs: list[Record]) -> Answers:
    """A row per run, a column per method and oracle, each cell its scores by world."""
    rows = []
    for run in runs:
        methods = run["values"]["methods"]
        row = run["values"]["cohort"]["oracle_truth"] | {m: v["truth"] for m, v in methods.items()}
        for measured in methods.values():
            if "recovered" in measured:
                row["recovered"] = measured["recovered"]
        rows.append(row)
    return pd.DataFrame(rows)


def claim_of(name: str) -> str:
    """The claim that a route answers."""
    return "missingness-substitute" if name == "substitute" else "missingness-bias"


def auroc(table: Answers, name: str, world: str) -> np.ndarray:
    """AUROC of a method by seed."""
    return np.array([cell[world]["auroc"] for cell in table[name]])


def naive_of(families: dict[str, Answers], family: str) -> Answers:
    """The family with the naive network that a method is compared with."""
    return families["GRAPE" if family == TABLES else family]


def difference(families: dict[str, Answers], family: str, name: str, world: str) -> np.ndarray:
    """Per seed: what a method gains on the naive network; of the latter, what it lacks."""
    table, naive = families[family], naive_of(families, family)
    if name == NAIVE:
        return auroc(table, CEILING, world) - auroc(table, name, world)
    return auroc(table, name, world) - auroc(naive, NAIVE, world)


def intervals(recipe: Recipe, each: Any) -> pd.DataFrame:
    """Paired intervals over the seeds, at Holm's levels over the methods."""
    settings = {key: recipe[key] for key in ("margin", "alpha")}
    return paired_intervals(np.array(each), metric="auroc", **settings)


def in_world(
    recipe: Recipe, table: Answers, naive: Answers, name: str, world: str, effect: pd.Series
) -> dict[str, Any]:
    """What a result says of one world."""
    ours, plain = auroc(table, name, world), auroc(naive, NAIVE, world)
    ceiling = auroc(table, CEILING, world)[0]
    gap = ceiling - plain.mean()
    closed = float((ours.mean() - plain.mean()) / gap) if gap > recipe["margin"] else np.nan
    return {
        "auroc": ours.tolist(),
        "distance": [cell[world]["distance"] for cell in table[name]],
        "naive": plain.tolist(),
        "oracle": ceiling,
        "best observational": auroc(table, FLOOR, world)[0],
        **effect.drop("each").to_dict(),
        "gap_closed": closed,  # NaN where there is no gap
    }


def _result(
    recipe: Recipe,
    preset: str,
    families: dict[str, Answers],
    family: str,
    name: str,
    effects: dict[str, pd.Series],
) -> tuple[str, dict[str, Any]]:
    table, naive, world = families[family], naive_of(families, family), recipe["world"]
    worlds = {w: in_world(recipe, table, naive, name, w, row) for w, row in effects.items()}
    parameters = {key: recipe[key] for key in SHARED}
    parameters |= {"options": routes(recipe, preset).get(name, {}), "worlds": worlds}
    if name == "substitute":
        parameters["confounder"] = table["recovered"].tolist()
    gain = (
        "the oracle's AUROC minus that of the naive network: how far missingness biases it"
        if name == NAIVE
        else "AUROC minus that of the naive network"
        + (" (GRAPE)" if family == TABLES else " on the same backbone")
    )
    shown = name if family == TABLES else f"{name}, {family}"
    return f"{preset}-{shown}", {
        "claim": claim_of(name),
        "reach": "truth",
        "dataset": f"synthetic, {preset}",
        "method": shown,
        "parameters": parameters,
        "estimand": f"{ESTIMAND}; effect: {gain}, in the {world} world",
        "margin": recipe["margin"],
        "metric": "auroc",
        **judged(effects[world], recipe["seeds"]),
        "selection": "fixed settings" if family == TABLES else "last epoch, fixed settings",
        "command": "make results",
    }

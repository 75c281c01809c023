"""A bounded search for a form of DFD that needs neither hospital nor bias label."""

import json
from typing import Any

import numpy as np
import pandas as pd
from recipes import ROOT, Recipe, Setting

import measures.scores  # noqa: F401  # enters its measures
from measures import Plan, training

WORLDS = ["id", "shifted", "randomised"]
#: The number of the configuration that the recipe's rule picks, tried again on fresh seeds.
PICKED = "picked"


def plan(recipe: Recipe, setting: Setting) -> Plan:
    """Try one configuration, and ERM beside it."""
    number, tests = setting["number"], {"test_seed": recipe["tuning_test_seed"]}
    if number == PICKED:
        number, tests = chosen(recipe)[0], {"test_seed": recipe["test_seed"]}
    tests |= {"n_test": recipe["n_test"], "worlds": WORLDS}
    return Plan(
        cohort={"kind": "preset", "preset": setting["data"], "n": recipe["n"], **tests},
        methods={"ERM": {"class": "Classifier"}, "tried": method(recipe, number)},
        training=training(recipe, "GRAPE"),
        measures={"auroc": {"rules": recipe["rules"]}},
        of_cohort={"oracles": {"columns": {"oracle": "p_do"}}},
    )


def seeds(recipe: Recipe, setting: Setting) -> list[int]:
    """Fresh seeds for what was picked."""
    return recipe["seeds" if setting["number"] == PICKED else "tuning_seeds"]


def configuration(recipe: Recipe, number: int) -> dict[str, Any]:
    """One value of each, drawn for this number."""
    rng = np.random.default_rng((recipe["draw_seed"], number))
    return {key: values[rng.integers(len(values))] for key, values in recipe["space"].items()}


def method(recipe: Recipe, number: int) -> dict[str, Any]:
    """A configuration as a method."""
    options = configuration(recipe, number)
    kind = "BiasOnly" if options.pop("bias_only") else "DFD"
    first, clean = options.pop("first"), options.pop("clean_start")
    warm = {"mi_weight": 0, "swap_weight": 0} | ({"causal_weight": 0} if clean else {})
    epochs = [first, recipe["epochs"] - first]
    return {"class": kind, "options": options, "warm": warm, "epochs": epochs}


def chosen(recipe: Recipe) -> tuple[int, str]:
    """What the rule picks from the records of all configurations; without them, what is stored."""
    if "after" in recipe:
        return pick(recipe, recipe["after"])
    path = ROOT / "results" / recipe["experiment"] / f"{recipe['data'][0]}.json"
    stored = json.loads(path.read_text("utf-8"))["parameters"]
    return stored["number"], stored["rule"]


def table(recipe: Recipe, records: list[dict[str, Any]]) -> pd.DataFrame:
    """Share of the gap closed, and whether the score in distribution is kept, by cohort."""
    lines = []
    for record in records:
        methods = record["values"]["methods"]
        oracle = record["values"]["cohort"]["oracles"]["oracle"]
        erm, where = methods["ERM"]["auroc"]["own"], record["setting"]
        for rule in recipe["rules"]:
            tried = methods["tried"]["auroc"][rule]
            gained, gap = (x["shifted"] - erm["shifted"] for x in (tried, oracle))
            below = oracle["id"] - tried["id"]
            lines.append({**where, "rule": rule, "closed": gained / gap, "below": below})
    return pd.DataFrame(lines).groupby(["number", "rule", "data"]).mean().unstack("data")


def pick(recipe: Recipe, records: list[dict[str, Any]]) -> tuple[int, str]:
    """The configuration and rule that the recipe's rule picks."""
    found = table(recipe, records)
    kept = (found["below"] <= recipe["kept"]).all(axis=1)
    closed = found["closed"].mean(axis=1)
    number, rule = closed[kept if kept.any() else slice(None)].idxmax()
    return int(number), str(rule)

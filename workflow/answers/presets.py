"""The frozen presets of synthetic cohorts: their hash, and the scores of oracles and ERM."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
from collect import Record, complete
from measures.routes import CEILING, FLOOR
from recipes import Recipe
from scipy import stats

from answers.routes import NAIVE, Answers, auroc, scored
from dfdlib.data import synthetic, synthetic_model
from dfdlib.evaluation.results import commit, versions

CONSTANTS = (
    *("MODALITIES", "SITES", "SEVERITY", "CONFOUNDER", "AGREEMENT", "SLIP", "AVAILABILITY"),
    *("PUSH", "CASE_MIX"),
)


def fingerprint(names: Iterable[str]) -> str:
    """Hash presets with every option written out, and the constants of the model."""
    constants = {name: getattr(synthetic_model, name) for name in CONSTANTS}
    constants |= {"CARRIERS": synthetic.CARRIERS, "BLOCK": synthetic.BLOCK}
    options = {name: asdict(synthetic_model.Options(**synthetic.PRESETS[name])) for name in names}
    text = json.dumps([constants, options], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def whole(recipe: Recipe, records: list[Record]) -> dict[str, Any]:
    """One table that holds every preset."""
    presets = {}
    for name, options in synthetic.PRESETS.items():
        where = {"preset": name}
        if name not in recipe["presets"]:
            where["family"] = recipe["backbone"]
        table = scored(complete(records, recipe["seeds"], **where))
        worlds = {world: _scores(table, world) for world in recipe["worlds"]}
        presets[name] = {"hash": fingerprint([name]), "options": options, "worlds": worlds}
    return {
        **{key: recipe[key] for key in ("network", "n_train", "n_test", "test_seed", "seeds")},
        "erm": f"Classifier, {recipe['backbone']}; interval: t over the seeds, 95 %",
        "commit": commit(),
        "versions": versions(),
        "command": "make results",
        "presets": presets,
    }


def _scores(table: Answers, world: str) -> dict[str, Any]:
    erm = auroc(table, NAIVE, world)
    error = erm.std(ddof=1) / np.sqrt(len(erm))
    low, high = stats.t.interval(0.95, len(erm) - 1, erm.mean(), error)
    return {
        "p_do": auroc(table, CEILING, world)[0],
        "p_obs": auroc(table, FLOOR, world)[0],
        "erm": {
            "auroc": erm.tolist(),
            "mean": float(erm.mean()),
            "sd": float(erm.std(ddof=1)),
            "low": float(low),
            "high": float(high),
        },
    }

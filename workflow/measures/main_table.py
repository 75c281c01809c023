"""DFD's main table: methods × presets whose truth is known × sizes × backbones."""

from typing import Any

import measures.scores  # noqa: F401  # enters its measures
from measures import Plan, tests, training

ORACLES = {"oracle": "p_do", "best observational": "p_obs"}


def plan(recipe: dict[str, Any], setting: dict[str, Any]) -> Plan:
    """Train the methods of a part; keep their AUROC by rule and world."""
    n, methods = setting["n"], recipe["parts"][setting["part"]]
    by_logit = {"auroc": {"rules": recipe["rules"], "by": "logit"}}
    return Plan(
        cohort={"kind": "preset", "preset": setting["preset"], "n": n, **tests(recipe)},
        methods=methods,
        training=training(recipe, setting["backbone"], batch_size=recipe["batch_size"][n]),
        measures={"auroc": {"rules": recipe["rules"]}, "signatures": {}},
        also={name: by_logit for name, given in methods.items() if given["class"] == "DFD"},
        of_cohort={"oracles": {"columns": ORACLES}},
    )

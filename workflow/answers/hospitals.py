"""Chapter 3's hospitals: what plain training loses in the next one, by hospital and method."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from collect import Record, complete
from measures.hospitals import WAYS
from recipes import Recipe

from dfdlib.data import Cohort, heart
from dfdlib.evaluation import Report, compare, evaluate

SHARED = ("methods", "seeds", "folds", "margin", "n_boot", "network")


def answers(recipe: Recipe, records: list[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write one result per hospital and method."""
    cohort, seeds = heart.load(), recipe["seeds"]
    for method in recipe["methods"]:
        by_way = reports(cohort, complete(records, seeds, method=method), method)
        pairs = [by_way[way] for way in WAYS]
        table = compare(*pairs, n_boot=recipe["n_boot"], seed=0, margin=recipe["margin"])
        for row in table[table["group"] == "site"].to_dict("records"):
            site = str(row["level"])
            aurocs = {way: auroc(by_way[way], site) for way in WAYS}
            each = np.subtract(*aurocs.values()).tolist()
            yield (
                f"{site}-{method}",
                {
                    "claim": "distribution-bias",
                    "reach": "open",
                    "dataset": f"heart, {site}",
                    "method": f"{method}, ERM",
                    "parameters": {**{key: recipe[key] for key in SHARED}, "auroc": aurocs},
                    "estimand": "AUROC in cross-validation inside a hospital, minus AUROC there "
                    "when trained on the other three: what plain training loses in the next "
                    "hospital, without debiasing",
                    "margin": recipe["margin"],
                    "seeds": seeds,
                    "metric": "auroc",
                    "runs": [{"seed": s, "value": d} for s, d in zip(seeds, each, strict=True)],
                    "effect": row["difference"],
                    "low": row["low_holm"],
                    "high": row["high_holm"],
                    "verdict": row["verdict"],
                    "selection": "lowest validation loss"
                    if method in recipe["backbones"]
                    else "fixed settings",
                    "command": "make results",
                },
            )


def reports(cohort: Cohort, runs: list[Record], method: str) -> dict[str, list[Report]]:
    """Of either way, a report per seed."""
    by_way: dict[str, list[Report]] = {way: [] for way in WAYS}
    for run in runs:
        if run["values"]["cohort"]["patients"] != cohort.groups["patient"].tolist():
            raise ValueError("the runs are of other patients. Delete them, and run again")
        for way, p in run["values"]["methods"][method]["crossed"].items():
            by_way[way].append(evaluate(np.array(p), cohort, by="site", n_boot=0))
    return by_way


def auroc(of_seeds: list[Report], site: str) -> list[float]:
    """AUROC in a hospital, by seed."""
    return [
        float(report.frame.set_index(["metric", "level"]).loc[("auroc", site), "value"])
        for report in of_seeds
    ]

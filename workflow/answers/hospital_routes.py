"""The routes of deconfounding on the four hospitals, where nobody knows the truth."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from collect import Record, complete
from measures.hospitals import WAYS
from recipes import Recipe

from answers.hospitals import auroc, reports
from answers.routes import NAIVE, claim_of
from dfdlib.data import Cohort, heart
from dfdlib.evaluation import compare

OWN, NEXT = WAYS
ESTIMAND = (
    "prediction of disease in a hospital that training never saw; effect: AUROC minus that of the "
    "naive network on the same patients. Nobody knows the truth here: a difference in AUROC in the "
    "next hospital is all that can be seen, and it does not say whether confounding was removed"
)


def answers(recipe: Recipe, records: list[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write one result per hospital and route."""
    cohort, seeds = heart.load(), recipe["seeds"]
    by_route = {
        route: reports(cohort, complete(records, seeds, route=route), route)
        for route in recipe["routes"]
    }
    settings = {key: recipe[key] for key in ("n_boot", "margin", "alpha")}
    for route in [name for name in by_route if name != NAIVE]:
        tables = {
            way: compare(by_route[route][way], by_route[NAIVE][way], **settings).set_index("level")
            for way in WAYS
        }
        for site in np.unique(cohort.groups["site"]):
            here = cohort.groups["site"] == site
            ill = int(cohort.y[here].sum())
            patients = {"ill": ill, "healthy": int(here.sum()) - ill}
            few = min(patients.values()) < recipe["min_class"]
            rows = {way: _judged(table.loc[site], few) for way, table in tables.items()}
            scores = {
                way: {name: auroc(by_route[name][way], site) for name in (route, NAIVE)}
                for way in WAYS
            }
            each = np.subtract(scores[NEXT][route], scores[NEXT][NAIVE]).tolist()
            yield (
                f"{site}-{route}",
                {
                    "claim": claim_of(route),
                    "reach": "open",
                    "dataset": f"heart, {site}",
                    "method": f"{route}, {recipe['backbone']}",
                    "parameters": {
                        **{key: recipe[key] for key in ("alpha", "n_boot", "min_class", "folds")},
                        "network": recipe["network"] | {"flags": recipe["flags"]},
                        "options": recipe["options"][route],
                        "auroc": scores,
                        "differences": rows,
                        "patients": patients,
                        "modalities that vary in training": {
                            OWN: _varying(cohort, here),
                            NEXT: _varying(cohort, ~here),
                        },
                    },
                    "estimand": ESTIMAND,
                    "margin": recipe["margin"],
                    "seeds": seeds,
                    "metric": "auroc",
                    "runs": [{"seed": s, "value": v} for s, v in zip(seeds, each, strict=True)],
                    **{key: rows[NEXT][key] for key in ("effect", "low", "high", "verdict")},
                    "selection": "lowest validation loss",
                    "command": "make results",
                },
            )


def _judged(row: pd.Series, few: bool) -> dict[str, Any]:
    kept = {"effect": row["difference"], "low": row["low_holm"], "high": row["high_holm"]}
    return kept | {"p_holm": row["p_holm"], "verdict": "undecided" if few else row["verdict"]}


def _varying(cohort: Cohort, rows: np.ndarray) -> list[str]:
    """The modalities that some of these patients have, and others not."""
    masks = zip(cohort.names, cohort.observed[rows].T, strict=True)
    return [name for name, there in masks if there.unique().numel() > 1]

"""The routes of deconfounding on the four hospitals, where nobody knows the truth.

    F=runs/deconfounding-heart
    python workflow/deconfounding_heart.py run --route ipw --seed 0 --out $F/ipw-0.csv
    python workflow/deconfounding_heart.py collect $F/*.csv --out results/deconfounding-heart

`run` trains one route with one seed as chapter 3 does, leaving each hospital out and inside each
hospital, and keeps each patient's probability of disease; `collect` compares the routes with the
naive network, patient by patient.
"""

from pathlib import Path
from typing import Any

import deconfounding
import jobs
import next_hospital
import numpy as np
import pandas as pd
import yaml

from dfdlib import data
from dfdlib.data import Cohort, Schema
from dfdlib.evaluation import Report, compare, out_of_fold, out_of_group, write_result
from dfdlib.files import write_whole
from dfdlib.models import Classifier, Deconfounder
from dfdlib.training import Stage, trainer

SETTINGS = yaml.safe_load((Path(__file__).parent / "deconfounding_heart.yaml").read_text("utf-8"))
GIVEN = next_hospital.SETTINGS
NETWORK = GIVEN["network"] | {"flags": SETTINGS["flags"]}
NAIVE, ROUTES, BACKBONE = "naive", SETTINGS["routes"], SETTINGS["backbone"]
OPTIONS = {name: deconfounding.SETTINGS["methods"][name] for name in (NAIVE, *ROUTES)}
OWN, NEXT = next_hospital.WAYS
ESTIMAND = (
    "prediction of disease in a hospital that training never saw; effect: AUROC minus that of the "
    "naive network on the same patients. Nobody knows the truth here: a difference in AUROC in the "
    "next hospital is all that can be seen, and it does not say whether confounding was removed"
)


def run(route: str, seed: int, out: Path) -> None:
    """Train one route with one seed in both ways; keep the probabilities."""
    cohort, options = data.load("heart"), OPTIONS[route]

    def make(schema: Schema) -> Classifier:
        return Classifier(
            backbone=next_hospital.BACKBONES[BACKBONE](d=NETWORK["d"], dropout=NETWORK["dropout"]),
            schema=schema,
            head=Deconfounder(**options) if options else None,
            dropout=NETWORK["dropout"],
            flags=NETWORK["flags"],
        )

    fit_predict = trainer(
        make,
        seed=seed,
        stages=[Stage(epochs=NETWORK["epochs"])],
        select="val_loss",
        **{key: NETWORK[key] for key in ("val", "batch_size", "lr", "weight_decay", "patience")},
    )
    frame = pd.DataFrame(
        {
            "patient": cohort.groups["patient"],
            OWN: out_of_fold(cohort, fit_predict, within="site", folds=GIVEN["folds"], seed=seed)[
                :, 1
            ],
            NEXT: out_of_group(cohort, "site", fit_predict)[:, 1],
        }
    )
    write_whole(out, frame.to_csv(index=False))


def collect(files: list[Path], out: Path) -> None:
    """Write one result per hospital and route."""
    cohort = data.load("heart")
    reports: dict[str, dict[str, list[Report]]] = {}
    for route in (NAIVE, *ROUTES):
        chosen = {
            int(f.stem.rpartition("-")[2]): f for f in files if f.stem.startswith(f"{route}-")
        }
        if sorted(chosen) != GIVEN["seeds"]:
            raise ValueError(f"{route} has seeds {sorted(chosen)}. Run all of {GIVEN['seeds']}")
        by_seed = [next_hospital._reports(cohort, pd.read_csv(chosen[s])) for s in GIVEN["seeds"]]
        reports[route] = {way: [each[way] for each in by_seed] for way in (OWN, NEXT)}
    for route in ROUTES:
        tables = {
            way: compare(
                reports[route][way],
                reports[NAIVE][way],
                **{key: SETTINGS[key] for key in ("n_boot", "margin", "alpha")},
            ).set_index("level")
            for way in (OWN, NEXT)
        }
        for site in np.unique(cohort.groups["site"]):
            rows = {way: _judged(cohort, site, table.loc[site]) for way, table in tables.items()}
            _write(out, cohort, site, route, rows, reports)


def _judged(cohort: Cohort, site: str, row: pd.Series) -> dict[str, Any]:
    found = {"effect": row["difference"], "low": row["low_holm"], "high": row["high_holm"]}
    few = min(_patients(cohort, site).values()) < SETTINGS["min_class"]
    verdict = "undecided" if few else row["verdict"]
    return found | {"p_holm": row["p_holm"], "verdict": verdict}


def _patients(cohort: Cohort, site: str) -> dict[str, int]:
    ill = int(cohort.y[cohort.groups["site"] == site].sum())
    return {"ill": ill, "healthy": int((cohort.groups["site"] == site).sum()) - ill}


def _write(
    out: Path,
    cohort: Cohort,
    site: str,
    route: str,
    rows: dict[str, dict[str, Any]],
    reports: dict[str, dict[str, list[Report]]],
) -> None:
    auroc = {
        way: {
            name: [next_hospital._auroc(report, site) for report in reports[name][way]]
            for name in (route, NAIVE)
        }
        for way in (OWN, NEXT)
    }
    here = cohort.groups["site"] == site
    varying = {
        way: [
            name
            for name, there in zip(cohort.names, cohort.observed[rows_of].T, strict=True)
            if there.unique().numel() > 1
        ]
        for way, rows_of in ((OWN, here), (NEXT, ~here))
    }
    effect = rows[NEXT]
    each = np.subtract(auroc[NEXT][route], auroc[NEXT][NAIVE]).tolist()
    write_result(
        out / f"{site}-{route}.json",
        claim=deconfounding._claim(route),
        reach="open",
        dataset=f"heart, {site}",
        method=f"{route}, {BACKBONE}",
        parameters={
            **{key: SETTINGS[key] for key in ("alpha", "n_boot", "min_class")},
            "network": NETWORK,
            "folds": GIVEN["folds"],
            "options": OPTIONS[route],
            "auroc": auroc,
            "differences": rows,
            "patients": _patients(cohort, site),
            "modalities that vary in training": varying,
        },
        estimand=ESTIMAND,
        margin=SETTINGS["margin"],
        seeds=GIVEN["seeds"],
        metric="auroc",
        runs=[{"seed": s, "value": v} for s, v in zip(GIVEN["seeds"], each, strict=True)],
        effect=effect["effect"],
        low=effect["low"],
        high=effect["high"],
        verdict=effect["verdict"],
        selection="lowest validation loss",
        command="make results",
    )


if __name__ == "__main__":
    jobs.main(
        __doc__ or "",
        run,
        collect,
        route={"required": True, "choices": [NAIVE, *ROUTES]},
        seed={"type": int, "required": True},
    )

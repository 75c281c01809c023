"""Chapter 3's seeds: every hospital predicted from the other three, and from itself.

    F=runs/next-hospital
    python workflow/next_hospital.py run --seed 0 --method GRAPE --out $F/GRAPE-0.csv
    python workflow/next_hospital.py collect $F/*.csv --out results/next-hospital

`run` trains one method with one seed and keeps each patient's probability of disease; `collect`
puts the seeds together: the AUROC of either way of training, per hospital, and their paired
difference.
"""

import argparse
from pathlib import Path

import pandas as pd
import yaml

from dfdlib import data
from dfdlib.data import Cohort
from dfdlib.evaluation import (
    Report,
    compare,
    evaluate,
    out_of_fold,
    out_of_group,
    tabular,
    write_result,
)
from dfdlib.files import slug
from dfdlib.models import GRAPE, Classifier, TokenTransformer
from dfdlib.training import Stage, trainer

SETTINGS = yaml.safe_load((Path(__file__).parent / "next_hospital.yaml").read_text("utf-8"))
BACKBONES = {"GRAPE": GRAPE, "Transformer": TokenTransformer}
WAYS = ("own hospital", "next hospital")
MARGIN = SETTINGS["margin"]


def run(method: str, seed: int, out: Path) -> None:
    """Train one method with one seed in both ways; keep the probabilities."""
    cohort = data.load("heart")
    given = SETTINGS["network"]

    def make(schema: data.Schema) -> Classifier:
        backbone = BACKBONES[method](d=given["d"], dropout=given["dropout"])
        return Classifier(
            backbone=backbone, schema=schema, dropout=given["dropout"], flags=given["flags"]
        )

    if method in BACKBONES:
        fit_predict = trainer(
            make,
            val=given["val"],
            seed=seed,
            stages=[Stage(epochs=given["epochs"])],
            batch_size=given["batch_size"],
            lr=given["lr"],
            weight_decay=given["weight_decay"],
            select="val_loss",
            patience=given["patience"],
        )
    else:
        fit_predict = tabular(method.lower(), flags=given["flags"], seed=seed)
    p_next = out_of_group(cohort, "site", fit_predict)[:, 1]
    p_own = out_of_fold(cohort, fit_predict, within="site", folds=SETTINGS["folds"], seed=seed)[
        :, 1
    ]
    frame = pd.DataFrame({"patient": cohort.groups["patient"], WAYS[0]: p_own, WAYS[1]: p_next})
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    frame.to_csv(part, index=False)
    part.rename(out)


def collect(files: list[Path], out: Path) -> None:
    """Write one result per hospital and method."""
    cohort = data.load("heart")
    runs: dict[str, dict[int, dict[str, Report]]] = {}
    for file in sorted(files):
        method, _, seed = file.stem.rpartition("-")
        runs.setdefault(method, {})[int(seed)] = _reports(cohort, pd.read_csv(file))
    for method, by_seed in runs.items():
        seeds = sorted(by_seed)
        pairs = [[by_seed[seed][way] for seed in seeds] for way in WAYS]
        table = compare(*pairs, n_boot=SETTINGS["n_boot"], seed=0, margin=MARGIN)
        for row in table[table["group"] == "site"].to_dict("records"):
            _write(out, method, row, seeds, by_seed)


def _reports(cohort: Cohort, frame: pd.DataFrame) -> dict[str, Report]:
    if frame["patient"].tolist() != cohort.groups["patient"].tolist():
        raise ValueError("the runs are of other patients. Delete runs/next-hospital and run again")
    return {way: evaluate(frame[way].to_numpy(), cohort, by="site", n_boot=0) for way in WAYS}


def _auroc(report: Report, level: str) -> float:
    frame = report.frame
    return float(frame[(frame["metric"] == "auroc") & (frame["level"] == level)]["value"].iloc[0])


def _write(
    out: Path,
    method: str,
    row: dict[str, object],
    seeds: list[int],
    by_seed: dict[int, dict[str, Report]],
) -> None:
    site = str(row["level"])
    aurocs = {way: [_auroc(by_seed[seed][way], site) for seed in seeds] for way in WAYS}
    differences = [a - b for a, b in zip(*aurocs.values(), strict=True)]
    write_result(
        out / f"{site}-{slug(method)}.json",
        claim="distribution-bias",
        reach="open",
        dataset=f"heart, {site}",
        method=f"{method}, ERM",
        parameters={**SETTINGS, "auroc": aurocs},
        estimand="AUROC in cross-validation inside a hospital, minus AUROC there when trained on "
        "the other three: what plain training loses in the next hospital, without debiasing",
        margin=MARGIN,
        seeds=seeds,
        metric="auroc",
        runs=[{"seed": s, "value": d} for s, d in zip(seeds, differences, strict=True)],
        effect=row["difference"],
        low=row["low_holm"],
        high=row["high_holm"],
        verdict=row["verdict"],
        selection="lowest validation loss" if method in BACKBONES else "fixed settings",
        command="make results",
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    one.add_argument("--method", required=True, choices=SETTINGS["methods"])
    one.add_argument("--seed", type=int, required=True)
    one.add_argument("--out", type=Path, required=True)
    one.set_defaults(action=lambda given: run(given.method, given.seed, given.out))
    both = commands.add_parser("collect")
    both.add_argument("files", type=Path, nargs="+")
    both.add_argument("--out", type=Path, required=True)
    both.set_defaults(action=lambda given: collect(given.files, given.out))
    given = parser.parse_args()
    given.action(given)


if __name__ == "__main__":
    main()

"""A bounded search for a form of DFD that needs neither hospital nor bias label.

    python workflow/search.py run --number 0 --out runs/search/0.json
    python workflow/search.py confirm runs/search/*.json --seed 0 --out runs/search/fresh-0.json
    python workflow/search.py collect runs/search/*.json --out results/label-free-search

`run` tries one configuration on the tuning seeds, `confirm` trains the one that the settings' rule
picks on a fresh seed, `collect` writes what came out.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import jobs  # noqa: F401  # it leaves the accelerator out
import numpy as np
import pandas as pd
import torch
import yaml
from sklearn.metrics import roc_auc_score
from torch import Tensor

from dfdlib import data
from dfdlib.data import Cohort
from dfdlib.data.synthetic import ESTIMAND
from dfdlib.evaluation import predict_proba, write_result
from dfdlib.evaluation.compare import paired_intervals
from dfdlib.files import write_whole
from dfdlib.models import DFD, GRAPE, Classifier, Stage
from dfdlib.training import fit

SETTINGS = yaml.safe_load((Path(__file__).parent / "search.yaml").read_text("utf-8"))
WORLDS = ("id", "shifted", "randomised")


class BiasOnly(DFD):
    """DFD whose f_b reads H_b alone, so that only its stream can carry what f_b learns."""

    def heads_read(self, h_c: Tensor, h_b: Tensor) -> tuple[Tensor, Tensor]:
        causal, bias = super().heads_read(h_c, h_b)
        return causal, torch.cat([torch.zeros_like(h_c), bias.chunk(2, dim=1)[1]], dim=1)


def configuration(number: int) -> dict[str, Any]:
    """One value of each, drawn for this number."""
    rng = np.random.default_rng((SETTINGS["draw_seed"], number))
    return {key: values[rng.integers(len(values))] for key, values in SETTINGS["space"].items()}


def train(cohort: Cohort, seed: int, given: dict[str, Any] | None) -> Classifier:
    """Train a configuration, or ERM."""
    network, epochs = SETTINGS["network"], SETTINGS["epochs"]
    net = GRAPE(d=network["d"])
    if given is None:
        model: Classifier = Classifier(backbone=net, schema=cohort.schema)
        stages = [Stage(epochs=epochs)]
    else:
        options = dict(given)
        kind = BiasOnly if options.pop("bias_only") else DFD
        first, clean = options.pop("first"), options.pop("clean_start")
        model = kind(backbone=net, schema=cohort.schema, **options)
        warm = {"mi_weight": 0, "swap_weight": 0} | ({"causal_weight": 0} if clean else {})
        stages = [Stage(epochs=first, **warm), Stage(epochs=epochs - first)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fit(
            model,
            cohort,
            stages=stages,
            batch_size=SETTINGS["batch_size"],
            lr=network["lr"],
            weight_decay=network["weight_decay"],
            seed=seed,
        )
    return model


def score(name: str, seed: int, test_seed: int, given: dict[str, Any] | None) -> dict[str, Any]:
    """AUROC of each rule in each world; without a configuration, of ERM and the oracle."""
    options = SETTINGS["data"][name]
    cohort = data.load("synthetic", n=SETTINGS["n"], seed=seed, **options)
    model = train(cohort, seed, given)
    found: dict[str, dict[str, float]] = {}
    for world in WORLDS:
        test = data.load("synthetic", n=SETTINGS["n_test"], world=world, seed=test_seed, **options)
        y = test.y.numpy()
        if given is None:
            found.setdefault("oracle", {})[world] = roc_auc_score(y, test.truth["p_do"])
        for rule in SETTINGS["rules"] if given else ["ERM"]:
            model.predict = rule
            p = predict_proba(model, test)[:, 1]
            found.setdefault(rule, {})[world] = roc_auc_score(y, p)
    return found


def run(number: int, out: Path) -> None:
    """Try one configuration, and ERM beside it, on the tuning seeds."""
    given = configuration(number)
    found = {
        f"{name}, {seed}": score(name, seed, SETTINGS["tuning_test_seed"], None)
        | score(name, seed, SETTINGS["tuning_test_seed"], given)
        for name in SETTINGS["data"]
        for seed in SETTINGS["tuning_seeds"]
    }
    record = {"number": number, "configuration": given, "scores": found}
    write_whole(out, json.dumps(record, indent=1))


def table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Share of the gap closed, and whether the score in distribution is kept, by cohort."""
    lines = []
    for record in records:
        for key, by_rule in record["scores"].items():
            erm, oracle = by_rule["ERM"], by_rule["oracle"]
            for rule in SETTINGS["rules"]:
                own = by_rule[rule]
                lines.append(
                    {
                        "number": record["number"], "rule": rule, "data": key.split(", ")[0],
                        "closed": (own["shifted"] - erm["shifted"])
                        / (oracle["shifted"] - erm["shifted"]),
                        "below": oracle["id"] - own["id"],
                    }
                )  # fmt: skip
    return pd.DataFrame(lines).groupby(["number", "rule", "data"]).mean().unstack("data")


def pick(records: list[dict[str, Any]]) -> tuple[int, str]:
    """The configuration and rule that the settings' rule picks."""
    found = table(records)
    kept = (found["below"] <= SETTINGS["kept"]).all(axis=1)
    closed = found["closed"].mean(axis=1)
    number, rule = closed[kept if kept.any() else slice(None)].idxmax()
    return int(number), str(rule)


def _tried(files: list[Path]) -> list[dict[str, Any]]:
    records = [json.loads(file.read_text("utf-8")) for file in files]
    records = [record for record in records if "number" in record]
    if len(records) != SETTINGS["configurations"]:
        raise ValueError(f"{len(records)} configurations. Run all {SETTINGS['configurations']}")
    return sorted(records, key=lambda record: record["number"])


def confirm(
    files: list[Path], seed: int, out: Path, number: int | None = None, rule: str | None = None
) -> None:
    """Train the one that was picked on a fresh seed, and ERM beside it.

    `number` and `rule` repeat it without the runs of all others.
    """
    if number is None or rule is None:
        number, rule = pick(_tried(files))
    found = {
        name: score(name, seed, SETTINGS["test_seed"], None)
        | score(name, seed, SETTINGS["test_seed"], configuration(number))
        for name in SETTINGS["data"]
    }
    record = {"seed": seed, "picked": number, "rule": rule, "scores": found}
    write_whole(out, json.dumps(record, indent=1))


def collect(files: list[Path], out: Path) -> None:
    """Write one result per cohort."""
    tried = _tried(files)
    number, rule = pick(tried)
    records = [json.loads(file.read_text("utf-8")) for file in files]
    fresh = {record["seed"]: record for record in records if "picked" in record}
    seeds = SETTINGS["seeds"]
    if sorted(fresh) != seeds:
        raise ValueError(f"fresh seeds {sorted(fresh)}. Run all of {seeds}")
    runs = [fresh[seed]["scores"] for seed in seeds]
    names = list(SETTINGS["data"])
    gains = [[r[name][rule]["shifted"] - r[name]["ERM"]["shifted"] for r in runs] for name in names]
    effects = paired_intervals(
        np.array(gains), names=names, margin=SETTINGS["margin"], alpha=SETTINGS["alpha"]
    )
    searched = table(tried)
    for name, effect in effects.iterrows():
        gap = [r[name]["oracle"]["shifted"] - r[name]["ERM"]["shifted"] for r in runs]
        each = np.divide(effect["each"], gap)
        home = np.mean([r[name][rule]["id"] - r[name]["oracle"]["id"] for r in runs])
        write_result(
            out / f"{name}.json",
            claim="distribution-bias",
            reach="truth",
            dataset=f"synthetic, {name}, {SETTINGS['n']:,} patients",
            method="best of a label-free search, GRAPE",
            parameters={
                **{key: SETTINGS[key] for key in ("space", "kept", "aim", "epochs", "network")},
                "configuration": configuration(number),
                "number": number,
                "rule": rule,
                "scores": [run[name] for run in runs],
                "gap_closed": {"each": each.tolist(), "mean": float(each.mean())},
                "searched": {
                    what: {f"{k}, {r}": value for (k, r), value in searched[what][name].items()}
                    for what in ("closed", "below")
                },
                "p_holm": effect["p_holm"],
            },
            estimand=f"{ESTIMAND}; effect: AUROC minus that of ERM in the shifted world",
            margin=SETTINGS["margin"],
            seeds=seeds,
            metric="auroc",
            runs=[{"seed": s, "value": v} for s, v in zip(seeds, effect["each"], strict=True)],
            effect=effect["effect"],
            low=effect["low"],
            high=effect["high"],
            # who turns everything around gains in the shifted world too, at home's expense
            verdict=effect["verdict"] if home >= -SETTINGS["kept"] else "did not hold",
            selection="picked on two tuning seeds, shifted worlds included; last epoch",
            device="cpu",
            command=f"python workflow/search.py confirm --number {number} --rule {rule} --seed"
            f" {seeds[0]} --out runs/one.json",
        )


def main() -> None:
    """Read the command line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    one.add_argument("--number", type=int, required=True)
    again, both = commands.add_parser("confirm"), commands.add_parser("collect")
    again.add_argument("files", type=Path, nargs="*")
    again.add_argument("--number", type=int)
    again.add_argument("--rule", choices=SETTINGS["rules"])
    both.add_argument("files", type=Path, nargs="+")
    again.add_argument("--seed", type=int, required=True)
    for command, action in ((one, run), (again, confirm), (both, collect)):
        command.add_argument("--out", type=Path, required=True)
        command.set_defaults(action=action)
    given = vars(parser.parse_args())
    given.pop("action")(**given)


if __name__ == "__main__":
    main()

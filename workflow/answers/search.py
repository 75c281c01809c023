"""The label-free search: what the configuration that was picked gains on fresh seeds."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from collect import Record, complete, judged
from measures.search import PICKED, configuration, pick, table
from recipes import Recipe, jobs

from dfdlib.data.synthetic import ESTIMAND
from dfdlib.evaluation.compare import paired_intervals


def answers(recipe: Recipe, records: list[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write one result per cohort."""
    tried = [
        run
        for setting in jobs(recipe)
        if setting["number"] != PICKED
        for run in complete(records, recipe["tuning_seeds"], **setting)
    ]
    number, rule = pick(recipe, tried)
    names, seeds = list(recipe["data"]), recipe["seeds"]
    fresh = {
        name: [
            run["values"]["cohort"]["oracles"]
            | {"ERM": run["values"]["methods"]["ERM"]["auroc"]["own"]}
            | run["values"]["methods"]["tried"]["auroc"]
            for run in complete(records, seeds, number=PICKED, data=name)
        ]
        for name in names
    }
    gains = [[r[rule]["shifted"] - r["ERM"]["shifted"] for r in fresh[name]] for name in names]
    settings = {key: recipe[key] for key in ("margin", "alpha")}
    effects = paired_intervals(np.array(gains), names=names, **settings)
    searched = table(recipe, tried)
    for name, effect in effects.iterrows():
        runs = fresh[str(name)]
        gap = [r["oracle"]["shifted"] - r["ERM"]["shifted"] for r in runs]
        each = np.divide(effect["each"], gap)
        if np.mean([r[rule]["id"] - r["oracle"]["id"] for r in runs]) < -recipe["kept"]:
            # who turns everything around gains in the shifted world too, at home's expense
            effect["verdict"] = "did not hold"
        shared = ("space", "kept", "aim", "epochs", "network")
        yield (
            str(name),
            {
                "claim": "distribution-bias",
                "reach": "truth",
                "dataset": f"synthetic, {name}, {recipe['n']:,} patients",
                "method": "best of a label-free search, GRAPE",
                "parameters": {
                    **{key: recipe[key] for key in shared},
                    "configuration": configuration(recipe, number),
                    "number": number,
                    "rule": rule,
                    "scores": runs,
                    "gap_closed": {"each": each.tolist(), "mean": float(each.mean())},
                    "searched": {
                        what: {f"{k}, {r}": value for (k, r), value in searched[what][name].items()}
                        for what in ("closed", "below")
                    },
                    "p_holm": effect["p_holm"],
                },
                "estimand": f"{ESTIMAND}; effect: AUROC minus that of ERM in the shifted world",
                "margin": recipe["margin"],
                "metric": "auroc",
                **judged(effect, seeds),
                "selection": "picked on two tuning seeds, shifted worlds included; last epoch",
                "command": f"python workflow/run.py label-free-search number={PICKED} data={name} "
                f"--seeds {seeds[0]} --out runs/one.json",
            },
        )

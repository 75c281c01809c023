"""DFD's main table: a result per preset, size, backbone and method, its gain over ERM."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pandas as pd
from collect import Record, command, complete, judged
from measures.main_table import ORACLES
from recipes import Recipe

from dfdlib.data.synthetic import ESTIMAND
from dfdlib.evaluation.compare import paired_intervals

SHARED = ("network", "epochs", "n_test", "test_seed", "alpha", "kept")


def answers(recipe: Recipe, records: list[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write one result per preset, size, backbone and method."""
    for preset, n, backbone in product(*(recipe[k] for k in ("presets", "sizes", "backbones"))):
        keys = {"preset": preset, "n": n, "backbone": backbone}
        runs = [complete(records, recipe["seeds"], **keys, part=part) for part in recipe["parts"]]
        methods = {
            name: [run["values"]["methods"][name] for run in of_part]
            for of_part, part in zip(runs, recipe["parts"].values(), strict=True)
            for name in part
        }
        oracles = [run["values"]["cohort"]["oracles"] for run in runs[0]]
        yield from _table(recipe, keys, methods, oracles)


def _lines(
    methods: dict[str, list[Any]], oracles: list[Any], seeds: list[int]
) -> dict[str, pd.DataFrame]:
    """Of each world: AUROC by line (a method, by its rule where it has several) and seed."""
    lines = {name: [oracle[name] for oracle in oracles] for name in ORACLES}
    for name, runs in methods.items():
        for rule in runs[0]["auroc"]:
            line = name if rule == "own" else f"{name}: {rule}"
            lines[line] = [run["auroc"][rule] for run in runs]
    return {
        world: pd.DataFrame(
            {line: [by_world[world] for by_world in each] for line, each in lines.items()},
            index=seeds,
        ).T.sort_index()
        for world in oracles[0]["oracle"]
    }


def _table(
    recipe: Recipe, keys: dict[str, Any], methods: dict[str, list[Any]], oracles: list[Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    seeds, preset, n = recipe["seeds"], keys["preset"], keys["n"]
    wide = _lines(methods, oracles, seeds)
    gains = {}
    for world, auroc in wide.items():
        lines = [line for line in auroc.index if line not in ORACLES]
        gain = auroc.loc[lines] - auroc.loc["ERM"]
        gain.loc["ERM"] = auroc.loc["oracle"] - auroc.loc["ERM"]
        settings = {"margin": recipe["margin"], "alpha": recipe["alpha"], "metric": "auroc"}
        gains[world] = paired_intervals(gain.to_numpy(), names=lines, **settings)
    for name, runs in methods.items():
        # the first rule stands for the method
        found = sorted(
            (line for line in lines if line.split(": ")[0] == name),
            key=lambda line: _rank(recipe, line),
        )
        rows = {
            line.partition(": ")[2] or "its own": {
                world: {
                    "auroc": wide[world].loc[line].tolist(),
                    **gains[world].loc[line].drop("each").to_dict(),
                }
                for world in wide
            }
            | _closed(recipe, wide, line)
            for line in found
        }
        effect = gains[recipe["world"]].loc[found[0]].copy()
        bounds = {o: {w: wide[w].loc[o].mean() for w in wide} for o in ORACLES}
        if name != "ERM" and wide["id"].loc[found[0]].mean() < (
            bounds["oracle"]["id"] - recipe["kept"]
        ):
            # who turns everything around gains in the shifted world too, at home's expense
            effect["verdict"] = "did not hold"
        gain_of = "oracle's AUROC minus its own" if name == "ERM" else "AUROC minus that of ERM"
        yield (
            f"{preset}-{n}-{name}-{keys['backbone']}",
            {
                "claim": "distribution-bias",
                "reach": "truth",
                "dataset": f"synthetic, {preset}, {n:,} patients",
                "method": f"{name}, {keys['backbone']}",
                "parameters": {
                    **{key: recipe[key] for key in SHARED},
                    "batch_size": recipe["batch_size"][n],
                    "given": recipe["parts"][_part(recipe, name)][name],
                    "rules": rows,
                    "bounds": bounds,
                    "signatures": [run["signatures"] for run in runs if run["signatures"]],
                },
                "estimand": f"{ESTIMAND}; effect: {gain_of} in the {recipe['world']} world",
                "margin": recipe["margin"],
                "metric": "auroc",
                **judged(effect, seeds),
                "selection": "last epoch, fixed settings",
                "command": repeats(recipe, keys, ["ERM", name]),
            },
        )


def repeats(recipe: Recipe, keys: dict[str, Any], methods: list[str]) -> str:
    """What repeats methods, with the first seed."""
    asked: dict[str, list[str]] = {}
    for name in dict.fromkeys(methods):
        asked.setdefault(_part(recipe, name), []).append(name)
    return " && ".join(
        command(recipe, {**keys, "part": part}, recipe["seeds"][0], names, out=f"one-{k}")
        for k, (part, names) in enumerate(asked.items())
    )


def _part(recipe: Recipe, method: str) -> str:
    return next(part for part, given in recipe["parts"].items() if method in given)


def _rank(recipe: Recipe, line: str) -> int:
    rule = line.partition(": ")[2]
    return recipe["rules"].index(rule) if rule else 0


def _closed(recipe: Recipe, wide: dict[str, pd.DataFrame], line: str) -> dict[str, Any]:
    """Share of the gap between ERM and the oracle under shift that is closed, seed by seed."""
    world, home = wide[recipe["world"]], wide["id"]
    share = (world.loc[line] - world.loc["ERM"]) / (world.loc["oracle"] - world.loc["ERM"])
    interval = paired_intervals(share.to_numpy(float)[None], margin=0, alpha=recipe["alpha"])
    kept = home.loc[line] >= home.loc["oracle"] - recipe["kept"]
    row = interval.iloc[0]
    return {
        "gap_closed": {
            "each": share.tolist(),
            "mean": row["effect"],
            "low": row["low"],
            "high": row["high"],
        },
        "kept": int(kept.sum()),
    }

"""Print what the candidates of a recipe's `tuning` score: how what was picked was picked.

    python workflow/tune.py main-table
    python workflow/tune.py deconfounding

Each weight is tried on the tuning seeds, on the cohorts that `tuning` names. The rule that picks
one stands in the recipe.
"""

import argparse
import os
from typing import Any

import pandas as pd
import recipes
import torch
from cohorts import draw
from measures.routes import plan as plan_of_routes
from measures.scores import auroc, oracles
from methods import train
from recipes import Recipe


def weights_of_table(recipe: Recipe) -> list[dict[str, Any]]:
    """Weights of the main table's penalties, on its first backbone and largest size."""
    given, n = recipe["tuning"], max(recipe["sizes"])
    module = recipes.module(recipe)
    setting = {"preset": given["preset"], "n": n, "backbone": recipe["backbones"][0]}
    plan = module.plan(recipe, setting | {"part": "baselines"})
    rows = []
    for seed in given["seeds"]:
        # the test patients too are of the tuning seeds
        cohort = {**plan.cohort, "test_seed": seed, "worlds": ["id", "randomised"]}
        data = draw(seed=seed, **cohort)
        below = oracles(data, columns={"oracle": "p_do"})["oracle"]["id"] - recipe["kept"]
        for name, weights in given["weights"].items():
            for weight in weights:
                method = plan.methods[name]
                options = method["options"] | {"penalty_weight": weight}
                model = train({**method, "options": options}, data, **plan.training)
                (scores,) = auroc(model, data, rules=[]).values()
                rows.append({"method": name, "weight": weight, **scores, "least": below})
    return rows


def weights_of_routes(recipe: Recipe) -> list[dict[str, Any]]:
    """Weights of a route's penalty, on every backbone."""
    given, rows = recipe["tuning"], []
    for seed in given["seeds"]:
        for family in recipe["backbones"]:
            plan = plan_of_routes(recipe, {"preset": given["preset"], "family": family})
            tests = {"n_test": given["n_test"], "test_seed": seed, "worlds": [given["world"]]}
            data = draw(seed=seed, **{**plan.cohort, **tests})
            for weight in given["weights"]:
                method = {**plan.methods[given["route"]]}
                method["head"] = {"route": given["route"], "weight": weight}
                (scores,) = auroc(train(method, data, **plan.training), data, rules=[]).values()
                rows.append({"method": family, "weight": weight, **scores})
    return rows


TUNED = {"main-table": weights_of_table, "deconfounding": weights_of_routes}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=list(TUNED))
    experiment = parser.parse_args().experiment
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    rows = TUNED[experiment](recipes.read(experiment))
    print(pd.DataFrame(rows).groupby(["method", "weight"]).mean().round(4).to_string())


if __name__ == "__main__":
    main()

"""The four hospitals: each predicted from the other three, and from itself."""

from typing import Any

from cohorts import Data
from recipes import Recipe, Setting

from dfdlib.evaluation import out_of_fold, out_of_group
from dfdlib.evaluation.predict import FitPredict
from measures import Plan, measure

WAYS = ("own hospital", "next hospital")


def plan(recipe: Recipe, setting: Setting) -> Plan:
    """Train one method, or one route, in both ways; keep each patient's probability."""
    network = recipe["network"] | {key: recipe[key] for key in ("flags",) if key in recipe}
    route = setting.get("route")
    method = setting.get("method", recipe.get("backbone"))
    options = {key: network[key] for key in ("dropout", "flags")}
    given: dict[str, Any] = {"class": "Classifier", "options": options}
    if method not in recipe["backbones"]:
        given = {"tabular": method.lower(), "flags": network["flags"]}
    elif route and recipe["options"][route]:
        given["head"] = recipe["options"][route]
    settings = ("epochs", "val", "batch_size", "lr", "weight_decay", "patience")
    return Plan(
        cohort={"kind": "heart"},
        methods={route or method: given},
        training={
            "backbone": recipe["backbones"].get(method),
            "network": {key: network[key] for key in ("d", "dropout")},
            **{key: network[key] for key in settings},
        },
        measures={"crossed": {"group": "site", "folds": recipe["folds"]}},
        of_cohort={"patients": {}},
    )


@measure
def crossed(fit_predict: FitPredict, data: Data, *, group: str, folds: int) -> dict[str, Any]:
    """Each patient's probability by either way of training."""
    within = {"within": group, "folds": folds, "seed": data.seed}
    return {
        WAYS[0]: out_of_fold(data.train, fit_predict, **within)[:, 1].tolist(),
        WAYS[1]: out_of_group(data.train, group, fit_predict)[:, 1].tolist(),
    }


@measure
def patients(data: Data) -> list[Any]:
    """Whose probabilities they are: rows of the open data that come with the package."""
    return data.train.groups["patient"].tolist()

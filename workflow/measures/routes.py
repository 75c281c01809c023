"""Routes of deconfounding × mechanisms of missingness × worlds, against the known truth."""

from typing import Any

import numpy as np
import pandas as pd
from cohorts import Data
from methods import ImputedTable
from recipes import Recipe, Setting
from sklearn.metrics import roc_auc_score

from dfdlib.data import Cohort
from dfdlib.evaluation import predict_proba
from dfdlib.models import Classifier
from measures import Plan, measure, tests, training

TABLES = "Tables"
CEILING, FLOOR = "oracle p_do", "oracle p_obs"


def plan(recipe: Recipe, setting: Setting) -> Plan:
    """Train every route of a family (a backbone, or tables) on a preset, at a strength."""
    preset = setting["preset"]
    family = setting.get("family", recipe.get("backbone"))
    strength = {"strength": setting["strength"]} if "strength" in setting else {}
    if family == TABLES:
        methods: dict[str, Any] = {
            f"{imputer} imputation, {classifier}": {
                "imputer": imputer, "classifier": classifier, "n_donors": recipe["n_donors"],
            }
            for imputer in recipe["imputers"]
            for classifier in recipe["classifiers"]
        }  # fmt: skip
    else:
        options = routes(recipe, preset)
        methods = {name: _network(recipe, options[name]) for name in recipe.get("routes", options)}
    return Plan(
        cohort={"kind": "preset", "preset": preset, "n": recipe["n_train"], **tests(recipe)}
        | strength,
        methods=methods,
        training=training(recipe, recipe["backbones"].get(family, family)),
        measures={"truth": {}},
        also={} if "routes" in recipe else {"substitute": {"recovered": {}}},
        of_cohort={"oracle_truth": {}},
    )


def routes(recipe: Recipe, preset: str) -> dict[str, dict[str, Any]]:
    """Routes and their options on a preset."""
    return recipe["methods"] | recipe["only"].get(preset, {})


def _network(recipe: Recipe, given: dict[str, Any]) -> dict[str, Any]:
    head = dict(given)
    options = {"flags": head.pop("flags", True), "dropout": recipe["network"]["dropout"]}
    return {"class": "Classifier", "options": options} | ({"head": head} if head else {})


def _scores(test: Cohort, p: np.ndarray | pd.Series) -> dict[str, float]:
    """AUROC, and the mean distance from the interventional probability."""
    p = np.asarray(p)
    distance = np.abs(p - test.truth["p_do"].to_numpy()).mean()
    return {"auroc": float(roc_auc_score(test.y.numpy(), p)), "distance": float(distance)}


@measure
def truth(model: Classifier | ImputedTable, data: Data) -> dict[str, dict[str, float]]:
    """AUROC, and distance from the truth, in each world."""
    if isinstance(model, ImputedTable):
        return {w: _scores(test, model.predict_table(test)) for w, test in data.worlds.items()}
    return {w: _scores(test, predict_proba(model, test)[:, 1]) for w, test in data.worlds.items()}


@measure
def oracle_truth(data: Data) -> dict[str, dict[str, dict[str, float]]]:
    """The same of what the generator knows."""
    return {
        name: {w: _scores(test, test.truth[name.split()[1]]) for w, test in data.worlds.items()}
        for name in (CEILING, FLOOR)
    }


@measure
def recovered(model: Classifier, data: Data) -> dict[str, Any]:
    """How well the substitute confounder tells the true one, against the best that patterns can."""
    train = data.train
    confounder = train.truth["confounder"].to_numpy() == 1
    posterior = model.head.adjustment.membership(train.observed)[:, 1].numpy()
    best = pd.Series(confounder).groupby(train.pattern).transform("mean")
    table = model.head.strata(train.names)
    there = pd.DataFrame(train.observed.numpy(), columns=train.names)
    return {
        "auroc": float(roc_auc_score(confounder, posterior)),
        "auroc of the best": float(roc_auc_score(confounder, best)),
        "share": table["share"].tolist(),
        "availability": table.drop(columns="share").to_dict("list"),
        "true availability": there.groupby(confounder).mean().to_dict("list"),
    }

"""The deconfounding grid: routes × mechanisms of missingness × worlds, against the known truth.

    F=runs/deconfounding
    python workflow/deconfounding.py run --preset mcar --family GRAPE --seed 0 --out $F/a.json
    python workflow/deconfounding.py collect $F/*.json --out results/deconfounding
    python workflow/deconfounding.py tune

`run` trains every method of a family (a backbone, or tables) with one seed and keeps its scores in
each world; `collect` puts the seeds together; `tune` repeats how the penalty's weight was picked.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dfdlib import data
from dfdlib.data import Cohort
from dfdlib.data.synthetic import ESTIMAND, PRESETS
from dfdlib.evaluation import predict_proba, write_result
from dfdlib.evaluation.compare import paired_intervals
from dfdlib.files import slug, write_whole
from dfdlib.models import GRAPE, Classifier, Deconfounder, TokenTransformer
from dfdlib.training import Stage, fit

SETTINGS = yaml.safe_load((Path(__file__).parent / "deconfounding.yaml").read_text("utf-8"))
BACKBONES = {"GRAPE": GRAPE, "Transformer": TokenTransformer}
TABLES = "Tables"
CEILING, FLOOR = "oracle p_do", "oracle p_obs"


def methods(preset: str) -> dict[str, dict[str, Any]]:
    """Routes and their options on a preset."""
    return SETTINGS["methods"] | SETTINGS["only"].get(preset, {})


def run(preset: str, family: str, seed: int, out: Path) -> None:
    """Train every method of a family with one seed; keep AUROC and distance from the truth."""
    train = _load(preset, "train", SETTINGS["n_train"], seed)
    tests = {
        world: _load(preset, world, SETTINGS["n_test"], SETTINGS["test_seed"])
        for world in SETTINGS["worlds"]
    }
    if family == TABLES:
        answers = _tables(train, tests)
    else:
        answers = _networks(preset, family, seed, train, tests)
    record: dict[str, Any] = {"preset": preset, "family": family, "seed": seed}
    oracles = {
        name: {world: _scores(test, test.truth[name.split()[1]]) for world, test in tests.items()}
        for name in (CEILING, FLOOR)
    }
    write_whole(out, json.dumps(record | oracles | answers, indent=1))


def _load(preset: str, world: str, n: int, seed: int) -> Cohort:
    return data.load("synthetic", n=n, world=world, seed=seed, **PRESETS[preset])


def _scores(test: Cohort, p: np.ndarray | pd.Series) -> dict[str, float]:
    """AUROC, and the mean distance from the interventional probability."""
    p = np.asarray(p)
    distance = np.abs(p - test.truth["p_do"].to_numpy()).mean()
    return {"auroc": float(roc_auc_score(test.y.numpy(), p)), "distance": float(distance)}


def network(backbone: str, train: Cohort, seed: int, given: dict[str, Any]) -> Classifier:
    """Train one network."""
    options, settings = dict(given), SETTINGS["network"]
    flags = options.pop("flags", True)
    model = Classifier(
        backbone=BACKBONES[backbone](d=settings["d"], dropout=settings["dropout"]),
        schema=train.schema,
        head=Deconfounder(**options) if options else None,
        flags=flags,
        dropout=settings["dropout"],
    )
    keep = ("batch_size", "lr", "weight_decay")
    stages = [Stage(epochs=settings["epochs"])]
    fit(model, train, stages=stages, seed=seed, **{name: settings[name] for name in keep})
    return model


def _networks(
    preset: str, family: str, seed: int, train: Cohort, tests: dict[str, Cohort]
) -> dict[str, dict[str, Any]]:
    answers = {}
    for name, options in methods(preset).items():
        model = network(family, train, seed, options)
        answers[name] = {w: _scores(t, predict_proba(model, t)[:, 1]) for w, t in tests.items()}
        if name == "substitute":
            answers[name]["confounder"] = _recovery(model, train)
    return answers


def _recovery(model: Classifier, train: Cohort) -> dict[str, Any]:
    """How well the substitute confounder tells the true one, against the best that patterns can."""
    confounder = train.truth["confounder"].to_numpy() == 1
    posterior = model.head.adjustment.membership(train.observed)[:, 1].numpy()
    best = pd.Series(confounder).groupby(train.pattern).transform("mean")
    table = model.head.strata(train.names)
    return {
        "auroc": float(roc_auc_score(confounder, posterior)),
        "auroc of the best": float(roc_auc_score(confounder, best)),
        "share": table["share"].tolist(),
        "availability": table.drop(columns="share").to_dict("list"),
        "true availability": pd.DataFrame(train.observed.numpy(), columns=train.names)
        .groupby(confounder)
        .mean()
        .to_dict("list"),
    }


def _tables(train: Cohort, tests: dict[str, Cohort]) -> dict[str, dict[str, Any]]:
    imputers = {
        "mean": SimpleImputer(),
        "KNN": KNNImputer(n_neighbors=20),
        "iterative": IterativeImputer(max_iter=5, random_state=0),
    }
    answers = {}
    for name in SETTINGS["imputers"]:
        imputer = imputers[name]
        table = train.to_frame().to_numpy()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Early stopping criterion", UserWarning)
            imputer.fit(table[: SETTINGS["n_donors"]] if name == "KNN" else table)
        x = imputer.transform(table)
        worlds = {w: imputer.transform(t.to_frame().to_numpy()) for w, t in tests.items()}
        for kind in SETTINGS["classifiers"]:
            model = {
                "logistic regression": make_pipeline(StandardScaler(), LogisticRegression()),
                "gradient boosting": HistGradientBoostingClassifier(random_state=0),
            }[kind].fit(x, train.y.numpy())
            answers[f"{name} imputation, {kind}"] = {
                w: _scores(tests[w], model.predict_proba(z)[:, 1]) for w, z in worlds.items()
            }
    return answers


def collect(files: list[Path], out: Path) -> None:
    """Write one result per preset and method."""
    frame = pd.DataFrame([_rows(json.loads(f.read_text("utf-8"))) for f in sorted(files)])
    for preset, part in frame.groupby("preset"):
        families = {f: p.set_index("seed")["answers"] for f, p in part.groupby("family")}
        _write_preset(out, str(preset), {f: families[f].sort_index() for f in families})


def _rows(record: dict[str, Any]) -> dict[str, Any]:
    keys = ("preset", "family", "seed")
    return {k: record[k] for k in keys} | {
        "answers": {k: v for k, v in record.items() if k not in keys}
    }


def _write_preset(out: Path, preset: str, families: dict[str, pd.Series]) -> None:
    seeds = SETTINGS["seeds"]
    for family, answers in families.items():
        if answers.index.tolist() != seeds:
            raise ValueError(f"{preset}, {family} has seeds {answers.index.tolist()}. Run all")
    lines = [
        {"family": family, "name": name, "claim": _claim(name)}
        for family, answers in families.items()
        for name in answers.iloc[0]
        if name not in (CEILING, FLOOR)
    ]
    effects = {}
    for world in SETTINGS["worlds"]:
        each = np.array([_difference(families, line, world) for line in lines])
        effects[world] = intervals(each)
    for k, line in enumerate(lines):
        _write(out, preset, families, line, {w: e.iloc[k] for w, e in effects.items()})


def _claim(name: str) -> str:
    return "missingness-substitute" if name == "substitute" else "missingness-bias"


def _auroc(answers: pd.Series, name: str, world: str) -> np.ndarray:
    return np.array([answer[name][world]["auroc"] for answer in answers])


def _naive(families: dict[str, pd.Series], family: str) -> pd.Series:
    return families["GRAPE" if family == TABLES else family]


def _difference(families: dict[str, pd.Series], line: dict[str, str], world: str) -> list[float]:
    """Per seed: what a method gains on the naive network; of the latter, what it lacks."""
    answers, name = families[line["family"]], line["name"]
    own = _auroc(answers, name, world)
    if name == "naive":
        return (_auroc(answers, CEILING, world) - own).tolist()
    return (own - _auroc(_naive(families, line["family"]), "naive", world)).tolist()


def intervals(each: np.ndarray) -> pd.DataFrame:
    """Paired intervals over the seeds, at Holm's levels over the methods."""
    return paired_intervals(
        each, margin=SETTINGS["margin"], alpha=SETTINGS["alpha"], metric="auroc"
    )


def _write(
    out: Path,
    preset: str,
    families: dict[str, pd.Series],
    line: dict[str, str],
    effects: dict[str, pd.Series],
) -> None:
    family, name = line["family"], line["name"]
    answers, naive, world = families[family], _naive(families, family), SETTINGS["world"]
    worlds = {}
    for w, effect in effects.items():
        stored = {
            key: [answer[name][w][key] for answer in answers] for key in ("auroc", "distance")
        }
        ceiling = _auroc(answers, CEILING, w)[0]
        plain = _auroc(naive, "naive", w)
        worlds[w] = {
            **stored,
            "naive": plain.tolist(),
            "oracle": ceiling,
            "best observational": _auroc(answers, FLOOR, w)[0],
            **effect.drop("each").to_dict(),
            "gap_closed": _gap_closed(
                np.array(stored["auroc"]), _auroc(naive, "naive", w), ceiling
            ),
        }
    parameters = {
        **{k: SETTINGS[k] for k in ("network", "n_train", "n_test", "test_seed", "alpha")},
        "options": methods(preset).get(name, {}),
        "worlds": worlds,
    }
    if name == "substitute":
        parameters["confounder"] = [answer[name]["confounder"] for answer in answers]
    gain = (
        "the oracle's AUROC minus that of the naive network: how far missingness biases it"
        if name == "naive"
        else "AUROC minus that of the naive network"
        + (" (GRAPE)" if family == TABLES else " on the same backbone")
    )
    shown = name if family == TABLES else f"{name}, {family}"
    effect = effects[world]
    write_result(
        out / f"{preset}-{slug(shown)}.json",
        claim=line["claim"],
        reach="truth",
        dataset=f"synthetic, {preset}",
        method=shown,
        parameters=parameters,
        estimand=f"{ESTIMAND}; effect: {gain}, in the {world} world",
        margin=SETTINGS["margin"],
        seeds=SETTINGS["seeds"],
        metric="auroc",
        runs=[
            {"seed": s, "value": v} for s, v in zip(SETTINGS["seeds"], effect["each"], strict=True)
        ],
        effect=effect["effect"],
        low=effect["low"],
        high=effect["high"],
        verdict=effect["verdict"],
        selection="last epoch, fixed settings" if family != TABLES else "fixed settings",
        device="cpu",
        command="make results",
    )


def _gap_closed(own: np.ndarray, naive: np.ndarray, ceiling: float) -> float:
    """Share of the mean gap between naive and oracle that is closed; NaN where there is none."""
    gap = ceiling - naive.mean()
    return float((own.mean() - naive.mean()) / gap) if gap > SETTINGS["margin"] else np.nan


def tune() -> None:
    """Print the mean AUROC of each weight of the penalty, as `tuning` in the settings says."""
    given = SETTINGS["tuning"]
    rows = []
    for seed in given["seeds"]:
        train = _load(given["preset"], "train", SETTINGS["n_train"], seed)
        test = _load(given["preset"], given["world"], given["n_test"], seed)
        for backbone in SETTINGS["backbones"]:
            for weight in given["weights"]:
                options = {"route": given["route"], "weight": weight}
                model = network(backbone, train, seed, options)
                auroc = _scores(test, predict_proba(model, test)[:, 1])["auroc"]
                rows.append({"weight": weight, "backbone": backbone, "auroc": auroc})
    print(pd.DataFrame(rows).pivot_table("auroc", "weight", "backbone", margins=True).round(4))


def main() -> None:
    """Read the command line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    one.add_argument("--preset", required=True, choices=SETTINGS["presets"])
    one.add_argument("--family", required=True, choices=[*BACKBONES, TABLES])
    one.add_argument("--seed", type=int, required=True)
    one.add_argument("--out", type=Path, required=True)
    one.set_defaults(action=lambda given: run(given.preset, given.family, given.seed, given.out))
    both = commands.add_parser("collect")
    both.add_argument("files", type=Path, nargs="+")
    both.add_argument("--out", type=Path, required=True)
    both.set_defaults(action=lambda given: collect(given.files, given.out))
    commands.add_parser("tune").set_defaults(action=lambda _: tune())
    given = parser.parse_args()
    given.action(given)


if __name__ == "__main__":
    main()

r"""The open demo of eICU: how well death is predicted, and what deconfounding and DFD change.

    dfdlib data download eicu-demo --out DEMO; export EICU_DEMO=DEMO; F=runs/eicu-demo
    python workflow/eicu_demo.py run --part GRAPE --seed 0 --out $F/GRAPE-0.npz
    python workflow/eicu_demo.py collect $F/*.npz --out results/eicu-demo

`run` trains the methods of one part of eicu_demo.yaml with one seed and keeps the probabilities of
all stays; `collect` scores and compares them. Only aggregates leave, and no count under 10.
"""

import io
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eicu_demo_data
import jobs
import numpy as np
import pandas as pd
import torch
import yaml

from dfdlib import models
from dfdlib.data import Cohort, flatten
from dfdlib.evaluation import (
    compare,
    evaluate,
    out_of_fold,
    out_of_group,
    predict_proba,
    tabular,
    write_result,
)
from dfdlib.evaluation.bootstrap import METRICS, WeightedMetrics, bootstrap, interval
from dfdlib.evaluation.compare import verdict
from dfdlib.evaluation.results import versions
from dfdlib.files import slug, write_whole
from dfdlib.models import DFD, Classifier, Deconfounder, Stage
from dfdlib.training import fit

ROOT = Path(os.environ.get("EICU_DEMO", "../shared/data/eicu_demo"))
SETTINGS = yaml.safe_load((Path(__file__).parent / "eicu_demo.yaml").read_text("utf-8"))
PARTS, METHODS, SEEDS = SETTINGS["parts"], SETTINGS["methods"], SETTINGS["seeds"]
BOOSTING, NONE, NETWORK = "gradient boosting", "none", SETTINGS["network"]
SHARED = ("folds", "alpha", "n_boot", "died_in", "codes", "network", "epochs", "training")
WAYS = {
    "folds": "inside the demo, by folds of patients",
    "regions": "in a region that training never saw, pooled over the regions",
}
Scores = dict[str, np.ndarray]


def cohort_of(part: str) -> tuple[Cohort, pd.DataFrame]:
    """The cohort of a part, and its flow."""
    given = PARTS[part]
    cohort, flow = eicu_demo_data.load(
        ROOT, SETTINGS["died_in"], **SETTINGS["cohorts"][given["cohort"]]
    )
    return (eicu_demo_data.in_one_region(cohort) if given["way"] == "regions" else cohort), flow


def run(part: str, seed: int, out: Path) -> None:
    """Train the methods of a part with one seed; keep probabilities by method and rule."""
    cohort, _ = cohort_of(part)
    found: Scores = {}
    for method in PARTS[part]["methods"]:
        kept: Scores = {}
        predict = _trained(part, method, seed, kept, n=int(cohort.groups["row"].max()) + 1)
        if PARTS[part]["way"] == "regions":
            out_of_group(cohort, "region", predict)
        else:
            out_of_fold(cohort, predict, folds=SETTINGS["folds"], seed=seed)
        rows = cohort.groups["row"].astype(int)
        found |= {f"{method}: {rule}": p[rows] for rule, p in kept.items()}
    content = io.BytesIO()
    np.savez(content, **found)
    write_whole(out, content.getvalue())


def _trained(
    part: str, method: str, seed: int, kept: Scores, n: int
) -> Callable[[Cohort, Cohort], np.ndarray]:
    """Make a method that learns from one cohort and scores another; every rule goes to `kept`."""

    def fit_predict(train: Cohort, test: Cohort) -> np.ndarray:
        # all methods read the same columns
        train, test = flatten(train, test, max_columns=SETTINGS["codes"])
        if method == BOOSTING:
            scores = {"own": tabular(BOOSTING, flags=True, seed=seed)(train, test)[:, 1]}
        else:
            scores = _network(part, METHODS[method], train, test, seed)
        for rule, p in scores.items():
            kept.setdefault(rule, np.full(n, np.nan))[test.groups["row"].astype(int)] = p
        return next(iter(scores.values()))

    return fit_predict


def _network(
    part: str, given: dict[str, Any], train: Cohort, test: Cohort, seed: int
) -> dict[str, np.ndarray]:
    """Train one network; its probabilities of death by rule."""
    backbone = _backbone(part)
    net = getattr(models, backbone)(**NETWORK)
    route = given.get("route")
    model: Classifier = getattr(models, given["class"])(
        backbone=net,
        schema=train.schema,
        head=Deconfounder(route=route) if route else None,
        dropout=NETWORK["dropout"],
        **given.get("options", {}),
    )
    warm, joint = SETTINGS["epochs"]
    dual = isinstance(model, DFD)
    stages = [Stage(epochs=warm, mi_weight=0), Stage(epochs=joint)]
    with warnings.catch_warnings():
        # what DFD says of a run, and a pattern that one fold lacks
        warnings.simplefilter("ignore", UserWarning)
        fit(
            model,
            train,
            stages=stages if dual else [Stage(epochs=warm + joint)],
            seed=seed,
            **SETTINGS["training"],
        )
        if not isinstance(model, DFD):
            return {"own": predict_proba(model, test)[:, 1]}
        scores = {}
        for rule in SETTINGS["rules"]:
            model.predict = rule
            scores[rule] = predict_proba(model, test)[:, 1]
    return scores


def collect(files: list[Path], out: Path) -> None:
    """Write what the cohorts are, the scores, and a result per answer."""
    found: dict[str, dict[str, Any]] = _read(files)
    cohorts: dict[str, Cohort] = {}
    for part in PARTS:
        cohorts[part], flow = cohort_of(part)
        if part in SETTINGS["scores"] and PARTS[part]["way"] == "folds":
            facts = eicu_demo_data.facts(cohorts[part], SETTINGS["below"])
            described = {"flow": json.loads(flow.to_json(orient="records")), **facts}
            _put(out / f"cohort-{slug(PARTS[part]['cohort'])}.json", described)
    scores = {}
    for part in SETTINGS["scores"]:
        named = [m for m in (BOOSTING, NONE) if m in PARTS[part]["methods"]]
        own = {_named(part, m): _scored(cohorts[part], found[part][m]) for m in named}
        scores[part] = _about(part, cohorts[part]) | own
        if len(named) == 2:
            scores[part]["difference"] = _difference(cohorts[part], found[part], NONE, BOOSTING)
    settings = {key: SETTINGS[key] for key in (*SHARED, "seeds")}
    _put(out / "auroc.json", {"settings": settings, "scores": scores, "versions": versions()})
    for answer in SETTINGS["answers"]:
        for part in answer["parts"]:
            _answer(out, answer, part, cohorts[part], found[part])
    _probe(out, cohorts, found)


def _read(files: list[Path]) -> dict[str, dict[str, Any]]:
    """The probabilities by part and method: a list over seeds; DFD's other rules by their names."""
    found: dict[str, dict[str, Any]] = {}
    for part, given in PARTS.items():
        own = {
            int(f.stem.rpartition("-")[2]): f for f in files if f.stem.rpartition("-")[0] == part
        }
        if sorted(own) != SEEDS:
            raise ValueError(f"{part} has seeds {sorted(own)}. Run all of {SEEDS}")
        runs = [dict(np.load(own[seed])) for seed in SEEDS]
        there: dict[str, Any] = {name: [r[name] for r in runs] for name in runs[0]}
        # a method by its name alone is by its own rule
        first = {m: next(n for n in there if n.startswith(f"{m}: ")) for m in given["methods"]}
        found[part] = there | {method: there[name] for method, name in first.items()}
    return found


def _scored(cohort: Cohort, each: list[np.ndarray]) -> dict[str, Any]:
    """Mean AUROC over seeds, with an interval over draws of patients and of seeds."""
    value, draws = _contrast(cohort, [(1, cohort, each)])
    low, high = interval(draws)
    return {"seeds": value, "auroc": float(np.mean(value)), "low": low, "high": high}


def _contrast(
    cohort: Cohort, terms: list[tuple[int, Cohort, list[np.ndarray]]]
) -> tuple[list[float], np.ndarray]:
    """Sums of AUROCs with their signs, seed by seed, and under draws of patients and seeds."""
    ids = pd.Index(cohort.groups["patient"]).unique()
    sets = []
    for _, own, each in terms:
        assert own.y is not None  # it has labels
        code = ids.get_indexer(own.groups["patient"])
        for p in each:
            grid = np.column_stack([1 - p, p])
            sets.append((WeightedMetrics(own.y.numpy().astype(float), grid, task="binary"), code))
    signs = np.array([sign for sign, *_ in terms])
    values = np.array([metrics.values()["auroc"] for metrics, _ in sets]).reshape(len(terms), -1)
    draws = bootstrap(sets, n_patients=len(ids), n_boot=SETTINGS["n_boot"], seed=0)
    auroc = draws[:, :, METRICS.index("auroc")].reshape(*values.shape, -1)
    n = values.shape[1]
    drawn = np.random.default_rng(n).multinomial(n, np.full(n, 1 / n), size=auroc.shape[2]) / n
    return (signs @ values).tolist(), np.einsum("t,bs,tsb->b", signs, drawn, auroc)


def _difference(
    cohort: Cohort,
    found: dict[str, Any],
    first: str,
    second: str,
    margin: float = 0,
    share: int = 1,
) -> dict[str, Any]:
    """One method's AUROC minus another's, by the library."""
    reports = [[evaluate(p, cohort, n_boot=0) for p in found[name]] for name in (first, second)]
    alpha = SETTINGS["alpha"] / share
    row = compare(*reports, n_boot=SETTINGS["n_boot"], margin=margin, alpha=alpha).iloc[0]
    each = [
        float(np.subtract(*(r.frame.set_index("metric").loc["auroc", "value"] for r in pair)))
        for pair in zip(*reports, strict=True)
    ]
    kept = {"effect": row["difference"], "low": row["low_holm"], "high": row["high_holm"]}
    return {**kept, "verdict": row["verdict"], "each": each}


def _answer(
    out: Path, answer: dict[str, Any], part: str, cohort: Cohort, found: dict[str, Any]
) -> None:
    """Write the results of one claim on one part."""
    minus, n = answer["minus"], len(answer["methods"])
    for method in answer["methods"]:
        row = _difference(cohort, found, method, minus, answer["margin"], n)
        names = [m for m in found if m.partition(": ")[0] in (method, minus) and ": " in m]
        auroc = {name: _contrast(cohort, [(1, cohort, found[name])])[0] for name in names}
        _write(
            out, answer["claim"], part, method, answer["margin"], row,
            f"death before leaving the hospital, {WAYS[PARTS[part]['way']]}; effect: AUROC of "
            f"{method} minus that of {minus} on the same stays",
            {"given": METHODS[method], "auroc": auroc, "methods of the answer": n},
            cohort,
        )  # fmt: skip


def _probe(out: Path, cohorts: dict[str, Cohort], found: dict[str, Any]) -> None:
    """Write what the bias head loses in a new region, minus what the causal head loses."""
    given = SETTINGS["probe"]
    home, away = given["parts"]
    there = np.isin(cohorts[home].groups["row"], cohorts[away].groups["row"])
    terms, drops = [], {}
    for sign, rule in ((1, "bias"), (-1, "causal")):
        name = f"{given['method']}: {rule}"
        sides = [[p[there] for p in found[home][name]], found[away][name]]
        one = [(s, cohorts[away], each) for s, each in zip((1, -1), sides, strict=True)]
        drops[rule] = {
            where: _contrast(cohorts[away], [(1, *term[1:])])[0]
            for where, term in zip(given["parts"], one, strict=True)
        }
        terms += [(sign * s, own, each) for s, own, each in one]
    each, draws = _contrast(cohorts[away], terms)
    low, high = interval(draws, SETTINGS["alpha"])
    row = {
        "effect": float(np.mean(each)), "low": low, "high": high, "each": each,
        "verdict": verdict("auroc", low, high, given["margin"]),
    }  # fmt: skip
    _write(
        out, given["claim"], away, given["method"], given["margin"], row,
        "death before leaving the hospital; effect: AUROC that f_b alone loses from folds of "
        "patients to a region that training never saw, minus what f_c alone loses",
        {"given": METHODS[given["method"]], "auroc": drops},
        cohorts[away],
    )  # fmt: skip


def _write(
    out: Path, claim: str, part: str, method: str, margin: float, row: dict[str, Any],
    estimand: str, parameters: dict[str, Any], cohort: Cohort,
) -> None:  # fmt: skip
    write_result(
        out / f"{slug(f'{claim}-{part}-{method}')}.json",
        claim=claim,
        reach="open",
        dataset=f"eICU demo, {PARTS[part]['cohort']}",
        method=f"{method}, {_backbone(part)}",
        parameters={key: SETTINGS[key] for key in SHARED} | parameters | _about(part, cohort),
        estimand=estimand,
        margin=margin,
        seeds=SEEDS,
        metric="auroc",
        runs=[{"seed": s, "value": v} for s, v in zip(SEEDS, row["each"], strict=True)],
        effect=row["effect"],
        low=row["low"],
        high=row["high"],
        verdict=row["verdict"],
        selection="last epoch, fixed settings",
        device="cpu",
        command="dfdlib data download eicu-demo --out DEMO; EICU_DEMO=DEMO make results",
    )


def _about(part: str, cohort: Cohort) -> dict[str, Any]:
    assert cohort.y is not None  # it has labels
    below, died = SETTINGS["below"], cohort.y.numpy() == 1
    counts = {"stays": len(cohort), "died": eicu_demo_data.count(died, below)}
    if PARTS[part]["way"] == "regions":
        # fewer than 10 stays are left out there, and a difference must not tell how many
        counts = {name: n // 10 * 10 for name, n in counts.items() if n is not None}
    return {"cohort": PARTS[part]["cohort"], "way": WAYS[PARTS[part]["way"]], **counts}


def _named(part: str, method: str) -> str:
    return _backbone(part) if method == NONE else method


def _backbone(part: str) -> str:
    return part if hasattr(models, part) else "GRAPE"


def _put(out: Path, what: dict[str, Any]) -> None:
    write_whole(out, json.dumps(what, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    jobs.main(
        str(__doc__),
        run,
        collect,
        part={"required": True, "choices": list(PARTS)},
        seed={"required": True, "type": int},
    )

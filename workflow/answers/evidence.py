"""DFD, the evidence: a result per claim, data set, backbone and method of each experiment."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from cohorts import draw
from collect import Record, command, complete, judged
from measures.evidence import data_of, how, plan, seeds
from recipes import Recipe, Setting, read
from scipy.special import expit

from answers import main_table
from dfdlib.evaluation.bootstrap import METRICS, WeightedMetrics
from dfdlib.evaluation.compare import paired_intervals


class Run(NamedTuple):
    """What one seed measured, by method; `numbers` are named as the recipe's answers name them."""

    numbers: dict[str, dict[str, float]]
    extra: dict[str, dict[str, Any]]
    scores: dict[str, dict[str, Any]]
    bounds: dict[str, float]
    labels: dict[str, list[float]]
    versions: dict[str, str]


#: What is subtracted from each other: runs, a method, and a number of theirs.
Side = tuple[Sequence[Run], str, str]


def answers(recipe: Recipe, records: list[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write the results of every experiment whose runs are its own, or are borrowed."""
    for experiment, given in recipe["experiments"].items():
        if "from" in given and given["from"] not in recipe["borrowed"]:
            continue
        settings = {
            pair: dict(zip(("experiment", "data", "backbone"), (experiment, *pair), strict=True))
            for pair in product(data_of(given), given["backbones"])
        }
        runs = {pair: _runs(recipe, records, setting) for pair, setting in settings.items()}
        for claim, answer in given["answers"].items():
            for (data, backbone), setting in settings.items():
                if answer["minus"].get("data") == data:
                    continue
                if answer.get("only", backbone) == backbone:
                    yield from _answer(recipe, setting, claim, answer, runs)


def _runs(recipe: Recipe, records: list[Record], setting: Setting) -> list[Run]:
    """The runs of a setting by seed; those of the main table have other names there."""
    given, wanted = recipe["experiments"][setting["experiment"]], seeds(recipe, setting)
    if "from" not in given:
        return [_run(record, {}) for record in complete(records, wanted, **setting)]
    where = {"preset": setting["data"], "n": recipe["n"], "backbone": setting["backbone"]}
    names = {name: given["names"].get(name, name) for name in given["backbones"][where["backbone"]]}
    return [_run(record, names) for record in complete(records, wanted, **where)]


def _run(record: Record, names: dict[str, str]) -> Run:
    cohort, methods = (record["values"][key] for key in ("cohort", "methods"))
    if names:
        methods = {name: {"auroc": methods[there]["auroc"]} for name, there in names.items()}
    oracle = cohort.get("oracles", {}).get("oracle", {})
    return Run(
        numbers={name: _numbers(measured) for name, measured in methods.items()},
        extra={
            name: {key: m[key] for key in ("confidence", "signatures") if m.get(key)}
            for name, m in methods.items()
        },
        scores={name: m["scores"] for name, m in methods.items() if "scores" in m},
        bounds={f"auroc oracle {world}": value for world, value in oracle.items()},
        labels=cohort.get("labels", {}),
        versions=record["versions"],
    )


def _numbers(measured: dict[str, Any]) -> dict[str, float]:
    """Every number of a model by one name, for example "auroc concat shifted"."""
    auroc = measured["auroc"]
    numbers = {f"auroc {rule} {w}": v for rule, by in auroc.items() for w, v in by.items()}
    numbers |= {f"drop {rule}": by["id"] - by["shifted"] for rule, by in auroc.items()}
    numbers |= {f"shift {rule}": v for rule, v in measured.get("shift", {}).items()}
    for kind in ("probes", "audits", "planes"):
        numbers |= measured.get(kind, {})
    return numbers


def _answer(
    recipe: Recipe,
    setting: Setting,
    claim: str,
    answer: dict[str, Any],
    runs: dict[tuple[str, ...], list[Run]],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """One claim's results on a data set with a backbone."""
    data, backbone = setting["data"], setting["backbone"]
    trained = recipe["experiments"][setting["experiment"]]["backbones"][backbone]
    methods = [name for name in answer["methods"] if name in trained]
    of, minus, here = answer["of"], answer["minus"], runs[data, backbone]
    there, number = runs[minus.get("data", data), backbone], minus.get("number", of)
    sides = [((here, m, of), (there, minus.get("method", m), number)) for m in methods]
    each = np.array([np.subtract(*(_values(*side) for side in pair)) for pair in sides], float)
    table = paired_intervals(
        (-1 if answer.get("turned") else 1) * each,
        names=methods,
        margin=answer["margin"],
        alpha=recipe["alpha"],
        shared=[patients_error(*pair) for pair in sides] if here[0].labels else None,
    )
    for name, row in table.iterrows():
        if "kept" in answer and not _kept(here, str(name), answer):
            # who turns everything around gains in the shifted world too, at home's expense
            row["verdict"] = "did not hold"
        yield (
            f"{setting['experiment']}-{claim}-{data}-{backbone}-{name}",
            {"claim": claim} | _fields(recipe, setting, answer, str(name), row, here),
        )


def _kept(runs: list[Run], method: str, answer: dict[str, Any]) -> bool:
    """Whether the mean score in distribution is that of the oracle, but for what is allowed."""
    home = np.mean(_values(runs, method, answer["of"].replace("shifted", "id")))
    oracle = np.mean([run.bounds["auroc oracle id"] for run in runs])
    return bool(home >= oracle - answer["kept"])


def _values(runs: Sequence[Run], method: str, number: str) -> list[float]:
    return [run.numbers[method][number] for run in runs]


def patients_error(*pair: Side, draws: int = 300) -> float:
    """Standard error of the difference that comes of the patients: they are drawn anew.

    Only of what is read off the scores, which are kept: an AUROC, a drop between two, a shift. A
    probe or a plane reads embeddings; of those nothing is added.
    """
    words = [number.split() for _, _, number in pair]
    if any(word[0] not in ("auroc", "drop", "shift") for word in words):
        return 0.0
    runs = pair[0][0]
    rng = np.random.default_rng(0)
    n_there = len(runs[0].labels["shifted"])
    there = rng.multinomial(n_there, np.full(n_there, 1 / n_there), size=draws)
    total = np.zeros(draws)
    for position, run in enumerate(runs):
        n_here = len(run.labels["id"])
        here = rng.multinomial(n_here, np.full(n_here, 1 / n_here), size=draws)
        weights = {"shifted": there, "id": here}
        first, second = (
            _redrawn(side[position], method, word, weights)
            for (side, method, _), word in zip(pair, words, strict=True)
        )
        total += first - second
    return float(np.nanstd(total / len(runs)))


def _redrawn(run: Run, method: str, words: list[str], weights: dict[str, np.ndarray]) -> np.ndarray:
    """AUROC, drop of it, or shift of a rule on each draw of patients."""
    p = {w: expit(np.array(by_rule[words[1]])) for w, by_rule in run.scores[method].items()}
    if words[0] == "shift":
        # the same patients in both worlds, with another tag
        return weights["id"] @ np.abs(p["shifted"] - p["id"]) / len(p["id"])

    def auroc(world: str) -> np.ndarray:
        y = np.array(run.labels[world], dtype=float)
        metrics = WeightedMetrics(y, np.column_stack([1 - p[world], p[world]]), task="binary")
        return metrics.replicates(weights[world].astype(float))[:, METRICS.index("auroc")]

    return auroc("id") - auroc("shifted") if words[0] == "drop" else auroc(words[2])


def _fields(
    recipe: Recipe,
    setting: Setting,
    answer: dict[str, Any],
    method: str,
    row: pd.Series,
    runs: list[Run],
) -> dict[str, Any]:
    given, wanted = recipe["experiments"][setting["experiment"]], seeds(recipe, setting)
    settings, reach = how(recipe, given), given.get("reach", "truth")
    of, minus, declared = answer["of"], answer["minus"], recipe["methods"][method]
    whose = minus.get("method") or minus.get("data") or "the same runs"
    sides = [f"{of} of {method}", f"{minus.get('number', of)} of {whose}"]
    sides = sides[::-1] if answer.get("turned") else sides
    beside = ("ERM", minus.get("method"), *given.get("beside", ()))
    shown = {method, *(name for name in beside if name in runs[0].numbers)}
    n = given.get("n", recipe["n"])
    if reach == "open":  # as many as there are
        n = len(draw(seed=wanted[0], **plan(recipe, setting).cohort).train)
    return {
        "reach": reach,
        "dataset": setting["data"] if reach == "open" else f"synthetic, {setting['data']}",
        "method": f"{method}, {setting['backbone']}",
        "parameters": {
            "experiment": setting["experiment"],
            "given": declared,
            "epochs": declared.get("epochs", settings["epochs"]),
            "n": n,
            **{key: settings[key] for key in ("network", "batch_size")},
            "p_holm": row["p_holm"],
            **{key: answer[key] for key in ("kept",) if key in answer},
            "numbers": {
                name: {n: _rounded(_values(runs, name, n)) for n in runs[0].numbers[name]}
                for name in sorted(shown)
            },
            "bounds": {key: _rounded([run.bounds[key] for run in runs]) for key in runs[0].bounds},
            "extra": [run.extra[method] for run in runs],
            "trained with": runs[0].versions,
        },
        "estimand": f"{sides[0]}, minus {sides[1]}",
        "margin": answer["margin"],
        "metric": of,
        **judged(row, wanted),
        "selection": "last epoch, fixed settings",
        "command": repeats(recipe, setting, method, minus),
    }


def _rounded(each: list[float]) -> list[float]:
    """Seed by seed; a millionth is nobody's finding."""
    return [round(value, 6) for value in each]


def repeats(recipe: Recipe, setting: Setting, method: str, minus: dict[str, str]) -> str:
    """What repeats both sides of one row, with the first seed."""
    given, data = recipe["experiments"][setting["experiment"]], setting["data"]
    names = list(dict.fromkeys(name for name in (method, minus.get("method")) if name))
    if "from" in given:
        where = {"preset": data, "n": recipe["n"], "backbone": setting["backbone"]}
        there = [given["names"].get(name, name) for name in names]
        return main_table.repeats(read(given["from"]), where, there)
    seed = seeds(recipe, setting)[0]
    return " && ".join(
        command(recipe, setting | {"data": each}, seed, names, out=out)
        for each, out in zip((data, minus.get("data")), ("one", "other"), strict=True)
        if each
    )

r"""DFD, the evidence: every experiment that evidence.yaml declares.

    python workflow/evidence.py run --experiment ablations --data confounded-linear \
        --backbone GRAPE --seed 0 --out runs/evidence/a.json
    python workflow/evidence.py collect runs/evidence/*.json runs/main-table/*.json \
        --out results/dfd-evidence

`run` trains all methods of an experiment on one data set and backbone with one seed, and keeps
what was measured; `--methods` takes some of them, `--scale paper` the paper's epochs. `collect`
puts the seeds together and writes a result per claim × data set × method.
"""

import json
import time
import warnings
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import evidence_data
import jobs
import numpy as np
import pandas as pd
import torch
import yaml
from evidence_measures import Watched, audited, measure, planes
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from dfdlib import models
from dfdlib.data import Cohort
from dfdlib.evaluation import write_result
from dfdlib.evaluation.bootstrap import METRICS, WeightedMetrics
from dfdlib.evaluation.compare import paired_intervals
from dfdlib.evaluation.results import versions
from dfdlib.files import slug, write_whole
from dfdlib.models import DFD, Classifier, Stage
from dfdlib.training import fit

SETTINGS = yaml.safe_load((Path(__file__).parent / "evidence.yaml").read_text("utf-8"))
METHODS, EXPERIMENTS = SETTINGS["methods"], SETTINGS["experiments"]
NOTHING = 1e-12


def cohorts(experiment: str) -> dict[str, dict[str, Any]]:
    """The data sets of an experiment, by name."""
    given = EXPERIMENTS[experiment]
    if "grid" not in given:
        return given["data"]
    slopes, hidden = given["grid"].values()
    return {
        f"slope {slope}, {k} hidden": {"kind": "mapped", "slope": slope, "hidden": k}
        for slope, k in product(slopes, hidden)
    }


def seeds(experiment: str) -> list[int]:
    """The seeds of an experiment."""
    return EXPERIMENTS[experiment].get("seeds", SETTINGS["seeds"])


def training(experiment: str) -> dict[str, Any]:
    """Epochs, batches and network: those of the hospitals where there are hospitals."""
    kind = next(iter(cohorts(experiment).values()))
    real = kind.get("kind") == "heart" or kind.get("source") == "heart"
    return SETTINGS["heart"] if real else SETTINGS


def draw(experiment: str, name: str, seed: int) -> evidence_data.Worlds:
    """Training part and worlds of a data set."""
    n = EXPERIMENTS[experiment].get("n", SETTINGS["n"])
    given = {key: SETTINGS[key] for key in ("n_test", "test_seed")}
    return evidence_data.load(seed=seed, n=n, **given, **cohorts(experiment)[name])


def train(
    experiment: str,
    method: str,
    backbone: str,
    cohort: Cohort,
    seed: int,
    *,
    scale: str = "small",
    watch: Cohort | None = None,
    val: Cohort | None = None,
) -> Classifier:
    """Train a method; with `watch`, DFD's heads are followed on these training patients.

    That is done before each validation on `val`, which decides nothing.
    """
    given, how = METHODS[method], training(experiment)
    network = how["network"]
    kind = getattr(models, given["class"])
    if watch is not None and kind is DFD:
        kind = Watched
    net = getattr(models, backbone)(d=network["d"])
    model = kind(backbone=net, schema=cohort.schema, **given.get("options", {}))
    if isinstance(model, Watched):
        model.watched, model.followed = watch, []
    warm, joint = given.get("epochs", how["epochs"][scale])
    if given.get("stages") == ["joint"]:
        warm, joint = 0, warm + joint
    first = {"mi_weight": 0} if isinstance(model, DFD) else {}
    first |= given.get("warm", {})
    stages = [Stage(epochs=warm, **first)] if warm else []
    stages += [Stage(epochs=joint)] if joint else []
    if not stages:
        # a network as it was drawn: its steps go nowhere
        stages = [Stage(epochs=1, lr=NOTHING)]
    with warnings.catch_warnings():
        # what DFD says of a run stands in `signatures`, which is kept
        warnings.simplefilter("ignore", UserWarning)
        fit(
            model,
            cohort,
            val if isinstance(model, Watched) else None,
            stages=stages,
            batch_size=how["batch_size"],
            lr=network["lr"],
            weight_decay=0.0 if stages[0].lr == NOTHING else network["weight_decay"],
            seed=seed,
        )
    return model.eval()


def run(
    experiment: str,
    data: str,
    backbone: str,
    seed: int,
    out: Path,
    methods: list[str] | None = None,
    scale: str = "small",
) -> None:
    """Train an experiment's methods on one data set and backbone with one seed."""
    start, given = time.perf_counter(), EXPERIMENTS[experiment]
    cohort, worlds = draw(experiment, data, seed)
    tagged = cohorts(experiment)[data]["kind"] == "tagged"
    real = given.get("reach") == "open"
    watched = {}
    if "watch" in given:
        parts = {"watch": cohort, "val": worlds["id"]}
        watched = {key: part.select(np.arange(given["watch"])) for key, part in parts.items()}
    bounds = {
        f"auroc oracle {world}": roc_auc_score(test.y.numpy(), test.truth["p_do"])
        for world, test in worlds.items()
        if test.truth is not None and "p_do" in test.truth
    }
    found = {}
    for name in methods or given["backbones"][backbone]:
        model = train(experiment, name, backbone, cohort, seed, scale=scale, **watched)
        numbers, scores, h = measure(model, worlds, tagged=tagged)
        world, extra = "randomised" if "randomised" in h else "id", {}
        if name in given.get("audits", ()):
            numbers |= audited(h[world], worlds[world].y.numpy(), n=SETTINGS["audited"])
        if "tsne" in given and isinstance(model, DFD):
            numbers |= planes(h["id"], worlds["id"].y.numpy(), **given["tsne"])
        if isinstance(model, Watched):
            extra["confidence"] = model.followed
        if isinstance(model, DFD):
            extra["signatures"] = model.signatures[["quantity", "value", "ok"]].to_dict("records")
        if real:
            extra["scores"] = {
                world: {rule: score.round(4).tolist() for rule, score in by_rule.items()}
                for world, by_rule in scores.items()
            }
        found[name] = {"numbers": numbers, **extra}
    record = {
        "experiment": experiment, "data": data, "backbone": backbone, "seed": seed, "scale": scale,
        "bounds": bounds, "methods": found, "versions": versions(),
        "seconds": time.perf_counter() - start,
    }  # fmt: skip
    if real:
        record["labels"] = {world: test.y.tolist() for world, test in worlds.items()}
    write_whole(out, json.dumps(record, indent=1))


def collect(files: list[Path], out: Path) -> None:
    """Write a result per claim × data set × method of the experiments whose runs are given."""
    found = [json.loads(file.read_text("utf-8")) for file in files]
    # one of another grid holds the records of all its seeds
    table = [record for each in found if isinstance(each, list) for record in each]
    records = [each for each in found if isinstance(each, dict)]
    records = _merged(records + _from_main_table(table))
    for experiment in sorted({record["experiment"] for record in records}):
        own = [record for record in records if record["experiment"] == experiment]
        for data, (backbone, methods) in product(
            cohorts(experiment), EXPERIMENTS[experiment]["backbones"].items()
        ):
            whole = [
                record["seed"]
                for record in own
                if (record["data"], record["backbone"]) == (data, backbone)
                and set(methods) <= set(record["methods"])
            ]
            if sorted(whole) != seeds(experiment):
                raise ValueError(f"{experiment}, {data}, {backbone}: seeds {whole}. Run all")
        for claim, answer in EXPERIMENTS[experiment]["answers"].items():
            for backbone in EXPERIMENTS[experiment]["backbones"]:
                if answer.get("only", backbone) == backbone:
                    _answer(out, experiment, claim, answer, backbone, own)


def _from_main_table(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Read the main table's runs as those of the experiments that are `from` there."""
    records = []
    for name, given in EXPERIMENTS.items():
        if given.get("from") != "main-table":
            continue
        for run in found:
            data, backbone = run["setting"]["preset"], run["setting"]["backbone"]
            if data not in given["data"] or backbone not in given["backbones"]:
                continue
            if run["setting"]["n"] != SETTINGS["n"]:
                continue
            methods: dict[str, dict[str, Any]] = {}
            for method in given["backbones"][backbone]:
                there = run["values"]["methods"].get(given["names"].get(method, method))
                if there is None:
                    continue
                lines = there["auroc"]
                numbers = {
                    f"auroc {rule} {world}": value
                    for rule, by_world in lines.items()
                    for world, value in by_world.items()
                }
                numbers |= {f"drop {r}": by["id"] - by["shifted"] for r, by in lines.items()}
                methods[method] = {"numbers": numbers}
            if methods:
                oracle = run["values"]["cohort"]["oracles"]["oracle"]
                records.append(
                    {
                        "experiment": name, "data": data, "backbone": backbone, "seed": run["seed"],
                        "scale": "small", 
                        "bounds": {f"auroc oracle {w}": v for w, v in oracle.items()},
                        "methods": methods, "versions": {},
                    }
                )  # fmt: skip
    return records


def _merged(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put together what was trained method by method."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in records:
        key = tuple(record[k] for k in ("experiment", "data", "backbone", "seed", "scale"))
        whole = found.setdefault(key, record)
        whole["methods"] = whole["methods"] | record["methods"]
    return list(found.values())


def _answer(
    out: Path,
    experiment: str,
    claim: str,
    answer: dict[str, Any],
    backbone: str,
    records: list[dict[str, Any]],
) -> None:
    """Write one claim's results on all data sets, for one backbone."""
    trained = EXPERIMENTS[experiment]["backbones"][backbone]
    methods = [name for name in answer["methods"] if name in trained]
    minus = answer["minus"]
    for data in cohorts(experiment):
        if minus.get("data") == data:
            continue
        runs = _of(records, data, backbone, seeds(experiment))
        others = _of(records, minus.get("data", data), backbone, seeds(experiment))
        number = minus.get("number", answer["of"])
        sides = [
            [(runs, name, answer["of"]), (others, minus.get("method", name), number)]
            for name in methods
        ]
        each = np.array(
            [np.subtract(*(_values(*side) for side in pair)) for pair in sides], dtype=float
        )
        sign = -1 if answer.get("turned") else 1
        error = [_patients(runs, pair) for pair in sides] if "labels" in runs[0] else None
        table = paired_intervals(
            sign * each,
            names=methods,
            margin=answer["margin"],
            alpha=SETTINGS["alpha"],
            shared=error,
        )
        for name, row in table.iterrows():
            if "kept" in answer and not _kept(runs, str(name), answer):
                # who turns everything around gains in the shifted world too, at home's expense
                row["verdict"] = "did not hold"
            _write(out, experiment, claim, answer, data, backbone, str(name), row, runs)


def _kept(runs: list[dict[str, Any]], method: str, answer: dict[str, Any]) -> bool:
    """Whether the mean score in distribution is that of the oracle, but for what is allowed."""
    own = np.mean(_values(runs, method, answer["of"].replace("shifted", "id")))
    oracle = np.mean([run["bounds"]["auroc oracle id"] for run in runs])
    return bool(own >= oracle - answer["kept"])


def _of(
    records: list[dict[str, Any]], data: str, backbone: str, wanted: list[int]
) -> list[dict[str, Any]]:
    """The runs on a data set with a backbone, in the order of their seeds."""
    found = {
        record["seed"]: record
        for record in records
        if (record["data"], record["backbone"]) == (data, backbone)
    }
    return [found[seed] for seed in wanted]


def _values(runs: list[dict[str, Any]], method: str, number: str) -> list[float]:
    return [run["methods"][method]["numbers"][number] for run in runs]


def _patients(runs: list[dict[str, Any]], pair: list[Any], draws: int = 300) -> float:
    """Standard error of the difference that comes of the patients: they are drawn anew.

    Only of what is read off the scores, which are kept: an AUROC, a drop between two, a shift. A
    probe or a plane reads embeddings; of those nothing is added.
    """
    words = [number.split() for _, _, number in pair]
    if any(word[0] not in ("auroc", "drop", "shift") for word in words):
        return 0.0
    rng = np.random.default_rng(0)
    n_there = len(runs[0]["labels"]["shifted"])
    there = rng.multinomial(n_there, np.full(n_there, 1 / n_there), size=draws)
    total = np.zeros(draws)
    for position, run in enumerate(runs):
        n_here = len(run["labels"]["id"])
        weights = {
            "shifted": there,
            "id": rng.multinomial(n_here, np.full(n_here, 1 / n_here), size=draws),
        }
        first, second = (
            _redrawn(side[position], method, word, weights)
            for (side, method, _), word in zip(pair, words, strict=True)
        )
        total += first - second
    return float(np.nanstd(total / len(runs)))


def _redrawn(
    run: dict[str, Any], method: str, words: list[str], weights: dict[str, np.ndarray]
) -> np.ndarray:
    """AUROC, drop of it, or shift of a rule on each draw of patients."""
    scores = run["methods"][method]["scores"]
    if words[0] == "shift":
        # the same patients in both worlds, with another tag
        here, there = (expit(np.array(scores[world][words[1]])) for world in ("id", "shifted"))
        return weights["id"] @ np.abs(there - here) / len(here)

    def auroc(world: str) -> np.ndarray:
        score = expit(np.array(scores[world][words[1]]))
        y = np.array(run["labels"][world], dtype=float)
        metrics = WeightedMetrics(y, np.column_stack([1 - score, score]), task="binary")
        return metrics.replicates(weights[world].astype(float))[:, METRICS.index("auroc")]

    return auroc("id") - auroc("shifted") if words[0] == "drop" else auroc(words[2])


def _write(
    out: Path,
    experiment: str,
    claim: str,
    answer: dict[str, Any],
    data: str,
    backbone: str,
    method: str,
    row: pd.Series,
    runs: list[dict[str, Any]],
) -> None:
    given, how, wanted = EXPERIMENTS[experiment], training(experiment), seeds(experiment)
    of, minus = answer["of"], answer["minus"]
    whose = minus.get("method") or minus.get("data") or "the same runs"
    sides = [f"{of} of {method}", f"{minus.get('number', of)} of {whose}"]
    sides = sides[::-1] if answer.get("turned") else sides
    beside = ("ERM", minus.get("method"), *given.get("beside", ()))
    shown = {method, *(m for m in beside if m in runs[0]["methods"])}
    write_result(
        out / f"{slug(f'{experiment}-{claim}-{data}-{backbone}-{method}')}.json",
        claim=claim,
        reach=given.get("reach", "truth"),
        dataset=data if given.get("reach") == "open" else f"synthetic, {data}",
        method=f"{method}, {backbone}",
        parameters={
            "experiment": experiment,
            "given": METHODS[method],
            "epochs": METHODS[method].get("epochs", how["epochs"][runs[0]["scale"]]),
            "n": _n_train(experiment, data),
            **{key: how[key] for key in ("network", "batch_size")},
            "p_holm": row["p_holm"],
            **{key: answer[key] for key in ("kept",) if key in answer},
            "numbers": {name: _summaries(runs, name) for name in sorted(shown)},
            "bounds": {
                key: _summary([run["bounds"][key] for run in runs]) for key in runs[0]["bounds"]
            },
            "extra": [
                {k: v for k, v in run["methods"][method].items() if k not in ("numbers", "scores")}
                for run in runs
            ],
            "trained with": runs[0]["versions"],
        },
        estimand=f"{sides[0]}, minus {sides[1]}",
        margin=answer["margin"],
        seeds=wanted,
        metric=of,
        runs=[{"seed": s, "value": v} for s, v in zip(wanted, row["each"], strict=True)],
        effect=row["effect"],
        low=row["low"],
        high=row["high"],
        verdict=row["verdict"],
        selection="last epoch, fixed settings",
        device="cpu",
        command=_command(experiment, data, backbone, method, minus),
    )  # fmt: skip


@cache
def _n_train(experiment: str, data: str) -> int:
    """Training patients: as many as asked for, or as there are."""
    if EXPERIMENTS[experiment].get("reach") == "open":
        return len(draw(experiment, data, seeds(experiment)[0])[0])
    return int(EXPERIMENTS[experiment].get("n", SETTINGS["n"]))


def _command(experiment: str, data: str, backbone: str, method: str, minus: dict[str, Any]) -> str:
    """What repeats both sides of one row, with the first seed."""
    names = dict.fromkeys(name for name in (method, minus.get("method")) if name)
    if EXPERIMENTS[experiment].get("from"):
        there = {"DFD": [], "baselines": []}
        for name in names:
            known = EXPERIMENTS[experiment]["names"].get(name, name)
            there["baselines" if name == "ERM" else "DFD"].append(f"'{known}'")
        return " && ".join(
            f"python workflow/run.py main-table preset={data} n={SETTINGS['n']} "
            f"backbone={backbone} part={part} --methods {' '.join(methods)} "
            f"--seeds {seeds(experiment)[0]} --out runs/{file}.json"
            for (part, methods), file in zip(there.items(), ("one", "other"), strict=True)
            if methods
        )
    quoted = " ".join(f"'{name}'" for name in names)
    asked = [
        f"evidence.py run --experiment {experiment} --data '{name}' --methods {quoted}"
        for name in (data, minus.get("data"))
        if name
    ]
    same = f"--backbone {backbone} --seed {seeds(experiment)[0]}"
    files = ("one", "other")[: len(asked)]
    return " && ".join(
        f"python workflow/{what} {same} --out runs/{file}.json"
        for what, file in zip(asked, files, strict=True)
    )


def _summaries(runs: list[dict[str, Any]], method: str) -> dict[str, list[float]]:
    """Every number of a method over the seeds."""
    names = runs[0]["methods"][method]["numbers"]
    return {name: _summary(_values(runs, method, name)) for name in names}


def _summary(each: list[float]) -> list[float]:
    """Seed by seed; a millionth is nobody's finding."""
    return [round(value, 6) for value in each]


if __name__ == "__main__":
    torch.set_num_threads(1)
    jobs.main(
        str(__doc__),
        run,
        collect,
        experiment={"required": True, "choices": list(EXPERIMENTS)},
        data={"required": True},
        backbone={"required": True, "choices": ["GRAPE", "MUSE", "TokenTransformer"]},
        seed={"required": True, "type": int},
        methods={"nargs": "+"},
        scale={"default": "small", "choices": list(SETTINGS["epochs"])},
    )

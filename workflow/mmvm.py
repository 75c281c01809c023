r"""The multimodal VAEs: every experiment that mmvm.yaml declares.

    python workflow/mmvm.py run --experiment main --data phantom --seed 0 --out runs/mmvm/a.json
    python workflow/mmvm.py collect runs/mmvm/*/*/*.json --out results/mmvm
    python workflow/mmvm.py tune [METHOD …]

`run` trains all methods of an experiment on one data set with one seed, and keeps what was
measured; `--methods` takes some of them, `--scale paper` the paper's epochs. `collect` puts the
seeds together and writes a result per claim × data set × method. `tune` repeats how what the
settings call chosen was chosen.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import jobs
import mmvm_supervised as supervised
import numpy as np
import torch
import yaml
from mmvm_data import load
from mmvm_measures import (
    Features,
    features,
    flipped,
    forest,
    labels,
    metrics,
    of_the_latents,
    read,
    subsets,
    summarised,
)

from dfdlib.data import Cohort
from dfdlib.errors import unknown
from dfdlib.evaluation import write_result
from dfdlib.evaluation.compare import paired_intervals
from dfdlib.evaluation.results import versions
from dfdlib.files import slug, write_whole
from dfdlib.models import MultimodalVAE, Stage
from dfdlib.training import fit

SETTINGS = yaml.safe_load((Path(__file__).parent / "mmvm.yaml").read_text("utf-8"))
METHODS, EXPERIMENTS = SETTINGS["methods"], SETTINGS["experiments"]
# Where labels are flipped, and where forests read.
NOISY, READ = (10, 100), 10


def kind_of(experiment: str, data: str) -> str:
    """Which sizes, and which betas, a data set has."""
    return "digits" if EXPERIMENTS[experiment]["data"][data].get("digits") else "phantom"


def home(data: str) -> str:
    """The experiment that lends what it has trained on a data set: the first that has it."""
    return next(name for name, given in EXPERIMENTS.items() if data in given["data"])


def parts(experiment: str, name: str, seed: int) -> dict[str, Cohort]:
    """Training, validation and test patients of a data set."""
    given = EXPERIMENTS[experiment]["data"][name]
    return load(SETTINGS[kind_of(experiment, name)], given, seed)


def beta_of(method: str, data: str) -> float:
    """What was chosen for a model on one kind of data."""
    return SETTINGS["beta"][data][METHODS[method].get("beta_of", method.partition(",")[0])]


def _c(method: str, data: str) -> dict[int, float]:
    """How strongly a model's readers are regularised, by fraction of the labels."""
    return SETTINGS["C"][METHODS[method].get("C", data)]


def train(
    method: str, cohort: Cohort, seed: int, *, beta: float, scale: str = "small"
) -> MultimodalVAE:
    """Train a VAE; labels are never read."""
    options = {k: v for k, v in METHODS[method].items() if k not in ("beta_of", "times", "C")}
    options = SETTINGS["model"] | {"beta": beta} | options
    model = MultimodalVAE(schema=cohort.schema, **options)
    epochs = SETTINGS["scales"][scale]["epochs"] * METHODS[method].get("times", 1)
    fit(model, cohort, stages=[Stage(epochs=epochs)], seed=seed, **SETTINGS["training"])
    return model.eval()


def probed(
    h: dict[str, Features], data: dict[str, Cohort], seed: int, *,
    c: dict[int, float], whole: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Read encoder means at each fraction in c; `whole` with noise and forests too."""
    y = {part: labels(cohort) for part, cohort in data.items()}
    there = {v: data["train"].observed[:, j].numpy() for j, v in enumerate(data["train"].names)}
    there["both"] = np.all(list(there.values()), axis=0)
    tables: dict[str, list[float]] = {}

    def note(view: str, share: int, p: list[np.ndarray], after: str = "") -> None:
        every = not after and share in NOISY
        found = metrics(p[0], y["test"], p[1], y["val"], all_of_them=every)
        for metric, value in found.items():
            tables.setdefault(f"{metric} {view} {share}{after}", []).append(value)

    for share, k, rows in subsets(len(data["train"]), SETTINGS | {"fractions": list(c)}, seed):
        for view in h["train"]:
            # who lacks the view cannot teach its reader
            own = rows[there[view][rows]]
            others = [h["test"][view], h["val"][view]]
            note(view, share, read(h["train"][view][own], y["train"][own], others, c[share]))
            if not whole or view == "both" or share not in NOISY:
                continue
            for p in SETTINGS["noise"]:
                wrong = flipped(y["train"], p, seed)[own]
                p_wrong = read(h["train"][view][own], wrong, others, c[share])
                note(view, share, p_wrong, f" noise {p}")
            if share == READ and k == 0:
                given = SETTINGS["forest"]
                seen = forest(h["train"][view][own], y["train"][own], others[0], given, seed)
                note(view, share, [seen, seen[: len(y["val"])]], " forest")
    return tables


def taught(kind: str, data: dict[str, Cohort], seed: int) -> dict[str, list[float]]:
    """Train a supervised net on each labelled subset; the published loss on two fractions only."""
    y = {part: labels(cohort) for part, cohort in data.items()}
    views, given = data["train"].names, SETTINGS["supervised"]
    tables: dict[str, list[float]] = {}
    for share, _, rows in subsets(len(data["train"]), SETTINGS, seed):
        if kind != "correct" and share not in NOISY:
            continue
        seen: list[tuple[str, tuple[str, ...], int]] = [(v, (v,), 0) for v in views]
        if kind == "correct" and share in NOISY:
            seen.append(("both", tuple(views), 0))
        if kind == "correct" and share == 100:
            seen += [(v, (v,), p) for v in views for p in SETTINGS["noise"]]
        for name, some, p in seen:
            model = supervised.train(
                kind, some, data["train"], rows, flipped(y["train"], p, seed), data["val"], given,
                steps=next(s for most, s in given["steps"].items() if share <= most), seed=seed,
            )  # fmt: skip
            p_test, p_val = (
                supervised.scores(model, data[part]).sigmoid().numpy() for part in ("test", "val")
            )
            every = not p and share in NOISY
            found = metrics(p_test, y["test"], p_val, y["val"], all_of_them=every)
            for metric, value in found.items():
                after = f" noise {p}" if p else ""
                tables.setdefault(f"{metric} {name} {share}{after}", []).append(value)
    return tables


def run(
    experiment: str, data: str, seed: int, out: Path,
    methods: list[str] | None = None, scale: str = "small",
) -> None:  # fmt: skip
    """Train an experiment's methods on one data set with one seed."""
    start, given = time.process_time(), EXPERIMENTS[experiment]
    cohorts = parts(experiment, data, seed)
    views, found = tuple(cohorts["train"].names), {}
    borrowed = given.get("from", ())
    for name in methods or [each for each in given["methods"] if each not in borrowed]:
        kind, began = METHODS[name].get("supervised"), time.process_time()
        if kind:
            numbers = summarised(taught(kind, cohorts, seed), views)
        else:
            beta = beta_of(name, kind_of(experiment, data))
            model = train(name, cohorts["train"], seed, beta=beta, scale=scale)
            h = {part: features(model, cohort) for part, cohort in cohorts.items()}
            c = _c(name, kind_of(experiment, data))
            tables = probed(h, cohorts, seed, c=c, whole=given.get("whole", False))
            numbers = summarised(tables, views) | of_the_latents(model, cohorts["test"])
        found[name] = {"numbers": numbers, "seconds": round(time.process_time() - began, 1)}
    record = {
        "experiment": experiment, "data": data, "seed": seed, "scale": scale, "methods": found,
        "versions": versions(), "seconds": round(time.process_time() - start, 1),
    }  # fmt: skip
    write_whole(out, json.dumps(record, indent=1))


def collect(files: list[Path], out: Path) -> None:
    """Write a result per claim × data set × method of the experiments whose runs are given."""
    records = [json.loads(file.read_text("utf-8")) for file in files]
    for experiment in sorted({record["experiment"] for record in records}):
        given = EXPERIMENTS[experiment]
        by_data = {data: _of(records, experiment, data) for data in given["data"]}
        for claim, answers in given["answers"].items():
            for answer in answers:
                for data, runs in by_data.items():
                    others = runs
                    if "on" in answer:
                        others = _of(records, home(answer["on"]), answer["on"])
                    _answer(out, experiment, claim, answer, data, runs, others)


def _of(records: list[dict[str, Any]], experiment: str, data: str) -> list[dict[str, Any]]:
    """The runs of a data set by seed; methods may come in files of their own."""
    found: dict[int, dict[str, Any]] = {}
    for record in records:
        if (record["experiment"], record["data"]) == (experiment, data):
            whole = found.setdefault(record["seed"], {**record, "methods": {}})
            if twice := set(whole["methods"]) & set(record["methods"]):
                raise ValueError(f"{sorted(twice)} of seed {record['seed']} stand in two files")
            whole["methods"] |= record["methods"]
    for name, there in EXPERIMENTS[experiment].get("from", {}).items():
        for run in _of(records, home(data), data):
            if run["seed"] in found:
                found[run["seed"]]["methods"][name] = run["methods"][there]
    wanted = set(EXPERIMENTS[experiment]["methods"])
    ready = sorted(seed for seed, run in found.items() if wanted <= set(run["methods"]))
    if ready != SETTINGS["seeds"]:
        raise ValueError(f"{experiment}, {data}: seeds {ready} are complete. Run all")
    return [found[seed] for seed in ready]


def _answer(
    out: Path, experiment: str, claim: str, answer: dict[str, Any], data: str,
    runs: list[dict[str, Any]], others: list[dict[str, Any]],
) -> None:  # fmt: skip
    """Write one claim's results on a data set: `of` of `method` against each of `against`."""
    number = answer["of"]
    method, against = answer["method"], answer["against"]
    each = np.array(
        [
            np.subtract(
                _values(runs, method, number), _values(others, name, answer.get("to", number))
            )
            for name in against
        ]
    )
    sign = -1 if answer.get("turned") else 1
    table = paired_intervals(
        sign * each, names=against, margin=answer["margin"], alpha=SETTINGS["alpha"]
    )
    where_from = kind_of(experiment, data)
    where = f", on {answer['on']}" if "on" in answer else ""
    for name, row in table.iterrows():
        sides = [f"{number} of {method}", f"{answer.get('to', number)} of {name}{where}"]
        sides = sides[::-1] if answer.get("turned") else sides
        shown = sorted({method, str(name)})
        write_result(
            out / f"{slug(f'{experiment}-{claim}-{data}-{number}-{sides[0]}-{sides[1]}')}.json",
            claim=claim,
            reach="open" if where_from == "digits" else "truth",
            dataset=data,
            method=f"{method} against {name}",
            parameters={
                "experiment": experiment,
                "data": SETTINGS[where_from],
                "given": {each: METHODS[each] for each in shown},
                "beta": {
                    each: beta_of(each, where_from)
                    for each in shown
                    if "prior" in METHODS[each]
                },
                "C": {each: _c(each, where_from) for each in shown if "prior" in METHODS[each]},
                "training": SETTINGS["training"] | SETTINGS["scales"][runs[0]["scale"]],
                "p_holm": row["p_holm"],
                "numbers": {each: _summaries(runs, each) for each in shown},
                **({f"numbers{where}": _summaries(others, str(name))} if where else {}),
                "trained with": runs[0]["versions"],
            },
            estimand=f"{sides[0]}, minus {sides[1]}",
            margin=answer["margin"],
            seeds=SETTINGS["seeds"],
            metric=number,
            runs=[
                {"seed": s, "value": v} for s, v in zip(SETTINGS["seeds"], row["each"], strict=True)
            ],
            effect=row["effect"],
            low=row["low"],
            high=row["high"],
            verdict=row["verdict"],
            selection="VAEs: last epoch; beta, C by validation, other seed; nets: validation loss",
            device="cpu",
            command=_command(experiment, data, [method, str(name)], answer.get("on")),
        )  # fmt: skip


def _command(experiment: str, data: str, sides: list[str], on: str | None) -> str:
    """What repeats both sides of a difference, with the first seed."""
    borrowed = EXPERIMENTS[experiment].get("from", {})
    places = [
        (home(on or data), on or data, borrowed.get(name, name))
        if name in borrowed or (on and k)
        else (experiment, data, name)
        for k, name in enumerate(sides)
    ]
    wanted: dict[tuple[str, str], list[str]] = {}
    for where, name, method in places:
        wanted.setdefault((where, name), []).append(f"'{method}'")
    return " && ".join(
        f"python workflow/mmvm.py run --experiment {where} --data '{name}' --methods "
        f"{' '.join(methods)} --seed {SETTINGS['seeds'][0]} --out runs/one-{k}.json"
        for k, ((where, name), methods) in enumerate(wanted.items())
    )


def _values(runs: list[dict[str, Any]], method: str, number: str) -> list[float]:
    return [run["methods"][method]["numbers"][number] for run in runs]


def _summaries(runs: list[dict[str, Any]], method: str) -> dict[str, list[float]]:
    """Every number of a method, seed by seed; a millionth is nobody's finding."""
    names = runs[0]["methods"][method]["numbers"]
    return {name: [round(v, 6) for v in _values(runs, method, name)] for name in names}


def tune(methods: list[str]) -> None:
    """Score betas and Cs on validation patients: a line for each beta of each model with each C.

    At a model's chosen beta all fractions of the labels are read, at the others a tenth.
    """
    seed = SETTINGS["tuning_seed"]
    SETTINGS["subsets"] = 1
    for name in methods:
        if "prior" not in METHODS.get(name, {}):
            raise unknown(name, [m for m in METHODS if "prior" in METHODS[m]], "VAE to tune")
    for experiment in ("main", "digits", "longer"):
        (data,) = EXPERIMENTS[experiment]["data"]
        kind, cohorts = kind_of(experiment, data), parts(experiment, data, seed)
        cohorts["test"] = cohorts["val"]
        borrowed = EXPERIMENTS[experiment].get("from", ())
        known = [m for m in EXPERIMENTS[experiment]["methods"] if "prior" in METHODS[m]]
        for method in [m for m in known if m not in borrowed and m in (methods or known)]:
            chosen = beta_of(method, kind)
            for beta in [chosen] if "times" in METHODS[method] else SETTINGS["betas"]:
                model = train(method, cohorts["train"], seed, beta=beta)
                h = {part: features(model, cohort) for part, cohort in cohorts.items()}
                for c in SETTINGS["Cs"]:
                    shares = SETTINGS["fractions"] if beta == chosen else [READ]
                    tables = probed(h, cohorts, seed, c=dict.fromkeys(shares, c))
                    found = summarised(tables, tuple(cohorts["train"].names))
                    line = {"data": data, "method": method, "beta": beta, "C": c}
                    line |= {f"{f} %": round(found[f"auroc mean {f}"], 4) for f in shares}
                    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["tune"]:
        tune(sys.argv[2:])
        sys.exit()
    jobs.main(
        str(__doc__),
        run,
        collect,
        experiment={"required": True, "choices": list(EXPERIMENTS)},
        data={"required": True},
        seed={"required": True, "type": int},
        methods={"nargs": "+"},
        scale={"default": "small", "choices": list(SETTINGS["scales"])},
    )

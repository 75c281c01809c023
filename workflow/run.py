r"""One job of a recipe: cohort → methods → measures by name → one record per seed.

    python workflow/run.py main-table preset=anticausal n=2000 backbone=GRAPE part=DFD \
        --seeds 0 --methods DFD --out runs/one.json

Without `--seeds` and `--methods` all seeds and methods of the job run, in one process, as
`make results` does. What is left of a run that was killed is read again and not computed anew.

A record holds experiment, setting, seed, values, and where they come from: seconds (of training
and in all), processor, its capability, threads, device, versions. `values` has the measures of the
cohort under "cohort", and those of each method by its name under "methods".

To add a grid, write

1. `experiments/NAME.yaml`, which declares it: its `measures` (a module of measures/), its `answers`
   (a module of answers/), `cohorts` (kinds: functions of cohorts.py), `jobs` and `seeds`. Results
   will stand in results/NAME.
2. `measures/KIND.py` with `plan(recipe, setting)`, which says what a job draws, trains and
   measures, and with the measures that scores.py lacks.
3. `answers/KIND.py` with `answers(recipe, records)`, which yields each result's file name and
   fields from the records of all seeds: collect.py writes them.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import recipes
import torch
from cohorts import draw
from measures import MEASURES
from methods import train
from recipes import Recipe, Setting

from dfdlib.errors import unknown
from dfdlib.evaluation.results import versions
from dfdlib.files import write_whole

DEVICES = ("cpu", "cuda")


def values(
    recipe: Recipe, setting: Setting, seed: int, methods: list[str] | None = None
) -> tuple[dict[str, Any], float]:
    """Draw, train and measure with one seed; also gives the seconds that training took."""
    plan = recipes.module(recipe).plan(recipe, setting)
    data, spent = draw(seed=seed, **plan.cohort), 0.0
    of_cohort = {name: MEASURES[name](data, **given) for name, given in plan.of_cohort.items()}
    of_methods = {}
    for name in methods or plan.methods:
        if name not in plan.methods:
            raise unknown(name, plan.methods, f"method of {' '.join(recipes.words(setting))}")
        began = time.perf_counter()
        model = train(plan.methods[name], data, **plan.training)
        spent += time.perf_counter() - began
        measures = {**plan.measures, **plan.also.get(name, {})}
        of_methods[name] = {
            each: MEASURES[each](model, data, **given) for each, given in measures.items()
        }
    return {"cohort": of_cohort, "methods": of_methods}, spent


def record(
    recipe: Recipe, setting: Setting, seed: int, methods: list[str] | None = None
) -> dict[str, Any]:
    """Put the values of one seed together with where they come from."""
    start = time.perf_counter()
    found, training = values(recipe, setting, seed, methods)
    return {
        "experiment": recipe["experiment"],
        "setting": setting,
        "seed": seed,
        "scale": recipe["scale"],
        "values": found,
        "seconds": {"training": training, "all": time.perf_counter() - start},
        "processor": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": versions(),
    }


def run(
    recipe: Recipe, setting: Setting, out: Path, *, seeds: list[int], methods: list[str] | None
) -> None:
    """Write the records of all seeds; each stands beside the output as soon as it is there."""
    parts = [out.with_name(f"{out.name}.{seed}.part") for seed in seeds]
    same = recipes.fingerprint(recipe)
    for seed, part in zip(seeds, parts, strict=True):
        if part.is_file() and json.loads(part.read_text("utf-8"))["code"] == same:
            continue
        text = json.dumps({"code": same, "record": record(recipe, setting, seed, methods)})
        write_whole(part, text)
    records = [json.loads(part.read_text("utf-8"))["record"] for part in parts]
    write_whole(out, json.dumps(records, indent=1))
    for part in parts:
        part.unlink()


def main(words: list[str] | None = None) -> None:
    """Read the command line."""
    given = parser().parse_args(words)
    recipe = recipes.read(given.experiment, given.scale)
    setting = recipes.setting_of(recipe, given.setting)
    if given.after:
        files = [json.loads(file.read_text("utf-8")) for file in given.after]
        recipe["after"] = [record for records in files for record in records]
    if given.device == "cpu":
        # `fit` takes a GPU where it sees one; the stored results are of the CPU
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU is there. Leave --device cuda (DEVICE=cuda) out")
    torch.set_num_threads(1)
    seeds = recipes.seeds(recipe, setting) if given.seeds is None else given.seeds
    run(recipe, setting, given.out, seeds=seeds, methods=given.methods)


def parser() -> argparse.ArgumentParser:
    """Say what the command line takes."""
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("experiment", choices=recipes.names())
    words.add_argument("setting", nargs="*", metavar="key=value")
    words.add_argument("--seeds", type=int, nargs="+")
    words.add_argument("--methods", nargs="+")
    words.add_argument("--scale", default="small", choices=["small", "paper"])
    words.add_argument("--device", default="cpu", choices=DEVICES)
    words.add_argument("--after", type=Path, nargs="*", help="records of jobs that it waits for")
    words.add_argument("--out", type=Path, required=True)
    return words


if __name__ == "__main__":
    main()

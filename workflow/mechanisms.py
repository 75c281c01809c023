"""The deconfounding grid again, by strength of the mechanism: routes × mechanisms × strengths.

    F=runs/mechanisms
    python workflow/mechanisms.py run --preset mar --strength 2 --seed 0 --out $F/mar-2-0.json
    python workflow/mechanisms.py collect $F/*.json runs/deconfounding/*-GRAPE-*.json --out …

`run` trains the routes with one seed and keeps their scores in each world; `collect` puts seeds and
strengths together. `presets.py` reads runs of `run` too.
"""

import json
from pathlib import Path
from typing import Any

import deconfounding as grid
import jobs
import numpy as np
import pandas as pd
import torch
import yaml

from dfdlib import data
from dfdlib.data import Cohort
from dfdlib.data.synthetic import ESTIMAND, PRESETS
from dfdlib.evaluation import predict_proba, write_result
from dfdlib.files import slug, write_whole

SETTINGS = yaml.safe_load((Path(__file__).parent / "mechanisms.yaml").read_text("utf-8"))
BACKBONE, ROUTES, STRENGTHS = (SETTINGS[key] for key in ("backbone", "routes", "strengths"))
UNRELATED = "mcar"  # what every mechanism is at strength 0


def run(preset: str, strength: float, seed: int, routes: list[str], out: Path) -> None:
    """Train routes with one seed; keep AUROC and distance from the truth, and the oracles'."""
    options = PRESETS[preset] | {"strength": strength}

    def load(world: str, n: int, seed: int) -> Cohort:
        return data.load("synthetic", n=n, world=world, seed=seed, **options)

    train = load("train", grid.SETTINGS["n_train"], seed)
    size, seed_of_tests = grid.SETTINGS["n_test"], grid.SETTINGS["test_seed"]
    tests = {world: load(world, size, seed_of_tests) for world in grid.SETTINGS["worlds"]}
    record: dict[str, Any] = {"preset": preset, "strength": strength, "seed": seed}
    for name in (grid.CEILING, grid.FLOOR):
        record[name] = {w: grid._scores(t, t.truth[name.split()[1]]) for w, t in tests.items()}
    for name in routes:
        model = grid.network(BACKBONE, train, seed, grid.methods(preset)[name])
        record[name] = {w: grid._scores(t, predict_proba(model, t)[:, 1]) for w, t in tests.items()}
    write_whole(out, json.dumps(record, indent=1))


def read(files: list[Path]) -> pd.Series:
    """Read runs of this grid and of the deconfounding grid, by preset, strength and seed."""
    records = [json.loads(file.read_text("utf-8")) for file in files]
    keys = [(r["preset"], r.get("strength", 1.0), r["seed"]) for r in records]
    return pd.Series(records, index=pd.MultiIndex.from_tuples(keys)).sort_index()


def collect(files: list[Path], out: Path) -> None:
    """Write one result per mechanism and route."""
    runs = read(files)
    for preset in SETTINGS["presets"]:
        answers = {}
        for strength in STRENGTHS:
            key = (preset, float(strength)) if strength else (UNRELATED, 1.0)
            answers[strength] = runs.loc[key].reindex(grid.SETTINGS["seeds"])
            if answers[strength].isna().any():
                raise ValueError(f"{preset}, strength {strength} lacks seeds. Run all of them")
        _write_preset(out, preset, answers)


def _write_preset(out: Path, preset: str, answers: dict[float, pd.Series]) -> None:
    gains = {
        world: np.array([_gains(answers, name, world) for name in ROUTES])
        for world in grid.SETTINGS["worlds"]
    }  # of each world: routes × strengths × seeds
    slopes = grid.intervals(_slopes(gains[grid.SETTINGS["world"]]))
    for k, name in enumerate(ROUTES):
        strengths = {
            f"{strength:g}": {
                world: _world(answers[strength], name, world, grid.intervals(each[:, j]).iloc[k])
                for world, each in gains.items()
            }
            for j, strength in enumerate(STRENGTHS)
        }
        _write(out, preset, name, slopes.iloc[k], strengths)


def _gains(answers: dict[float, pd.Series], name: str, world: str) -> list[list[float]]:
    """Per strength and seed: what a route gains on the naive network; of the latter, its lack."""
    line = {"family": BACKBONE, "name": name}
    return [grid._difference({BACKBONE: answers[s]}, line, world) for s in STRENGTHS]


def _slopes(gains: np.ndarray) -> np.ndarray:
    """Least squares over the strengths: (routes, strengths, seeds) to (routes, seeds)."""
    return np.array([np.polyfit(STRENGTHS, gain, 1)[0] for gain in gains])


def _world(answers: pd.Series, name: str, world: str, effect: pd.Series) -> dict[str, Any]:
    own, naive = (grid._auroc(answers, key, world) for key in (name, "naive"))
    ceiling, floor = (grid._auroc(answers, key, world)[0] for key in (grid.CEILING, grid.FLOOR))
    return {
        "auroc": own.tolist(),
        "distance": [answer[name][world]["distance"] for answer in answers],
        "naive": naive.tolist(),
        "oracle": ceiling,
        "best observational": floor,
        **effect.drop("each").to_dict(),
        "gap_closed": grid._gap_closed(own, naive, ceiling),
    }


def _write(
    out: Path, preset: str, name: str, slope: pd.Series, strengths: dict[str, dict[str, Any]]
) -> None:
    gain = (
        "the oracle's AUROC minus that of the naive network (how far missingness biases it)"
        if name == "naive"
        else "AUROC minus that of the naive network on the same backbone"
    )
    given = grid.SETTINGS
    write_result(
        out / f"{preset}-{slug(name)}.json",
        claim=grid._claim(name),
        reach="truth",
        dataset=f"synthetic, {preset}, strength {STRENGTHS[0]:g} to {STRENGTHS[-1]:g}",
        method=f"{name}, {BACKBONE}",
        parameters={
            **{key: given[key] for key in ("network", "n_train", "n_test", "test_seed", "alpha")},
            "options": grid.methods(preset)[name],
            "strengths": strengths,
        },
        estimand=f"{ESTIMAND}; effect: slope per unit of strength of {gain}, in the "
        f"{given['world']} world",
        margin=given["margin"],
        seeds=given["seeds"],
        metric="auroc",
        runs=[{"seed": s, "value": v} for s, v in zip(given["seeds"], slope["each"], strict=True)],
        **slope[["effect", "low", "high", "verdict"]],
        selection="last epoch, fixed settings",
        device="cpu",
        command="make results",
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    jobs.main(
        __doc__ or "",
        run,
        collect,
        preset={"required": True, "choices": PRESETS},
        strength={"type": float, "default": 1.0},
        seed={"type": int, "required": True},
        routes={"nargs": "+", "choices": ROUTES, "default": ROUTES},
    )

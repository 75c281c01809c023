"""The frozen presets of synthetic cohorts: their hash, and the scores of oracles and ERM.

    F=runs/presets
    python workflow/mechanisms.py run --preset anticausal --routes naive --seed 0 --out $F/a.json
    python workflow/presets.py $F/*.json runs/deconfounding/*-GRAPE-*.json --out …

ERM, plain training, is the naive network of deconfounding.yaml, with five seeds. Presets that the
deconfounding grid has are read from its runs; `mechanisms.py run` makes the others.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import deconfounding as grid
import mechanisms
import numpy as np
import pandas as pd
from scipy import stats

from dfdlib.data import synthetic, synthetic_model
from dfdlib.evaluation.results import commit, versions

CONSTANTS = (
    *("MODALITIES", "SITES", "SEVERITY", "CONFOUNDER", "AGREEMENT", "SLIP", "AVAILABILITY"),
    *("PUSH", "CASE_MIX"),
)


def fingerprint(names: Iterable[str]) -> str:
    """Hash presets with every option written out, and the constants of the model."""
    constants = {name: getattr(synthetic_model, name) for name in CONSTANTS}
    constants |= {"CARRIERS": synthetic.CARRIERS, "BLOCK": synthetic.BLOCK}
    options = {name: asdict(synthetic_model.Options(**synthetic.PRESETS[name])) for name in names}
    text = json.dumps([constants, options], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def collect(files: list[Path], out: Path) -> None:
    """Write one file that holds every preset."""
    runs = mechanisms.read(files)
    given = grid.SETTINGS
    table = {
        **{key: given[key] for key in ("network", "n_train", "n_test", "test_seed", "seeds")},
        "erm": f"Classifier, {mechanisms.BACKBONE}; interval: t over the seeds, 95 %",
        "commit": commit(),
        "versions": versions(),
        "command": "make results",
        "presets": {
            name: {
                "hash": fingerprint([name]),
                "options": options,
                "worlds": _worlds(runs.loc[name, 1.0].reindex(given["seeds"])),
            }
            for name, options in synthetic.PRESETS.items()
        },
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _worlds(answers: pd.Series) -> dict[str, Any]:
    if answers.isna().any():
        raise ValueError(f"seeds {answers.index[answers.isna()].tolist()} lack. Run all of them")
    return {world: _scores(answers, world) for world in grid.SETTINGS["worlds"]}


def _scores(answers: pd.Series, world: str) -> dict[str, Any]:
    erm = grid._auroc(answers, "naive", world)
    error = erm.std(ddof=1) / np.sqrt(len(erm))
    low, high = stats.t.interval(0.95, len(erm) - 1, erm.mean(), error)
    return {
        "p_do": grid._auroc(answers, grid.CEILING, world)[0],
        "p_obs": grid._auroc(answers, grid.FLOOR, world)[0],
        "erm": {
            "auroc": erm.tolist(),
            "mean": float(erm.mean()),
            "sd": float(erm.std(ddof=1)),
            "low": float(low),
            "high": float(high),
        },
    }


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    collect(given.files, given.out)


if __name__ == "__main__":
    main()

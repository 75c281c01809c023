"""Results of a recipe from the records of all its jobs and seeds.

    python workflow/collect.py main-table runs/main-table/*.json --out results/main-table

The recipe's module of answers/ yields a result's name and fields; what all results share is put in
here. A job whose seeds are not complete is refused.
"""

import argparse
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import recipes
from recipes import Recipe, Setting

from dfdlib.evaluation import write_result
from dfdlib.files import slug, write_whole

Record = dict[str, Any]


def complete(records: Sequence[Record], seeds: list[int], **setting: Any) -> list[Record]:
    """The records of a setting in the order of their seeds, all of which must be there.

    Methods that were run by themselves are put together.
    """
    found: dict[int, Record] = {}
    for record in records:
        if setting.items() <= record["setting"].items():
            whole = found.setdefault(record["seed"], {**record, "values": {"methods": {}}})
            methods = whole["values"]["methods"] | record["values"]["methods"]
            whole["values"] = {**record["values"], "methods": methods}
    if sorted(found) != sorted(seeds):
        shown = ", ".join(str(value) for value in setting.values())
        raise ValueError(f"{shown}: seeds {sorted(found)} of {seeds} are there. Run all")
    return [found[seed] for seed in seeds]


def judged(row: pd.Series, seeds: list[int]) -> dict[str, Any]:
    """The fields of a result that stand in a row of `paired_intervals`."""
    runs = [{"seed": s, "value": v} for s, v in zip(seeds, row["each"], strict=True)]
    return {"seeds": seeds, "runs": runs, **row[["effect", "low", "high", "verdict"]]}


def command(
    recipe: Recipe, setting: Setting, seed: int, methods: Sequence[str], out: str = "one"
) -> str:
    """What repeats a value: a line for a shell."""
    words = [f"'{word}'" if " " in word else word for word in recipes.words(setting)]
    asked = " ".join(f"'{name}'" for name in methods)
    return (
        f"python workflow/run.py {recipe['experiment']} {' '.join(words)} --methods {asked} "
        f"--seeds {seed} --out runs/{out}.json"
    )


def collect(recipe: Recipe, files: Sequence[Path], out: Path) -> None:
    """Write every result of a recipe; or, where it says `folder: false`, one table of its own."""
    records = [record for file in files for record in json.loads(file.read_text("utf-8"))]
    kind = import_module(f"answers.{recipe['answers']}")
    if not recipe.get("folder", True):
        table = json.dumps(kind.whole(recipe, records), indent=2, sort_keys=True)
        write_whole(out, table + "\n")
        return
    for name, fields in kind.answers(recipe, records):
        write_result(out / f"{slug(name)}.json", **{"device": "cpu", **fields})


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=recipes.names())
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--scale", default="small", choices=["small", "paper"])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    collect(recipes.read(given.experiment, given.scale), given.files, given.out)


if __name__ == "__main__":
    main()

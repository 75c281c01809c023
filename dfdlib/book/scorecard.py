"""What held: one verdict per claim and reach, from the list of claims and the stored results.

A claim has many results: data sets, backbones, sizes. Which of them are its *primary* results is
named in one place, `PRIMARY`, by patterns and not by what came out; `summarise` says what becomes
of their verdicts. No row is written by hand, so a result that is added is counted.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from dfdlib.book._answers import answers, takes_data
from dfdlib.book._chapter import claims_table
from dfdlib.book._files import book_root, load_claims
from dfdlib.book._primary import EVERY, PRIMARY, SEEDS, Part

__all__ = [
    "PRIMARY",
    "SEEDS",
    "VERDICTS",
    "Part",
    "answers",
    "card",
    "evidence",
    "published",
    "reproduce",
    "summarise",
    "system",
]

VERDICTS = ("held", "mixed", "undecided", "did not hold", "not tested here")

# By paper: its short name, and the credentialed data sets that its tables stand on.
_SYSTEMS = {
    "2601.21941": ("DFD", ("mimic_iv", "eicu", "adni")),
    "2509.05615": ("causal debiasing", ("mimic_iv", "eicu")),
    "2411.10356": ("MMVM", ("mimic_cxr",)),
}


def summarise(verdicts: list[str]) -> str:
    """Sum up the verdicts of primary results; none of them is picked.

    *held* if every one held, *did not hold* if every one did not, *mixed* if some held and some did
    not, *not tested here* if there is none; else *undecided*.

    >>> summarise(["held", "held"]), summarise(["held", "undecided"])
    ('held', 'undecided')
    >>> summarise(["held", "did not hold", "undecided"]), summarise([])
    ('mixed', 'not tested here')
    """
    found = set(verdicts)
    if not found:
        return "not tested here"
    if len(found) == 1:
        return found.pop()
    return "mixed" if {"held", "did not hold"} <= found else "undecided"


def evidence(root: Path | None = None) -> pd.DataFrame:
    """List every stored result of a claim: `claims_table` with `part` beside it.

    Files without a claim (benchmarks, presets, the phantom's check) and results at a reach that the
    claim does not ask for are left out. `part` is what the result says if it is primary, else "".
    """
    table = claims_table(root=root).dropna(subset="file").reset_index(drop=True)
    parts = []
    for _, row in table.iterrows():
        of_it = [part.says for part in PRIMARY.get(row["claim"], EVERY) if part.holds(row)]
        parts.append(of_it[0] if of_it and len(row["seeds"]) >= SEEDS else "")
    return table.assign(part=parts)


def card(root: Path | None = None, *, results: pd.DataFrame | None = None) -> pd.DataFrame:
    """Sum the stored results up: a row per claim and reach, in the order of `claims.yaml`.

    Args:
        root: folder of the book; None finds it.
        results: what `evidence` found; None calls it.

    Returns:
        Columns system, claim, reach, verdict (of `summarise`, over the primary results), the counts
        held, did not hold, undecided and primary, others (results that are not primary), low and
        high (the least and the largest primary effect), lowest and highest (the outermost ends of
        their intervals), metric, any (whether at least one result of any kind held), and missing:
        why there is no verdict, or which part was not tested.
    """
    root = root or book_root()
    results = evidence(root) if results is None else results
    rows = []
    for claim in load_claims(root):
        parts = PRIMARY.get(claim["id"], EVERY)
        for reach in claim["reach"]:
            here = results[(results["claim"] == claim["id"]) & (results["reach"] == reach)]
            primary = here[here["part"] != ""]
            untested = [p.says for p in parts if p.says not in set(primary["part"])]
            counts = primary["verdict"].value_counts()
            rows.append(
                {
                    "system": system(claim)[0],
                    "claim": claim["id"],
                    "reach": reach,
                    "verdict": summarise(primary["verdict"].tolist()),
                    **{word: int(counts.get(word, 0)) for word in _STORED},
                    "primary": len(primary),
                    "others": len(here) - len(primary),
                    "low": primary["effect"].min(),
                    "high": primary["effect"].max(),
                    "lowest": primary["low"].min(),
                    "highest": primary["high"].max(),
                    "metric": " · ".join(primary["metric"].unique()),
                    "any": "held" in set(here["verdict"]),
                    "missing": _missing(reach, untested, len(primary), len(here)),
                }
            )
    return pd.DataFrame(rows)


_STORED = ("held", "did not hold", "undecided")


def _missing(reach: str, untested: list[str], primary: int, stored: int) -> str:
    if primary:
        return "" if not untested else "not tested: " + ", ".join(untested)
    if stored:
        return "only variants and controls were run"
    return "needs credentialed data" if reach == "credentialed" else "no result yet"


def system(claim: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Name the system that a claim is about, and the credentialed data sets of its paper."""
    return next(found for paper, found in _SYSTEMS.items() if paper in claim["source"])


def published(root: Path | None = None) -> pd.DataFrame:
    """Put each published number beside ours: columns claim, published, value, unit, ours.

    Ours are the least and the largest primary effect at each reach that has one, in hundredths of
    the metric: the closest that was measured, on other patients, and not the same quantity.
    """
    root = root or book_root()
    rows = card(root).dropna(subset="low")
    found = []
    for claim in load_claims(root):
        ours = [
            f"{reach}: {100 * low:+.1f} to {100 * high:+.1f}"
            for name, reach, low, high in rows[["claim", "reach", "low", "high"]].to_numpy()
            if name == claim["id"]
        ]
        for line in claim.get("published", ()):
            value = line["value"] if isinstance(line["value"], list) else [line["value"]]
            join = " / " if "/" in line["what"] else " to "
            numbers = join.join(map(str, value))
            said = "; ".join(ours) or "not tested here"
            found.append((claim["id"], line["what"], numbers, line["unit"], said))
    return pd.DataFrame(found, columns=["claim", "published", "value", "unit", "ours"])


def reproduce(root: Path | None = None) -> pd.DataFrame:
    """Say how the credentialed half of each claim is run: columns claim, data, chapter, command.

    A command is given for each chapter of the claim that has the parameters `dataset` and `root`;
    where none has them, chapter and command are empty, and the loader is what there is.
    """
    root = root or book_root()
    chapters = answers(root)
    rows = []
    for claim in load_claims(root):
        if "credentialed" not in claim["reach"]:
            continue
        takes = [name for name in chapters[claim["id"]] if takes_data(root, name)]
        for data in system(claim)[1]:
            for name in takes or [""]:
                run = f"papermill chapters/{name}.ipynb out.ipynb -p dataset {data} -p root FOLDER"
                rows.append((claim["id"], data, name, run if name else ""))
    return pd.DataFrame(rows, columns=["claim", "data", "chapter", "command"])

"""What held: one verdict per claim and reach, from the list of claims and the stored results.

A claim has many results: data sets, backbones, sizes. Which of them are its *primary* results is
named in one place, `PRIMARY`, by patterns and not by what came out; `summarise` says what becomes
of their verdicts. No row is written by hand, so a result that is added is counted.
"""

import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd

from dfdlib.book.chapter import book_root, claims_table, load_claims
from dfdlib.files import slug

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


def answers(root: Path | None = None) -> dict[str, list[str]]:
    """Find the chapters that answer each claim: those whose claim box names it in its title."""
    root = root or book_root()
    boxes = boxed(root)
    return {
        claim["id"]: [chapter for chapter, named in boxes.items() if claim["id"] in named]
        for claim in load_claims(root)
    }


def boxed(root: Path) -> dict[str, list[str]]:
    """What each chapter names in the titles of its claim boxes."""
    claims = {}
    for path in sorted((root / "chapters").glob("*.ipynb")):
        texts = ["".join(c["source"]) for c in _cells(path) if c["cell_type"] == "markdown"]
        boxes = re.findall(r"\{admonition\}([^\n]*)\n:class: claim\b", "\n".join(texts))
        claims[path.stem] = re.findall(r"`([a-z-]+)`", " ".join(boxes))
    return claims


def takes_data(root: Path, chapter: str) -> bool:
    """Whether a chapter has the parameters `dataset` and `root`."""
    for cell in _cells(root / "chapters" / f"{chapter}.ipynb"):
        if "parameters" in cell["metadata"].get("tags", ()):
            names = re.findall(r"(?m)^(\w+) *=", "".join(cell["source"]))
            return {"dataset", "root"} <= set(names)
    return False


def _cells(notebook: Path) -> list[dict[str, Any]]:
    return json.loads(notebook.read_text(encoding="utf8"))["cells"]


SEEDS = 5


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a claim says, and which results say so: patterns of what a result's file names.

    Args:
        says: in words.
        methods: of the method; one has to fit.
        asks: of the estimand; one has to fit.
        without: of the data set; none may fit.
    """

    says: str
    methods: tuple[str, ...] = ("*",)
    asks: tuple[str, ...] = ("*",)
    without: tuple[str, ...] = ()

    def holds(self, result: Mapping[str, Any] | pd.Series) -> bool:
        """Whether a result is one of these.

        >>> part = Part(says="", methods=("DFD, *",), without=("*, mcar",))
        >>> part.holds({"method": "DFD, MUSE", "estimand": "P(Y | X)", "dataset": "heart"})
        True
        """
        return (
            _fits(result["method"], self.methods)
            and _fits(result["estimand"], self.asks)
            and not _fits(result["dataset"], self.without)
        )


def _fits(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


# The one place that names the primary results of a claim: the method as described, on every data
# set, backbone and size. Not counted are variants, rivals, and data sets that are controls, because
# the claim says nothing of them. A claim that is not named here counts every result. What has fewer
# than SEEDS seeds (the maps) never counts.
_DFD = Part(says="DFD as described", methods=("DFD, *", "dual branch*"))
_NONE_MISSING_FOR_A_REASON = ("*mcar", "*strength 0 to 2")
_MMVM = Part(says="MMVM against every other model", methods=("MMVM against *",))
_ALONE = Part(says="MMVM against a VAE per view", methods=("MMVM against independent",))
PRIMARY = {
    "dfd-gain": (_DFD,),
    "dfd-mi-ablation": (
        Part(says="with the term against without", methods=("without MI, *", "dual branch*")),
    ),
    "dfd-tsne": (_DFD,),
    "dfd-gate": (
        Part(
            says="a learned gate, cause and bias on edges of their own",
            methods=("learned, *",),
            without=("*confounded-linear",),
        ),
    ),
    "dfd-gce": (
        Part(says="q = 0.7, easy bias", methods=("q = 0.7, *",), without=("*xor", "*parity")),
    ),
    "dfd-mi": (_DFD,),
    "dfd-bias-probe": (_DFD,),
    "dfd-intervention": (
        Part(says="DFD, something injected", methods=("DFD, *",), without=("*strength 0",)),
    ),
    "dfd-warmup": (Part(says="15 epochs against none", methods=("L_d 0, *",)),),
    "dfd-transformers": (_DFD,),
    "missingness-bias": (
        Part(
            says="the naive network loses to the oracle",
            methods=("naive, *",),
            without=_NONE_MISSING_FOR_A_REASON,
        ),
        Part(
            says="stratified adjustment gains on it",
            methods=("stratified, *", "deconfounder*"),
            without=_NONE_MISSING_FOR_A_REASON,
        ),
    ),
    "missingness-substitute": (
        Part(
            says="the substitute gains on the naive network",
            methods=("substitute*",),
            without=_NONE_MISSING_FOR_A_REASON,
        ),
    ),
    "distribution-bias": (
        Part(says="ERM loses elsewhere", methods=("ERM, *", "*, ERM")),
        Part(says="DFD gains on it", methods=("DFD, *",)),
    ),
    "deconfounding-compatible": (Part(says="both against neither", methods=("both*",)),),
    "mmvm-best-vae": (
        Part(
            says="MMVM against every other VAE, all labels",
            methods=("MMVM against *",),
            asks=("auroc * 100 of MMVM, minus auroc * 100 of *",),
        ),
    ),
    "mmvm-label-efficiency": (
        Part(
            says="MMVM with 10 % of the labels against supervised with all",
            methods=("MMVM against *",),
            asks=("auroc mean 10 of MMVM, minus auroc mean 100 of *",),
        ),
    ),
    "mmvm-stability": (_MMVM,),
    "mmvm-view-quality": (_ALONE,),
    "mmvm-soft-sharing": (
        Part(
            says="MMVM against no sharing",
            methods=("MMVM against no sharing", "MMVM against independent"),
        ),
    ),
    "mmvm-label-noise": (_MMVM,),
    "mmvm-single-modality": (_ALONE,),
    "mmvm-other-metrics": (_MMVM,),
    "mmvm-other-data": (_MMVM,),
}
EVERY = (Part(says="every result"),)

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
    kinds = set(verdicts)
    if not kinds:
        return "not tested here"
    if len(kinds) == 1:
        return kinds.pop()
    return "mixed" if {"held", "did not hold"} <= kinds else "undecided"


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
    return next(named for paper, named in _SYSTEMS.items() if paper in claim["source"])


def published(root: Path | None = None) -> pd.DataFrame:
    """Put each published number beside ours: columns claim, published, value, unit, ours.

    Ours are the least and the largest primary effect at each reach that has one, in hundredths of
    the metric: the closest that was measured, on other patients, and not the same quantity.
    """
    root = root or book_root()
    rows = card(root).dropna(subset="low")
    lines = []
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
            lines.append((claim["id"], line["what"], numbers, line["unit"], said))
    return pd.DataFrame(lines, columns=["claim", "published", "value", "unit", "ours"])


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


# ---------------- The scorecard as HTML: a folded entry per claim, readable on a phone


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Every claim of one system, with its primary results; shows itself in a notebook."""

    system: str
    card: pd.DataFrame
    results: pd.DataFrame
    claims: list[dict[str, Any]]
    chapters: dict[str, list[str]]

    def __repr__(self) -> str:
        """One line a claim and reach."""
        lines = self.card[["claim", "reach", "verdict"]].to_numpy()
        return "\n".join(f"{claim}, {reach}: {verdict}" for claim, reach, verdict in lines)

    def _repr_html_(self) -> str:
        return f'<div class="scorecard">{"".join(map(self._claim, self.claims))}</div>'

    def _claim(self, claim: dict[str, Any]) -> str:
        name = claim["id"]
        rows = self.card[self.card["claim"] == name]
        badges = "".join(
            f'<span class="verdict {slug(verdict)}">{reach}: {verdict}</span> '
            for reach, verdict in rows[["reach", "verdict"]].to_numpy()
        )
        links = [f'<a href="about/claims.html#claim-{name}">what decides it</a>']
        links += [
            f'<a href="{stem}.html">chapter {int(stem[:2])}</a>' for stem in self.chapters[name]
        ]
        body = "".join(part for _, row in rows.iterrows() for part in self._reach(row))
        return (
            f"<details><summary><code>{name}</code> {badges}</summary>"
            f"<p>{html.escape(claim['claim'])}</p><p>{' · '.join(links)}</p>{body}</details>"
        )

    def _reach(self, row: pd.Series) -> Iterator[str]:
        here = self.results
        here = here[(here["claim"] == row["claim"]) & (here["reach"] == row["reach"])]
        missing = f" ({html.escape(row['missing'])})" if row["missing"] else ""
        yield f"<p><strong>{row['reach']}: {row['verdict']}</strong>{missing}</p>"
        primary = here[here["part"] != ""]
        for (part, metric), some in primary.groupby(["part", "metric"], sort=False):
            yield f"<p>{html.escape(part)}; {html.escape(metric)}</p>{_table(some)}"
        if len(primary):
            commands = "\n".join(primary["command"].unique())
            shown = f"<pre>{html.escape(commands)}</pre>"
            yield f"<details><summary>commands</summary>{shown}</details>"
        others = here[here["part"] == ""]
        if len(others):
            counts = others["verdict"].value_counts()
            said = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
            yield f"<p>Beside it, not counted, {len(others)} variants and controls: {said}.</p>"


def sheet(system_name: str, *, root: Path | None = None) -> Sheet:
    """Unfold the scorecard of one system: each claim with its primary results and their commands.

    Raises:
        ValueError: a name that no system has.
    """
    root = root or book_root()
    claims = [claim for claim in load_claims(root) if system(claim)[0] == system_name]
    if not claims:
        known = sorted({system(claim)[0] for claim in load_claims(root)})
        raise ValueError(f"{system_name!r} is no system. Pass one of: {', '.join(known)}")
    results = evidence(root)
    rows = card(root, results=results)
    return Sheet(
        system=system_name,
        card=rows[rows["system"] == system_name].reset_index(drop=True),
        results=results,
        claims=claims,
        chapters=answers(root),
    )


_HEAD = ("data set", "method", "effect", "adjusted interval", "margin", "verdict", "seeds")


def _table(results: pd.DataFrame) -> str:
    head = "".join(f"<th>{title}</th>" for title in _HEAD)
    body = "".join(f"<tr>{''.join(_columns(row))}</tr>" for _, row in results.iterrows())
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _columns(row: pd.Series) -> Iterator[str]:
    yield f"<td>{html.escape(row['dataset'])}</td><td>{html.escape(row['method'])}</td>"
    yield f"<td>{row['effect']:+.3f}</td><td>{row['low']:+.3f} to {row['high']:+.3f}</td>"
    yield f"<td>{row['margin']:g}</td><td>{row['verdict']}</td><td>{len(row['seeds'])}</td>"

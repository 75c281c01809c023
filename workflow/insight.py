"""What the mask tells of how the data came about: candidate graphs against tests of independence.

    python workflow/insight.py run --preset mar --out runs/insight/mar.json
    python workflow/insight.py collect runs/insight/*.json --out results/causal-insight

`run` tests, in every cohort of a preset, the independences that tell missingness graphs apart;
`collect` says how often they name the true one, and does the same for the four hospitals as far as
that goes.
"""

import json
from collections import Counter
from itertools import combinations, permutations
from pathlib import Path
from typing import NamedTuple

import deconfounding as grid
import jobs
import networkx as nx
import numpy as np
import pandas as pd
import yaml
from insight_heart import collect_heart
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from dfdlib import causal
from dfdlib.data import Cohort, synthetic
from dfdlib.data.synthetic_model import HIDEABLE, MODALITIES
from dfdlib.evaluation import write_result
from dfdlib.evaluation.compare import holm, verdict
from dfdlib.files import slug, write_whole

SETTINGS = yaml.safe_load((Path(__file__).parent / "insight.yaml").read_text("utf-8"))["truth"]
ALWAYS = MODALITIES[0]
LISTS = {"five mechanisms": SETTINGS["presets"]}


class Independence(NamedTuple):
    """A conditional independence that the observed data can speak of.

    A modality's values stand for its node A; those of a modality that may be missing are read where
    its indicator, which is then among the given, is 1.
    """

    left: str
    right: str
    given: tuple[str, ...] = ()

    @property
    def statement(self) -> str:
        """As `causal.implied_independences` spells it."""
        return f"{self.left} _||_ {self.right}" + " | " * bool(self.given) + ", ".join(self.given)


def tests() -> list[Independence]:
    """List what is tested in each cohort."""
    vitals = f"A_{ALWAYS}"
    found = []
    for m in HIDEABLE:
        found += [
            Independence(f"R_{m}", vitals),
            Independence(f"R_{m}", "Y"),
            Independence(f"R_{m}", "Y", (vitals,)),
            Independence("E", "Y", (f"R_{m}",)),
        ]
    for m, other in combinations(HIDEABLE, 2):
        found += [
            Independence(f"R_{m}", f"R_{other}"),
            Independence(f"R_{m}", f"R_{other}", (vitals,)),
        ]
    for m, other in permutations(HIDEABLE, 2):
        found += [
            Independence(f"R_{m}", f"A_{other}", (f"R_{other}",)),
            Independence(f"R_{m}", f"A_{other}", (vitals, f"R_{other}")),
        ]
    return found


def candidates() -> dict[str, nx.DiGraph]:
    """Give the graphs of the five mechanisms, and rivals."""
    graphs = {name: synthetic.scm(**synthetic.PRESETS[name]).graph for name in SETTINGS["presets"]}
    graphs["severity"].nodes["Z"]["latent"] = True  # as in the data: nobody wrote severity down

    def rival(edges: list[tuple[str, str]], latent: str = "") -> nx.DiGraph:
        graph = graphs["mcar"].copy()
        graph.add_edges_from(edges)
        if latent:
            graph.nodes[latent]["latent"] = True
        return graph

    indicators, parts = [f"R_{m}" for m in HIDEABLE], [f"A_{m}" for m in MODALITIES]
    caused = [*indicators, *parts, "Y"]
    return graphs | {
        # the graph of arXiv 2509.05615: C -> X, C -> R, C -> Y
        "common cause": rival([("U", node) for node in caused], latent="U"),
        # tests are ordered by chance, and acted upon: R -> Y
        "test acts": rival([(r, "Y") for r in indicators]),
        # each modality has a part that bears on nothing else, and hides it; R_labs indicates `labs`
        "private part": rival([(m, f"R_{m}") for m in HIDEABLE]),
    }


def run(preset: str, out: Path) -> None:
    """Independence all independences in all cohorts of a preset; keep the p-values."""
    rows = []
    for seed in SETTINGS["seeds"]:
        cohort = grid._load(preset, "train", SETTINGS["n"], seed)
        rows.append([p_value(cohort, test) for test in tests()])
    write_whole(out, json.dumps({"preset": preset, "p": rows}))


def p_value(cohort: Cohort, test: Independence) -> float:
    """Test one: likelihood ratio of logistic regressions, within strata of indicators.

    Left is 0 or 1. What is given and no indicator enters linearly, as does the right side.
    """
    strata = pd.DataFrame(
        {name: _columns(cohort, name)[:, 0] for name in test.given if name[0] == "R"}
    )
    groups = strata.groupby([*strata]).indices.values() if len(strata.columns) else [slice(None)]
    known = [_columns(cohort, name) for name in test.given if name[0] != "R"]
    left, right = _columns(cohort, test.left), _columns(cohort, test.right)
    statistic = degrees = 0.0
    for rows in groups:
        if np.isnan(right[rows]).any():
            continue  # the stratum in which the right side is missing
        small = np.hstack([left[:, :0], *known])[rows]
        large = np.hstack([small, right[rows]])
        statistic += _log_likelihood(large, left[rows, 0]) - _log_likelihood(small, left[rows, 0])
        degrees += right.shape[1]
    return float(stats.chi2.sf(2 * statistic, degrees))


def _columns(cohort: Cohort, node: str) -> np.ndarray:
    """What was observed of a node, (n, k); NaN where it is missing."""
    if node == "Y":
        return cohort.y.numpy().astype(float)[:, None]
    if node == "E":
        return (cohort.groups["site"] == synthetic.SITES[0]).astype(float)[:, None]
    kind, modality = node.split("_")
    there = cohort.observed[:, cohort.names.index(modality)].numpy()[:, None]
    if kind == "R":
        return there.astype(float)
    return np.where(there, cohort.x[modality].numpy(), np.nan)


def _log_likelihood(x: np.ndarray, y: np.ndarray) -> float:
    p = np.full(len(y), y.mean())
    if x.shape[1]:
        model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8).fit(x, y)
        p = model.predict_proba(x)[:, 1]
    return -float(log_loss(y, p, normalize=False))


def collect(files: list[Path], out: Path) -> None:
    """Write one result per preset and list of candidates, and those of the hospitals."""
    graphs = candidates()
    lists = LISTS | {"mechanisms and rivals": [*graphs]}
    implied = pd.DataFrame(
        {
            name: [causal.d_separated(graph, *test[:2], test.given) for test in tests()]
            for name, graph in graphs.items()
        }
    )
    for file in files:
        record = json.loads(file.read_text("utf-8"))
        p = np.array(record["p"])
        speaks = np.array([holm(row, SETTINGS["level"])[0] <= SETTINGS["level"] for row in p])
        for name, chosen in lists.items():
            _write(out, record["preset"], name, implied[chosen], speaks)
    collect_heart(out)


def _write(
    out: Path, preset: str, list_name: str, implied: pd.DataFrame, speaks: np.ndarray
) -> None:
    graphs = candidates()
    silent = implied.to_numpy()
    # of each cohort and candidate: tests that speak against the graph, and all that differ from it
    refuting = (speaks[:, :, None] & silent).sum(axis=1)
    differing = (speaks[:, :, None] == silent).sum(axis=1)
    nearest = [implied.columns[row == row.min()].tolist() for row in differing]
    named = [chosen == [preset] for chosen in nearest]
    ci = stats.binomtest(sum(named), len(named)).proportion_ci(1 - SETTINGS["alpha"], "exact")
    described = {
        name: {
            "class": causal.classify(graphs[name]).answer,
            "refuted": float((refuting[:, k] > 0).mean()),
            "tests that differ": float(differing[:, k].mean()),
            "implies the same as the true one": bool((silent[:, k] == implied[preset]).all()),
        }
        for k, name in enumerate(implied)
    }
    write_result(
        out / f"{preset}-{slug(list_name)}.json",
        claim="causal-insight",
        reach="truth",
        dataset=f"synthetic, {preset}",
        method=f"tests of independence, {list_name}",
        parameters={
            **{key: SETTINGS[key] for key in ("n", "level", "alpha")},
            "candidates": described,
            "tests": [
                {
                    "statement": test.statement,
                    "speaks": float(share),
                    "silent by the true graph": ok,
                }
                for test, share, ok in zip(
                    tests(), speaks.mean(axis=0), implied[preset].tolist(), strict=True
                )
            ],
            "nearest": {
                " or ".join(names): count / len(nearest)
                for names, count in Counter(map(tuple, nearest)).items()
            },
        },
        estimand=f"share of cohorts of {SETTINGS['n']:,} patients in which the tests name the "
        f"mechanism that made them, and it alone, among {len(described)} candidate graphs "
        f"({list_name}). Which are listed is a choice; no data rule out what nobody thought of",
        margin=SETTINGS["margin"],
        seeds=SETTINGS["seeds"],
        metric="share named",
        runs=[{"seed": s, "value": int(v)} for s, v in zip(SETTINGS["seeds"], named, strict=True)],
        effect=float(np.mean(named)),
        low=ci.low,
        high=ci.high,
        verdict=verdict("share named", ci.low, ci.high, SETTINGS["margin"]),
        selection="none: nothing is trained",
        device="cpu",
        command="make results",
    )


if __name__ == "__main__":
    choices = {"required": True, "choices": SETTINGS["presets"]}
    jobs.main(__doc__ or "", run, collect, preset=choices)

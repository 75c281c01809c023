"""What the mask tells of how the data came about: how often tests name the true graph."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
from collect import Record, complete
from measures.insight import tests
from recipes import Recipe
from scipy import stats

from answers import insight_heart
from dfdlib import causal
from dfdlib.data import synthetic
from dfdlib.data.synthetic_model import HIDEABLE, MODALITIES
from dfdlib.evaluation.compare import holm, verdict


def answers(recipe: Recipe, records: list[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write one result per preset and list of candidates, and those of the hospitals."""
    graphs, level = candidates(recipe), recipe["truth"]["level"]
    lists = {"five mechanisms": recipe["truth"]["presets"], "mechanisms and rivals": [*graphs]}
    implied = pd.DataFrame(
        {
            name: [causal.d_separated(graph, *test[:2], test.given) for test in tests()]
            for name, graph in graphs.items()
        }
    )
    for preset in recipe["jobs"]["preset"]:
        runs = complete(records, recipe["truth"]["seeds"], preset=preset)
        p = [np.array(run["values"]["cohort"]["independences"]) for run in runs]
        speaks = np.array([holm(row, level)[0] <= level for row in p])
        for name, chosen in lists.items():
            yield _result(recipe, preset, name, graphs, implied[chosen], speaks)
    yield from insight_heart.answers(recipe)


def candidates(recipe: Recipe) -> dict[str, nx.DiGraph]:
    """Give the graphs of the five mechanisms, and rivals."""
    graphs = {
        name: synthetic.scm(**synthetic.PRESETS[name]).graph for name in recipe["truth"]["presets"]
    }
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


def _result(
    recipe: Recipe,
    preset: str,
    list_name: str,
    graphs: dict[str, nx.DiGraph],
    implied: pd.DataFrame,
    speaks: np.ndarray,
) -> tuple[str, dict[str, Any]]:
    given = recipe["truth"]
    silent = implied.to_numpy()
    # of each cohort and candidate: tests that speak against the graph, and all that differ from it
    refuting = (speaks[:, :, None] & silent).sum(axis=1)
    differing = (speaks[:, :, None] == silent).sum(axis=1)
    nearest = [implied.columns[row == row.min()].tolist() for row in differing]
    named = [chosen == [preset] for chosen in nearest]
    ci = stats.binomtest(sum(named), len(named)).proportion_ci(1 - given["alpha"], "exact")
    described = {
        name: {
            "class": causal.classify(graphs[name]).answer,
            "refuted": float((refuting[:, k] > 0).mean()),
            "tests that differ": float(differing[:, k].mean()),
            "implies the same as the true one": bool((silent[:, k] == implied[preset]).all()),
        }
        for k, name in enumerate(implied)
    }
    return f"{preset}-{list_name}", {
        "claim": "causal-insight",
        "reach": "truth",
        "dataset": f"synthetic, {preset}",
        "method": f"tests of independence, {list_name}",
        "parameters": {
            **{key: given[key] for key in ("n", "level", "alpha")},
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
        "estimand": f"share of cohorts of {given['n']:,} patients in which the tests name the "
        f"mechanism that made them, and it alone, among {len(described)} candidate graphs "
        f"({list_name}). Which are listed is a choice; no data rule out what nobody thought of",
        "margin": given["margin"],
        "seeds": given["seeds"],
        "metric": "share named",
        "runs": [{"seed": s, "value": int(v)} for s, v in zip(given["seeds"], named, strict=True)],
        "effect": float(np.mean(named)),
        "low": ci.low,
        "high": ci.high,
        "verdict": verdict("share named", ci.low, ci.high, given["margin"]),
        "selection": "none: nothing is trained",
        "command": "make results",
    }

"""What the masks of the four hospitals tell: the open half of insight.py, as chapter 1 reads them.

The graphs are chapter 1's. In one hospital, and for one value that may be missing: `recorded` says
whether it is there, `other` whether another is, `history` what was known before any test.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from recipes import Recipe
from scipy.stats import binomtest

from dfdlib import causal, data
from dfdlib.data import Cohort
from dfdlib.evaluation import Report, compare, evaluate, out_of_fold, tabular
from dfdlib.evaluation.compare import holm

SLOPE, DEPRESSION = "exercise.ST slope", "exercise.ST depression"
HABIT = "hospital -> recorded; hospital -> disease; history -> disease"
PAIR = f"{HABIT}; hospital -> other"
GRAPHS = {
    "habit, each hole by itself": causal.dag(PAIR),
    "habit, holes on one page": causal.dag(f"{PAIR}; recorded <- page -> other", latent="page"),
    "order by history": causal.dag(f"{PAIR}; history -> recorded; history -> other"),
    "order by severity": causal.dag(
        f"{PAIR}; history <- severity -> disease; recorded <- severity -> other", latent="severity"
    ),
    "result": causal.dag(f"{HABIT}; disease -> depression -> recorded"),  # of the slope alone
}
STATEMENTS = {
    "recorded _||_ disease": ("recorded", "disease", ["hospital"]),
    "recorded _||_ history": ("recorded", "history", ["hospital"]),
    "recorded _||_ disease | history": ("recorded", "disease", ["hospital", "history"]),
    "recorded _||_ other": ("recorded", "other", ["hospital"]),
    "recorded _||_ disease | depression": ("recorded", "disease", ["hospital", "depression"]),
}


def answers(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write one result per hospital."""
    given = recipe["open"]
    cohort = data.load("heart")
    there = cohort.to_frame().notna().T.drop_duplicates().T
    y, site = cohort.y.numpy().astype(int), cohort.groups["site"]
    seeds, folds = given["seeds"], given["folds"]
    readers = [_reader(cohort, there, y, seed, folds) for seed in seeds]
    coins = [evaluate(np.full(len(y), 0.5), reader_cohort(cohort, there, y), by="site", n_boot=0)]
    settings = {key: given[key] for key in ("n_boot", "margin", "alpha")}
    table = compare(readers, coins * len(seeds), **settings)
    guess = _reader(cohort, there, pd.factorize(site)[0], seeds[0], folds, given["n_boot"])
    right = guess.probabilities.argmax(axis=1) == pd.factorize(site)[0]
    for row in table[table["group"] == "site"].to_dict("records"):
        where = str(row["level"])
        here = site == where
        few = min(np.bincount(y[here])) < given["min_patients"]
        tests = _tests(given, cohort.to_frame()[here], there[here], y[here])
        each = [_cell(reader, "auroc", where)["value"] - 0.5 for reader in readers]
        yield (
            f"heart-{where}",
            {
                "claim": "causal-insight",
                "reach": "open",
                "dataset": f"heart, {where}",
                "method": "logistic regression on the mask alone",
                "parameters": {
                    **given,
                    "patients": {"ill": int(y[here].sum()), "healthy": int((1 - y[here]).sum())},
                    "share recorded": there[here].mean().to_dict(),
                    "auroc of the mask": [0.5 + value for value in each],
                    "recognised by the mask": _share(right[here]),
                    "recognised, all hospitals": _cell(guess, "accuracy", "all"),
                    "tests": tests.to_dict("records"),
                    "graphs": _judged(tests, given["level"]),
                },
                "estimand": "P(Y | mask) inside one hospital; effect: AUROC of the mask alone, "
                "minus .5. Beyond the margin mere habit is refuted there; what else made the mask, "
                "no AUROC says",
                "margin": given["margin"],
                "seeds": seeds,
                "metric": "auroc",
                "runs": [{"seed": s, "value": v} for s, v in zip(seeds, each, strict=True)],
                "effect": row["difference"],
                "low": row["low_holm"],
                "high": row["high_holm"],
                "verdict": "undecided" if few else row["verdict"],
                "selection": "fixed settings",
                "command": "make results",
            },
        )


def reader_cohort(cohort: Cohort, there: pd.DataFrame, target: np.ndarray) -> Cohort:
    """Give a cohort that shows the mask and nothing else."""
    return Cohort(x={"mask": there.astype(float)}, y=target, groups=cohort.groups)


def _reader(
    cohort: Cohort, there: pd.DataFrame, target: np.ndarray, seed: int, folds: int, n_boot: int = 0
) -> Report:
    table = reader_cohort(cohort, there, target)
    p = out_of_fold(table, tabular("logistic regression"), folds=folds, seed=seed)
    return evaluate(p, table, by="site", n_boot=n_boot, seed=0)


def _cell(report: Report, metric: str, level: str) -> dict[str, float]:
    frame = report.frame
    row = frame[(frame["metric"] == metric) & (frame["level"] == level)].iloc[0]
    return {key: float(row[key]) for key in ("value", "low", "high")}


def _share(right: np.ndarray) -> dict[str, float]:
    """A share with Wilson's interval, as in chapter 1."""
    ci = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return {"value": float(right.mean()), "low": ci.low, "high": ci.high}


def _tests(
    given: dict[str, Any], values: pd.DataFrame, there: pd.DataFrame, y: np.ndarray
) -> pd.DataFrame:
    """Permutation tests inside one hospital; those without overlap have p NaN."""
    pain = values.filter(regex="angina$|pain$|asymptomatic").filter(like="history")
    history = pain.astype(int).astype(str).agg("".join, axis=1)
    history += np.where(values["history.age"] > values["history.age"].median(), "old", "young")
    depression = np.select([values[DEPRESSION] > 0, values[DEPRESSION] <= 0], ["sank", "not"], "?")
    one, ill = np.zeros(len(y)), pd.Series(y, index=there.index)
    varies = [c for c in there if min(there[c].sum(), (~there[c]).sum()) >= given["min_patients"]]
    rows = []
    for name in varies:
        recorded = there[name]
        pairs = {
            "recorded _||_ disease": (ill, one),
            "recorded _||_ history": (history, one),
            "recorded _||_ disease | history": (ill, history),
        }
        if name == SLOPE:
            pairs["recorded _||_ disease | depression"] = (ill, depression)
        rows += [
            {"value": name, "statement": s, "p": _permutation(given, recorded, other, strata)}
            for s, (other, strata) in pairs.items()
        ]
    rows += [
        {
            "value": f"{a}, {b}",
            "statement": "recorded _||_ other",
            "p": _permutation(given, there[a], there[b], one),
        }
        for a, b in combinations(varies, 2)
    ]
    frame = pd.DataFrame(rows, columns=["value", "statement", "p"])
    frame["p_holm"] = holm(frame["p"].to_numpy(dtype=float), given["level"])[0]
    return frame


def _permutation(given: dict[str, Any], recorded: pd.Series, other: Any, strata: Any) -> float:
    """P-value of independence within strata: chi-squared statistics summed, patients permuted."""
    r = recorded.to_numpy(dtype=float)
    levels = pd.get_dummies(pd.Series(np.asarray(other))).to_numpy(dtype=float)
    groups = [
        rows
        for rows in pd.Series(np.arange(len(r))).groupby(np.asarray(strata)).indices.values()
        if 0 < r[rows].sum() < len(rows) and (levels[rows].std(axis=0) > 0).any()
    ]
    overlap = sum(min(r[rows].sum(), (1 - r[rows]).sum()) for rows in groups)
    if overlap < given["min_patients"]:
        return np.nan
    rng = np.random.default_rng(0)
    statistic = np.zeros(given["n_permutations"] + 1)
    for rows in groups:
        here, n = levels[rows][:, levels[rows].std(axis=0) > 0], len(rows)
        order = np.argsort(rng.random((len(statistic), n)), axis=1)
        order[0] = np.arange(n)
        difference = r[rows][order] @ (here - here.mean(axis=0))
        variance = r[rows].var() * here.var(axis=0) * n * n / (n - 1)
        statistic += (difference**2 / variance * (1 - here.mean(axis=0))).sum(axis=1)
    return float((statistic >= statistic[0] - 1e-9).mean())


def _judged(tests: pd.DataFrame, level: float) -> dict[str, dict[str, Any]]:
    """Of each graph: the tests that it must pass, and those that refute it."""
    found = {}
    for name, graph in GRAPHS.items():
        implied = [
            statement
            for statement, (left, right, given) in STATEMENTS.items()
            if {left, right, *given} <= set(graph) and causal.d_separated(graph, left, right, given)
        ]
        asked = tests[tests["statement"].isin(implied) & tests["p"].notna()]
        if name == "result":  # a story of one value
            asked = asked[asked["value"] == SLOPE]
        against = asked[asked["p_holm"] <= level]
        found[name] = {
            "implies": implied,
            "tests": len(asked),
            "refuted": bool(len(against)) if len(asked) else None,
            "by": (against["value"] + ": " + against["statement"]).tolist(),
        }
    return found

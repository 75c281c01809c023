"""The phantom's findings: AUROC by view, with intervals by bootstrap of test patients."""

from typing import Any

import numpy as np
from collect import Record, complete
from measures.phantom import drawn, same
from recipes import Recipe

from dfdlib.data import phantom
from dfdlib.evaluation.bootstrap import WeightedMetrics
from dfdlib.evaluation.results import commit, versions

# Fluid that does not reach the lateral sulcus (cm above the dome): in the sulcus at the back only.
SMALL = -3.5


def _auroc(y: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """One per label; with weights (B, n) one row per replicate."""
    once = np.ones((1, len(y))) if weights is None else weights
    columns = [
        WeightedMetrics(
            y[:, k], np.column_stack([1 - scores[:, k], scores[:, k]]), task="binary"
        ).replicates(once)[:, 0]
        for k in range(y.shape[1])
    ]
    table = np.stack(columns, 1)
    return table[0] if weights is None else table


def whole(recipe: Recipe, records: list[Record]) -> dict[str, Any]:
    """AUROC of each finding and view, mean over seeds, with intervals by bootstrap of patients."""
    now, n_test, seeds = drawn(), recipe["n_test"], recipe["seeds"]
    if not all(same(record["values"]["cohort"]["generator"], now) for record in records):
        raise ValueError("some runs are of another generator. Run them again")
    # labels and truth only, so the smallest pictures do
    test = phantom.load(n=n_test, size=16, world="id", seed=recipe["test_seed"])
    y = test.y.numpy()
    n_boot, even = recipe["n_boot"], np.full(n_test, 1 / n_test)
    weights = np.random.default_rng(0).multinomial(n_test, even, n_boot)
    weights = np.vstack([np.ones(n_test), weights]).astype(float)
    lesion, wet = phantom.LABELS.index("Lung Lesion"), phantom.LABELS.index("Pleural Effusion")
    behind = test.truth["lesion_behind_heart"].to_numpy()
    fluid = test.truth[["fluid_right", "fluid_left"]].max(axis=1).to_numpy()
    hidden = {
        "lesion behind the heart": (lesion, behind),
        "lesion elsewhere": (lesion, (y[:, lesion] == 1) & ~behind),
        "effusion in the posterior sulcus only": (wet, fluid < SMALL),
        "effusion that rises higher": (wet, fluid >= SMALL),
    }
    tables: dict[str, np.ndarray] = {}
    special: dict[str, dict[str, np.ndarray]] = {name: {} for name in hidden}
    for view in phantom.VIEWS:
        runs = complete(records, seeds, view=view)
        scores = [np.array(run["values"]["methods"]["network"]["findings"]) for run in runs]
        tables[view] = np.mean([_auroc(y, each, weights) for each in scores], 0)
        for name, (label, positive) in hidden.items():
            rows = positive | (y[:, label] == 0)
            special[name][view] = np.mean(
                [
                    _auroc(
                        positive[rows, None].astype(float), s[rows][:, [label]], weights[:, rows]
                    )
                    for s in scores
                ],
                0,
            )[:, 0]
    return {
        "data": "phantom",
        "generator": now["sha256"],
        "drawn": {key: now[key] for key in ("signed", "labels", "truth")},
        "labels": list(phantom.LABELS),
        "prevalence": dict(zip(phantom.LABELS, y.mean(0).round(4).tolist(), strict=True)),
        "n_train": recipe["n_train"],
        "n_test": n_test,
        "size": recipe["size"],
        "seeds": seeds,
        "network": recipe["network"],
        "interval": f"bootstrap over test patients of the mean over seeds, {n_boot}, 95 %",
        "asked_for": recipe["asked_for"],
        "auroc": {
            view: {
                "macro": _interval(table.mean(1)),
                **{label: _interval(table[:, k]) for k, label in enumerate(phantom.LABELS)},
            }
            for view, table in tables.items()
        },
        "by_view": {
            name: {
                "n": int(hidden[name][1].sum()),
                **{view: _interval(values) for view, values in views.items()},
                "lateral minus frontal": _interval(views["lateral"] - views["frontal"]),
            }
            for name, views in special.items()
        },
        "commit": commit(),
        "versions": versions(),
        "command": "make results",
    }


def _interval(values: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}

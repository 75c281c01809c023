"""DFD's gates: a result for each learned gate; the others are controls of the first of them."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from collect import Record, complete, judged
from recipes import Recipe, jobs

from dfdlib.evaluation.compare import paired_intervals

SHARED = ("network", "epochs", "batch_size", "options", "n_train", "n_test", "test_seed", "alpha")
LEARNED, FROZEN, CONSTANT = "learned", "frozen", "constant"


def answers(recipe: Recipe, records: list[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write one result per preset, backbone and learned gate."""
    for setting in jobs(recipe):
        runs = complete(records, recipe["seeds"], **setting)
        methods = [run["values"]["methods"] for run in runs]
        gates = pd.DataFrame({name: [m[name] for m in methods] for name in methods[0]})
        yield from _gates(recipe, setting, gates.map(_told))


def _told(measured: dict[str, Any]) -> dict[str, Any]:
    """As it is stored: what was read off the gate, and beside it scores and probes."""
    beside = {"auroc": "scores", "known": "probe", "signatures": "signatures"}
    return measured["gate"] | {new: measured[old] for old, new in beside.items() if old in measured}


def _gates(
    recipe: Recipe, setting: dict[str, Any], gates: pd.DataFrame
) -> Iterator[tuple[str, dict[str, Any]]]:
    gaps = gates.map(lambda one: one["gap"])
    learned = [name for name in gates if name.startswith(LEARNED)]
    frozen = [name.replace(LEARNED, FROZEN) for name in learned]
    gains = gaps[learned].to_numpy() - gaps[frozen].to_numpy()
    alpha, score = recipe["alpha"], recipe["score"]
    effects = paired_intervals(gains.T, names=learned, margin=recipe["margin"], alpha=alpha)
    told: dict[str, dict[str, Any]] = {}
    for name in gates:
        # mean and interval of a gate's gap by itself, not paired and not adjusted
        alone = paired_intervals(gaps[name].to_numpy()[None], margin=0, alpha=alpha).iloc[0]
        told[name] = {
            "gate": recipe["gates"][name],
            "seed by seed": gates[name].tolist(),
            "interval of the gap": alone[["effect", "low", "high"]].tolist(),
        }
    if CONSTANT in gates:
        auroc = gates.map(lambda one: one["scores"][score["rule"]][score["world"]])
        gained = auroc.drop(columns=CONSTANT).sub(auroc[CONSTANT], axis=0)
        against = paired_intervals(
            gained.T.to_numpy(), names=list(gained), margin=score["margin"], alpha=alpha
        )
        for name, row in against.drop(columns="each").iterrows():
            told[str(name)]["against constant"] = row.to_dict()
    controls = {name: told[name] for name in gates if name not in learned}
    for name, effect in effects.iterrows():
        parameters = {key: recipe[key] for key in SHARED} | told[str(name)]
        parameters["p_holm"] = effect["p_holm"]
        if name == learned[0]:
            parameters["controls"] = controls
        yield (
            f"{setting['preset']}-{setting['backbone']}-{name}",
            {
                "claim": "dfd-gate",
                "reach": "truth",
                "dataset": f"synthetic, {setting['preset']}",
                "method": f"{name}, {setting['backbone']}",
                "parameters": parameters,
                "estimand": "mean tau where cause is minus mean tau where bias is (the gap); "
                "effect: gap minus that of the frozen gate",
                "margin": recipe["margin"],
                "metric": "gap",
                **judged(effect, recipe["seeds"]),
                "selection": "last epoch, fixed settings",
                "command": "make results",
            },
        )

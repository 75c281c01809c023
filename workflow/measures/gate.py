"""What DFD's gate sees: tau by modality and group of patients, against what edges carry."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from cohorts import Data
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

import measures.scores  # noqa: F401  # enters its measures
from dfdlib.data import Cohort
from dfdlib.models import DFD
from dfdlib.models.gate import Gate
from measures import Plan, measure, tests, training

KINDS = ("cause", "spurious")


def plan(recipe: dict[str, Any], setting: dict[str, Any]) -> Plan:
    """Train DFD with every gate of a preset and backbone; read the gate on other patients."""
    preset, backbone = setting["preset"], setting["backbone"]
    return Plan(
        cohort={"kind": "preset", "preset": preset, "n": recipe["n_train"], **tests(recipe)},
        methods={name: _method(recipe, name) for name in recipe["grid"][preset][backbone]},
        training=training(recipe, backbone),
        measures={
            "gate": {"n_random": recipe["n_random"]},
            "auroc": {"rules": recipe["rules"]},
            "known": {},
            "signatures": {},
        },
    )


def _method(recipe: dict[str, Any], name: str) -> dict[str, Any]:
    given = dict(recipe["gates"][name])
    method: dict[str, Any] = {"class": "DFD"}
    if "set" in given:
        method["tau"] = given.pop("set")
    return method | {"options": recipe["options"] | given}


def roles(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """Which modalities hold causal, and which biased features."""
    features = cohort.schema.features
    there = [[any(f.startswith(kind) for f in features[m]) for m in cohort.names] for kind in KINDS]
    return np.array(there[0]), np.array(there[1])


def shares(cohort: Cohort, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much cause and bias each edge carries: (M,) each; (M, d) where edges carry both.

    Of a channel it is the share of its variance that a line through A, what the modality says of
    causes, or through S, what it shows of the spurious attribute, accounts for. The two are
    independent.
    """
    cause, bias = roles(cohort)
    if not (cause & bias).any():
        return cause.astype(float), bias.astype(float)
    explained = np.zeros((2, *tokens.shape[1:]))
    for m, name in enumerate(cohort.names):
        values = pd.DataFrame(cohort.x[name].numpy(), columns=cohort.schema.features[name])
        parts = values.filter(like="cause").sum(axis=1), np.sign(values["spurious_1"])
        for k, part in enumerate(parts):
            explained[k, m] = [np.corrcoef(channel, part)[0, 1] ** 2 for channel in tokens[:, m].T]
    return explained[0], explained[1]


def gap(tau: np.ndarray, cause: np.ndarray, bias: np.ndarray) -> float:
    """Mean tau where cause is, minus mean tau where bias is."""
    tau = np.broadcast_to(tau.reshape(len(tau), -1), cause.reshape(len(tau), -1).shape)
    return float(
        np.average(tau.ravel(), weights=cause.ravel())
        - np.average(tau.ravel(), weights=bias.ravel())
    )


def agreement(tau: np.ndarray, cause: np.ndarray, bias: np.ndarray) -> float:
    """Pairs of edges in the order that their bias shares ask for, minus those that are not.

    Somers' D: over all pairs whose shares differ; a tie of tau counts for neither.
    """
    tau = np.broadcast_to(tau.reshape(len(tau), -1), cause.reshape(len(tau), -1).shape)
    share = (bias / (bias + cause)).ravel().round(6)
    return -float(stats.somersd(share, tau.ravel()).statistic)


@torch.no_grad()
def look(model: DFD, cohort: Cohort) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Tokens, tau and both streams' embeddings of all patients."""
    tokens, observed = model.tokens(next(cohort.batches(len(cohort))))
    return tokens, model.tau(tokens).numpy(), model.represent(tokens, observed).numpy()


@measure
def gate(model: DFD, data: Data, *, n_random: int) -> dict[str, Any]:
    """Read the gate, by modality and by group of patients, against what edges carry."""
    here = data.worlds["id"]
    tokens, tau, _ = look(model, here)
    carried = shares(here, tokens.numpy())
    agrees = here.truth["bias"].to_numpy() == 2 * here.y.numpy() - 1
    groups = {"all": np.full(len(here), True)}
    groups |= {site: here.groups["site"] == site for site in np.unique(here.groups["site"])}
    groups |= {"bias agrees with label": agrees, "bias disagrees": ~agrees}
    means = {name: tau[rows].mean(axis=0) for name, rows in groups.items()}
    means["new hospital"] = look(model, data.worlds["shifted"])[1].mean(axis=0)
    return {
        "gap": gap(means["all"], *carried),
        "agreement": agreement(means["all"], *carried),
        "groups": {
            name: {
                "tau": mean.reshape(len(mean), -1).mean(axis=1).tolist(),
                "gap": gap(mean, *carried),
            }
            for name, mean in means.items()
        },
        "sd": tau.std(axis=0).reshape(tau.shape[1], -1).mean(axis=1).tolist(),
        "random": redrawn(model, tokens, carried, n_random),
    }


@torch.no_grad()
def redrawn(
    model: DFD, tokens: Tensor, carried: tuple[np.ndarray, np.ndarray], n: int
) -> list[float]:
    """Gaps of gates drawn anew over the tokens of the trained model."""
    torch.manual_seed(0)
    options = {"d": model.d, "n_modalities": tokens.shape[1], "channels": model.gate_channels}
    gates = (Gate(kind="frozen", **options) for _ in range(n))
    return [gap(one(tokens[:2000]).mean(0).numpy(), *carried) for one in gates]


@measure
def known(model: DFD, data: Data) -> dict[str, dict[str, float]]:
    """AUROC with which a line through H_c, and through H_b, tells bias and cause."""
    cohort = data.worlds["randomised"]
    *_, h = look(model, cohort)
    half = len(h) // 2
    asked = {"bias": cohort.truth["bias"] > 0, "cause": cohort.truth["severity"] > 0}
    told: dict[str, dict[str, float]] = {}
    for stream, part in zip(("causal", "bias"), np.hsplit(h, 2), strict=True):
        part = (part - part.mean(0)) / np.maximum(part.std(0), 1e-6)
        told[stream] = {}
        for name, label in asked.items():
            line = LogisticRegression(max_iter=1000).fit(part[:half], label[:half])
            told[stream][name] = roc_auc_score(label[half:], line.decision_function(part[half:]))
    return told

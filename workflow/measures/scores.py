"""Scores on test patients: AUROC by rule and world, distance from the truth, what oracles score."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from cohorts import Data
from sklearn.metrics import roc_auc_score
from torch import Tensor

from dfdlib.data import Cohort
from dfdlib.evaluation import predict_proba
from dfdlib.models import DFD, Classifier
from measures import measure

#: The only rule of a model that has no other.
OWN = "own"


@torch.no_grad()
def logits(model: Classifier, cohort: Cohort, rules: Sequence[str]) -> dict[str, np.ndarray]:
    """Every rule's score; the tokens are computed once for all of them."""
    scores: dict[str, list[Tensor]] = {rule: [] for rule in rules_of(model, rules)}
    for batch in cohort.batches(4096):
        tokens, observed = model.tokens(batch)
        for rule, parts in scores.items():
            model.predict = rule
            parts.append(model.score(tokens, observed).squeeze(1))
    return {rule: torch.cat(parts).double().numpy() for rule, parts in scores.items()}


def probabilities(model: Classifier, cohort: Cohort, rules: Sequence[str]) -> dict[str, np.ndarray]:
    """Every rule's probability, in single precision: some patients whose logits differ tie."""
    found = {}
    for rule in rules_of(model, rules):
        model.predict = rule
        found[rule] = predict_proba(model, cohort)[:, 1]
    return found


def rules_of(model: Classifier, rules: Sequence[str]) -> Sequence[str]:
    """DFD has several rules, another model its own."""
    return rules if isinstance(model, DFD) else [OWN]


@measure
def auroc(
    model: Classifier, data: Data, *, rules: Sequence[str], by: str = "probability"
) -> dict[str, dict[str, float]]:
    """AUROC of each rule in each world, by "probability" or by "logit"."""
    read = logits if by == "logit" else probabilities
    found: dict[str, dict[str, float]] = {}
    for world, test in data.worlds.items():
        for rule, score in read(model, test, rules).items():
            found.setdefault(rule, {})[world] = roc_auc_score(test.y.numpy(), score)
    return found


@measure
def oracles(data: Data, *, columns: dict[str, str]) -> dict[str, dict[str, float]]:
    """AUROC in each world of probabilities that the generator knows."""
    return {
        name: {w: roc_auc_score(t.y.numpy(), t.truth[column]) for w, t in data.worlds.items()}
        for name, column in columns.items()
    }


@measure
def signatures(model: Classifier, data: Data) -> list[dict[str, Any]]:
    """What DFD says of its training; nothing of other models."""
    del data
    if not isinstance(model, DFD):
        return []
    return model.signatures[["quantity", "value", "ok"]].to_dict("records")

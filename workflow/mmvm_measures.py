"""What is measured of a VAE or a supervised net in mmvm.py: one number per name."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score
from sklearn.preprocessing import StandardScaler

from dfdlib.data import Cohort
from dfdlib.evaluation.bootstrap import WeightedMetrics
from dfdlib.models import MultimodalVAE

Features = dict[str, np.ndarray]


def labels(cohort: Cohort) -> np.ndarray:
    """A column per label; of several classes one each."""
    y = cohort.y.numpy()
    return y if y.ndim == 2 else (y[:, None] == np.arange(int(y.max()) + 1)).astype(float)


def subsets(n: int, settings: dict[str, Any], seed: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """The labelled patients: per cent, number of the subset, rows. A larger one holds a smaller."""
    orders = [np.random.default_rng([seed, k]).permutation(n) for k in range(settings["subsets"])]
    for share in settings["fractions"]:
        for k in range(settings["subsets"] if share <= settings["few"] else 1):
            yield share, k, orders[k][: max(1, n * share // 100)]


def flipped(y: np.ndarray, share: int, seed: int) -> np.ndarray:
    """Labels, each of which is wrong with a probability of so many per cent."""
    wrong = np.random.default_rng([seed, 9]).random(y.shape) < share / 100
    return np.where(wrong, 1 - y, y)


@torch.no_grad()
def features(model: MultimodalVAE, cohort: Cohort) -> Features:
    """Encoder means of each view, and side by side of both."""
    parts = [model.embed(batch) for batch in cohort.batches(500)]
    found = {v: torch.cat([p[v] for p in parts]).numpy() for v in model.schema.names}
    return {**found, "both": np.hstack(list(found.values()))}


def read(h: np.ndarray, y: np.ndarray, others: list[np.ndarray], c: float) -> list[np.ndarray]:
    """Logistic regression per label: its probabilities for other patients."""
    scaler = StandardScaler().fit(h)
    h, others = scaler.transform(h), [scaler.transform(other) for other in others]
    result = [np.full((len(other), y.shape[1]), y.mean(0)) for other in others]
    for k in np.flatnonzero(y.min(0) < y.max(0)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            reader = LogisticRegression(C=c, max_iter=300).fit(h, y[:, k])
        for table, other in zip(result, others, strict=True):
            table[:, k] = reader.predict_proba(other)[:, 1]
    return result


def forest(
    h: np.ndarray, y: np.ndarray, other: np.ndarray, given: dict[str, Any], seed: int
) -> np.ndarray:
    """The published reader: a random forest per label."""
    result = np.full((len(other), y.shape[1]), y.mean(0))
    for k in np.flatnonzero(y.min(0) < y.max(0)):
        model = RandomForestClassifier(**given, random_state=seed).fit(h, y[:, k])
        result[:, k] = model.predict_proba(other)[:, 1]
    return result


def metrics(
    p: np.ndarray, y: np.ndarray, p_val: np.ndarray, y_val: np.ndarray, *, all_of_them: bool
) -> dict[str, float]:
    """Means over labels; the threshold of F1 is the best one on the validation patients."""
    each = [roc_auc_score(y[:, k], p[:, k]) for k in range(y.shape[1])]
    found = {"auroc": float(np.mean(each))}
    if all_of_them:
        cut = [_threshold(p_val[:, k], y_val[:, k]) for k in range(y.shape[1])]
        found["auprc"] = float(average_precision_score(y, p))
        found["f1"] = float(f1_score(y, p >= cut, average="macro", zero_division=0))
        found["ece"] = WeightedMetrics(y, p, task="multilabel").values()["ece"]
    return found


def _threshold(p: np.ndarray, y: np.ndarray) -> float:
    precision, recall, cuts = precision_recall_curve(y, p)
    return float(cuts[np.argmax((precision * recall / np.maximum(precision + recall, 1e-12))[:-1])])


def summarised(tables: dict[str, list[float]], views: tuple[str, ...]) -> dict[str, float]:
    """Means over subsets; and of both views, the gap between them, range and spread."""
    found = {name: float(np.mean(values)) for name, values in tables.items()}
    spread = {name: float(np.std(v, ddof=1)) for name, v in tables.items() if len(v) > 1}
    first, second = views
    for name in list(found):
        metric, view, *rest = name.split(" ")
        other = " ".join([metric, second, *rest])
        if view == first and other in found:
            found[" ".join([metric, "mean", *rest])] = (found[name] + found[other]) / 2
            if metric == "auroc":
                found[" ".join(["gap", *rest])] = abs(found[name] - found[other])
    for name in [each for each in found if each.startswith("auroc") and "noise" in each]:
        whole, _, share = name.partition(" noise ")
        found[f"{whole.replace('auroc', 'drop', 1)} {share}"] = found[whole] - found[name]
    found |= {name.replace("auroc", "sd", 1): v for name, v in spread.items() if "auroc" in name}
    for view in (*views, "mean", "both"):
        curve = [v for name, v in found.items() if name.split(" ")[:2] == ["auroc", view]
                 and len(name.split(" ")) == 3]  # fmt: skip
        if len(curve) > 1:
            found[f"range {view}"] = max(curve) - min(curve)
    for share in {name.split(" ")[2] for name in spread if name.startswith("auroc")}:
        pair = [spread.get(f"auroc {v} {share}") for v in views]
        if None not in pair:
            found[f"sd mean {share}"] = float(np.mean(pair))
    return found


@torch.no_grad()
def of_the_latents(model: MultimodalVAE, cohort: Cohort) -> dict[str, float]:
    """Pictures decoded from the own and from the other view, and how the posteriors look."""
    first, second = model.schema.names
    sums: dict[str, list[float]] = {}
    spreads, means = [], []
    for batch in cohort.batches(500):
        again = model.reconstruct(batch)
        for view, other in ((first, second), (second, first)):
            there = batch.x[view]
            guessed = model.impute(batch, view, given=[other])
            for name, made in (("reconstructed", again[view]), ("imputed", guessed)):
                error = (made - there).abs().mean().item() * len(batch)
                sums.setdefault(f"{name} {view}", []).append(error)
        q, _ = model.encode(batch)
        spreads.append(q.log_variance)
        means.append(q.mean)
    found = {name: sum(values) / len(cohort) for name, values in sums.items()}
    for view, values in zip((first, second), torch.cat(spreads).unbind(1), strict=True):
        found[f"smallest log-variance {view}"] = values.min().item()
        found[f"largest log-variance {view}"] = values.max().item()
    one, other = torch.cat(means).unbind(1)
    found["cosine of the views"] = torch.cosine_similarity(one, other).mean().item()
    return found

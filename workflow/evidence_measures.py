"""What the evidence grid reads off a trained model."""

import warnings
from itertools import product
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from sklearn.manifold import TSNE
from sklearn.metrics import roc_auc_score, silhouette_score
from torch import Tensor

from dfdlib.data import Cohort
from dfdlib.evaluation import probe
from dfdlib.information import MIN_ROWS, audit
from dfdlib.models import DFD, Classifier

STREAMS = ("causal", "bias")


class Watched(DFD):
    """DFD that follows each head's confidence in the recorded label, epoch by epoch."""

    watched: Cohort
    followed: list[dict[str, float]]

    def refresh(self, batches: Any) -> None:
        """Measure before each validation, on the training patients that are watched."""
        super().refresh(batches)
        batch = next(self.watched.batches(len(self.watched)))
        sign = 2 * batch.y - 1
        agrees = torch.as_tensor(self.watched.truth["bias"].to_numpy()) == sign
        tokens, observed = self.tokens(batch)
        h_c, h_b = self.represent(tokens, observed).chunk(2, dim=1)
        read = {"f_c": self.head(torch.cat([h_c, h_b], 1), observed), "f_b": self.bias_head(
            torch.cat([h_c, h_b], 1))}  # fmt: skip
        self.followed.append(
            {
                f"{head} {name}": float((logit.squeeze(1) * sign).sigmoid()[rows].mean())
                for head, logit in read.items()
                for name, rows in (("agrees", agrees), ("disagrees", ~agrees))
            }
        )


@torch.no_grad()
def embed(model: Classifier, cohort: Cohort) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """H of all patients, and every rule's score; `own` is a model's that has but one."""
    rules = ("concat", "marginal", "causal", "causal_refit", "bias", "bias_refit")
    rules = rules if isinstance(model, DFD) else ("own",)
    h: list[Tensor] = []
    scores: dict[str, list[Tensor]] = {rule: [] for rule in rules}
    for batch in cohort.batches(4096):
        tokens, observed = model.tokens(batch)
        h.append(model.represent(tokens, observed))
        for rule in rules:
            if isinstance(model, DFD):
                model.predict = rule
            scores[rule].append(model.score(tokens, observed).squeeze(1))
    return torch.cat(h).numpy(), {r: torch.cat(s).double().numpy() for r, s in scores.items()}


def measure(
    model: Classifier, worlds: dict[str, Cohort], *, tagged: bool
) -> tuple[dict[str, float], dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """AUROC of each rule in each world, drops, shifts and probes; scores and H by world."""
    found = {world: embed(model, cohort) for world, cohort in worlds.items()}
    scores = {world: by_rule for world, (_, by_rule) in found.items()}
    numbers = {
        f"auroc {rule} {world}": roc_auc_score(worlds[world].y.numpy(), score)
        for world, by_rule in scores.items()
        for rule, score in by_rule.items()
    }
    for rule, score in scores["id"].items():
        numbers[f"drop {rule}"] = numbers[f"auroc {rule} id"] - numbers[f"auroc {rule} shifted"]
        if tagged:
            change = expit(scores["shifted"][rule]) - expit(score)
            numbers[f"shift {rule}"] = float(np.abs(change).mean())
    h = {world: part for world, (part, _) in found.items()}
    return numbers | _probes(model, worlds, h), scores, h


def _probes(
    model: Classifier, worlds: dict[str, Cohort], h: dict[str, np.ndarray]
) -> dict[str, float]:
    """What a line and 15 neighbours find in each stream."""
    # where bias and label are independent, what tells one does not tell the other
    world = "randomised" if "randomised" in worlds else "id"
    cohort, parts = worlds[world], streams(model, h[world])
    asked = {"label": cohort.y.numpy()}
    if cohort.truth is not None:
        asked["bias"] = cohort.truth["bias"].to_numpy()
    if "site" in cohort.groups:
        asked["site"] = cohort.groups["site"]
    numbers = {}
    for (stream, part), (name, label) in product(parts.items(), asked.items()):
        for word, reader in (("probe", "linear"), ("knn", "knn")):
            rows = slice(None) if reader == "linear" else slice(4000)
            found = probe(part[rows], label[rows], reader=reader)["auroc"].item()
            numbers[f"{word} {stream} {name}"] = found
    return numbers


def streams(model: Classifier, h: np.ndarray) -> dict[str, np.ndarray]:
    """Cut H into the streams that it has."""
    if not isinstance(model, DFD):
        return {"own": h}
    return dict(zip(STREAMS, np.hsplit(h, 2), strict=True))


def audited(h: np.ndarray, y: np.ndarray, *, n: int) -> dict[str, float]:
    """Whether the streams are independent, given the label and not, and what the test is worth.

    NaN where nothing can be asked: a stream that is empty, or too few patients of a class.
    """
    a, b = np.hsplit(h[:n], 2)
    empty = min(a.std(axis=0).max(), b.std(axis=0).max()) == 0
    few = min(np.bincount(y[:n].astype(int), minlength=2)) < MIN_ROWS
    numbers = {}
    for name, label in (("", None), (" within", y[:n])):
        ask = not empty and not (name and few)
        table = audit(a, b, label, n_planted=5, steps=200) if ask else None
        for test, what in product(("critic", "dcor", "hsic"), ("estimate", "p_value", "power")):
            value = np.nan if table is None else float(table.loc[test, what])
            numbers[f"audit{name} {test} {what}"] = value
    return numbers


def planes(
    h: np.ndarray, y: np.ndarray, *, patients: int, perplexities: list[int], seeds: list[int]
) -> dict[str, float]:
    """Nearest neighbours and silhouette of the label in t-SNE planes of each stream.

    A stream that is empty tells nothing, whatever t-SNE draws of it: one half, and no silhouette.
    """
    numbers = {}
    label = y[:patients]
    for stream, part in zip(STREAMS, np.hsplit(h[:patients], 2), strict=True):
        spread = part.std(axis=0)
        scaled, empty = (part - part.mean(axis=0)) / np.maximum(spread, 1e-6), spread.max() == 0
        scores = []
        for perplexity, seed in product(perplexities, seeds):
            where = f"{stream} perplexity {perplexity} seed {seed}"
            if empty:
                scores.append(0.5)
                numbers |= {f"tsne {where}": 0.5, f"silhouette {where}": np.nan}
                continue
            fewer = min(perplexity, (len(scaled) - 1) // 3)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                plane = TSNE(perplexity=fewer, random_state=seed, init="random").fit_transform(
                    scaled
                )
            scores.append(probe(plane, label, reader="knn")["auroc"].item())
            numbers[f"tsne {where}"] = scores[-1]
            numbers[f"silhouette {where}"] = float(silhouette_score(plane, label))
        numbers[f"tsne {stream}"] = float(np.mean(scores))
    return numbers

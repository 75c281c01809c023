"""What a model tells of bias and label: scores, and probes, audits and planes of its streams."""

import warnings
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from cohorts import Data
from methods import Watched
from recipes import Recipe, Setting
from scipy.special import expit
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from dfdlib.data import Cohort
from dfdlib.evaluation import probe
from dfdlib.information import MIN_ROWS, audit
from dfdlib.models import DFD, Classifier
from measures import Plan, measure, tests, training
from measures.scores import logits

STREAMS = ("causal", "bias")


def jobs(recipe: Recipe) -> Iterator[Setting]:
    """A job per experiment, data set and backbone that are trained here."""
    for name, given in recipe["experiments"].items():
        if "from" not in given:
            for data, backbone in product(data_of(given), given["backbones"]):
                yield {"experiment": name, "data": data, "backbone": backbone}


def seeds(recipe: Recipe, setting: Setting) -> list[int]:
    """The seeds of an experiment."""
    return recipe["experiments"][setting["experiment"]].get("seeds", recipe["seeds"])


def data_of(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The data sets of an experiment, by name."""
    if "grid" not in given:
        return given["data"]
    slopes, hidden = given["grid"].values()
    return {
        f"slope {slope}, {k} hidden": {"kind": "mapped", "slope": slope, "hidden": k}
        for slope, k in product(slopes, hidden)
    }


def how(recipe: Recipe, given: dict[str, Any]) -> Recipe:
    """Epochs, batches and network of an experiment: those of the hospitals where there are some."""
    return recipe | (recipe["heart"] if given.get("reach") == "open" else {})


def plan(recipe: Recipe, setting: Setting) -> Plan:
    """Train an experiment's methods on one data set and backbone."""
    given, backbone = recipe["experiments"][setting["experiment"]], setting["backbone"]
    cohort, settings = data_of(given)[setting["data"]], how(recipe, given)
    if cohort["kind"] != "left_out":
        cohort = {"n": given.get("n", recipe["n"]), **tests(recipe), **cohort}
    names, by = given["backbones"][backbone], {"rules": recipe["rules"]}
    measures: dict[str, Any] = {"auroc": by | {"by": "logit"}, "probes": {}, "signatures": {}}
    of_cohort: dict[str, Any] = {}
    if cohort["kind"] == "tagged":
        measures["shift"] = by
    if cohort["kind"] in ("preset", "mapped"):
        of_cohort["oracles"] = {"columns": {"oracle": "p_do"}}
    if given.get("reach") == "open":
        measures["scores"], of_cohort["labels"] = by, {}
    also: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name in names:
        if name in given.get("audits", ()):
            also[name]["audits"] = {"n": recipe["audited"]}
        if recipe["methods"][name]["class"] == "DFD":
            also[name] |= {"planes": given["tsne"]} if "tsne" in given else {}
            also[name] |= {"confidence": {}} if "watch" in given else {}
    return Plan(
        cohort=cohort,
        methods={name: _method(recipe, given, name, settings["epochs"]) for name in names},
        training=training(settings, backbone),
        measures=measures,
        also=also,
        of_cohort=of_cohort,
    )


def _method(recipe: Recipe, given: dict[str, Any], name: str, epochs: list[int]) -> dict[str, Any]:
    method = dict(recipe["methods"][name])
    if method.pop("stages", None) == ["joint"]:
        method["epochs"] = sum(epochs)
    if "watch" in given and method["class"] == "DFD":
        method |= {"class": "Watched", "watch": given["watch"]}
    return method


@torch.no_grad()
def embeddings(model: Classifier, cohort: Cohort) -> np.ndarray:
    """H of all patients."""
    batches = cohort.batches(4096)
    return torch.cat([model.represent(*model.tokens(batch)) for batch in batches]).numpy()


def read_in(data: Data) -> Cohort:
    """Where streams are read: if bias is a coin there, what tells it does not tell the label."""
    return data.worlds["randomised" if "randomised" in data.worlds else "id"]


@measure
def labels(data: Data) -> dict[str, list[float]]:
    """Each test patient's label: of the open data that come with the package."""
    return {world: test.y.tolist() for world, test in data.worlds.items()}


@measure
def scores(
    model: Classifier, data: Data, *, rules: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """Each test patient's score, by world and rule."""
    return {
        world: {rule: each.round(4).tolist() for rule, each in logits(model, test, rules).items()}
        for world, test in data.worlds.items()
    }


@measure
def shift(model: Classifier, data: Data, *, rules: Sequence[str]) -> dict[str, float]:
    """Mean change of each rule's probability when the same patients carry the other tag."""
    here, there = (logits(model, data.worlds[world], rules) for world in ("id", "shifted"))
    return {rule: float(np.abs(expit(there[rule]) - expit(here[rule])).mean()) for rule in here}


@measure
def probes(model: Classifier, data: Data) -> dict[str, float]:
    """What a line and 15 neighbours find in each stream of label, bias and hospital."""
    cohort = read_in(data)
    h = embeddings(model, cohort)
    dual = isinstance(model, DFD)
    parts = dict(zip(STREAMS, np.hsplit(h, 2), strict=True)) if dual else {"own": h}
    labels = {"label": cohort.y.numpy()}
    if cohort.truth is not None:
        labels["bias"] = cohort.truth["bias"].to_numpy()
    if "site" in cohort.groups:
        labels["site"] = cohort.groups["site"]
    found = {}
    for (stream, part), (name, label) in product(parts.items(), labels.items()):
        for word, reader in (("probe", "linear"), ("knn", "knn")):
            rows = slice(None) if reader == "linear" else slice(4000)
            auroc = probe(part[rows], label[rows], reader=reader)["auroc"].item()
            found[f"{word} {stream} {name}"] = auroc
    return found


@measure
def confidence(model: Watched, data: Data) -> list[dict[str, float]]:
    """Each head's mean confidence in the recorded label, epoch by epoch."""
    del data
    return model.followed


@measure
def audits(model: DFD, data: Data, *, n: int) -> dict[str, float]:
    """Whether the streams are independent, given the label and not, and what the test is worth.

    NaN where nothing can be asked: a stream that is empty, or too few patients of a class.
    """
    cohort = read_in(data)
    y = cohort.y.numpy()[:n]
    a, b = np.hsplit(embeddings(model, cohort)[:n], 2)
    empty = min(a.std(axis=0).max(), b.std(axis=0).max()) == 0
    few = min(np.bincount(y.astype(int), minlength=2)) < MIN_ROWS
    found = {}
    for name, label in (("", None), (" within", y)):
        ask = not empty and not (name and few)
        table = audit(a, b, label, n_planted=5, steps=200) if ask else None
        for test, what in product(("critic", "dcor", "hsic"), ("estimate", "p_value", "power")):
            value = np.nan if table is None else float(table.loc[test, what])
            found[f"audit{name} {test} {what}"] = value
    return found


@measure
def planes(model: DFD, data: Data, *, patients: int, **drawn: list[int]) -> dict[str, float]:
    """Nearest neighbours and silhouette of the label in t-SNE planes of each stream."""
    h, label = embeddings(model, data.worlds["id"]), data.worlds["id"].y.numpy()
    found = {}
    for stream, part in zip(STREAMS, np.hsplit(h[:patients], 2), strict=True):
        found |= of_planes(stream, part, label[:patients], **drawn)
    return found


def of_planes(
    stream: str, part: np.ndarray, label: np.ndarray, *, perplexities: list[int], seeds: list[int]
) -> dict[str, float]:
    """What t-SNE planes of one stream tell.

    A stream that is empty tells nothing, whatever t-SNE draws of it: one half, and no silhouette.
    """
    spread = part.std(axis=0)
    scaled, empty = (part - part.mean(axis=0)) / np.maximum(spread, 1e-6), spread.max() == 0
    found, scores = {}, []
    for perplexity, seed in product(perplexities, seeds):
        where = f"{stream} perplexity {perplexity} seed {seed}"
        scores.append(0.5)
        silhouette = np.nan
        if not empty:
            fewer = min(perplexity, (len(scaled) - 1) // 3)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tsne = TSNE(perplexity=fewer, random_state=seed, init="random")
                plane = tsne.fit_transform(scaled)
            scores[-1] = probe(plane, label, reader="knn")["auroc"].item()
            silhouette = float(silhouette_score(plane, label))
        found |= {f"tsne {where}": scores[-1], f"silhouette {where}": silhouette}
    return found | {f"tsne {stream}": float(np.mean(scores))}

"""Digests of what the library computes: proof that a reorganisation changed no number.

    python tools/digests.py --out digests.json
    python tools/digests.py --only "DFD, *"
    python tools/digests.py compare COMMIT COMMIT
    python tools/digests.py compare COMMIT COMMIT --without "MUSE, *"

A digest is the SHA-256 of names, types, shapes and bits: of losses and weights after two epochs, of
cohorts, pixels, scores and estimates. It does not carry to another processor, so `compare` checks
both commits out and computes them on this machine, by this version of the script.

Names come from the packages, and only names that the library means to keep, so that the same script
runs on both sides of a move. What cannot be computed is an error, unless `--without` names it.
"""

import os

if __name__ == "__main__":  # before numpy and torch are imported
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import argparse
import copy
import dataclasses
import hashlib
import json
import math
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import dfdlib
from dfdlib import causal, data, evaluation, information, losses, models, training
from dfdlib.data import Cohort, Ragged, phantom, synthetic
from dfdlib.data.synthetic import PRESETS
from dfdlib.models import DFD, Classifier, Deconfounder, M3Care, MultimodalVAE, Stage

ROOT = Path(__file__).resolve().parents[1]

Values = dict[str, Any]
Case = Callable[[], Values]

# ---------------------------------------------------------------- the digest


def digest(value: Any) -> str:
    """SHA-256 of a value: of everything that makes it this value, and of nothing else.

    Raises:
        TypeError: if the value is of a kind that has no canonical bytes.
    """
    hashed = hashlib.sha256()
    for part in _parts(value):
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return hashed.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    match value:
        case _ if value is pd.NA:
            yield b"NA"
        case None | bool() | int() | str():
            yield f"{type(value).__name__} {value}".encode()
        case float() | np.floating():
            yield f"float {'nan' if math.isnan(value) else float(value).hex()}".encode()
        case np.generic():
            yield from _parts(value.item())
        case Tensor():
            yield from _parts(value.detach().cpu().numpy())
        case np.ndarray() if value.dtype == object:
            yield from _parts(value.tolist())
        case np.ndarray():
            yield f"array {value.dtype} {value.shape}".encode()
            if value.dtype.kind == "f":
                value = np.where(np.isnan(value), np.array(np.nan, value.dtype), value)
            yield np.ascontiguousarray(value).tobytes()
        case pd.DataFrame():
            yield b"table"
            yield from _parts([value.index.tolist(), list(map(str, value.columns))])
            for position in range(value.shape[1]):
                yield from _parts(value.iloc[:, position])
        case pd.Series():
            yield from _parts(value.tolist())
        case Mapping():
            yield f"mapping {len(value)}".encode()
            for key in sorted(value, key=str):
                yield from _parts([str(key), value[key]])
        case Ragged():
            yield from _parts([value.values, value.offsets, value.words])
        case Cohort():
            yield from _parts(of_cohort(value))
        case _ if dataclasses.is_dataclass(value):
            yield from _parts({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
        case list() | tuple():
            yield f"list {len(value)}".encode()
            for entry in value:
                yield from _parts(entry)
        case set() | frozenset():
            yield from _parts(sorted(value, key=str))
        case _ if hasattr(value, "__array__"):
            yield from _parts(np.asarray(value))
        case _:
            raise TypeError(f"{type(value).__name__} has no digest. Return arrays, tables, numbers")


def of_cohort(cohort: Cohort) -> Values:
    """Give everything that a cohort holds; the order of modalities counts."""
    whole = next(cohort.batches(len(cohort)))  # pictures that lie in a file are read
    return {
        "names": list(cohort.names),
        "x": dict(whole.x),
        "observed": cohort.observed,
        "x_observed": dict(cohort.x_observed),
        "y": cohort.y,
        "task": cohort.task,
        "covariates": cohort.covariates,
        "groups": dict(cohort.groups),
        "truth": cohort.truth,
        "features": dict(cohort.schema.features),
        "kinds": dict(cohort.schema.kinds),
        "sizes": dict(cohort.schema.sizes),
    }


# ---------------------------------------------------------------- cohorts


@cache
def biased(world: str = "train", n: int = 300, seed: int = 0, **options: Any) -> Cohort:
    """Bias, hospitals and missing modalities, all at once."""
    options = {"missing": "mnar_latent"} | options
    return data.load("synthetic", n=n, world=world, seed=seed, **options)


def shifted() -> tuple[Cohort, Cohort]:
    """Training part, and the world in which the bias turned."""
    return biased(), biased("shifted", n=120, seed=5)


@cache
def heart() -> tuple[Cohort, Cohort]:
    """Vectors and categoricals with missing values; two parts."""
    train, test, _ = data.load("heart").split((0.3, 0.15, 0.55), by="patient", seed=0)
    return train, test


@cache
def records() -> tuple[Cohort, Cohort]:
    """Codes, series and a vector, some of them missing; several classes."""
    rng = np.random.default_rng(0)
    n = 160
    y = rng.integers(0, 3, n)
    codes = [(rng.integers(0, 12, rng.integers(0, 6)) + 3 * label).tolist() for label in y]
    series = [
        np.column_stack(
            [np.sort(rng.random(k)), rng.standard_normal(k) + label, rng.integers(0, 4, k)]
        )
        for label, k in zip(y, rng.integers(0, 7, n), strict=True)
    ]
    vector = rng.standard_normal((n, 3)) + y[:, None]
    vector[rng.random((n, 3)) < 0.2] = np.nan
    whole = Cohort(
        x={
            "vector": vector,
            "codes": Ragged.from_rows(codes),
            "series": Ragged.from_rows(series),
        },
        kinds={"codes": "codes", "series": "series"},
        y=y,
        groups={"site": np.where(rng.random(n) < 0.5, "a", "b")},
    )
    train, test = whole.split((0.75, 0.25), seed=0)
    return train, test


@cache
def several_labels() -> tuple[Cohort, Cohort]:
    """Two modalities and three labels, some of them missing."""
    rng = np.random.default_rng(1)
    n = 160
    y = (rng.random((n, 3)) < 0.4).astype(float)
    x = {"a": rng.standard_normal((n, 4)) + y[:, :1], "b": rng.standard_normal((n, 2)) + y[:, 1:]}
    y[rng.random((n, 3)) < 0.1] = np.nan
    whole = Cohort(x=x, y=y, task="multilabel", groups={"site": rng.choice(["a", "b"], n)})
    train, test = whole.split((0.75, 0.25), seed=0)
    return train, test


@cache
def pictures(kind: str, n: int = 96, **options: Any) -> Cohort:
    """Two views: X-rays of the phantom, or digits."""
    return data.load(kind, n=n, size=16, **options)


def vectors() -> Cohort:
    """Two views that are vectors: one with missing values, one of counts."""
    rng = np.random.default_rng(2)
    real = rng.standard_normal((128, 4))
    real[rng.random(real.shape) < 0.1] = np.nan
    return Cohort(x={"real": real, "counts": rng.poisson(2.0, (128, 3))})


# ---------------------------------------------------------------- models

TWO = (Stage(epochs=2),)
ONE_AND_ONE = (Stage(epochs=1, mi_weight=0), Stage(epochs=1))


def backbone(name: str = "GRAPE", **options: Any) -> nn.Module:
    """Make a backbone of the package, small."""
    return getattr(models, name)(d=8, **options)


def trained(
    make: Callable[[Any], models.Method],
    parts: tuple[Cohort, Cohort],
    stages: tuple[Stage, ...] = TWO,
    **options: Any,
) -> tuple[training.Run, Values]:
    """Train two epochs; losses, weights, and scores of other patients."""
    train, test = parts
    torch.manual_seed(0)
    model = make(train.schema)
    run = training.fit(
        model, train, stages=list(stages), **{"batch_size": 64, "lr": 3e-3, "seed": 1} | options
    )
    values: Values = {"losses": run.history, "weights": dict(model.state_dict())}
    if model.supervised:
        values["scores"] = evaluation.predict_proba(model, test)
    return run, values


def classifier(
    parts: Callable[[], tuple[Cohort, Cohort]],
    kind: type[Classifier] = Classifier,
    net: Callable[[], nn.Module] = backbone,
    head: Mapping[str, Any] | None = None,
    stages: tuple[Stage, ...] = TWO,
    training: Mapping[str, Any] | None = None,
    **options: Any,
) -> Values:
    """Train a Classifier, or a method built on one."""

    def make(schema: Any) -> Classifier:
        made = Deconfounder(**head) if head else None
        return kind(backbone=net(), schema=schema, head=made, **options)

    run, values = trained(make, parts(), stages, **training or {})
    batch = next(parts()[1].batches(20))
    with torch.no_grad():
        tokens, observed = run.model.tokens(batch)
        values["embeddings"] = run.model.represent(tokens, observed)
    if head and head["route"] not in ("ipw", "dropout"):
        values["explained"] = run.model.explain(batch)
    return values


RULES = ("concat", "causal", "marginal", "causal_refit", "bias", "bias_refit")


class Hand(nn.Module):
    """A gate put by hand, as the grid of gates has it."""

    def __init__(self, n_modalities: int) -> None:
        super().__init__()
        self.register_buffer("given", torch.linspace(0.2, 0.8, n_modalities))

    def forward(self, tokens: Tensor) -> Tensor:
        """Give every patient the same."""
        return self.given.expand(tokens.shape[:2])


def dfd(
    net: Callable[[], nn.Module] = backbone,
    parts: Callable[[], tuple[Cohort, Cohort]] = shifted,
    stages: tuple[Stage, ...] = ONE_AND_ONE,
    head: Mapping[str, Any] | None = None,
    by_hand: bool = False,
    **options: Any,
) -> Values:
    """Train DFD; every rule's scores, the gate and what the run is told of."""

    def make(schema: Any) -> DFD:
        made = Deconfounder(**head) if head else None
        model = DFD(backbone=net(), schema=schema, head=made, **options)
        if by_hand:
            model.gate_net = Hand(len(schema.names))
        return model

    run, values = trained(make, parts(), stages)
    model, test = run.model, parts()[1]
    for rule in RULES:
        model.predict = rule
        values[f"scores by {rule}"] = evaluation.predict_proba(model, test)
    model.predict = options.get("predict", "concat")
    batch = next(test.batches(20))
    with torch.no_grad():
        tokens, observed = model.tokens(batch)
        values["embeddings"] = model.represent(tokens, observed)
        values["gate"] = model.tau(tokens)
    values["signatures"] = model.signatures[["quantity", "value", "ok"]]
    return values


def vae(cohort: Callable[[], Cohort], **options: Any) -> Values:
    """Train a VAE; what it embeds, reconstructs, imputes and draws."""
    whole = cohort()
    settings = {"d_latent": 6} | options
    run, values = trained(
        lambda schema: MultimodalVAE(schema=schema, **settings), (whole, whole), batch_size=32
    )
    batch = next(whole.batches(16))
    model = run.model
    values["embeddings"] = model.embed(batch)
    values["reconstructed"] = model.reconstruct(batch)
    both = whole.select(whole.observed.all(1).numpy())
    view, other = model.schema.names
    values["imputed"] = model.impute(next(both.batches(8)), view, given=[other])
    values["generated"] = model.generate(batch, n=2)
    if model.prior != "mmvm":
        values["sampled"] = model.sample(3)
    return values


def supervised(kind: str, published: bool) -> Values:
    """Train the VAE's own encoders on labels, as the supervised nets of the grid do."""
    cohort = pictures(kind)
    y = cohort.y if cohort.y.ndim == 2 else nn.functional.one_hot(cohort.y.long()).float()
    encoders = MultimodalVAE(schema=cohort.schema, d_latent=6).encoders
    head = nn.Linear(12, y.shape[1])
    torch.manual_seed(3)
    for module in (*encoders.modules(), head):
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    whole = nn.ModuleDict({**encoders, "head of all": head})
    optimiser = torch.optim.AdamW(whole.parameters(), lr=3e-3)
    followed = []
    for _ in range(2):
        for rows in torch.arange(len(cohort)).split(32):
            seen = [torch.cat(encoders[v](cohort.x[v][rows]), 1) for v in cohort.names]
            logits = head(torch.relu(torch.stack(seen).mean(0)))
            if published:
                loss = nn.functional.cross_entropy(logits.sigmoid(), y[rows])
            else:
                loss = nn.functional.binary_cross_entropy_with_logits(logits, y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            followed.append(loss.item())
    return {"losses": followed, "weights": dict(whole.state_dict())}


def saved() -> Values:
    """Save a model, make it again, and compare what it scores."""
    values: Values = {}
    made = {
        "Classifier": lambda s: Classifier(backbone=backbone(), schema=s),
        "DFD": lambda s: DFD(backbone=backbone("MUSE"), schema=s, environment="site"),
        "Deconfounder": lambda s: Classifier(
            backbone=backbone("TokenTransformer"), schema=s, head=Deconfounder(route="invariant")
        ),
    }
    for name, make in made.items():
        run, _ = trained(make, shifted())
        with tempfile.TemporaryDirectory() as folder:
            run.save(folder)
            values[f"{name}, tensors"] = load_file(Path(folder) / "model.safetensors")
            again = training.load_model(folder)
        values[f"{name}, scores"] = evaluation.predict_proba(again, shifted()[1])
    return values


def first_format() -> Values:
    """Load the folder that an early version saved."""
    folders = sorted(
        path.parent for path in (ROOT / "tests" / "fixtures" / "format-1").rglob("model.json")
    )
    if not folders:
        raise FileNotFoundError("tests/fixtures/format-1 holds no saved model")
    return {f.name: dict(training.load_model(f).state_dict()) for f in folders}


def graph() -> Values:
    """Message passing over a list of edges, and the graph of a cohort."""
    module = import_module("dfdlib.graph")
    torch.manual_seed(0)
    cohort = biased("id", n=24)
    tokens = torch.randn(24, len(cohort.names), 8)
    twin = module.EdgeListGRAPE(d=8, n_modalities=len(cohort.names)).eval()
    hetero = module.to_hetero_data(cohort, tokens=tokens)
    return {
        "weights": dict(twin.state_dict()),
        "edges": module.edge_index(cohort.observed),
        "graph": {str(kind): dict(store.items()) for kind, store in hetero._global_store.items()}
        if hetero._global_store
        else [
            {key: part for key, part in store.items() if isinstance(part, Tensor)}
            for store in hetero.stores
        ],
    }


# ---------------------------------------------------------------- evaluation, information, causal


def guesses(cohort: Cohort, seed: int) -> np.ndarray:
    """Probabilities that know something of the label."""
    noise = np.random.default_rng(seed).standard_normal(len(cohort))
    return 1 / (1 + np.exp(-(cohort.y.numpy() - 0.5 + noise)))


def evaluated() -> Values:
    """Reports and paired differences, with bootstrap intervals."""
    cohort = data.load("heart")
    pairs = [[evaluation.evaluate(guesses(cohort, s), cohort, by="site", n_boot=0) for s in part]
             for part in ((0, 1, 2), (3, 4, 5))]  # fmt: skip
    report = evaluation.evaluate(
        guesses(cohort, 0), cohort, by=[*cohort.covariates, "site"], n_boot=100
    )
    several = several_labels()[1]
    rng = np.random.default_rng(9)
    many = evaluation.evaluate(rng.random((len(several), 3)), several, n_boot=100)
    classes = records()[1]
    three = evaluation.evaluate(rng.dirichlet(np.ones(3), len(classes)), classes, n_boot=100)
    return {
        "report": report.frame,
        "several labels": many.frame,
        "several classes": three.frame,
        "compare": evaluation.compare(*pairs, n_boot=100, margin=0.02),
        "compare, one seed": evaluation.compare(pairs[0][0], pairs[1][0], n_boot=100, alpha=0.01),
    }


def predicted() -> Values:
    """Folds, groups and tables, and a network in their place."""
    cohort = biased(n=240)
    make = training.trainer(
        lambda s: Classifier(backbone=backbone(), schema=s),
        val=0.2, stages=[Stage(epochs=2)], batch_size=64, select="val_loss", patience=1,
    )  # fmt: skip
    logistic = evaluation.tabular("logistic regression", flags=True)
    boosting = evaluation.tabular("gradient boosting", seed=1)
    heart_train, heart_test = heart()
    return {
        "network, folds": evaluation.out_of_fold(cohort, make, folds=2, seed=0),
        "network, groups": evaluation.out_of_group(cohort, "site", make),
        "logistic, folds": evaluation.out_of_fold(cohort, logistic, folds=3, seed=1),
        "logistic, folds within": evaluation.out_of_fold(
            cohort, logistic, within="site", folds=3, seed=1
        ),
        "boosting": boosting(heart_train, heart_test),
        "logistic": evaluation.tabular("logistic regression")(heart_train, heart_test),
    }


def probed() -> Values:
    """Readers of a representation, and the audit of leaks."""
    rng = np.random.default_rng(0)
    h = rng.standard_normal((400, 3))
    y = (h[:, 0] + rng.standard_normal(400) > 0).astype(float)
    return {
        "linear": evaluation.probe(h, y),
        "knn": evaluation.probe(h, y, reader="knn"),
        "classes": evaluation.probe(h, np.digitize(h[:, 1], [-0.5, 0.5])),
        "leaks": evaluation.audit_leaks(biased(n=300), n_shuffles=3, n_boot=50),
    }  # fmt: skip


def stored() -> Values:
    """A result as it is written and read again, but for what tells where it was made."""
    with tempfile.TemporaryDirectory() as folder:
        path = evaluation.write_result(
            f"{folder}/a.json", claim="dfd-gain", reach="open", dataset="heart", method="DFD",
            parameters={"d": 8, "each": np.arange(3.0)}, estimand="P(Y | X)", margin=0.01,
            seeds=[0], metric="auroc", runs=[{"seed": 0, "value": 0.02}], effect=0.02, low=-0.01,
            high=float("nan"), verdict="undecided", selection="last epoch", command="make results",
        )  # fmt: skip
        text = json.loads(path.read_text("utf-8"))
    return {"file": {k: v for k, v in text.items() if k not in ("versions", "device", "commit")}}


def bounds() -> Values:
    """Estimators of information, and tests of independence."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(200, 3, generator=generator)
    b = a[:, :2] + torch.randn(200, 2, generator=generator)
    y = (torch.rand(200, generator=generator) < 0.5).float()
    values: Values = {}
    for name in ("MINE", "InfoNCE", "CLUB"):
        for within in (None, 2):
            if name == "MINE" and within:
                continue  # it has no such form
            torch.manual_seed(0)
            options = {"n_classes": within} if within else {}
            bound = getattr(information, name)(d_c=3, d_b=2, noise=0.5, hidden=8, **options)
            read = y if within else None
            information.learn(bound, a, b, read, steps=50)
            called = f"{name}{' within classes' if within else ''}"
            values[f"{called}, weights"] = dict(bound.state_dict())
            torch.manual_seed(1)
            values[f"{called}, value"] = list(bound(a, b, read))
    for statistic in ("dcor", "hsic"):
        for within in (None, y):
            values[f"{statistic}{'' if within is None else ' within'}"] = list(
                information.permutation_test(
                    a, b, statistic=statistic, within=within, n_permutations=49
                )
            )
    values["distance correlation"] = information.distance_correlation(a, b)
    values["hsic, value"] = information.hsic(a, b)
    values["audit"] = information.audit(a, b, n_planted=2, steps=50, n_permutations=19)
    values["audit within, product"] = information.audit(
        a, b, y, n_planted=2, steps=50, n_permutations=19, plant="product"
    )
    return values


def lost() -> Values:
    """Losses, their gradients and the relative difficulty."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, generator=generator).requires_grad_()
    y = (torch.rand(40, generator=generator) < 0.5).float()
    values: Values = {}
    for name in ("gce", "gce_weighted_ce"):
        for q in (0, 0.3, 0.7, 1)[name != "gce" :]:
            value = getattr(losses, name)(logits, y, q=q)
            (slope,) = torch.autograd.grad(value, logits)
            values[f"{name}, q {q}"] = [value, slope]
    values["swap"] = list(losses.swap(logits[:, None], y, generator=generator))
    difficulty = losses.RelativeDifficulty(n_classes=2)
    first, second = torch.rand(2, 40, generator=generator)
    values["difficulty"] = [
        difficulty(first * k, second, y.long(), torch.arange(40)) for k in (1, 2)
    ]
    return values


def estimated() -> Values:
    """Estimators on a plain table, with intervals and diagnostics."""
    rng = np.random.default_rng(0)
    n = 1500
    w = rng.standard_normal((n, 2))
    sick = (w[:, 0] + rng.standard_normal(n) > 0).astype(int)
    t = (rng.random(n) < 1 / (1 + np.exp(-w[:, 0]))).astype(int)
    y = t + w.sum(1) + rng.standard_normal(n)
    table = pd.DataFrame({"w": w[:, 0], "v": w[:, 1], "sick": sick, "t": t, "y": y})
    hidden = table.assign(y=np.where(rng.random(n) < 0.3, np.nan, y))
    values: Values = {}
    for name in ("BackdoorAdjustment", "IPW", "AIPW"):
        for what, settings, adjust in (
            ("effect", {"treatment": "t"}, ["sick"]),
            ("hidden outcome", {}, ["sick"]),
        ):
            source = table if settings else hidden
            fitted = getattr(causal, name)().fit(source, outcome="y", adjust=adjust, **settings)
            values[f"{name}, {what}"] = fitted.estimate()
            values[f"{name}, {what}, diagnostics"] = fitted.diagnostics()
    for name, fitted in {
        "linear": causal.BackdoorAdjustment(outcome_model="regression"),
        "AIPW, linear": causal.AIPW(outcome_model="regression", folds=2),
    }.items():
        values[name] = fitted.fit(table, outcome="y", treatment="t", adjust=["w", "v"]).estimate()
    many = causal.MultipleImputation(n_imputations=4).fit(hidden, outcome="y", adjust=["w", "v"])
    values["MultipleImputation"] = many.estimate()
    values["rubin"] = list(causal.rubin([1.0, 2.0, 3.0], [0.5, 0.5, 0.5]))
    return values


def graphs() -> Values:
    """What graphs answer, and what models draw."""
    values: Values = {}
    drawn = {f"biased features {r}": causal.papers.biased_features(r) for r in "123"}
    drawn |= {f"synthetic {name}": synthetic.scm(**settings) for name, settings in PRESETS.items()}
    drawn["phantom"] = phantom.scm()
    for name, scm in drawn.items():
        values[f"{name}, sample"] = scm.sample(50, seed=0)
        values[f"{name}, graph"] = [sorted(scm.graph.edges), sorted(scm.graph.nodes(data="latent"))]
        values[f"{name}, independences"] = causal.implied_independences(scm.graph)
    for reading in "12":
        graph = drawn[f"biased features {reading}"].graph
        values[f"adjustment {reading}"] = str(causal.adjustment_sets(graph, "X", "Y"))
        values[f"paths {reading}"] = causal.paths(graph, "X", "Y").astype(str)
    values["readings"] = causal.papers.readings().astype(str)
    values["adjusting for missingness"] = causal.papers.adjusting_for_missingness().astype(str)
    for name in ("mcar", "mar", "severity", "mnar-latent", "mnar-self"):
        graph = drawn[f"synthetic {name}"].graph
        values[f"classify {name}"] = str(causal.classify(graph).answer)
    return values


# ---------------------------------------------------------------- clinical cohorts


def clinical(name: str, **options: Any) -> Values:
    """Made-up patients in the raw tables of a data set, and the cohort of them."""
    made_up = first_of("dfdlib.data.made_up", "dfdlib.book.made_up")
    with tempfile.TemporaryDirectory() as folder:
        root = made_up.write(name, folder, n=60, seed=0, pixels=24)
        if name == "mimic_cxr":
            command = ["data", "convert", "mimic-cxr", "--root", str(root), "--size", "24"]
            subprocess.run(
                [sys.executable, "-c", "from dfdlib.cli import app; app()", *command],
                check=True, capture_output=True,
            )  # fmt: skip
        return of_cohort(data.load(name, root=root, **options))


def first_of(*names: str) -> Any:
    """Import a module that may stand in one of two places.

    Raises:
        ImportError: if it stands in neither.
    """
    for name in names:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if not error.name or not name.startswith(error.name):
                raise
    raise ImportError(f"none of {', '.join(names)} is there")


# ---------------------------------------------------------------- all of them

#: Every option set of DFD that a grid trains, and those that the library offers besides.
DFD_OPTIONS: dict[str, Values] = {
    "default": {},
    "without MI": {"mi": None},
    "without GCE": {"gce_q": 0},
    "without gate": {"gate": "constant"},
    "frozen gate": {"gate": "frozen"},
    "frozen gate in all layers": {"gate": "frozen", "gate_layers": "all"},
    "frozen gate per channel": {"gate": "frozen", "gate_channels": True},
    "frozen gate per channel, all layers": {
        "gate": "frozen", "gate_channels": True, "gate_layers": "all",
    },
    "gate in all layers": {"gate_layers": "all"},
    "gate in the first layer": {"gate": "learned", "gate_layers": "first"},
    "gate per channel": {"gate_channels": True, "gate_layers": "first"},
    "gate per channel, all layers": {"gate_channels": True, "gate_layers": "all"},
    "gate by hand": {"gate": "constant", "gate_layers": "first", "by_hand": True},
    "gate by hand in all layers": {"gate": "constant", "gate_layers": "all", "by_hand": True},
    "one stage": {"stages": TWO},
    "bias loss first": {"stages": (Stage(epochs=1, causal_weight=0, mi_weight=0), Stage(epochs=1))},
    "swap from the second stage": {
        "swap_weight": 1,
        "stages": (Stage(epochs=1, mi_weight=0, swap_weight=0), Stage(epochs=1)),
    },
    "without stop-gradient": {"stop_gradient": False},
    "CLUB": {"mi": "club", "mi_weight": 0.1, "mi_noise": 1.0, "gce_q": 0.7},
    "MINE": {"mi": "mine"},
    "InfoNCE": {"mi": "infonce"},
    "HSIC": {"mi": "hsic"},
    "distance correlation": {"mi": "dcor"},
    "CLUB within classes": {"mi_within": True},
    "CLUB across classes": {"mi_within": False},
    "InfoNCE within classes": {"mi": "infonce", "mi_within": True},
    "HSIC within classes": {"mi": "hsic", "mi_within": True},
    "distance correlation within classes": {"mi": "dcor", "mi_within": True},
    "critic of 8": {"mi_hidden": 8},
    "critic of 256": {"mi_hidden": 256},
    "ten times the weight": {"mi_weight": 1},
    "weight 0.3": {"mi_weight": 0.3},
    "weight 3": {"mi_weight": 3},
    "weight 10": {"mi_weight": 10},
    "noise 0.3": {"mi_noise": 0.3},
    "critic with refits": {"mi_refits": 1},
    "difficulty": {"difficulty": True, "swap_weight": 0},
    "difficulty and swap": {"difficulty": True, "swap_weight": 1},
    "swap": {"difficulty": False, "swap_weight": 1},
    "swap 3": {"swap_weight": 3, "gate_channels": False},
    "q = 0.3": {"gce_q": 0.3},
    "q = 0.95": {"gce_q": 0.95},
    "q = 1": {"gce_q": 1},
    "GCE weight": {"gce_weight": 0.5},
    "causal weight": {"causal_weight": 0.5},
    "hospital-aware": {"environment": "site"},
    "hospital-aware, difficulty and swap": {
        "environment": "site", "difficulty": True, "swap_weight": 1,
    },
    "marginal": {"predict": "marginal"},
    "few prototypes": {"predict": "marginal", "n_memory": 8},
    "without flags, dropout": {"flags": False, "dropout": 0.2},
    "stratified": {"head": {"route": "stratified"}},
    "invariant": {"head": {"route": "invariant"}},
    "substitute": {"head": {"route": "substitute"}},
    "ipw": {"head": {"route": "ipw"}},
    "dropout": {"head": {"route": "dropout"}},
}  # fmt: skip

#: Every route with the options of the grids, and those that the library offers besides.
ROUTES: dict[str, Values] = {
    "stratified": {"route": "stratified"},
    "stratified, patterns drawn": {"route": "stratified", "n_patterns": 3},
    "nwgm": {"route": "nwgm"},
    "prototypes": {"route": "prototypes"},
    "prototypes, learned": {
        "route": "prototypes", "dictionary": "learned", "n_prototypes": 4, "temperature": 0.5,
    },
    "substitute": {"route": "substitute", "weight": 0.3},
    "substitute, weight 1": {"route": "substitute", "weight": 1},
    "substitute, proxies": {"route": "substitute", "proxies": ("site",)},
    "ipw": {"route": "ipw"},
    "ipw, proxies": {"route": "ipw", "proxies": ("site",), "clip": 2.0},
    "dropout": {"route": "dropout"},
    "dropout, rate": {"route": "dropout", "rate": 0.6},
    "invariant": {"route": "invariant", "weight": 0.3},
    "invariant, weight 0": {"route": "invariant", "weight": 0},
    "invariant, weight 3": {"route": "invariant", "weight": 3},
    "invariant, momentum": {"route": "invariant", "momentum": 0.5, "subtract": False},
    "substitute, momentum": {"route": "substitute", "momentum": 0.5, "subtract": False},
}  # fmt: skip

WARM = (Stage(epochs=1, penalty_weight=0), Stage(epochs=1))
BASELINES: dict[str, Values] = {
    "CORAL": {"penalty_weight": 30},
    "CORAL, first order": {"penalty_weight": 3, "order": 1},
    "CORAL, warm": {"penalty_weight": 30, "stages": WARM},
    "IRM": {"penalty_weight": 100},
    "IRM, warm": {
        "penalty_weight": 100, "stages": (Stage(epochs=1, penalty_weight=1), Stage(epochs=1)),
    },
    "VREx": {"penalty_weight": 1000},
    "VREx, warm": {
        "penalty_weight": 1000, "stages": (Stage(epochs=1, penalty_weight=1), Stage(epochs=1)),
    },
    "GroupDRO": {},
    "GroupDRO, environments": {"groups": "environment", "step_size": 0.1},
    "LfF": {},
    "LfF, options": {"gce_q": 0.3, "alpha": 0.5},
}  # fmt: skip

NETS: dict[str, Callable[[], nn.Module]] = {
    "GRAPE": backbone,
    "GRAPE, one layer": partial(backbone, n_layers=1),
    "GRAPE, dropout": partial(backbone, dropout=0.2),
    "MUSE": partial(backbone, "MUSE"),
    "MUSE, options": partial(
        backbone, "MUSE",
        dropout=0.0, edge_drop=0.2, temperature=0.5, contrast_weight=1.0, supervised_weight=0.0,
    ),
    "TokenTransformer": partial(backbone, "TokenTransformer"),
    "TokenTransformer, options": partial(
        backbone, "TokenTransformer", n_layers=1, n_heads=2, dropout=0.2
    ),
    "M3Care": lambda: M3Care(backbone=backbone()),
    "M3Care, options": lambda: M3Care(
        backbone=backbone("TokenTransformer"), threshold=0.2, n_memory=6
    ),
}  # fmt: skip

VAES: dict[str, Values] = {
    "independent": {"prior": "independent", "beta": 0.003},
    "avg": {"prior": "avg", "beta": 0.3},
    "avg, deviation": {"prior": "avg", "average": "deviation"},
    "moe": {"prior": "moe"},
    "moe, all experts": {"prior": "moe", "experts": "all"},
    "poe": {"prior": "poe"},
    "poe, prior expert": {"prior": "poe", "prior_expert": "all", "kl_times": "once"},
    "mopoe": {"prior": "mopoe"},
    "mopoe, prior expert": {"prior": "mopoe", "prior_expert": "full", "experts": "all"},
    "mmvm": {"prior": "mmvm", "beta": 0.1},
    "mmvm, mixture": {"prior": "mmvm", "regulariser": "mixture"},
    "mmvm, not annealed": {"prior": "mmvm", "annealing": "none"},
    "mmvm, linear": {"prior": "mmvm", "annealing": "linear", "annealed": 0.5},
    "mmvm, cosine": {"prior": "mmvm", "annealing": "cosine"},
    "mmvm, a quarter": {"prior": "mmvm", "alpha": 0.25},
    "mmvm, three quarters": {"prior": "mmvm", "alpha": 0.75},
    "mmvm, unbalanced": {"prior": "mmvm", "balance": False},
    "gaussian": {"likelihood": "gaussian", "scale": 0.5},
    "bernoulli": {"likelihood": "bernoulli"},
    "dropout, narrow": {"dropout": 0.2, "width": 4, "network": "small"},
}


def cases() -> dict[str, Case]:
    """Every case by name; each gives values by name, which are digested one by one."""
    named: dict[str, Case] = {}
    for name, net in NETS.items():
        named[f"Classifier, {name}"] = partial(classifier, shifted, net=net)
        named[f"Classifier without flags, {name}"] = partial(
            classifier, shifted, net=net, flags=False, dropout=0.2
        )
        named[f"Classifier, heart, {name}"] = partial(classifier, heart, net=net)
    for name in ("GRAPE", "MUSE", "TokenTransformer"):
        net = NETS[name]
        named[f"Classifier, records, {name}"] = partial(classifier, records, net=net)
        named[f"Classifier, several labels, {name}"] = partial(classifier, several_labels, net=net)
        for route in ("stratified", "substitute", "ipw", "invariant", "dropout"):
            named[f"Deconfounder, {route}, heart, {name}"] = partial(
                classifier, heart, net=net, head=ROUTES[route]
            )
        for route in ("stratified", "invariant"):
            named[f"Deconfounder, {route}, records, {name}"] = partial(
                classifier, records, net=net, head=ROUTES[route]
            )
        within = ("hospital-aware", "CLUB within classes")
        for which in ("default", "difficulty and swap", *within):
            for where, parts in (("records", records), ("several labels", several_labels)):
                if where == "several labels" and which in within:
                    continue  # it has no such form
                named[f"DFD, {which}, {where}, {name}"] = partial(
                    dfd, net, parts, **DFD_OPTIONS[which]
                )
        named[f"DFD, default, heart, {name}"] = partial(dfd, net, heart)
    for name, net in NETS.items():
        if name in ("GRAPE", "TokenTransformer"):
            for route, options in ROUTES.items():
                named[f"Deconfounder, {route}, {name}"] = partial(
                    classifier, shifted, net=net, head=options
                )
        if name in ("GRAPE", "MUSE", "TokenTransformer", "M3Care"):
            for which, options in DFD_OPTIONS.items():
                few = ("default", "gate in all layers", "hospital-aware", "without MI", "MINE")
                if name == "GRAPE" or which in (*few, "difficulty and swap", "stratified"):
                    named[f"DFD, {which}, {name}"] = partial(dfd, net, **options)
        if name in ("GRAPE", "MUSE"):
            for which, options in BASELINES.items():
                kind = getattr(models, which.partition(",")[0])
                environment = {} if kind is models.LfF else {"environment": "site"}
                named[f"{which}, {name}"] = partial(
                    classifier, shifted, kind=kind, net=net, **environment, **options
                )
    for name, encoders in {
        "SeriesTransformer": lambda: {"series": models.SeriesTransformer(d=8, n_heads=2)},
        "SeriesGRU, few rows": lambda: {"series": models.SeriesGRU(d=8, max_rows=3)},
        "codes, sum": lambda: {"codes": models.CodeBag(d=8, pool="sum", min_count=1)},
        "codes, tfidf": lambda: {"codes": models.CodeBag(d=8, pool="tfidf")},
    }.items():
        named[f"Classifier, {name}"] = partial(with_encoders, encoders)
    for select in ("val_loss", "val_auroc"):
        named[f"fit, {select}"] = partial(selected, select)
    named |= {"fit, kept weights": kept_weights, "fit, seeds": seeds}
    for name, options in VAES.items():
        named[f"MultimodalVAE, {name}, phantom"] = partial(
            vae, partial(pictures, "phantom"), **options
        )
        if "annealing" not in options:
            named[f"MultimodalVAE, {name}, views missing"] = partial(
                vae, partial(pictures, "phantom", missing="mcar"), **options
            )
    for prior in ("independent", "avg", "moe", "poe", "mopoe", "mmvm"):
        named[f"MultimodalVAE, {prior}, digits"] = partial(
            vae, partial(pictures, "digits"), prior=prior
        )
        named[f"MultimodalVAE, {prior}, vectors"] = partial(
            vae, vectors, prior=prior, likelihood={"real": "gaussian", "counts": "poisson"}
        )
    named["MultimodalVAE, residual"] = partial(
        vae, partial(data.load, "phantom", n=4, size=224), network="residual", width=2, dropout=0.5
    )
    for kind in ("phantom", "digits"):
        for published in (False, True):
            word = "published" if published else "correct"
            named[f"supervised, {word}, {kind}"] = partial(supervised, kind, published)
    for name, options in PRESETS.items():
        for world in ("train", "id", "shifted", "randomised"):
            named[f"synthetic, {name}, {world}"] = partial(
                drawn, "synthetic", n=200, world=world, **options
            )
    for name, options in {
        "strength 2": {"strength": 2, "missing": "mar"},
        "strength 0": {"strength": 0},
        "label noise": {"label_noise": 0.1},
    }.items():
        named[f"synthetic, {name}"] = partial(drawn, "synthetic", n=200, **options)
    for name, options in {
        "train": {},
        "id": {"world": "id"},
        "shifted": {"world": "shifted", "shortcut": "Edema"},
        "randomised": {"world": "randomised", "shortcut": "Pneumothorax", "missing": "mnar"},
        "mcar": {"missing": "mcar"},
        "mar": {"missing": "mar", "strength": 2},
        "another seed": {"seed": 3, "size": 48},
    }.items():
        named[f"phantom, {name}"] = partial(drawn, "phantom", **{"n": 70, "size": 32} | options)
    named["heart"] = partial(drawn, "heart")
    for part in ("train", "test"):
        named[f"digits, {part}"] = partial(drawn, "digits", n=100, part=part)
    named |= {
        "saved": saved,
        "saved, first format": first_format,
        "graph": graph,
        "evaluate": evaluated,
        "out of fold": predicted,
        "probe": probed,
        "write_result": stored,
        "information": bounds,
        "losses": lost,
        "causal, estimators": estimated,
        "causal, graphs": graphs,
        "flatten": flattened,
        "clinical, eicu": partial(clinical, "eicu"),
        "clinical, mimic_iv": partial(clinical, "mimic_iv"),
        "clinical, adni": partial(clinical, "adni"),
        "clinical, mimic_cxr": partial(clinical, "mimic_cxr", size=24),
    }
    return named


def drawn(name: str, **options: Any) -> Values:
    """Everything that a cohort holds, one digest for each."""
    return of_cohort(data.load(name, **options))


def with_encoders(encoders: Callable[[], Mapping[str, nn.Module]]) -> Values:
    """Train on records, with encoders of one's own."""
    _, values = trained(
        lambda s: Classifier(backbone=backbone(), schema=s, encoders=encoders()), records()
    )
    return values


def selected(select: str) -> Values:
    """Pick weights on a validation part, and stop early."""
    _, values = trained(
        lambda s: Classifier(backbone=backbone(), schema=s, dropout=0.1),
        shifted(), val=biased("id", n=100, seed=7), select=select, patience=1,
    )  # fmt: skip
    return values


def kept_weights() -> Values:
    """Train on from the weights that a model has."""
    first, _ = trained(lambda s: Classifier(backbone=backbone(), schema=s), shifted())
    model = copy.deepcopy(first.model)
    again = training.fit(
        model, biased(), stages=list(TWO), init="keep", batch_size=50, seed=4, weight_decay=0.01
    )
    return {"losses": again.history, "weights": dict(model.state_dict())}


def seeds() -> Values:
    """Other seeds, one number for each."""
    return {
        f"seed {seed}": trained(
            lambda s: Classifier(backbone=backbone(), schema=s), shifted(), seed=seed
        )[1]
        for seed in (0, 1, 2)
    }


def flattened() -> Values:
    """Series and codes as columns."""
    return {
        name: of_cohort(part)
        for name, part in zip(("train", "test"), data.flatten(*records()), strict=True)
    }


def compute(only: str = "*", *, tell: bool = False) -> tuple[dict[str, str], dict[str, str]]:
    """Digests by name, and what could not be computed with the reason."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    digests: dict[str, str] = {}
    failed: dict[str, str] = {}
    for name, case in cases().items():
        if not fnmatch(name, only):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = case()
            digests |= {f"{name}: {what}": digest(value) for what, value in values.items()}
        except Exception as error:  # whatever it is: told, and counted as a difference
            failed[name] = f"{type(error).__name__}: {error}"
        if tell:
            print(".", end="", file=sys.stderr, flush=True)
    torch.set_num_threads(threads)
    if tell:
        print(file=sys.stderr)
    return digests, failed


# ---------------------------------------------------------------- two commits


def of_commit(commit: str, only: str) -> tuple[dict[str, str], dict[str, str]]:
    """Compute the digests of a commit's library, in a worktree of its own."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "library"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(place), commit], check=True)
        try:
            out = Path(folder) / "digests.json"
            subprocess.run(
                [
                    sys.executable,
                    __file__,
                    "--only",
                    only,
                    "--out",
                    str(out),
                    "--library",
                    str(place),
                ],
                cwd=place,
                env=os.environ | {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"},
                check=False,
            )
            if not out.exists():
                raise SystemExit(f"the library of {commit} could not be read: see above")
            record = json.loads(out.read_text("utf-8"))
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)
    return record["digests"], record["failed"]


def differences(
    first: tuple[dict[str, str], dict[str, str]],
    second: tuple[dict[str, str], dict[str, str]],
    without: list[str],
) -> list[str]:
    """What differs, what is only in one, and what could not be computed, line by line."""

    def left_out(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in without)

    lines = []
    for which, (_, failed) in zip(("first", "second"), (first, second), strict=True):
        lines += [
            f"not computed in the {which}: {name} ({why})"
            for name, why in failed.items()
            if not left_out(name)
        ]
    failed = {*first[1], *second[1]}
    for name in sorted({*first[0], *second[0]}):
        if left_out(name) or name.rpartition(": ")[0] in failed:
            continue
        pair = [digests.get(name) for digests in (first[0], second[0])]
        if None in pair:
            lines.append(f"only in the {'first' if pair[1] is None else 'second'}: {name}")
        elif pair[0] != pair[1]:
            lines.append(f"differs: {name}")
    return lines


def compare(first: str, second: str, only: str, without: list[str]) -> int:
    """Print what differs between two commits; 1 if anything does."""
    both = [of_commit(commit, only) for commit in (first, second)]
    lines = differences(*both, without)
    for line in (*lines, *(f"left out by hand: {pattern}" for pattern in without)):
        print(line)
    print(f"{len(both[0][0])} and {len(both[1][0])} digests, {len(lines)} differences")
    return 1 if lines or not both[0][0] else 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="*", help="cases whose names fit this pattern")
    parser.add_argument("--out", type=Path, help="write JSON there")
    parser.add_argument("--library", type=Path, help="fail unless dfdlib is imported from there")
    commands = parser.add_subparsers(dest="command")
    two = commands.add_parser("compare")
    two.add_argument("first")
    two.add_argument("second")
    two.add_argument("--only", default="*", help="cases whose names fit this pattern")
    two.add_argument("--without", nargs="+", default=[], help="left out: patterns of names")
    arguments = parser.parse_args()
    if arguments.command == "compare":
        return compare(arguments.first, arguments.second, arguments.only, arguments.without)
    place = Path(dfdlib.__file__).resolve().parents[1]
    if arguments.library and place != arguments.library.resolve():
        sys.exit(f"dfdlib was imported from {place}, not from {arguments.library}. Set PYTHONPATH")
    digests, failed = compute(arguments.only, tell=arguments.out is not None)
    for name, why in failed.items():
        print(f"not computed: {name} ({why})", file=sys.stderr)
    if arguments.out:
        arguments.out.write_text(
            json.dumps({"digests": digests, "failed": failed}, indent=1), "utf-8"
        )
    else:
        print("\n".join(f"{value}  {name}" for name, value in digests.items()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

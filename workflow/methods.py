"""Methods by name: what a recipe says of one, and its training settings, as a trained model."""

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from cohorts import Data
from networks import convolutions
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from dfdlib import models
from dfdlib.data import Batch, Cohort, Schema
from dfdlib.evaluation import tabular
from dfdlib.evaluation.predict import FitPredict
from dfdlib.models import DFD, Classifier, Deconfounder, Stage
from dfdlib.training import fit, trainer

#: A learning rate whose steps go nowhere.
NOTHING = 1e-12


class ImputedTable:
    """Impute, then classify, without being told what was missing."""

    def __init__(self, *, imputer: str, classifier: str, n_donors: int) -> None:
        self.imputer = {
            "mean": SimpleImputer(),
            "KNN": KNNImputer(n_neighbors=20),
            "iterative": IterativeImputer(max_iter=5, random_state=0),
        }[imputer]
        self.classifier = {
            "logistic regression": make_pipeline(StandardScaler(), LogisticRegression()),
            "gradient boosting": HistGradientBoostingClassifier(random_state=0),
        }[classifier]
        self.n_donors = n_donors if imputer == "KNN" else None

    def fit(self, cohort: Cohort) -> "ImputedTable":
        """Fit both; of neighbours the first patients alone are donors."""
        table = cohort.to_frame().to_numpy()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Early stopping criterion", UserWarning)
            self.imputer.fit(table[: self.n_donors])
        self.classifier.fit(self.imputer.transform(table), cohort.y.numpy())
        return self

    def predict_table(self, cohort: Cohort) -> np.ndarray:
        """Probability of the second class."""
        return self.classifier.predict_proba(self.imputer.transform(cohort.to_frame().to_numpy()))[
            :, 1
        ]


class BiasOnly(DFD):
    """DFD whose f_b reads H_b alone, so that only its stream can carry what f_b learns."""

    def heads_read(self, h_c: Tensor, h_b: Tensor) -> tuple[Tensor, Tensor]:
        causal, bias = super().heads_read(h_c, h_b)
        return causal, torch.cat([torch.zeros_like(h_c), bias.chunk(2, dim=1)[1]], dim=1)


class Watched(DFD):
    """DFD that follows each head's confidence in the recorded label, epoch by epoch."""

    watched: Cohort
    followed: list[dict[str, float]]

    def watch(self, cohort: Cohort) -> None:
        """Follow the heads on these patients, whose spurious attribute is known."""
        self.watched, self.followed = cohort, []

    def refresh(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Measure before each validation."""
        super().refresh(batches)
        batch = next(self.watched.batches(len(self.watched)))
        sign = 2 * batch.y - 1
        agrees = torch.as_tensor(self.watched.truth["bias"].to_numpy()) == sign
        tokens, observed = self.tokens(batch)
        h = self.represent(tokens, observed)
        self.followed.append(
            {
                f"{head} {name}": float((logit.squeeze(1) * sign).sigmoid()[rows].mean())
                for head, logit in {"f_c": self.head(h, observed), "f_b": self.bias_head(h)}.items()
                for name, rows in (("agrees", agrees), ("disagrees", ~agrees))
            }
        )


OWN = {"BiasOnly": BiasOnly, "Watched": Watched}


class SetByHand(nn.Module):
    """A gate put by hand: one tau per modality."""

    tau: Tensor

    def __init__(self, tau: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("tau", torch.as_tensor(tau, dtype=torch.float32))

    def forward(self, tokens: Tensor) -> Tensor:
        """Give every patient the same."""
        return self.tau.expand(tokens.shape[:2])


def train(
    method: Mapping[str, Any], data: Data, **training: Any
) -> "Classifier | ImputedTable | FitPredict":
    """Train a network on the training part.

    With `imputer` it is a table's classifier, with `view` a network on these pictures. With
    `tabular`, or with `patience` among the training settings, nothing is trained yet: it is what
    trains on one cohort and predicts another.

    Args:
        method: `class` of dfdlib.models, `options` of its constructor, `head` the options of a
            `Deconfounder`, `warm` what the first stage does otherwise, `epochs` of its own,
            `shuffled` hospitals, `watch` so many patients from epoch to epoch, `tau` of a gate that
            is set by hand: this value where a modality is causal, 1 minus it where it is biased.
        data: What it is trained on; its seed draws the weights.
        **training: `backbone`, `network` (what the backbone takes), `epochs` (of the first and the
            joint stage), `batch_size`, `lr`, `weight_decay`.
    """
    if "imputer" in method:
        return ImputedTable(**method).fit(data.train)
    if "tabular" in method:
        return tabular(method["tabular"], flags=method["flags"], seed=data.seed)
    if "view" in method:
        images, y = data.train.x[method["view"]], data.train.y
        return convolutions(images, y, data.seed, **method["network"])
    if "patience" in training:
        return _trainer(method, data.seed, **training)
    cohort = _shuffled(data) if method.get("shuffled") else data.train
    model = make(method, cohort.schema, **{k: training[k] for k in ("backbone", "network")})
    settings = {key: training[key] for key in ("batch_size", "lr", "weight_decay")}
    val = None  # decides nothing
    if isinstance(model, Watched):
        rows = np.arange(method["watch"])
        model.watch(cohort.select(rows))
        val = data.worlds["id"].select(rows)
    with warnings.catch_warnings():
        # what DFD says of a run stands in `signatures`, which is kept
        warnings.simplefilter("ignore", UserWarning)
        stages = stages_of(method, model, training["epochs"])
        fit(model, cohort, val, stages=stages, seed=data.seed, **settings)
    return model.eval()


def _trainer(
    method: Mapping[str, Any], seed: int, *, backbone: str, network: Mapping[str, Any], epochs: int,
    **training: Any,
) -> FitPredict:  # fmt: skip
    """What keeps the epoch with the lowest validation loss."""

    def of(schema: Schema) -> Classifier:
        return make(method, schema, backbone=backbone, network=network)

    stages = [Stage(epochs=epochs)]
    return trainer(of, seed=seed, stages=stages, select="val_loss", **training)


def make(
    method: Mapping[str, Any],
    schema: Schema,
    *,
    backbone: str,
    network: Mapping[str, Any],
    **_: Any,
) -> Classifier:
    """Make a method's model, untrained."""
    options = dict(method.get("options", {}))
    if "head" in method:
        options["head"] = Deconfounder(**method["head"])
    net = getattr(models, backbone)(**network)
    kind = OWN.get(method["class"]) or getattr(models, method["class"])
    model = kind(backbone=net, schema=schema, **options)
    if "tau" in method:
        causal = [any(f.startswith("cause") for f in schema.features[m]) for m in schema.names]
        model.gate_net = SetByHand(np.where(causal, method["tau"], 1 - method["tau"]))
    return model


def stages_of(method: Mapping[str, Any], model: Classifier, epochs: int | list[int]) -> list[Stage]:
    """One stage; or a first, which takes no term of information in DFD, and the joint one.

    Of two, one that has no epochs is left out; without either the network stays as it was drawn.
    """
    epochs = method.get("epochs", epochs)
    if isinstance(epochs, int):
        return [Stage(epochs=epochs)]
    warm, joint = epochs
    first = ({"mi_weight": 0} if isinstance(model, DFD) else {}) | method.get("warm", {})
    stages = [Stage(epochs=warm, **first)] if warm else []
    stages += [Stage(epochs=joint)] if joint else []
    return stages or [Stage(epochs=1, lr=NOTHING)]


def _shuffled(data: Data) -> Cohort:
    """The same patients with their hospitals dealt anew: a control."""
    levels = np.random.default_rng(data.seed).permutation(data.train.groups["site"])
    dealt = copy.copy(data.train)
    dealt.groups = {**data.train.groups, "site": levels}
    return dealt

"""A chapter's multimodal VAEs on your own chest X-rays, by the same parameters as `on_your_own`.

Trained without labels, read by logistic regression at fractions of them, beside a network that the
same labels teach. What leaves the page are aggregates of ten patients and more.
"""

import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from dfdlib import data
from dfdlib.book._chapter import brought
from dfdlib.book._pairs_scores import Scores, rounded, scored, shown
from dfdlib.book.own import found_path, own_folder, write_rows
from dfdlib.data import Cohort, Schema, made_up, mimic_cxr
from dfdlib.data._images import Images
from dfdlib.data._validate import unknown
from dfdlib.evaluation import predict_proba
from dfdlib.models import Classifier, MultimodalVAE, Stage
from dfdlib.training import fit

__all__ = ["DATASETS", "own_pairs", "pairs_on_your_own"]

DATASETS = ("mimic_cxr", "made-up mimic_cxr")
NET = "supervised"  # its name beside those of the VAEs
_BATCH = 64


def own_pairs(dataset: str, root: str = "") -> Cohort:
    """Load the pairs that `-p dataset … -p root …` names.

    Args:
        dataset: `mimic_cxr`, with `root`; or `made-up mimic_cxr`, patients that nobody is, of 32
            pixels, to try it.
        root: the folder that `dfdlib data convert mimic-cxr` wrote, or, of 224 pixels, the one with
            the files. Nothing is converted here.

    Returns:
        The cohort of `dfdlib.data.mimic_cxr.load`, with its published split by patient.

    Raises:
        ValueError: An unknown data set, or no root.
        FileNotFoundError: No such folder, or no converted images there.

    Example:
        >>> own_pairs("mimic_cxr")
        Traceback (most recent call last):
        ValueError: dataset 'mimic_cxr' needs the folder of its files. Add -p root FOLDER
    """
    if dataset not in DATASETS:
        raise unknown(dataset, DATASETS, "data set of pairs to run on")
    brought(dataset)
    if dataset.startswith("made-up"):
        return _made_up()
    if not root:
        raise ValueError(f"dataset {dataset!r} needs the folder of its files. Add -p root FOLDER")
    folder = found_path(root)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder.name} is no folder. Pass the one of the files: -p root FOLDER"
        )
    try:
        return data.load("mimic_cxr", root=folder)
    except FileNotFoundError as error:
        others = sorted(path.parent for path in folder.glob("dfdlib-*/images.npy"))
        if not others:
            raise
        sizes = ", or ".join(f"-p root {path}" for path in others)
        raise FileNotFoundError(f"{error}. Or take another size that is there: {sizes}") from error


def _made_up(n: int = 1500) -> Cohort:
    said = logging.getLogger(mimic_cxr.__name__)
    level = said.level
    said.setLevel(logging.ERROR)  # one in 200 of these images cannot be read, on purpose
    try:
        with tempfile.TemporaryDirectory() as folder:
            made_up.write("mimic_cxr", folder, n=n, seed=0, pixels=40)
            cohort = data.load("mimic_cxr", root=mimic_cxr.convert(folder, size=32, progress=False))
            # into memory: the folder goes
            return cohort._with(x={name: _read(images) for name, images in cohort.x.items()})
    finally:
        said.setLevel(level)


def _read(images: object) -> Images:
    assert isinstance(images, Images)
    return Images(np.array(images.pixels), images.rows)


def pairs_on_your_own(
    methods: Mapping[str, Callable[[Schema], MultimodalVAE]],
    *,
    dataset: str,
    root: str,
    chapter: str,
    seed: int = 0,
    epochs: int = 20,
    fractions: Sequence[int] = (10, 100),
    supervised: bool = True,
    n_boot: int = 1000,
) -> pd.DataFrame | None:
    r"""Train a chapter's VAEs on your own pairs, read findings, and compare each with the first.

    VAEs learn from all training pairs, without labels. Of `fractions` of the training patients the
    labels are known, the same for everybody: a logistic regression per finding reads the encoder
    means of one view, and a network with the first VAE's encoder of that view is taught, with
    binary cross-entropy and the epoch of the lowest loss on all validation patients. AUROC is of
    the test patients, a mean over the findings that ten of them have and ten never have. Intervals
    of 95 % draw patients with all their pairs; differences are paired. All findings, one by
    one, go to `own_folder(CHAPTER)`, a JSON file for each method, whose name tells data, pixels,
    seed and epochs; another result of that name is kept.

    Args:
        methods: by name, what makes a new VAE for a schema; the first is the reference.
        dataset: as for `own_pairs`; "" only says how to run it.
        root: as for `own_pairs`.
        chapter: its name, such as "20-ten-per-cent-of-the-labels".
        seed: of weights, labelled patients and bootstrap.
        epochs: of each VAE, and of the network with all labels; with fewer it takes as many steps.
        fractions: per cent of the training patients that have labels.
        supervised: whether the network is taught, too.
        n_boot: bootstrap replicates.

    Raises:
        ValueError: As `own_pairs`; or a part of the split is empty.
        FileNotFoundError: As `own_pairs`.

    Example:
        >>> made = {"MMVM": lambda schema: MultimodalVAE(schema=schema)}
        >>> pairs_on_your_own(made, dataset="", root="", chapter="20-x", supervised=False)
        To train MMVM on your own chest X-rays:
        dfdlib data convert mimic-cxr --root FOLDER
        papermill chapters/20-x.ipynb \
            out.ipynb -p dataset mimic_cxr -p root FOLDER
    """
    if not dataset:
        names = [*methods, NET] if supervised else list(methods)
        print(f"To train {'; '.join(names)} on your own chest X-rays:")
        print("dfdlib data convert mimic-cxr --root FOLDER")
        print(f"papermill chapters/{chapter}.ipynb \\")
        print("    out.ipynb -p dataset mimic_cxr -p root FOLDER")
        return None
    folder = own_folder(chapter)
    train, val, test = _parts(own_pairs(dataset, root))
    known = _labelled(train, fractions, seed)
    found: Scores = {}
    for name, make in methods.items():
        model = make(train.schema)
        fit(model, train, stages=[Stage(epochs=epochs)], batch_size=_BATCH, lr=2e-3, seed=seed)
        h, fresh = _encoded(model, train), _encoded(model, test)
        for share, rows in known.items():
            y = _labels(train)[rows]
            found[name, share] = {view: _probed(h[view][rows], y, fresh[view]) for view in h}
    if supervised:
        make = next(iter(methods.values()))
        for share, rows in known.items():
            own = train.select(rows)
            length = epochs * len(train) // len(own)
            found[NET, share] = {
                view: _taught(make(train.schema), view, own, val, test, length, seed)
                for view in train.names
            }
    table = scored(found, _labels(test), test.groups["patient"], n_boot=n_boot, seed=seed)
    images = test.x[test.names[0]]
    assert isinstance(images, Images)  # as the loader makes them
    told = {"dataset": dataset, "size": images.shape[-1], "seed": seed, "epochs": epochs}
    write_rows(rounded(table), folder, told, modalities=train.names)
    return shown(table)


def _parts(cohort: Cohort) -> list[Cohort]:
    parts = {name: cohort.groups["split"] == name for name in ("train", "validate", "test")}
    for name, rows in parts.items():
        if not rows.any():
            raise ValueError(
                f"no patient with a pair stands in the {name} part of the published split. Bring "
                "more patients"
            )
    return [cohort.select(rows) for rows in parts.values()]


def _labels(cohort: Cohort) -> Float[np.ndarray, "n k"]:
    assert cohort.y is not None  # the loader refuses images without labels
    return cohort.y.numpy()


def _labelled(
    train: Cohort, fractions: Sequence[int], seed: int
) -> dict[int, Int[np.ndarray, " _"]]:
    """The rows of the patients whose labels are known; a larger part holds a smaller one."""
    codes, ids = pd.factorize(train.groups["patient"])
    order = np.random.default_rng(seed).permutation(len(ids))
    kept = {share: order[: max(1, len(ids) * share // 100)] for share in fractions}
    return {share: np.flatnonzero(np.isin(codes, some)) for share, some in kept.items()}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _encoded(model: MultimodalVAE, cohort: Cohort) -> dict[str, Float[np.ndarray, "n d"]]:
    """Encoder means of each view."""
    model.to(_device())
    parts = [model.embed(batch.to(_device())) for batch in cohort.batches(512)]
    return {view: torch.cat([part[view].cpu() for part in parts]).numpy() for view in cohort.names}


def _probed(
    h: Float[np.ndarray, "m d"], y: Float[np.ndarray, "m k"], other: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, "n k"]:
    """Probability of each finding; that of a finding which only one class has is a constant."""
    p = np.tile(y.mean(0), (len(other), 1))
    for k in np.flatnonzero(y.min(0) < y.max(0)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            reader = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
            p[:, k] = reader.fit(h, y[:, k]).predict_proba(other)[:, 1]
    return p


class _Seen(nn.Module):
    """A VAE's encoder as that of a classifier: mean and logarithm of the variance, rectified."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, values: Tensor, flags: Tensor | None = None) -> Float[Tensor, "n d"]:
        del flags  # images have none
        return torch.cat(self.encoder(values), dim=1).relu()


class _OneView(nn.Module):
    """The backbone of a single token: nothing."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.d = d

    def forward(
        self, tokens: Float[Tensor, "n 1 d"], observed: Tensor, weight: Tensor | None = None
    ) -> Float[Tensor, "n d"]:
        del observed, weight
        return tokens.squeeze(1)


def _taught(
    vae: MultimodalVAE, view: str, own: Cohort, val: Cohort, test: Cohort, epochs: int, seed: int
) -> Float[np.ndarray, "n k"]:
    """Teach a network with the encoder that the VAE has, from new weights; score the test part."""
    own, val, test = (part.select(modalities=view) for part in (own, val, test))
    net = Classifier(
        backbone=_OneView(2 * vae.d_latent),
        schema=own.schema,
        encoders={view: _Seen(vae.encoders[view])},
    )
    fit(
        net, own, val, stages=[Stage(epochs=epochs)], batch_size=_BATCH, lr=1e-3,
        weight_decay=0.05, select="val_loss", seed=seed,
    )  # fmt: skip
    return predict_proba(net.to(_device()), test)

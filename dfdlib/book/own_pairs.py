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
from dfdlib.book.chapter import brought
from dfdlib.book.own import found_path, own_folder, write_rows
from dfdlib.book.suppression import FEW, hide_few
from dfdlib.data import Cohort, Schema, mimic_cxr
from dfdlib.data.arrays import Images
from dfdlib.data.mimic_cxr import LABELS, Pairs, Split, Uncertain
from dfdlib.errors import unknown
from dfdlib.evaluation import predict_proba
from dfdlib.evaluation.bootstrap import METRICS, WeightedMetrics, bootstrap, interval
from dfdlib.models import Classifier, MultimodalVAE, Stage
from dfdlib.training import fit

__all__ = ["DATASETS", "own_pairs", "pairs_on_your_own"]

DATASETS = ("mimic_cxr", "made-up mimic_cxr")
NET = "supervised"  # its name beside those of the VAEs
_BATCH = 64


def own_pairs(
    dataset: str,
    root: str = "",
    *,
    split: Split | str = "published",
    uncertain: Uncertain | str = "zeros",
    pairs: Pairs | str = "all",
) -> Cohort:
    """Load the pairs that `-p dataset … -p root …` names.

    Args:
        dataset: `mimic_cxr`, with `root`; or `made-up mimic_cxr`, patients that nobody is, of 32
            pixels, to try it.
        root: the folder that `dfdlib data convert mimic-cxr` wrote, or, of 224 pixels, the one with
            the files. Nothing is converted here.
        split: "published", or "official", that of the data set.
        uncertain: what "may be present" becomes: "zeros", "ones", or "ignore".
        pairs: "all" of a study, or "one".

    Returns:
        The cohort of `dfdlib.data.mimic_cxr.load` with these options.

    Raises:
        ValueError: An unknown data set or option, or no root.
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
        return _made_up(split=split, uncertain=uncertain, pairs=pairs)
    if not root:
        raise ValueError(f"dataset {dataset!r} needs the folder of its files. Add -p root FOLDER")
    folder = found_path(root)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder.name} is no folder. Pass the one of the files: -p root FOLDER"
        )
    try:
        return data.load("mimic_cxr", root=folder, split=split, uncertain=uncertain, pairs=pairs)
    except FileNotFoundError as error:
        others = sorted(path.parent for path in folder.glob("dfdlib-*/images.npy"))
        if not others:
            raise
        sizes = ", or ".join(f"-p root {path}" for path in others)
        raise FileNotFoundError(f"{error}. Or take another size that is there: {sizes}") from error


def _made_up(n: int = 1500, **options: str) -> Cohort:
    from dfdlib.book import made_up  # stands in a checkout, not in the wheel

    said = logging.getLogger(mimic_cxr.__name__)
    level = said.level
    said.setLevel(logging.ERROR)  # one in 200 of these images cannot be read, on purpose
    try:
        with tempfile.TemporaryDirectory() as folder:
            made_up.write("mimic_cxr", folder, n=n, seed=0, pixels=40)
            converted = mimic_cxr.convert(folder, size=32, progress=False)
            cohort = data.load("mimic_cxr", root=converted, **options)
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
    split: Split | str = "published",
    uncertain: Uncertain | str = "zeros",
    pairs: Pairs | str = "all",
) -> pd.DataFrame | None:
    r"""Train a chapter's VAEs on your own pairs, read findings, and compare each with the first.

    VAEs learn from all training pairs, without labels. Of `fractions` of the training patients the
    labels are known, the same for everybody: a logistic regression per finding reads the encoder
    means of one view, and a network with the first VAE's encoder of that view is taught, with
    binary cross-entropy and the epoch of the lowest loss on all validation patients. AUROC is of
    the test patients, a mean over the findings that ten of them have and ten never have. Intervals
    of 95 % draw patients with all their pairs; differences are paired. All findings, one by
    one, go to `own_folder(CHAPTER)`, a JSON file for each method, whose name tells data, pixels,
    seed and epochs, and of the last three options those that are not the default; another result
    of that name is kept. An uncertain label that is ignored is neither learned nor scored.

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
        split: as for `own_pairs`.
        uncertain: as for `own_pairs`.
        pairs: as for `own_pairs`.

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
    options = {"split": split, "uncertain": uncertain, "pairs": pairs}
    train, val, test = _parts(own_pairs(dataset, root, **options), split)
    known = _labelled(train, fractions, seed)
    scores: Scores = {}
    for name, make in methods.items():
        model = make(train.schema)
        fit(model, train, stages=[Stage(epochs=epochs)], batch_size=_BATCH, lr=2e-3, seed=seed)
        h, fresh = _encoded(model, train), _encoded(model, test)
        for share, rows in known.items():
            y = _labels(train)[rows]
            scores[name, share] = {view: _probed(h[view][rows], y, fresh[view]) for view in h}
    if supervised:
        make = next(iter(methods.values()))
        for share, rows in known.items():
            labelled = train.select(rows)
            length = epochs * len(train) // len(labelled)
            scores[NET, share] = {
                view: _taught(make(train.schema), view, labelled, val, test, length, seed)
                for view in train.names
            }
    table = scored(scores, _labels(test), test.groups["patient"], n_boot=n_boot, seed=seed)
    images = test.x[test.names[0]]
    assert isinstance(images, Images)  # as the loader makes them
    told = {"dataset": dataset, "size": images.shape[-1], "seed": seed, "epochs": epochs}
    usual = {"split": "published", "uncertain": "zeros", "pairs": "all"}
    told |= {name: value for name, value in options.items() if value != usual[name]}
    write_rows(rounded(table), folder, told, modalities=train.names)
    return shown(table)


def _parts(cohort: Cohort, split: str = "published") -> list[Cohort]:
    parts = {name: cohort.groups["split"] == name for name in ("train", "validate", "test")}
    for name, rows in parts.items():
        if not rows.any():
            raise ValueError(
                f"no patient with a pair stands in the {name} part of the {split} split. Bring "
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
    known = ~np.isnan(y)
    share = np.where(known, y, 0).sum(0) / known.sum(0).clip(1)
    p = np.tile(share, (len(other), 1))
    for k in np.flatnonzero((share > 0) & (share < 1)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            reader = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
            rows = known[:, k]
            p[:, k] = reader.fit(h[rows], y[rows, k]).predict_proba(other)[:, 1]
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
    vae: MultimodalVAE, view: str, train: Cohort, val: Cohort, test: Cohort, epochs: int, seed: int
) -> Float[np.ndarray, "n k"]:
    """Teach a network with the encoder that the VAE has, from new weights; score the test part."""
    train, val, test = (part.select(modalities=view) for part in (train, val, test))
    net = Classifier(
        backbone=_OneView(2 * vae.d_latent),
        schema=train.schema,
        encoders={view: _Seen(vae.encoders[view])},
    )
    fit(
        net, train, val, stages=[Stage(epochs=epochs)], batch_size=_BATCH, lr=1e-3,
        weight_decay=0.05, select="val_loss", seed=seed,
    )  # fmt: skip
    return predict_proba(net.to(_device()), test)


# ---------------- AUROC of pairs by finding and view, with paired differences and nothing on
# few patients

MEAN = "mean of findings"
_AUROC = METRICS.index("auroc")

# where a finding is hidden: nothing adds up over findings, so these are what the page shows
_DIGITS = 3

# of a method and per cent of the labels, by view: a column per finding
Scores = dict[tuple[str, int], dict[str, Float[np.ndarray, "n k"]]]


def scored(
    scores: Scores, y: Float[np.ndarray, "n k"], patient: np.ndarray, *, n_boot: int, seed: int
) -> pd.DataFrame:
    """AUROC of each method, fraction, view and finding; their means; and what is on few, hidden.

    Args:
        scores: probabilities of the test pairs; the first method is the reference.
        y: their labels, in the order of `LABELS`.
        patient: of each pair.
        n_boot: bootstrap replicates, of patients.
        seed: of the bootstrap.

    Returns:
        A row for each, with `value`, `low`, `high`; `difference` is the reference's with as many
        labels, minus it; `fewest` the reference's with the smallest fraction, minus it. `n` and
        `n_pos` count patients; `findings` those in a mean.
    """
    views = list(next(iter(scores.values())))
    codes, ids = pd.factorize(patient)
    counts = _counts(y, codes, len(ids))
    enough = ~hide_few(counts.assign(value=0.0, low=0.0, high=0.0))["value"].isna()
    told = (enough & (counts["n_pos"] > 0) & (counts["n_pos"] < counts["n"])).to_numpy()
    once, draws = {}, {}
    for asked, by_view in scores.items():
        sets = [
            (WeightedMetrics(y[:, [k]], by_view[view][:, [k]], task="multilabel"), codes)
            for view in views
            for k in range(y.shape[1])
        ]
        shape = len(views), y.shape[1]
        ones = np.ones((1, len(y)))
        values = np.stack([metrics.replicates(ones)[0, _AUROC] for metrics, _ in sets])
        drawn = bootstrap(sets, n_patients=len(ids), n_boot=n_boot, seed=seed)[..., _AUROC]
        once[asked] = _with_means(values.reshape(*shape, 1), told)[..., 0]
        draws[asked] = _with_means(drawn.reshape(*shape, n_boot), told)
    first, fewest = next(iter(scores))[0], min(share for _, share in scores)
    whole = pd.DataFrame({"n": [len(ids)], "n_pos": [pd.NA]}, index=[MEAN])
    counts = pd.concat([counts.astype({"n_pos": object}), whole])
    lines = []
    for name, share in scores:
        for at in np.ndindex(once[name, share].shape):
            line = {"method": name, "labels": share, "view": (*views, "mean")[at[0]]}
            line |= {"finding": counts.index[at[1]], **counts.iloc[at[1]]}
            value, drawn = once[name, share][at], draws[name, share][at]
            line |= _estimate("value", "", float(value), drawn)
            for word, other in (("difference", (first, share)), ("fewest", (first, fewest))):
                if other != (name, share):
                    gap, apart = once[other][at] - value, draws[other][at] - drawn
                    line |= _estimate(word, f"{word}_", float(gap), apart)
            lines.append(line)
    return _hidden(pd.DataFrame(lines).assign(findings=int(told.sum())))


def _counts(
    y: Float[np.ndarray, "n k"], codes: Int[np.ndarray, " n"], n_patients: int
) -> pd.DataFrame:
    """Patients with a known label, and those who have the finding in any study, by finding."""
    had, known = np.zeros((2, n_patients, y.shape[1]), dtype=bool)
    np.logical_or.at(had, codes, y == 1)
    np.logical_or.at(known, codes, ~np.isnan(y))
    return pd.DataFrame({"n": known.sum(0), "n_pos": had.sum(0)}, index=list(LABELS))


def _with_means(each: Float[np.ndarray, "v k b"], told: np.ndarray) -> Float[np.ndarray, "v1 k1 b"]:
    """Add the mean of the views, and the mean of the findings that may be told."""
    each = np.concatenate([each, each.mean(axis=0, keepdims=True)])
    mean = each[:, told].mean(axis=1) if told.any() else np.full_like(each[:, 0], np.nan)
    return np.concatenate([each, mean[:, None]], axis=1)


def _estimate(
    name: str, prefix: str, value: float, draws: Float[np.ndarray, " b"]
) -> dict[str, float]:
    low, high = interval(draws)
    return {name: value, f"{prefix}low": low, f"{prefix}high": high}


def _hidden(table: pd.DataFrame) -> pd.DataFrame:
    """Hide findings that few have, or few have not, with every number of theirs."""
    table = hide_few(table, digits=None)
    numbers = [name for name in table if str(name).startswith("fewest")]
    table.loc[table["value"].isna(), numbers] = float("nan")
    return table


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Round all numbers to what the page shows, where a finding is hidden."""
    numbers = list(table.filter(regex="value|low|high|difference|fewest"))
    if (table["note"] == "").all():
        return table
    return table.assign(**table[numbers].astype(float).round(_DIGITS))


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Show the means over findings, in per cent: a row for each fraction and method."""

    def cell(row: pd.Series, name: str, prefix: str, how: str) -> str:
        numbers = [row.get(key, np.nan) for key in (name, f"{prefix}low", f"{prefix}high")]
        if pd.isna(numbers[0]):
            return "–"
        texts = [f"{100 * number:{how}}" for number in numbers]
        return texts[0] if pd.isna(numbers[1]) else "{} [{}, {}]".format(*texts)

    rows = table[table["finding"] == MEAN]
    first, fewest = rows["method"].iloc[0], rows["labels"].min()
    n, kept = rows["n"].iloc[0], rows["findings"].iloc[0]
    rounded = "at least " if (table["note"] != "").any() else ""
    patients = f"< {FEW}" if pd.isna(n) else f"{rounded}{n}"
    print(f"{patients} test patients; means over {kept} of {len(LABELS)} findings")
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for _, row in rows.sort_values("labels", kind="stable").iterrows():
        line = lines.setdefault((f"{row['labels']} %", row["method"]), {})
        line[row["view"]] = cell(row, "value", "", ".1f")
        if row["view"] == "mean":
            line[f"{first} minus it"] = cell(row, "difference", "difference_", "+.1f")
            if row["labels"] > fewest:
                line[f"{first}, {fewest} %, minus it"] = cell(row, "fewest", "fewest_", "+.1f")
    return pd.DataFrame(lines).T.rename_axis(["labels", "method"]).fillna("")

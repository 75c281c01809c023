"""Training: `fit` and what it returns, models that are saved and loaded again, and what is refused.

A run has stages, a named selection rule, checkpoints that survive a kill, and devices by Fabric.
The epochs themselves are in `loop`, the files in `saving`.
"""

import contextlib
import operator
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, SupportsIndex, cast

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import nn
from tqdm import tqdm

from dfdlib.data import Cohort, Ragged, Schema, check_disjoint
from dfdlib.data.arrays import code_id
from dfdlib.errors import check_type, type_name, wrong_type
from dfdlib.evaluation import predict_proba
from dfdlib.evaluation.predict import refuse_no_cohort
from dfdlib.models import Method, Stage
from dfdlib.models.backbone import LEAST
from dfdlib.models.method import ForgetsRare
from dfdlib.training.describe import describe
from dfdlib.training.loop import SELECTION, Loop, Plan, Selection, mix
from dfdlib.training.saving import alone, read_model, write_folder

__all__ = ["Run", "Stage", "fit", "load_model", "seed_everything", "trainer"]


@dataclass(frozen=True)
class Run:
    """What `fit` returns.

    Attributes:
        model: the trained model, in evaluation mode.
        history: one row per epoch: stage, epoch, lr, mean of each loss term, validation scores.
        selection: the rule that picked the weights, in words.
        best_epoch: the epoch whose weights the model holds, counted from 1.
        seed: the seed.
    """

    model: Method
    history: pd.DataFrame
    selection: str
    best_epoch: int
    seed: int

    @property
    def unfinished(self) -> str | None:
        """What to do where training ended while the model was still getting better, else None.

        It was, where the mean validation loss of the last quarter of the last stage lies below that
        of the quarter before by over 1 % and by over twice the standard error of the difference.
        Nothing is said of stages of fewer than 8 epochs, nor without a validation part.
        """
        if "val_loss" not in self.history:
            return None
        stage = self.history["stage"]
        loss = self.history.loc[stage == stage.iloc[-1], "val_loss"].to_numpy(float)
        quarter = len(loss) // 4
        if quarter < 2:
            return None
        before, last = loss[-2 * quarter : -quarter], loss[-quarter:]
        fall = before.mean() - last.mean()
        error = np.sqrt((before.var(ddof=1) + last.var(ddof=1)) / quarter)
        if not fall > max(0.01 * abs(before.mean()), 2 * error):
            return None
        share = 100 * fall / abs(before.mean())
        return (
            f"the validation loss still fell by {share:.0f} % in the last quarter of the "
            f"{len(loss)} epochs, so training had not converged. Train for more epochs, such as "
            f"{2 * len(loss)}, or with a higher learning rate"
        )

    def save(self, folder: str | Path) -> None:
        """Write the model so that `load_model(folder)` makes it again in another process.

        The folder holds `model.safetensors` (weights, scalers, vocabularies, modality states) and
        `model.json` (classes and arguments, schema, selection rule, history, the versions of dfdlib
        and torch, the number of threads, SHA-256 of both files). What stood there before is
        replaced in one step: a kill at any moment leaves the one or the other.

        **What a saved model holds of patients.** Means, standard deviations and weights; names of
        modalities and columns; levels, codes and flags, as numbers, that 10 or more training
        patients had. What fewer had is forgotten here, in `self.model` too, so that both score
        alike: such a level or code counts as never seen, such a column as missing, and a warning
        says how many there are. `M3Care` and `DFD` keep means of 10 patients or more.
        `Deconfounder` keeps which combinations of modalities 10 or more training patients had, with
        shares in which rarer ones count for the nearest of these. Of a cohort that `from_tables`
        read the model keeps how: columns, units, ranges, levels and classes, as the YAML file names
        them, and the words of those codes that are kept. Nothing else names a hospital, and no
        identifiers and no labels are held; the history has losses and scores. Like all trained
        networks its weights may remember more than they show: a model of patients is to be given
        away by the rules of the data that it was trained on.

        Checkpoints (`fit(folder=)`) are working files and hold more, such as the difficulty of each
        patient. Delete them before a folder is given away.

        Warns:
            UserWarning: if rare levels were forgotten, or embeddings of patients are held.

        Raises:
            TypeError: if the model holds a module that JSON cannot describe; says which.
        """
        described = describe(self.model)
        for message in _forget_rare(self.model):
            warnings.warn(message, stacklevel=2)
        card = {
            "model": described,
            "selection": self.selection,
            "best_epoch": self.best_epoch,
            "seed": self.seed,
            "history": self.history.to_dict("records"),
        }
        if self.model.tables is not None:
            tables = card["tables"] = _with_known_words(self.model)
            self.model.tables = tables
        write_folder(Path(folder), "model", dict(self.model.state_dict()), card)


def fit(
    model: Method,
    train: Cohort,
    val: Cohort | None = None,
    *,
    stages: list[Stage] | None = None,
    batch_size: int = 512,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    seed: SupportsIndex = 0,
    select: Selection = "last",
    patience: int | None = None,
    init: Literal["fresh", "keep"] = "fresh",
    folder: str | Path | None = None,
    fabric: Fabric | None = None,
    progress: bool | None = None,
) -> Run:
    """Train a model, in place: one new model per seed.

    Scalers and vocabularies are fitted on `train` and stored in the model; the weights are drawn
    anew from `seed`; AdamW minimises `model.loss(batch)["total"]`. Before each validation, and at
    the end, states that depend on other patients are fixed over `train`. On the CPU the same seed
    gives the same bits, for the same number of threads (`torch.get_num_threads()`), processor and
    versions of the libraries; under others it gives the same up to rounding, which training may
    enlarge as another seed would.

    Args:
        model: a method such as `Classifier`. It is trained in place, and returned.
        train: the training part.
        val: the validation part. It is only read by the selection rule and the history.
        stages: parts of the training, one after the other; None takes `model.default_stages`.
        batch_size: patients per step, over all processes.
        lr: learning rate.
        weight_decay: AdamW's decoupled weight decay.
        seed: draws the initial weights, the order of patients and the dropout.
        select: which epoch's weights are kept: the last, or the best of the last stage by
            validation loss or AUROC.
        patience: stop the last stage after this many epochs without improvement.
        init: "fresh" draws new weights; "keep" trains on from the weights, scalers and
            vocabularies that the model has.
        folder: where a checkpoint is kept after each epoch. A run that was killed is called again
            with the same arguments and goes on; it ends in the same weights. Data (groups,
            covariates and every pixel too), options, settings and, with `init="keep"`, the weights
            that the run began with are compared first, by hashes; another number of threads,
            processor or version is warned of. One process at a time trains in a folder.
        fabric: devices, precision and processes; None takes one device, a GPU where there is one,
            and brings the model back to the CPU, where cohorts live. With a fabric of your own
            the model stays on its device. For several processes make one, such as
            `Fabric(devices=2)`, and launch it yourself.
        progress: show a progress bar; None shows one where stdout is a terminal.

    Returns:
        A `Run`.

    Warns:
        UserWarning: what the method finds wrong with the run, with advice (see `DFD`).

    Raises:
        ValueError: if the cohorts do not fit the model's schema or each other, a patient stands in
            `train` and `val`, the rule cannot be applied to `val`, training holds one class only, a
            stage is unknown or there is no epoch, a module has weights that a seed cannot draw
            anew, or `folder` holds another run, is damaged, or cannot tell the model from others.
        RuntimeError: if another process is training in `folder`.
        TypeError: if the model is no method, `train` or `val` no cohort, `stages` no list of
            stages.
        FloatingPointError: if the loss is not finite; says at which step and in which term.

    Example:
        >>> from dfdlib.models import GRAPE, Classifier
        >>> cohort = Cohort(x={"labs": torch.randn(40, 3)}, y=[0, 1] * 20)
        >>> model = Classifier(backbone=GRAPE(d=8), schema=cohort.schema)
        >>> run = fit(model, cohort, stages=[Stage(epochs=2)], seed=0)
        >>> run.selection, len(run.history)
        ('last epoch', 2)
    """
    check_types(model, train, val, stages)
    stages = list(model.default_stages if stages is None else stages)
    check(
        model, train, val, stages=stages, select=select, patience=patience,
        batch_size=batch_size, init=init,
    )  # fmt: skip
    back = fabric is None
    fabric = fabric or _one_device()
    plan = Plan(
        stages,
        int(batch_size),
        float(lr),
        float(weight_decay),
        operator.index(seed),
        select,
        patience,
        init,
    )
    bar = sys.stdout.isatty() if progress is None else progress
    place = None if folder is None else Path(folder)
    with _own_random_state(), alone(place if fabric.is_global_zero else None):
        if init == "fresh" or not model.prepared:
            model.prepare(train)  # first, since vocabularies decide how many weights there are
        if init == "fresh":
            _draw_weights(model, plan.seed)
        loop = Loop(model, train, val, plan=plan, fabric=fabric, folder=place)
        with tqdm(total=plan.epochs, disable=not bar, unit="epoch") as ticker:
            for _ in loop.run():
                ticker.update(1)
        best_epoch = loop.finish()
        model.selection = plan.selection
        model.tables = _tables_of(train)
        if back:
            model.cpu()
    history = pd.DataFrame(loop.state.history)
    for signature in model.conclude(history):
        warnings.warn(signature, stacklevel=2)
    return Run(
        model=model,
        history=history,
        selection=plan.selection,
        best_epoch=best_epoch,
        seed=plan.seed,
    )


def load_model(folder: str | Path, *, trust: Sequence[str] = ()) -> Method:
    """Make a saved model again, ready to score new patients; see `Run.save`.

    Nothing is unpickled, and nothing is imported or called but the methods, backbones, heads and
    encoders of `dfdlib.models` and layers of `torch.nn`. Classes of your own need `trust`: they may
    run any code, so name only packages whose folders you would run yourself.

    Before memory is taken, the sizes in `model.safetensors` are compared with those of the model
    that `model.json` describes. A folder whose files changed after they were written is refused; so
    is one that holds links. The checksums tell damage: who makes a folder can make them too.

    Args:
        folder: what `Run.save` wrote. Folders of the first format, which have no checksums, load
            with a warning.
        trust: packages ("mypackage"), modules ("mypackage.module") or classes
            ("mypackage.module:Class") that may be imported besides.

    Warns:
        UserWarning: if the folder has no checksums.

    Raises:
        FileNotFoundError: if the folder holds no saved model.
        ImportError: if a class is neither listed nor trusted, cannot be imported, or is no torch
            module.
        TypeError: if the folder is no path.
        ValueError: if the folder is damaged, was saved in another format, or sets an option that is
            gone.

    Example:
        >>> load_model("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: 'nowhere' holds no model.json, so nothing was saved there. ...
    """
    takes = "load_model takes the folder that Run.save wrote"
    check_type(folder, (str, os.PathLike), takes, "Write load_model('folder')")
    model, card = read_model(Path(folder), trust=trust)
    if card["format"] == 1:
        warnings.warn(
            f"{Path(folder).name!r} is of the first format, which has no checksums: that its files "
            "are as they were written is not known. Fit the model again and save it.",
            stacklevel=2,
        )
    method = cast(Method, model)
    method.selection, method.tables = card["selection"], card.get("tables")
    return method.eval()


def trainer(
    make: Callable[[Schema], Method], *, val: float | None = None, seed: int = 0, **options: Any
) -> Callable[[Cohort, Cohort], np.ndarray]:
    """Make a `fit_predict(train, test)` of a model, as `out_of_group` and `out_of_fold` take it.

    Args:
        make: gives a new model for a schema.
        val: the share of the training patients that `fit` validates on; None for no validation.
        seed: of the validation split and of `fit`.
        **options: passed on to `fit`.

    Raises:
        TypeError: if `make` is no function.

    Example:
        >>> from dfdlib.evaluation import out_of_fold
        >>> from dfdlib.models import GRAPE, Classifier
        >>> cohort = Cohort(x={"labs": torch.randn(40, 3)}, y=[0, 1] * 20)
        >>> make = lambda schema: Classifier(backbone=GRAPE(d=8), schema=schema)
        >>> out_of_fold(cohort, trainer(make, stages=[Stage(epochs=2)]), folds=2).shape
        (40, 2)
    """
    if not callable(make) or isinstance(make, torch.nn.Module):
        hint = "Write trainer(lambda schema: Classifier(backbone=GRAPE(), schema=schema))"
        raise wrong_type(make, "trainer takes a function that makes a model for a schema", hint)

    def fit_predict(train: Cohort, test: Cohort) -> np.ndarray:
        parts = (train, None) if val is None else train.split((1 - val, val), seed=seed)
        return predict_proba(fit(make(train.schema), *parts, seed=seed, **options).model, test)

    return fit_predict


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and ask torch for deterministic algorithms.

    `fit` needs no such call, it seeds itself; this is for code of your own around it.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries that read the global state
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)


# ---------------- what `fit` refuses, and what to type instead


def check_types(model: object, train: object, val: object, stages: object) -> None:
    """Refuse what is no method, no cohort or no list of stages, before anything is asked of it.

    Raises:
        TypeError: One of them is something else.
    """
    if not isinstance(model, nn.Module) or not hasattr(model, "schema"):
        raise TypeError(
            f"model is no method that can be trained, but: {type_name(model)}. Pass for example "
            "Classifier(backbone=GRAPE(), schema=train.schema)"
        )
    refuse_no_cohort(train, "train")
    if val is not None:
        refuse_no_cohort(val, "val")
    if stages is None:
        return
    if not isinstance(stages, Sequence) or not all(isinstance(stage, Stage) for stage in stages):
        raise TypeError(
            "stages is no list of stages. Pass stages=[Stage(epochs=20)], or leave it out"
        )


def check(
    model: Method,
    train: Cohort,
    val: Cohort | None,
    *,
    stages: list[Stage],
    select: str,
    patience: int | None,
    batch_size: int,
    init: str,
) -> None:
    """Refuse what `fit` could not train on, before anything is computed."""
    if select not in SELECTION:
        raise ValueError(
            f"select must be one of {', '.join(map(repr, SELECTION))}, got {select!r}."
        )
    if int(batch_size) != batch_size or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number >= 1, got {batch_size}.")
    if init not in ("fresh", "keep"):
        raise ValueError(f"init must be 'fresh' or 'keep', got {init!r}.")
    if patience is not None and patience < 1:
        raise ValueError(f"patience must be at least 1, got {patience}, or None.")
    if val is None and (select != "last" or patience is not None):
        raise ValueError(
            f"select={select!r} with patience={patience} needs a validation part. "
            "Pass val=, or select='last' and patience=None."
        )
    if select == "last" and patience is not None:
        raise ValueError(
            f"patience={patience} needs a score to wait for. Pass select='val_loss' or 'val_auroc'."
        )
    if select != "last" and not (stages and stages[-1].epochs):
        raise ValueError(
            f"select={select!r} picks from the last stage, which has no epoch: {stages}."
        )
    if sum(stage.epochs for stage in stages) == 0:
        raise ValueError(f"the stages hold no epoch: {stages}. Pass stages=[Stage(epochs=100)].")
    for stage in stages:
        for name in stage.overrides:
            if name not in model.stage_options:
                options = ", ".join(model.stage_options) or "none"
                raise ValueError(
                    f"{name!r} is no stage option of {type(model).__name__} (options: {options})."
                )
    if model.supervised:
        _check_labels(train)
    model.schema.check(train.schema, labels=model.supervised)
    absent = sorted(set(model.schema.names) - set(train.names))
    if absent:
        raise ValueError(
            f"the training part has no modality {absent[0]!r}, which the model was made for. Make "
            "the model with schema=train.schema."
        )
    if val is not None:
        _check_validation(model, val, select=select)
        check_disjoint(train, val)


def _check_labels(train: Cohort) -> None:
    """Refuse a training part that has nothing to tell apart."""
    if train.y is None:
        raise ValueError("the training part has no labels. Pass y= when you make the Cohort.")
    classes = train.y[~train.y.isnan()].unique()
    if len(classes) < 2:
        raise ValueError(
            f"the training part holds {len(train)} patients but "
            + (f"only the class {classes[0]:g}" if len(classes) else "no known label")
            + ". There is nothing to tell apart; check y and how the cohort was split."
        )


def _check_validation(model: Method, val: Cohort, *, select: str) -> None:
    """Refuse a validation part on which the rule that picks the epoch is not defined."""
    model.schema.check(val.schema)
    if not model.supervised:
        if select == "val_auroc":
            raise ValueError(
                f"{type(model).__name__} predicts no label, so there is no AUROC to select by. "
                "Pass select='val_loss'."
            )
        return
    if val.y is None or bool(val.y.isnan().all()):
        raise ValueError("the validation part has no known label. Pass y= when you make it.")
    columns = val.y.reshape(len(val), -1).T
    single = any(len(column[~column.isnan()].unique()) < 2 for column in columns)
    if select == "val_auroc" and single:
        raise ValueError(
            "select='val_auroc' needs both classes of every label in the validation part. Cut "
            "another one, or pass select='val_loss'."
        )


# ---------------- weights, devices, random numbers, and what is not saved


def _draw_weights(model: Method, seed: int) -> None:
    """Draw all weights anew, module by module, in the order of `model.modules()`."""
    torch.manual_seed(mix(seed))
    for module in model.modules():
        draw = getattr(module, "reset_parameters", None) or getattr(
            module, "_reset_parameters", None
        )
        if draw is not None:
            draw()
        elif next(module.parameters(recurse=False), None) is not None:
            raise ValueError(
                f"{type(module).__name__} holds parameters but no reset_parameters(), so its "
                "weights would not depend on the seed. Write that method, or pass init='keep'."
            )


def _one_device() -> Fabric:
    """Take one device for this process alone.

    What a cluster says of a job (an `srun` on the PATH, SLURM's variables) is not said of this
    process, since sbatch says it to a single one too: Fabric, if left to ask, warns or refuses.
    """
    return Fabric(accelerator="auto", devices=1, plugins=[LightningEnvironment()])


@contextlib.contextmanager
def _own_random_state() -> Iterator[None]:
    """Leave the caller's random state as it was."""
    with torch.random.fork_rng():
        yield


def _tables_of(train: Cohort) -> dict[str, Any] | None:
    """How the training part was read, and what its codes stand for."""
    if train.tables is None:
        return None
    words = {
        name: sorted((values.words or {}).values())
        for name, values in train.x.items()
        if isinstance(values, Ragged) and train.schema.kinds[name] == "codes"
    }
    return {**train.tables, "words": words}


def _with_known_words(model: Method) -> dict[str, Any]:
    """How the training part was read, with the words of those codes that the model knows."""
    encoders = dict(getattr(model, "encoders", {}))
    tables, kept = model.tables or {}, {}
    for name, words in tables["words"].items():
        known = getattr(encoders.get(name), "words", None)
        codes = set() if known is None else set(known.tolist())
        kept[name] = [word for word in words if code_id(word) in codes]
    return {**tables, "words": kept}


def _forget_rare(model: Method) -> Iterator[str]:
    """Leave out what few patients had; tells what was left out, and what cannot be."""
    forgotten = {
        name: module.forget_rare()
        for name, module in model.named_modules()
        if isinstance(module, ForgetsRare)
    }
    rare = [f"{n} of {name.removeprefix('encoders.')!r}" for name, n in forgotten.items() if n]
    if rare:
        yield (
            f"levels, codes, columns or missing patterns that fewer than {LEAST} training patients "
            f"had are not saved ({', '.join(rare)}): the model now takes them as never seen. Put "
            "rare ones together before training to keep them"
        )

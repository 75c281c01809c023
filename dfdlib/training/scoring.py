"""Scores of new patients, from tables like those that a model was trained on."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dfdlib.data import Cohort, Ragged
from dfdlib.data.tables import read_tables
from dfdlib.errors import wrong_type
from dfdlib.evaluation import predict_proba
from dfdlib.models import Method
from dfdlib.models.encoders import CategoricalEncoder, CodeBag, VectorEncoder

#: Standard deviations of the training part beyond which a value is told.
FAR = 10


def score_tables(
    model: object, config: str | Path | Mapping[str, Any], *, memory: str = "4GB"
) -> pd.DataFrame:
    """Score the patients of tables: one row per row of the patients' file, in its order.

    The tables are read as by `from_tables(config, purpose="score")`: no label is read, and what is
    not there is missing. The model knows how the tables that it was trained on were described; the
    same columns, units, levels and cut have to be described here. Files, identifiers, and how times
    and numbers are written may differ.

    Args:
        model: A trained or loaded model.
        config: The YAML file, or what it would hold as a dict.
        memory: As of `from_tables`.

    Returns:
        `patient`, as in the patients' file (several columns joined by "/"); the columns of the id,
        where these are others; `p_` and the class for each class (for each label, if there are
        several); `missing`, the modalities of which nothing is known; `warnings`: values that were
        left out or are limits, that lie over ten standard deviations from the training part, codes
        and levels that training did not have.

    Warns:
        UserWarning: As `from_tables`; and where the model was not trained on tables, so that units
            and levels cannot be compared.

    Raises:
        TypeError: The model is none, or predicts no classes.
        ValueError: As `from_tables`, or the tables are described otherwise than in training.
    """
    if not isinstance(model, Method) or not model.supervised:
        advice = "Write score_tables(load_model('folder'), 'tables.yaml')"
        raise wrong_type(model, "score_tables takes a model that predicts classes", advice)
    read = read_tables(config, purpose="score", memory=memory, trained=model.tables)
    for note in read.notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    if model.tables is None:
        warnings.warn(
            "the model was not trained on tables, so whether units, levels and the cut are those "
            "of its training is not known",
            UserWarning,
            stacklevel=2,
        )
    cohort = read.cohort
    p = predict_proba(model, cohort)
    table = _whose(read.ids, cohort)
    for name, column in zip(_class_names(model, p.shape[1]), p.T, strict=True):
        table[f"p_{name}"] = column
    there = {name: cohort.observed[:, i].numpy() for i, name in enumerate(cohort.names)}
    nobody = np.zeros(len(cohort), dtype=bool)
    seen = np.column_stack([there.get(name, nobody) for name in model.schema.names])
    names = np.array(model.schema.names)
    table["missing"] = ["; ".join(names[~row]) for row in seen]
    marks = [list(said) for said in read.marks]
    for rows, what in _strange(model, cohort):
        for row in np.flatnonzero(rows):
            marks[row].append(what)
    for row in np.flatnonzero(~seen.any(axis=1)):
        marks[row].append("nothing is known, so this is what the model says of nobody")
    table["warnings"] = ["; ".join(said) for said in marks]
    return table


def _whose(ids: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    """The patient first; then the columns of the id, where the patient does not say it."""
    patient = [str(name).replace("\x1f", "/") for name in cohort.groups["patient"]]
    table = pd.DataFrame({"patient": patient})
    if ids.shape[1] > 1:
        taken = {"patient", "missing", "warnings"}
        for name in ids:
            table[f"{name} (column)" if name in taken else name] = ids[name].to_numpy()
    return table


def _class_names(model: Method, n: int) -> list[str]:
    """What the columns of the probabilities are called."""
    tables = model.tables or {}
    multilabel = model.schema.task == "multilabel"
    words = tables.get("label") if multilabel else tables.get("classes")
    return words if words and len(words) == n else [str(k) for k in range(n)]


def _strange(model: Method, cohort: Cohort) -> Iterator[tuple[np.ndarray, str]]:
    """What the training part did not have: which rows hold it, and what is said of them."""
    for name, encoder in dict(getattr(model, "encoders", {})).items():
        if name not in cohort.names:
            continue
        values, flags = cohort.x[name], cohort.x_observed.get(name)
        features = cohort.schema.features[name]
        if isinstance(encoder, CodeBag) and isinstance(values, Ragged):
            new = ~torch.isin(values.values, encoder.words.to(values.values.device))
            owner = np.repeat(np.arange(len(values)), values.lengths.numpy())
            count = np.bincount(owner[new.numpy()], minlength=len(values))
            yield count > 0, f"{name}: codes that hardly anybody had in training"
        if not isinstance(values, torch.Tensor) or flags is None:
            continue
        if isinstance(encoder, VectorEncoder):
            far = ((values - encoder.mean.cpu()) / encoder.std.cpu()).abs() > FAR
            for column, feature in enumerate(features):
                rows = (far & flags & encoder.seen.cpu())[:, column].numpy()
                yield rows, f"{name}.{feature}: over {FAR} standard deviations from training"
                unread = (flags & ~encoder.seen.cpu())[:, column].numpy()
                yield unread, f"{name}.{feature}: not read, training hardly had it"
        elif isinstance(encoder, CategoricalEncoder):
            for column, feature in enumerate(features):
                begin, end = int(encoder.start[column]), int(encoder.start[column + 1])
                known = encoder.vocabulary[begin:end].cpu()
                new = flags[:, column] & ~torch.isin(values[:, column], known)
                yield new.numpy(), f"{name}.{feature}: a level that hardly anybody had in training"

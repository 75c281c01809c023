"""Your own tables: a folder of CSV or parquet files and one YAML file make a cohort."""

import warnings
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dfdlib.data._tables_config import TablesConfig, read_config
from dfdlib.data._tables_sql import Tables, open_tables
from dfdlib.data._tables_values import code_id, values
from dfdlib.data._validate import unknown
from dfdlib.data.cohort import Cohort

__all__ = ["code_id", "from_tables", "template"]


def from_tables(config: str | Path | Mapping[str, Any], *, memory: str = "4GB") -> Cohort:
    """Make a cohort of CSV or parquet files, as a YAML file of at most 40 lines says.

    `template` writes such a file with a comment on each key. The patients' file has one row per
    prediction (a patient, an admission, a stay); the other files refer to it by the same column.
    Files are read as text and streamed, so they may be larger than memory; an id, a code or a word
    stays what it is, leading zeros too.

    Nothing that was recorded after the cut enters: a row of a file later than `cut` after the
    row's time zero is never read further, one without a time does not enter (with a warning that
    counts them), and a date without a clock counts as the end of its day.

    Kinds:
        - vector: numbers, one feature per column; of several before the cut, `take` says which.
        - categorical: words; `columns` gives the levels of each, so that a word has the same number
          in every extract. Columns of whole numbers need no levels.
        - codes: the words of all columns up to the cut, in the order of time; each becomes
          `code_id(word)`.
        - series: rows (time, value, flag) in the order of time. The flag says which column it was.

    Where a file has a row per measurement, `item` names the column that says what was measured,
    `value` the one with the number, and `columns` lists the items.

    Args:
        config: The YAML file, or what it would hold as a dict. Paths are relative to the file, or
            to the working folder.
        memory: What DuckDB may use; more is spilled to a temporary folder.

    Raises:
        ValueError: Whatever in the configuration or the files contradicts the other; the message
            begins with the key.

    Example:
        >>> from_tables({"patients": {"file": "stays.csv", "id": "stay", "sight": "hospital"}})
        Traceback (most recent call last):
        ValueError: config['patients']: 'sight' is not a key (file, id, ...). Did you mean 'site'?
    """
    settings = read_config(config)
    with open_tables(settings, memory) as tables:
        return _cohort(settings, tables)


def template() -> str:
    """Return a YAML file of at most 40 lines to begin with: every key, with a comment.

    Example:
        >>> print(template().splitlines()[3])
        patients:                       # one row per prediction: a patient, an admission, a stay
    """
    file = resources.files("dfdlib.data").joinpath("tables.yaml")
    return file.read_text(encoding="utf-8")


def _cohort(config: TablesConfig, tables: Tables) -> Cohort:
    patients = _patients(config, tables)
    ids = patients[config.id]
    tables.open_rows(ids.tolist())
    y = _labels(config, tables, ids)
    x = {m.name: values(config, tables, m, len(ids)) for m in config.modalities}
    groups = {"patient": patients[config.patient or config.id].to_numpy(str)}
    if config.site is not None:
        groups["site"] = patients[config.site].fillna("unknown").to_numpy(str)
    task = config.task
    if y is not None and task is None and config.classes is not None:
        task = "binary" if len(config.classes) == 2 else "multiclass"
    with warnings.catch_warnings():
        if config.rows == "drop":
            warnings.filterwarnings("ignore", ".*rows have nothing observed")
        cohort = Cohort(
            x=x,
            kinds={modality.name: modality.kind for modality in config.modalities},
            y=y,
            task=task,
            covariates={name: _covariate(patients[name]) for name in config.covariates},
            groups=groups,
        )
    keep = np.ones(len(cohort), dtype=bool)
    if config.rows == "drop":
        keep &= cohort.observed.any(dim=1).numpy()
    if config.labels == "drop" and y is not None:
        keep &= ~np.isnan(y).reshape(len(y), -1).any(axis=1)
    return cohort if keep.all() else cohort.select(keep)


def _patients(config: TablesConfig, tables: Tables) -> pd.DataFrame:
    keys = {"id": config.id, "patient": config.patient, "site": config.site}
    columns = [(name, f"config['patients'][{key!r}]") for key, name in keys.items() if name]
    columns += [
        (name, f"config['patients']['covariates'][{i}]") for i, name in enumerate(config.covariates)
    ]
    patients = tables.patients(columns)
    for key, name in (("id", config.id), ("patient", config.patient)):
        if name is not None and patients[name].isna().any():
            row = int(patients[name].isna().argmax())
            raise ValueError(
                f"config['patients'][{key!r}]: row {row + 1} of {config.file.name} has no "
                f"{name!r}. Fill it in, or leave the row out"
            )
    twice = patients[config.id][patients[config.id].duplicated()]
    if len(twice):
        raise ValueError(
            f"config['patients']['id']: {config.id!r} holds {twice.iloc[0]!r} twice in "
            f"{config.file.name}. Name the column that tells its rows apart; whose rows they are "
            "goes under patient"
        )
    return patients


def _covariate(column: pd.Series) -> pd.Series:
    """Numbers where all are numbers, else the words."""
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers if numbers.notna().equals(column.notna()) else column


def _labels(config: TablesConfig, tables: Tables, ids: pd.Series) -> np.ndarray | None:
    if not config.label:
        return None
    table = tables.labels().dropna(subset=config.id)
    twice = table[config.id][table[config.id].duplicated()]
    if len(twice):
        raise ValueError(
            f"config['label']['file']: {config.label_file.name} has two rows for "
            f"{twice.iloc[0]!r}. Keep one label per row of the cohort"
        )
    given = table.set_index(config.id).reindex(ids)
    if given.isna().all(axis=None):
        raise ValueError(
            f"config['label']: no row of {config.file.name} has a label in "
            f"{config.label_file.name}. Write {config.id!r} alike in both, or leave label out"
        )
    columns = []
    for i, name in enumerate(config.label):
        words = given[name]
        if config.classes is not None:
            read = words.map({word: place for place, word in enumerate(config.classes)})
            options = config.classes
        else:
            read, options = pd.to_numeric(words, errors="coerce"), ()
        bad = words[words.notna() & read.isna()]
        if len(bad):
            where = f"config['label']['columns'][{i}]"
            if options:
                raise ValueError(f"{where}: {unknown(bad.iloc[0], options, 'class')}")
            raise ValueError(
                f"{where}: {name!r} holds {bad.iloc[0]!r}, no number. List the words in order: "
                f"classes: [{', '.join(sorted(map(str, words.dropna().unique()))[:5])}]"
            )
        columns.append(read.to_numpy(float))
    return np.column_stack(columns) if config.task == "multilabel" else columns[0]

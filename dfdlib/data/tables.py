"""Your own tables: a folder of CSV or parquet files and one YAML file make a cohort."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from dfdlib.data.arrays import code_id
from dfdlib.data.cohort import Cohort
from dfdlib.data.tables_config import TablesConfig, read_config, refuse_other_meaning
from dfdlib.data.tables_read import Tables, joined, open_tables
from dfdlib.data.tables_values import FEW, tally, values
from dfdlib.errors import nearest, require, unknown

__all__ = ["code_id", "flow", "from_tables", "template"]

Purpose = Literal["train", "score"]


def from_tables(
    config: str | Path | Mapping[str, Any],
    *,
    purpose: Purpose | str = "train",
    memory: str = "4GB",
) -> Cohort:
    """Make a cohort of CSV or parquet files, as a YAML file of at most 40 lines says.

    `template` writes such a file with a comment on each key. The patients' file has one row per
    prediction (a patient, an admission, a stay); the other files refer to it by the same column.
    Files are read as text and streamed, so they may be larger than memory; an id, a code or a word
    stays what it is, leading zeros too.

    Nothing that was recorded after the cut enters: a row of a file later than `cut` after the
    row's time zero is never read further, one without a time does not enter (with a warning that
    counts them), and a date without a clock counts as the end of its day; as time zero, as its
    beginning.

    Times:
        - The name of a column of times may become `{column, format, zone}`; `format` and `zone`
          below `time` hold for all columns that say nothing else.
        - Times with an offset (`2031-12-24 18:30-05:00`, `…Z`) and timestamps of parquet with a
          zone become UTC. Times with and without one are refused together, in one column or two,
          unless a `zone` (Europe/Berlin, UTC) says where clocks without one hung. It knows their
          summers; an hour that came twice, or never, counts as the later of the two possible
          moments, as time zero as the earlier. Without any zone, a day has 24 hours. The zone of
          the machine has no part in it.
        - Dates that do not begin with their year need a `format`: "%d.%m.%Y %H:%M", as of
          `strptime`. So do numbers that stand for dates: "%Y%m%d"; `excel` (days since 1899-12-30;
          a whole one is a date without a clock); `epoch`, `epoch_ms`, `epoch_us`, `epoch_ns` (since
          1970 in UTC).
        - Numbers are in `unit` since time zero, or where `start` holds numbers since the zero of
          these. Where all of `start` are 10,000 or more, or years, these may be dates, and `format:
          number` has to say that they are not; numbers beside a `start` of dates need it too.
        - `lookback: 48` leaves out what was recorded longer before the cut than that, in `unit`; a
          modality may have one of its own, or `none`.
        - Durations, as columns of parquet or `1 days 02:00:00` and `P1DT2H` in text, count from
          time zero; `26:00:00` needs `format: duration`.
        - A warning says where 90 % of the rows of a file lie outside the window, as with another
          unit, or where every time is at midnight, so that these may be dates.

    Text files:
        - `files: {decimal: ",", encoding: cp1252}` says how all of them are written, and the name
          of one, `labs.csv: {decimal: "."}`, how that one is. Among decimal commas `1.234,5` has
          thousands; a full stop without a comma is refused.
        - `id` and `patient` may be several columns, `[hospital, stay]`: a row is somebody's where
          all are the same.

    Numbers, of vector and series:
        - `unit` names the column that says in which unit a row is, and `units` what to do with it:
          `{creatinine: {umol/L: 1, mg/dL: 88.4}, temperature: {C: 1, F: [0.5556, -17.78]}}` brings
          all into the one of factor 1, by a factor or by factor and shift; `sodium: mmol/L` takes
          this one only. Another unit is refused, an empty one too, unless `""` is listed.
        - `bounds: {sodium: [80, 200]}` takes numbers outside as missing, after conversion, and
          counts them; `null` leaves an end open.
        - `limits: value` lets `<0.01` and `> 500` be these numbers. `limits: flag` adds a column
          for each, `creatinine_limit`: -1 below, 1 above, 0 where it was measured; in a series a
          flag of its own. Without it they are refused.

    Kinds:
        - vector: numbers, one feature per column; of several before the cut, `take` says which.
        - categorical: words; `columns` gives the levels of each, so that a word has the same number
          in every extract. Columns of whole numbers need no levels.
        - codes: the words of all columns up to the cut, in the order of time; each becomes
          `code_id(word)`.
        - series: rows (time, value, flag) in the order of time. The flag says which column it was.

    Where a file has a row per measurement, `item` names the column that says what was measured,
    `value` the one with the number, and `columns` lists the items.

    A row that stands in a file twice, the same in every column, counts once. A label column as a
    feature is refused. Warnings count what did not enter: rows without an id, rows whose id would
    be one of the patients' file if it were written alike (`7` and `007`), words among numbers.
    No message shows a cell. `dfdlib.data.tables.flow` counts where all rows went.

    To score new patients with a model that was trained on such tables, pass the same configuration
    with `purpose="score"`. Then no label is read (`y` is None), nobody is dropped, and an item that
    was never measured, a file that is not there or holds none of these patients, or a word that is
    no level, is missing. The columns that the configuration names have to be there, but for site
    and covariates, which no model reads to score. `dfdlib.training.score_tables`, or
    `dfdlib score`, does that for a saved model, which knows how its tables were read
    (`Cohort.tables`).

    Args:
        config: The YAML file, or what it would hold as a dict. Paths are relative to the file, or
            to the working folder.
        purpose: `train`, or `score` for new patients.
        memory: What DuckDB may use; more is spilled to a temporary folder.

    Raises:
        ImportError: Without the packages of `dfdlib[clinical]`.
        ValueError: Whatever in the configuration or the files contradicts the other; the message
            begins with the key.

    Example:
        >>> from_tables({"patients": {"file": "stays.csv", "id": "stay", "sight": "hospital"}})
        Traceback (most recent call last):
        ValueError: config['patients']: 'sight' is not a key (file, id, ...). Did you mean 'site'?
    """
    read = read_tables(config, purpose=purpose, memory=memory)
    for note in read.notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    return read.cohort


def flow(config: str | Path | Mapping[str, Any], *, memory: str = "4GB") -> pd.DataFrame:
    """Count where the rows and values of each modality went, so that the table may be shown.

    Args:
        config: As of `from_tables`.
        memory: As of `from_tables`.

    Returns:
        One row per modality. Rows of its file: `rows`, of which `unmatched` are of nobody in the
        patients' file, `without time`, `late` (after the cut), `early` (before the window of
        `lookback`), `in time`. Values in rows that are in time: `unreadable` (no number, or no
        level), in an `other unit`, `out of bounds`; `values` that entered, of which `limits` are
        limits, of how many rows of the cohort (`patients`). A count of 1 to 9 is missing, and then
        the others of its modality are rounded down to tens.

    Raises:
        ImportError: As `from_tables`.
        ValueError: As `from_tables`.
    """
    return read_tables(config, memory=memory).flow


@dataclass(frozen=True)
class Read:
    """What was read of tables.

    Attributes:
        cohort: as `from_tables` returns it.
        ids: of each row of it, the columns that say whose it is, as they stand in the file.
        marks: what is to be said of each row.
        notes: warnings, in the order in which they arose.
        flow: as `flow` returns it.
    """

    cohort: Cohort
    ids: pd.DataFrame
    marks: list[list[str]]
    notes: list[str]
    flow: pd.DataFrame


def read_tables(
    config: str | Path | Mapping[str, Any],
    *,
    purpose: Purpose | str = "train",
    memory: str = "4GB",
    trained: Mapping[str, Any] | None = None,
) -> Read:
    """Read a cohort as `from_tables` does, with all that can be said of it.

    Args:
        config: As of `from_tables`.
        purpose: As of `from_tables`.
        memory: As of `from_tables`.
        trained: `Cohort.tables` of the cohort that a model was trained on: tables that mean
            something else are refused before any file is read.

    Raises:
        ImportError: As `from_tables`.
        ValueError: As `from_tables`, or the configuration means something else.
    """
    require("reading tables", "duckdb", "pyarrow")
    if purpose not in get_args(Purpose):
        raise unknown(purpose, get_args(Purpose), "purpose")
    settings = read_config(config, scoring=purpose == "score")
    if trained is not None:
        refuse_other_meaning(settings.meaning, trained)
    with open_tables(settings, memory) as tables:
        cohort, patients, keep = _cohort(settings, tables)
    marks: list[list[str]] = [[] for _ in range(len(keep))]
    for positions, what in tables.marks:
        for position in positions:
            marks[position].append(what)
    whose = patients[list(dict.fromkeys([*(settings.patient or settings.id), *settings.id]))]
    return Read(
        cohort=cohort,
        ids=whose[keep].reset_index(drop=True),
        marks=[said for said, kept in zip(marks, keep, strict=True) if kept],
        notes=tables.notes,
        flow=_without_few(pd.DataFrame(tables.flow).T.rename_axis("modality")),
    )


def _without_few(counts: pd.DataFrame) -> pd.DataFrame:
    """Hide counts of 1 to 9, and round those beside them: no difference gives them away."""
    counts = counts.astype("Int64")
    few = (counts > 0) & (counts < FEW)
    rounded = few.any(axis=1)
    counts[rounded] = counts[rounded] // FEW * FEW
    return counts.mask(few)


def template() -> str:
    """Return a YAML file of at most 40 lines to begin with: every key, with a comment.

    Example:
        >>> print(template().splitlines()[3])
        patients:                       # one row per prediction: a patient, an admission, a stay
    """
    file = resources.files("dfdlib.data").joinpath("tables.yaml")
    return file.read_text(encoding="utf-8")


def _cohort(config: TablesConfig, tables: Tables) -> tuple[Cohort, pd.DataFrame, np.ndarray]:
    """The cohort, the patients' file, and which of its rows are in the cohort."""
    site, covariates = _spared(config, tables)
    patients = _patients(config, tables, site, covariates)
    ids = joined(patients[list(config.id)])
    y = _labels(config, tables, ids)
    tables.open_rows(ids.tolist())
    if y is not None:
        tables.meet(config.label_file)
    x = {m.name: values(config, tables, m, len(ids)) for m in config.modalities}
    _tell_of_answers(config, tables, x, y)
    groups = {"patient": joined(patients[list(config.patient or config.id)]).to_numpy(str)}
    if site is not None:
        groups["site"] = patients[site].fillna("unknown").to_numpy(str)
    elif config.site is not None:
        groups["site"] = np.full(len(ids), "unknown")
    task = config.task if y is not None else None
    if y is not None and task is None and config.classes is not None:
        task = "binary" if len(config.classes) == 2 else "multiclass"
    drop_rows = config.rows == "drop" and not config.scoring
    with warnings.catch_warnings():
        if drop_rows:
            warnings.filterwarnings("ignore", ".*rows have nothing observed")
        cohort = Cohort(
            x=x,
            kinds={modality.name: modality.kind for modality in config.modalities},
            y=y,
            task=task,
            covariates={
                name: _covariate(patients[name], tables.decimal(config.file)) for name in covariates
            },
            groups=groups,
        )
    keep = np.ones(len(cohort), dtype=bool)
    if drop_rows:
        keep &= cohort.observed.any(dim=1).numpy()
    if config.labels == "drop" and y is not None:
        keep &= ~np.isnan(y).reshape(len(y), -1).any(axis=1)
    cohort = cohort._with(tables=config.meaning)
    return (cohort if keep.all() else cohort.select(keep)), patients, keep


def _spared(config: TablesConfig, tables: Tables) -> tuple[str | None, tuple[str, ...]]:
    """The site and the covariates; to score, those that are there: no model needs them."""
    if not config.scoring:
        return config.site, config.covariates
    there = tables.types(config.file)
    wanted = [name for name in (config.site, *config.covariates) if name is not None]
    absent = [name for name in dict.fromkeys(wanted) if name not in there]
    if absent:
        tables.notes.append(
            f"config['patients']: {config.file.name} has no column {', '.join(map(repr, absent))}. "
            "No model needs it to score; it is left out"
        )
    covariates = tuple(name for name in config.covariates if name in there)
    return (config.site if config.site in there else None), covariates


def _patients(
    config: TablesConfig, tables: Tables, site: str | None, covariates: tuple[str, ...]
) -> pd.DataFrame:
    keys = {"id": config.id, "patient": config.patient, "site": (site,) if site else ()}
    columns = [(name, f"config['patients'][{key!r}]") for key, names in keys.items()
               for name in names]  # fmt: skip
    columns += [
        (name, f"config['patients']['covariates'][{i}]") for i, name in enumerate(covariates)
    ]
    patients = tables.patients(columns)
    if patients.empty:
        raise ValueError(
            f"config['patients']['file']: {config.file.name} has no row below its column names. "
            "Write a row for each patient"
        )
    whose = [("id", name) for name in config.id] + [("patient", name) for name in config.patient]
    for key, name in whose:
        if patients[name].isna().any():
            row = int(patients[name].isna().argmax())
            raise ValueError(
                f"config['patients'][{key!r}]: row {row + 1} of {config.file.name} has no "
                f"{name!r}. Fill it in, or leave the row out"
            )
    if rows := _twice(joined(patients[list(config.id)])):
        raise ValueError(
            f"config['patients']['id']: rows {rows[0]} and {rows[1]} of {config.file.name} have "
            f"the same {config.id_told}. Leave one out, or name the column that tells its rows "
            "apart, or several: id: [hospital, stay]; whose rows they are goes under patient"
        )
    return patients


def _twice(ids: pd.Series) -> tuple[int, int] | None:
    """Count from 1 the first two rows of one id; the index holds their places in the file."""
    again = ids.duplicated()
    if not again.any():
        return None
    second = again.idxmax()
    return int(ids.eq(ids[second]).idxmax()) + 1, int(second) + 1


def _covariate(column: pd.Series, decimal: str) -> pd.Series:
    """Numbers where all are numbers, else the words."""
    numbers = pd.to_numeric(_pointed(column, decimal), errors="coerce")
    return numbers if numbers.notna().equals(column.notna()) else column


def _labels(config: TablesConfig, tables: Tables, ids: pd.Series) -> np.ndarray | None:
    if not config.label or config.scoring:
        return None
    table = tables.labels().dropna(subset=list(config.id))
    theirs = joined(table[list(config.id)])
    if rows := _twice(theirs):
        raise ValueError(
            f"config['label']['file']: rows {rows[0]} and {rows[1]} of {config.label_file.name} "
            f"have the same {config.id_told}. Keep one label per row of the cohort"
        )
    by_id = table[list(config.label)].set_index(theirs).reindex(ids)
    if by_id.isna().all(axis=None):
        raise ValueError(
            f"config['label']: no row of {config.file.name} has a label in "
            f"{config.label_file.name}. Write {config.id_told} alike in both, or leave label out"
        )
    columns = [
        _classes(
            config,
            name,
            _pointed(by_id[name], tables.decimal(config.label_file)),
            f"config['label']['columns'][{i}]",
        )
        for i, name in enumerate(config.label)
    ]
    return np.column_stack(columns) if config.task == "multilabel" else columns[0]


def _classes(config: TablesConfig, name: str, words: pd.Series, where: str) -> np.ndarray:
    """Read one column of labels; what does not fit is counted, not shown."""
    options = config.classes
    if options is None:
        read = pd.to_numeric(words.replace(_TRUTH), errors="coerce")
        read = read.where(np.isfinite(read))
    else:
        read = words.map({word: place for place, word in enumerate(options)})
    bad = words[words.notna() & read.isna()]
    what = f"{where}: {name!r} of {config.label_file.name} holds "
    if len(bad):
        cells = tally(bad.value_counts().to_dict())
        if options is not None:
            near = [word for cell in bad.unique() for word in options
                    if nearest(cell, [word])]  # fmt: skip
            hint = f"Did you mean {near[0]!r}?" if near else "Add them to classes"
            raise ValueError(
                f"{what}{len(bad)} of {words.notna().sum()} labels that are no class "
                f"({', '.join(options)}): {cells}. {hint}"
            )
        raise ValueError(
            f"{what}{len(bad)} of {words.notna().sum()} labels that are no number: {cells}. List "
            "the words in the order 0, 1, …: classes: [alive, dead]"
        )
    labels = read.to_numpy(float)
    seen = np.unique(labels[~np.isnan(labels)])
    whole = bool(((seen == np.floor(seen)) & (seen >= 0)).all())
    if config.task in ("binary", "multilabel") and not np.isin(seen, (0, 1)).all():
        raise ValueError(
            f"{what}{len(seen)} different numbers, others than 0 and 1, and the task is "
            f"{config.task!r}. Write 0 and 1, or classes: in the order 0, 1"
        )
    if not whole:
        raise ValueError(
            f"{what}{len(seen)} different numbers, not all whole and from 0 on, so no classes. A "
            "length of stay, a score or a survival time is no label here: make classes of it first"
        )
    if config.task is None and options is None and len(seen) and len(seen) != seen[-1] + 1:
        raise ValueError(
            f"{what}{len(seen)} different numbers that leave some of 0, 1, 2, … out, so the task "
            "is not clear. Write classes: in the order 0, 1, …, or task: multiclass"
        )
    return labels


def _pointed(words: pd.Series, decimal: str) -> pd.Series:
    """Words among which numbers have a decimal point; others stay as they are."""
    if decimal == ".":
        return words
    return words.str.replace(r"^([-+]?\d+),(\d+)$", r"\1.\2", regex=True)


_TRUTH = {"true": "1", "True": "1", "TRUE": "1", "false": "0", "False": "0", "FALSE": "0"}


def _tell_of_answers(
    config: TablesConfig, tables: Tables, x: Mapping[str, Any], y: np.ndarray | None
) -> None:
    """Refuse the label under its name in another file; warn of what says the same, and of ids."""
    ids = {*config.id, *config.patient}
    for modality in config.modalities:
        for i, name in enumerate(modality.columns):
            if name in ids and modality.item is None:
                tables.notes.append(
                    f"{modality.at(i)}: {name!r} tells whose row it is. A model that reads it "
                    "learns the patients by heart. Leave it out of the modality"
                )
    for i, name in enumerate(config.label):
        if name in config.covariates and config.label_file == config.file:
            tables.notes.append(
                f"config['patients']['covariates'][{config.covariates.index(name)}]: {name!r} is "
                "the label. An evaluation that is cut by it sees one class in each part"
            )
        if y is None:
            continue
        labels = y if y.ndim == 1 else y[:, i]
        for modality in config.modalities:
            for feature, column in enumerate(modality.columns):
                answers, n = _answers(_last(x[modality.name], feature), labels)
                if not answers:
                    continue
                what = f"{modality.at(feature)}: {column!r} of {modality.file.name}"
                if column.casefold() == name.casefold():
                    raise ValueError(
                        f"{what} holds the label, config['label']['columns'][{i}], of all {n} rows "
                        "that have both. A model that reads it knows the answer. Leave it out of "
                        "the modality"
                    )
                if n >= _MANY:
                    tables.notes.append(
                        f"{what} tells the label {name!r} of all {n} rows that have both. Is it "
                        "known at the moment of prediction?"
                    )


_MANY = 20  # rows that do not agree by chance


def _last(value: Any, feature: int) -> np.ndarray | None:
    """What one feature says last of each row of the cohort; codes say nothing by columns."""
    if isinstance(value, pd.DataFrame):
        return value.iloc[:, feature].to_numpy(float)
    if value.values.ndim != 2:
        return None
    last = np.full(len(value), np.nan)
    row_of = np.repeat(np.arange(len(value)), value.lengths.numpy())
    events = value.values.numpy()
    here = events[:, 2] == feature
    last[row_of[here]] = events[here, 1]  # in the order of time
    return last


def _answers(feature: np.ndarray | None, labels: np.ndarray) -> tuple[bool, int]:
    """Whether a feature has one value for each label, and in how many rows both are there."""
    if feature is None:
        return False, 0
    both = np.flatnonzero(~np.isnan(feature) & ~np.isnan(labels))
    apart = False
    for rows in (both[:200], both):  # few rows show of most features that they do not
        pairs = np.unique(np.column_stack([feature[rows], labels[rows]]), axis=0)
        values, answers = (len(np.unique(column)) for column in pairs.T)
        if not len(pairs) == values == answers:
            return False, len(both)
        apart = answers > 1
    return apart, len(both)

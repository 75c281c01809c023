"""The configuration of a user's own tables: read once, and refused by the name of the key."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml

from dfdlib.data.times import Clock, check_format, check_zone
from dfdlib.data.validation import Task
from dfdlib.errors import unknown

Kind = Literal["vector", "categorical", "codes", "series"]
Take = Literal["last", "first", "mean", "min", "max"]
Unit = Literal["minutes", "hours", "days"]
Policy = Literal["keep", "drop"]

# What a line of each key looks like, for the message about one that is missing.
_EXAMPLES = {
    "patients": "\n  file: stays.csv\n  id: stay",
    "modalities": "\n  labs: {kind: vector, file: labs.csv, columns: [creatinine]}",
    "file": "stays.csv",
    "id": "stay",
    "kind": "vector",
    "columns": "[creatinine, sodium]",
    "cut": "24 (or none, where every file holds only what was known in time)",
    "value": "result",
    "column": "measured_at",
}


@dataclass(frozen=True)
class ModalityConfig:
    """One entry of `modalities`; `where` is its place in the configuration."""

    name: str
    where: str
    kind: Kind
    file: Path
    columns: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...] | None
    time: str | None
    clock: Clock
    item: str | None
    value: str | None
    take: Take

    def at(self, column: int) -> str:
        """Where a column stands in the configuration."""
        key = column if self.levels is None else repr(self.columns[column])
        return f"{self.where}['columns'][{key}]"


@dataclass(frozen=True)
class TablesConfig:
    """Everything that the file says, with the defaults filled in."""

    file: Path
    id: str
    patient: str | None
    site: str | None
    covariates: tuple[str, ...]
    start: str | None
    start_clock: Clock
    clock: Clock
    unit: Unit
    cut: float | None
    label_file: Path
    label: tuple[str, ...]
    classes: tuple[str, ...] | None
    task: Task | None
    missing: tuple[str, ...]
    text: Literal["error", "missing"]
    rows: Policy
    labels: Policy
    modalities: tuple[ModalityConfig, ...]
    scoring: bool

    @property
    def words(self) -> frozenset[str]:
        """All columns that the configuration names."""
        named = {self.id, self.patient, self.site, self.start, *self.covariates, *self.label}
        for modality in self.modalities:
            named |= {*modality.columns, modality.time, modality.item, modality.value}
        return frozenset(name for name in named if name is not None)


class _Node:
    """A mapping of the configuration that knows its place and its keys."""

    def __init__(self, value: Any, where: str, keys: Sequence[str]) -> None:
        if not isinstance(value, Mapping):
            # a whole file that is no YAML, but a table, is one text
            held = "text" if where == "config" and isinstance(value, str) else _shown(value)
            raise ValueError(
                f"{where} is {held}, expected keys and values. Write some of "
                f"{', '.join(keys)} below it, each on a line of its own"
            )
        for key in value:
            if key not in keys:
                raise ValueError(f"{where}: {unknown(key, keys, 'key')}")
        self.value, self.where = value, where

    def place(self, key: str) -> str:
        return f"{self.where}[{key!r}]"

    def get(self, key: str, *, required: bool = False) -> Any:
        value = self.value.get(key)
        if value is None and required:
            raise ValueError(f"{self.where} has no {key!r}. Add {key}: {_EXAMPLES[key]}")
        return value

    def text(self, key: str, *, required: bool = False) -> str | None:
        value = self.get(key, required=required)
        return None if value is None else _word(value, self.place(key))

    def choice(self, key: str, options: Sequence[str], default: str | None) -> Any:
        value = self.text(key, required=default == "")
        if value is None:
            return default
        if value not in options:
            raise ValueError(f"{self.place(key)}: {unknown(value, options, key)}")
        return value

    def words(self, key: str, *, required: bool = False) -> tuple[str, ...]:
        value = self.get(key, required=required)
        return () if value is None else _words(value, self.place(key))


def read_config(config: Any, *, scoring: bool) -> TablesConfig:
    """Read a YAML file or a mapping; paths in a file are relative to it."""
    folder = Path()
    if isinstance(config, (str, Path)):
        folder = Path(config).parent
        config = _load(Path(config))
    root = _Node(config, "config", ("patients", "time", "label", "missing", "modalities"))
    patients = _Node(
        root.get("patients", required=True),
        "config['patients']",
        ("file", "id", "patient", "site", "covariates"),
    )
    time_keys = ("start", "unit", "cut", "zone", "format")
    time = _Node(root.get("time") or {}, "config['time']", time_keys)
    start, start_clock = _time(time, "start")
    label_keys = ("file", "columns", "classes", "task")
    label = _Node(root.get("label") or {}, "config['label']", label_keys)
    missing_keys = ("values", "text", "rows", "labels")
    missing = _Node(root.get("missing") or {}, "config['missing']", missing_keys)
    file = folder / str(patients.text("file", required=True))
    labelled = label.get("columns", required=bool(label.value)) is not None
    task = label.choice("task", get_args(Task), None)
    columns = label.words("columns") if labelled else ()
    if len(columns) > 1 and task != "multilabel":
        raise ValueError(
            f"config['label']['columns'] names {len(columns)} columns. Write one, or task: "
            "multilabel"
        )
    entries = root.get("modalities", required=True)
    names = list(entries) if isinstance(entries, Mapping) and entries else ["labs"]
    entries = _Node(entries or None, "config['modalities']", names)
    read = TablesConfig(
        file=file,
        id=str(patients.text("id", required=True)),
        patient=patients.text("patient"),
        site=patients.text("site"),
        covariates=patients.words("covariates"),
        start=start,
        start_clock=start_clock,
        clock=_clock(time),
        unit=time.choice("unit", get_args(Unit), "hours"),
        cut=_cut(time),
        label_file=folder / (label.text("file") or "") if label.get("file") else file,
        label=columns,
        classes=label.words("classes") or None,
        task=task,
        missing=missing.words("values"),
        text=missing.choice("text", ("error", "missing"), "error"),
        rows=missing.choice("rows", get_args(Policy), "keep"),
        labels=missing.choice("labels", get_args(Policy), "keep"),
        modalities=tuple(
            _modality(str(name), entry, folder, file, timed="time" in root.value)
            for name, entry in entries.value.items()
        ),
        scoring=scoring,
    )
    _refuse_label(read)
    return read


def _refuse_label(config: TablesConfig) -> None:
    """Refuse what tells the answer: the label as a feature, or an id as the label."""
    for i, name in enumerate(config.label):
        if name in (config.id, config.patient):
            raise ValueError(
                f"config['label']['columns'][{i}]: {name!r} tells whose row it is. Name the column "
                "that holds the outcome"
            )
        for modality in config.modalities:
            # two names of a file are one file
            if modality.file.resolve() != config.label_file.resolve():
                continue
            read = modality.columns if modality.item is None else (modality.item, modality.value)
            if name in read:
                place = modality.at(read.index(name)) if modality.item is None else modality.where
                raise ValueError(
                    f"{place}: {name!r} is the label, config['label']['columns'][{i}]. A model "
                    "that reads it knows the answer. Leave it out of the modality"
                )


def _load(path: Path) -> Any:
    if path.is_dir():
        raise ValueError(f"{path.name} is a folder. Pass the YAML file in it: tables.yaml")
    if not path.is_file():
        raise ValueError(
            f"{path.name} is not there. Write one from the template: dfdlib.data.tables.template()"
        )
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except yaml.MarkedYAMLError as error:
        # what YAML says repeats the line, and the file may be a table that was named by mistake
        mark = error.problem_mark
        problem = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        problem += "a colon, a blank, a quotation mark or a bracket is wrong or missing"
    except UnicodeDecodeError:
        problem = "it is not UTF-8 text"
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = f"it cannot be understood ({type(error).__name__})"
    raise ValueError(f"{path.name} is no YAML: {problem}. Compare it with the template")


def _shown(value: Any) -> str:
    """What stands in the configuration; a text that is long, or a whole file, is not repeated."""
    if isinstance(value, str) and (len(value) > 40 or "\n" in value):
        return f"text of {len(value)} characters"
    if value is None or isinstance(value, (str, int, float)):
        return repr(value)
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"


def _cut(time: _Node) -> float | None:
    if not time.value:
        return None
    cut = time.get("cut", required=True)
    if cut == "none":
        return None
    where, advice = "config['time']['cut']", "Write cut: 24 and unit: hours, or none"
    if isinstance(cut, str):
        raise ValueError(f"{where} is {cut!r}, no number. {advice}; without quotes")
    if isinstance(cut, bool) or not isinstance(cut, (int, float)):
        raise ValueError(f"{where} is {cut!r:.40}, no number. {advice}")
    if not math.isfinite(cut):
        raise ValueError(f"{where} is {cut!r}, no moment. {advice}, where all may enter")
    if cut < 0:
        raise ValueError(
            f"{where} is {cut!r}, before time zero. {advice}; to predict earlier, name an earlier "
            "column as config['time']['start']"
        )
    return float(cut)


def _time(node: _Node, key: str) -> tuple[str | None, Clock]:
    """A column of times: its name, or a mapping that says more of it."""
    value = node.get(key)
    if not isinstance(value, Mapping):
        return node.text(key), Clock()
    entry = _Node(value, node.place(key), ("column", "format", "zone"))
    return entry.text("column", required=True), _clock(entry)


def _clock(node: _Node) -> Clock:
    form, zone = node.text("format"), node.text("zone")
    return Clock(
        format=None if form is None else check_format(form, node.place("format")),
        zone=None if zone is None else check_zone(zone, node.place("zone")),
    )


def _modality(name: str, entry: Any, folder: Path, file: Path, *, timed: bool) -> ModalityConfig:
    where = f"config['modalities'][{name!r}]"
    keys = ("kind", "file", "columns", "time", "known_at_start", "item", "value", "take")
    node = _Node(entry, where, keys)
    kind = cast(Kind, node.choice("kind", get_args(Kind), ""))
    columns = node.get("columns", required=True)
    levels = None
    if isinstance(columns, Mapping):
        if kind != "categorical":
            raise ValueError(
                f"{where}['columns'] holds levels, but the kind is {kind!r}. Write a list: "
                f"columns: [{', '.join(map(str, columns))}]"
            )
        levels = tuple(
            _words(words, f"{where}['columns'][{column!r}]") for column, words in columns.items()
        )
        columns = list(columns)
    file_name = node.text("file")
    time, clock = _time(node, "time")
    modality = ModalityConfig(
        name=name,
        where=where,
        kind=kind,
        file=file if file_name is None else folder / file_name,
        columns=_words(columns, f"{where}['columns']"),
        levels=levels,
        time=time,
        clock=clock,
        item=node.text("item"),
        value=node.text("value", required=node.get("item") is not None),
        take=node.choice("take", get_args(Take), "last"),
    )
    _refuse(modality, timed, known=node.get("known_at_start") is True or modality.file == file)
    return modality


def _refuse(modality: ModalityConfig, timed: bool, *, known: bool) -> None:
    """Refuse what contradicts itself, and a file of which nobody said when it was written."""
    where = modality.where
    if modality.time is not None and not timed:
        raise ValueError(
            f"{where} has a time, but there is no config['time']. Say when the prediction is made: "
            "time: {cut: 24, unit: hours}"
        )
    if modality.time is None and modality.kind == "series":
        raise ValueError(f"{where} is a series without 'time'. Name the column: time: measured_at")
    if modality.time is None and timed and not known:
        raise ValueError(
            f"{where} has no 'time', so nobody can tell what was recorded after the cut. Name the "
            "column, time: recorded_at, or write known_at_start: true"
        )
    if modality.item is None and modality.value is not None:
        raise ValueError(
            f"{where} has a 'value' and no 'item'. Name the column that says what is measured, "
            "item: lab_name, or leave value out"
        )
    if modality.item is not None and modality.kind not in ("vector", "series"):
        raise ValueError(f"{where}['item'] is for vector and series, not {modality.kind!r}")
    if modality.kind == "categorical" and modality.take not in ("last", "first"):
        raise ValueError(f"{where}['take'] is {modality.take!r}; of words take last or first")


def _words(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        advice = f"Write [{value}]" if isinstance(value, (str, int)) else "Write [first, second]"
        raise ValueError(f"{where} is {_shown(value)}, expected a list. {advice}")
    words = tuple(_word(word, f"{where}[{i}]") for i, word in enumerate(value))
    for i, word in enumerate(words):
        if word in words[:i]:
            raise ValueError(f"{where}[{i}]: {word!r} is there twice. Leave one out")
    return words


def _word(value: Any, where: str) -> str:
    if isinstance(value, bool):
        raise ValueError(
            f"{where} is read as {value} by YAML, which takes yes, no, on and off for truth "
            'values. Write the word in quotes: "no"'
        )
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"{where} is {_shown(value)}, expected a word. Write dates in quotes")
    return str(value)

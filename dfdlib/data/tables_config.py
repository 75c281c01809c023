"""The configuration of a user's own tables: read once, and refused by the name of the key."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml

from dfdlib.data.tables_measures import (
    TextFile,
    Unit,
    read_bounds,
    read_lookback,
    read_text_files,
    read_units,
)
from dfdlib.data.tables_node import Node, words_of
from dfdlib.data.times import Clock, check_format, check_zone
from dfdlib.data.validation import Task

Kind = Literal["vector", "categorical", "codes", "series"]
Take = Literal["last", "first", "mean", "min", "max"]
TimeUnit = Literal["minutes", "hours", "days"]
Policy = Literal["keep", "drop"]
Limits = Literal["error", "value", "flag"]


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
    unit: str | None
    units: tuple[tuple[Unit, ...], ...] | None
    bounds: tuple[tuple[float, float] | None, ...]
    limits: Limits
    lookback: float | None

    @property
    def features(self) -> tuple[str, ...]:
        """What a column of the cohort, or a flag of the series, is called."""
        limited = tuple(f"{name}_limit" for name in self.columns)
        return self.columns + (limited if self.limits == "flag" else ())

    def at(self, column: int) -> str:
        """Where a column stands in the configuration."""
        key = column if self.levels is None else repr(self.columns[column])
        return f"{self.where}['columns'][{key}]"


@dataclass(frozen=True)
class TablesConfig:
    """Everything that the file says, with the defaults filled in."""

    file: Path
    id: tuple[str, ...]
    patient: tuple[str, ...]
    site: str | None
    covariates: tuple[str, ...]
    start: str | None
    start_clock: Clock
    clock: Clock
    unit: TimeUnit
    cut: float | None
    label_file: Path
    label: tuple[str, ...]
    classes: tuple[str, ...] | None
    task: Task | None
    missing: tuple[str, ...]
    text: Literal["error", "missing"]
    rows: Policy
    labels: Policy
    text_files: Mapping[Path, TextFile]
    modalities: tuple[ModalityConfig, ...]
    scoring: bool

    @property
    def id_told(self) -> str:
        """The column of the id, or its columns, as messages name them."""
        return " with ".join(map(repr, self.id))

    @property
    def words(self) -> frozenset[str]:
        """All columns that the configuration names."""
        named = {*self.id, *self.patient, self.site, self.start, *self.covariates, *self.label}
        for modality in self.modalities:
            named |= {*modality.columns, modality.time, modality.item, modality.value}
            named |= {modality.unit}
        return frozenset(name for name in named if name is not None)

    @property
    def meaning(self) -> dict[str, Any]:
        """What decides what a number of the cohort means, as JSON stores it.

        A model keeps it, and whoever is to be scored has to be described alike; files, identifiers
        and the ways in which times and numbers are written may differ.
        """
        timed = self.cut is not None or any(m.time is not None for m in self.modalities)
        return {
            "time": {"unit": self.unit, "cut": self.cut} if timed else None,
            "label": list(self.label),
            "classes": None if self.classes is None else list(self.classes),
            "modalities": {
                m.name: {
                    "kind": m.kind,
                    "columns": list(m.features),
                    "levels": None if m.levels is None else [list(words) for words in m.levels],
                    "take": m.take if m.kind in ("vector", "categorical") else None,
                    "units": None if m.units is None else [units[0].name for units in m.units],
                    "bounds": [None if b is None else [_open(end) for end in b] for b in m.bounds],
                    "lookback": m.lookback,
                }
                for m in self.modalities
            },
        }


def is_meaning(stored: Any) -> bool:
    """Whether something that was stored is `TablesConfig.meaning`, or None, where nothing was."""
    if stored is None:
        return True
    keys = {"time": (dict, type(None)), "label": (list,), "classes": (list, type(None)),
            "modalities": (dict,), "words": (dict,)}  # fmt: skip
    return (
        isinstance(stored, dict)
        and set(stored) == set(keys)
        and all(isinstance(stored[key], types) for key, types in keys.items())
        and all(isinstance(entry, dict) for entry in stored["modalities"].values())
        and all(isinstance(words, list) for words in stored["words"].values())
        and all(
            isinstance(word, str)
            for words in (stored["label"], stored["classes"] or (), *stored["words"].values())
            for word in words
        )
    )


def _open(end: float) -> float | None:
    """An end of a range, None where it is open: JSON knows no infinity."""
    return end if math.isfinite(end) else None


def refuse_other_meaning(now: Mapping[str, Any], trained: Mapping[str, Any]) -> None:
    """Refuse tables that are described otherwise than those that a model was trained on.

    Args:
        now: `TablesConfig.meaning` of the new tables. A modality may be left out.
        trained: That of the tables of training.

    Raises:
        ValueError: Says which key differs, what it was, and what it is.
    """
    differences = [
        ("config['time']", name, now["time"], trained["time"]) for name in ("unit", "cut")
    ]
    for modality, entry in now["modalities"].items():
        before = trained["modalities"].get(modality)
        if before is not None:
            where = f"config['modalities'][{modality!r}]"
            differences += [(where, name, entry, before) for name in entry]
    for where, name, new, old in differences:
        one, other = ((entry or {}).get(name) for entry in (new, old))
        if one != other:
            advice = f"Write {name} as it was" if other is not None else f"Leave {name} out"
            raise ValueError(
                f"{where}: {name} is {_listed(one)}, and the model was trained with "
                f"{_listed(other)}. {advice}, or train anew"
            )
    if now["label"]:
        for name in ("label", "classes"):
            if now[name] != trained[name]:
                key = "columns" if name == "label" else name
                raise ValueError(
                    f"config['label'][{key!r}] is {_listed(now[name])}, and the model was trained "
                    f"with {_listed(trained[name])}. To score no label is needed: leave label out"
                )


def _listed(value: Any) -> str:
    """A part of `TablesConfig.meaning` as YAML writes it, cut where it is long."""
    if value is None:
        return "none"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    text = text.removesuffix("...\n").strip()
    return text if len(text) <= 120 else f"{text[:117]}…"


def read_config(config: Any, *, scoring: bool) -> TablesConfig:
    """Read a YAML file or a mapping; paths in a file are relative to it."""
    folder = Path()
    if isinstance(config, (str, Path)):
        folder = Path(config).parent
        config = _load(Path(config))
    keys = ("patients", "files", "time", "label", "missing", "modalities")
    root = Node(config, "config", keys)
    patients = Node(
        root.get("patients", required=True),
        "config['patients']",
        ("file", "id", "patient", "site", "covariates"),
    )
    time_keys = ("start", "unit", "cut", "lookback", "zone", "format")
    time = Node(root.get("time") or {}, "config['time']", time_keys)
    start, start_clock = _time(time, "start")
    label_keys = ("file", "columns", "classes", "task")
    label = Node(root.get("label") or {}, "config['label']", label_keys)
    missing_keys = ("values", "text", "rows", "labels")
    missing = Node(root.get("missing") or {}, "config['missing']", missing_keys)
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
    entries = Node(entries or None, "config['modalities']", names)
    cut = _cut(time)
    lookback = read_lookback(time, cut)
    modalities = tuple(
        _modality(
            str(name), entry, folder, file, timed="time" in root.value, lookback=lookback, cut=cut
        )
        for name, entry in entries.value.items()
    )
    label_file = folder / (label.text("file") or "") if label.get("file") else file
    named = dict.fromkeys([file, label_file, *(modality.file for modality in modalities)])
    read = TablesConfig(
        file=file,
        id=patients.one_or_more("id", required=True),
        patient=patients.one_or_more("patient"),
        site=patients.text("site"),
        covariates=patients.words("covariates"),
        start=start,
        start_clock=start_clock,
        clock=_clock(time),
        unit=time.choice("unit", get_args(TimeUnit), "hours"),
        cut=cut,
        label_file=label_file,
        label=columns,
        classes=label.words("classes") or None,
        task=task,
        missing=missing.words("values"),
        text=missing.choice("text", ("error", "missing"), "error"),
        rows=missing.choice("rows", get_args(Policy), "keep"),
        labels=missing.choice("labels", get_args(Policy), "keep"),
        text_files=read_text_files(root.get("files"), folder, list(named)),
        modalities=modalities,
        scoring=scoring,
    )
    _refuse_label(read)
    return read


def _refuse_label(config: TablesConfig) -> None:
    """Refuse what tells the answer: the label as a feature, or an id as the label."""
    for i, name in enumerate(config.label):
        if name in (*config.id, *config.patient):
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


def _cut(time: Node) -> float | None:
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


def _time(node: Node, key: str) -> tuple[str | None, Clock]:
    """A column of times: its name, or a mapping that says more of it."""
    value = node.get(key)
    if not isinstance(value, Mapping):
        return node.text(key), Clock()
    entry = Node(value, node.place(key), ("column", "format", "zone"))
    return entry.text("column", required=True), _clock(entry)


def _clock(node: Node) -> Clock:
    form, zone = node.text("format"), node.text("zone")
    return Clock(
        format=None if form is None else check_format(form, node.place("format")),
        zone=None if zone is None else check_zone(zone, node.place("zone")),
    )


def _modality(
    name: str,
    entry: Any,
    folder: Path,
    file: Path,
    *,
    timed: bool,
    lookback: float | None,
    cut: float | None,
) -> ModalityConfig:
    where = f"config['modalities'][{name!r}]"
    keys = (
        *("kind", "file", "columns", "time", "known_at_start", "item", "value", "take"),
        *("unit", "units", "bounds", "limits", "lookback"),
    )
    node = Node(entry, where, keys)
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
            words_of(words, f"{where}['columns'][{column!r}]") for column, words in columns.items()
        )
        columns = list(columns)
    columns = words_of(columns, f"{where}['columns']")
    file_name = node.text("file")
    time, clock = _time(node, "time")
    _refuse_measured(node, kind)
    units = node.get("units", required=node.get("unit") is not None)
    if units is not None and node.get("unit") is None:
        raise ValueError(
            f"{where} has 'units', and no 'unit'. Name the column that says in which unit a row "
            "is: unit: unit_of_result"
        )
    modality = ModalityConfig(
        name=name,
        where=where,
        kind=kind,
        file=file if file_name is None else folder / file_name,
        columns=columns,
        levels=levels,
        time=time,
        clock=clock,
        item=node.text("item"),
        value=node.text("value", required=node.get("item") is not None),
        take=node.choice("take", get_args(Take), "last"),
        unit=node.text("unit"),
        units=None if units is None else read_units(units, columns, node.place("units")),
        bounds=read_bounds(node.get("bounds"), columns, node.place("bounds")),
        limits=node.choice("limits", get_args(Limits), "error"),
        lookback=None if time is None else read_lookback(node, cut, lookback),
    )
    if time is None and node.get("lookback") is not None:
        raise ValueError(
            f"{node.place('lookback')} needs to know when rows were recorded. Name the column: "
            "time: recorded_at"
        )
    _refuse_taken(modality)
    _refuse(modality, timed, known=node.get("known_at_start") is True or modality.file == file)
    return modality


def _refuse_measured(node: Node, kind: str) -> None:
    """Refuse of words what can be said of numbers only."""
    for key in ("unit", "units", "bounds", "limits"):
        if node.get(key) is not None and kind not in ("vector", "series"):
            raise ValueError(
                f"{node.place(key)} is for vector and series, not {kind!r}. Leave it out"
            )


def _refuse_taken(modality: ModalityConfig) -> None:
    """Refuse a column that is called as the flag of another one's limits is."""
    for i, name in enumerate(modality.columns):
        if name in modality.features[len(modality.columns) :]:
            raise ValueError(
                f"{modality.at(i)}: {name!r} is what limits: flag calls another column. Rename it, "
                "or write limits: value"
            )
    if modality.limits == "flag" and modality.take == "mean":
        raise ValueError(
            f"{modality.where}['take'] is 'mean', of which nobody can say whether it is a limit. "
            "Write take: last, or limits: value"
        )


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

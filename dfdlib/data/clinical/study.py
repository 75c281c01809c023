"""How a clinical data set is described: which columns make which modality, in which units.

A description is data: `eicu.py` and `mimic_iv.py` hold one each, and `_clinical_rows.py` reads
them. Expressions are SQL over a row of the table; `u.cut` is when the row's prediction is made, and
`u.origin` its time zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Feature:
    """A number that a patient has once.

    Args:
        value: the expression.
        unit: of the value.
        low: below it a value is an error of entry, and counts as missing.
        high: above it too.
        unread: whether something stands there that is not read as a value; a warning counts it.
    """

    value: str
    unit: str = ""
    low: int | float | None = None
    high: int | float | None = None
    unread: str = "false"


@dataclass(frozen=True)
class Vector:
    """A modality of numbers, one of each per row of the cohort.

    Args:
        key: the columns of the tables that say whose row it is.
        source: the table, or tables joined.
        tables: which tables that are.
        features: by name.
    """

    key: str
    source: str
    tables: tuple[str, ...]
    features: Mapping[str, Feature]


@dataclass(frozen=True)
class Events:
    """Rows of a table that say that something happened, or was measured, at a time.

    Args:
        key: the column of the table that says whose row it is.
        source: the table, or tables joined.
        tables: which tables that are.
        time: hours since the start of the row's stay, on which the order goes.
        recorded: when it was known, in the clock of `u.cut`; what is later does not enter.
        clocked: whether `recorded` has a time of day: where all are at midnight, a warning says so.
        word: of a code, the word.
        value: of a series, the number.
        flag: of a series, what the number is.
        where: which rows are meant.
        several: of a series, whether value and flag are lists, for a row holds several numbers.
        measured: of a series, whether the value is a column, whose text can be counted.
        respelt: of a series, whether the name of the item is in other letters than expected.
        item: of a series, what is measured, whose numbers have to be in one unit.
        unit: of a series, the column of the unit.
        owner: the column that says which patient's row it is, where the table has one.
        alike: of a code, the word as it is compared to see whether one code is written in two ways.
    """

    key: str
    source: str
    tables: tuple[str, ...]
    time: str
    recorded: str
    clocked: bool = False
    word: str = ""
    value: str = ""
    flag: str = ""
    where: str = "true"
    several: bool = False
    measured: bool = False
    respelt: str = ""
    item: str = ""
    unit: str = ""
    owner: str = ""
    alike: str = ""


@dataclass(frozen=True)
class Codes:
    """A modality of codes, from one or more tables."""

    events: tuple[Events, ...]

    @property
    def tables(self) -> tuple[str, ...]:
        """All tables that are read."""
        return tuple(dict.fromkeys(name for event in self.events for name in event.tables))


@dataclass(frozen=True)
class Series:
    """A modality of (hours, value, flag) rows.

    Args:
        events: where the rows come from.
        units: what the flags 0, 1, … mean, with their units; empty where the flag is an item
            number of the data set.
    """

    events: Events
    units: Mapping[str, str]

    @property
    def tables(self) -> tuple[str, ...]:
        """All tables that are read."""
        return self.events.tables


Modality = Vector | Codes | Series


def variables(study: Mapping[str, Modality]) -> pd.DataFrame:
    """List what a description reads: modality, kind, tables, variable, unit.

    Args:
        study: the modalities by name.
    """
    lines = []
    for name, modality in study.items():
        kind = type(modality).__name__.lower()
        units: Mapping[str, str] = {}
        if isinstance(modality, Vector):
            units = {feature: about.unit for feature, about in modality.features.items()}
        elif isinstance(modality, Series):
            units = modality.units
        tables = ", ".join(modality.tables)
        for variable, unit in (units or {"": ""}).items():
            lines.append((name, kind, tables, variable, unit))
    return pd.DataFrame(lines, columns=["modality", "kind", "tables", "variable", "unit"])

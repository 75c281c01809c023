"""What entered of a user's own tables, in the form that a cohort takes."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from dfdlib.data.arrays import Ragged, code_id
from dfdlib.data.shapes import count_of, kind_of, shape_of
from dfdlib.data.sql import text_of
from dfdlib.data.tables_config import ModalityConfig, TablesConfig
from dfdlib.data.tables_read import Tables
from dfdlib.errors import nearest

#: A word that fewer rows have is not shown.
FEW = 10

_TAKE = {
    "last": "arg_max({0}, (t, {0}))",
    "first": "arg_min({0}, (t, {0}))",
    # summed without rounding errors, so that the order in which threads read does not matter
    "mean": "favg({0})",
    "min": "min({0})",
    "max": "max({0})",
}


def values(config: TablesConfig, tables: Tables, modality: ModalityConfig, n: int) -> Any:
    """Bring what entered of a modality into the form that a cohort takes."""
    tables.open_cells(modality)
    if modality.kind == "codes":
        _count(tables, modality)
        return _codes(tables, n)
    if modality.kind == "categorical" and modality.levels is not None:
        return _levels(config, modality, tables, n)
    _refuse_words(config, tables, modality)
    _convert(config, tables, modality)
    _keep_possible(tables, modality)
    _tell_limits(tables, modality)
    _count(tables, modality)
    if modality.kind == "series":
        return _series(modality, tables, n)
    cells = _one_each(tables, modality, "value")
    grid = _grid(modality, cells, np.ma.filled(cells["taken"].astype(float), np.nan), n)
    if modality.limits == "flag":
        grid = _with_sides(tables, modality, grid)
    if modality.kind == "categorical":
        _refuse_no_category(modality, grid)
    return grid


def tally(cells: Mapping[str, int]) -> str:
    """Say what kinds of things cells hold, and how many of each; no cell is repeated.

    Args:
        cells: How often each stands in a column.
    """
    kinds: Counter[str] = Counter()
    for cell, n in cells.items():
        kinds[shape_of(cell) if len(cells) == 1 else kind_of(cell)] += n
    listed = [kind if n == 1 else f"{n} times {kind}" for kind, n in kinds.most_common(4)]
    return ", ".join(listed) + (", …" if len(kinds) > 4 else "")


def advice(cells: Mapping[str, int], decimal: str = ".") -> str:
    """Say what to do about cells that are no numbers, without losing what stands in them.

    Args:
        cells: How often each stands in a column.
        decimal: The sign before decimals in the file.
    """
    kinds: Counter[str] = Counter()
    for cell, n in cells.items():
        kinds[kind_of(cell)] += n
    if decimal == "," and {"a number", "a number with thousands apart"} & set(kinds):
        return (
            "config['files'] says that decimals follow a comma, so a full stop alone stands before "
            "no decimals. Write all numbers alike"
        )
    if "a number with a decimal comma" in kinds:
        return _ADVICE["a number with a decimal comma"]
    return next((_ADVICE[kind] for kind, _ in kinds.most_common() if kind in _ADVICE), _WORDS)


_WORDS = "List it in config['missing']['values'], or write config['missing']['text']: missing"
_ADVICE = {
    "a number with a decimal comma": (
        "Save the file with decimal points: 1.5, not a comma; or, where all its numbers have them, "
        "say so: files: {decimal: ','}"
    ),
    "a number with a comma": "Write 1.5 or 1500, as it is meant, without a comma",
    "a number with thousands apart": "Write numbers without a sign between thousands: 1500",
    "a limit (< or > before a number)": (
        "A limit is no missing value: in the modality write limits: flag, and the number stands "
        "for it, with a column that says so; or limits: value, without the column. "
        "config['missing']['text']: missing would lose it"
    ),
    "a number with a per cent sign": "Write the number alone; the unit belongs into the name",
    "a number and a word": (
        "Write numbers alone, and the unit into a column of its own, which unit: and units: name"
    ),
    "a date": "A date is no number: name it as a time, or write days since time zero",
    "a time of day": "A time of day is no number: write minutes or hours",
    "two numbers": "Write a column for each of the two numbers",
    "an infinite number": "Write the largest number that can be measured, or leave the cell empty",
}


def _refuse_words(config: TablesConfig, tables: Tables, modality: ModalityConfig) -> None:
    """Refuse words in columns of numbers, unless they count as missing."""
    refused = pd.DataFrame(
        tables.fetch(
            "SELECT flag, text, count(*) AS n FROM cell WHERE value IS NULL "
            "GROUP BY flag, text ORDER BY flag, n DESC, text LIMIT 100000"
        )
    )
    for flag, rows in refused.groupby("flag"):
        column = int(flag)
        cells = dict(zip(rows["text"], rows["n"].astype(int), strict=True))
        n = sum(cells.values())
        what = (
            f"{modality.at(column)}: {modality.columns[column]!r} of {modality.file.name} holds "
            f"{n} value{'s' if n > 1 else ''} that {'are' if n > 1 else 'is'} no "
            f"number{'s' if n > 1 else ''}: {tally(cells)}"
        )
        if config.text == "error":
            how = advice(cells, tables.decimal(modality.file))
            if how == _WORDS and modality.kind == "vector" and modality.item is None:
                how = _no_number_at_all(tables, modality.columns[column], column) or how
            if modality.kind == "categorical":
                how = (
                    "Write its levels in an order that stays: "
                    f"{{{modality.columns[column]}: [one, other]}}"
                )
            raise ValueError(f"{what}. {how}")
        lost = "" if advice(cells) == _WORDS else f". {advice(cells)}"
        tables.notes.append(f"{what}. {'They are' if n > 1 else 'It is'} missing{lost}")
        name = f"{modality.name}.{modality.columns[column]}"
        tables.mark(f"value IS NULL AND flag = {column}", f"{name}: no number")
    if len(refused):
        tables.flow[modality.name]["unreadable"] += int(refused["n"].sum())
        tables.fetch("DELETE FROM cell WHERE value IS NULL")


def _no_number_at_all(tables: Tables, name: str, flag: int) -> str:
    """Advice for a column of nothing but words, of which nothing would be left as missing."""
    numbers = f"SELECT count(*) AS n FROM cell WHERE flag = {flag} AND value IS NOT NULL"
    if tables.fetch(numbers)["n"][0]:
        return ""
    return (
        "Where these are categories, make a modality of them: "
        f"{{kind: categorical, columns: {{{name}: [one, other]}}}}"
    )


def _convert(config: TablesConfig, tables: Tables, modality: ModalityConfig) -> None:
    """Bring numbers into the unit of their column; refuse those in a unit that is not listed."""
    if modality.units is None:
        return
    known = pd.DataFrame(
        [
            {"flag": flag, "unit": unit.name, "factor": unit.factor, "shift": unit.shift}
            for flag, units in enumerate(modality.units)
            for unit in units
        ]
    )
    tables.connection.register("known_unit", known)
    tables.fetch(
        "CREATE OR REPLACE TEMP TABLE cell AS "
        "SELECT c.* REPLACE (value * factor + shift AS value), factor IS NULL AS strange "
        "FROM cell c LEFT JOIN known_unit k ON k.flag = c.flag AND k.unit = coalesce(c.unit, '')"
    )
    for column, units in enumerate(modality.units):
        _refuse_units(config, tables, modality, column, [unit.name for unit in units])
    tables.fetch("DELETE FROM cell WHERE strange")


def _refuse_units(
    config: TablesConfig, tables: Tables, modality: ModalityConfig, column: int, units: list[str]
) -> None:
    strange = pd.DataFrame(
        tables.fetch(
            "SELECT coalesce(unit, '') AS unit, count(*) AS n, count(DISTINCT position) AS rows "
            f"FROM cell WHERE strange AND flag = {column} GROUP BY ALL ORDER BY n DESC, unit"
        )
    )
    if strange.empty:
        return
    n, name = int(strange["n"].sum()), modality.columns[column]
    # a unit that few have may be no unit, but a word about somebody
    common = strange.loc[strange["rows"] >= FEW, "unit"].map(lambda word: word or "no unit")
    cells = dict(zip(strange["unit"], strange["n"].astype(int), strict=True))
    listed = ", ".join(common[:5]) if len(common) else tally(cells)
    near = [unit for word in strange["unit"] for unit in units if nearest(word, [unit])]
    what = (
        f"{modality.where}['units'][{name!r}]: {n} value{'s' if n > 1 else ''} of {name!r} in "
        f"{modality.file.name} {'have' if n > 1 else 'has'} another unit than {', '.join(units)}: "
        f"{listed}."
    )
    if config.text == "error":
        how = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"{what}{how} Add it with what numbers are multiplied by: {{{units[0]}: 1, OTHER: "
            "88.4}, \"\" for none; or write config['missing']['text']: missing"
        )
    tables.notes.append(f"{what} {'They are' if n > 1 else 'It is'} missing")
    tables.mark(f"strange AND flag = {column}", f"{modality.name}.{name}: other unit")
    tables.flow[modality.name]["other unit"] += n


def _keep_possible(tables: Tables, modality: ModalityConfig) -> None:
    """Take numbers out of the range of their column as missing, and count them."""
    for column, (name, bounds) in enumerate(zip(modality.columns, modality.bounds, strict=True)):
        if bounds is None:
            continue
        low, high = bounds
        tests = [f"value < {low!r}"] * math.isfinite(low) + [f"value > {high!r}"] * math.isfinite(
            high
        )
        outside = f"flag = {column} AND ({' OR '.join(tests) or 'false'})"
        n = int(tables.fetch(f"SELECT count(*) AS n FROM cell WHERE {outside}")["n"][0])
        if not n:
            continue
        total = int(tables.fetch(f"SELECT count(*) AS n FROM cell WHERE flag = {column}")["n"][0])
        tables.notes.append(
            f"{modality.where}['bounds'][{name!r}]: {count_of(n)} of {total:,} values of {name!r} "
            f"in {modality.file.name} lie outside {low:g} to {high:g}, and are missing"
        )
        tables.mark(outside, f"{modality.name}.{name}: out of bounds")
        tables.flow[modality.name]["out of bounds"] += n
        tables.fetch(f"DELETE FROM cell WHERE {outside}")


def _tell_limits(tables: Tables, modality: ModalityConfig) -> None:
    """Count limits, for which their number stands."""
    if modality.limits == "error":
        return
    for column, name in enumerate(modality.columns):
        tables.mark(f"side <> 0 AND flag = {column}", f"{modality.name}.{name}: a limit")
    n = int(tables.fetch("SELECT count(*) AS n FROM cell WHERE side <> 0")["n"][0])
    tables.flow[modality.name]["limits"] += n


def _count(tables: Tables, modality: ModalityConfig) -> None:
    """Count what enters, and of how many rows of the cohort."""
    counts = tables.fetch("SELECT count(*) AS n, count(DISTINCT position) AS rows FROM cell")
    tables.flow[modality.name]["values"] = int(counts["n"][0])
    tables.flow[modality.name]["patients"] = int(counts["rows"][0])


def _with_sides(tables: Tables, modality: ModalityConfig, grid: pd.DataFrame) -> pd.DataFrame:
    """Put a column beside each: -1 where the number is a lower limit, 1 an upper one, else 0."""
    cells = _one_each(tables, modality, "value", of="side")
    sides = _grid(modality, cells, np.ma.filled(cells["taken"].astype(float), np.nan), len(grid))
    limited = modality.features[len(modality.columns) :]
    return pd.concat([grid, sides.set_axis(list(limited), axis=1)], axis=1)


def _levels(config: TablesConfig, modality: ModalityConfig, tables: Tables, n: int) -> pd.DataFrame:
    """The place of each word in the levels of its column."""
    assert modality.levels is not None
    cells = _one_each(tables, modality, "text")
    codes = np.full(len(cells["taken"]), np.nan)
    for column, levels in enumerate(modality.levels):
        here = np.flatnonzero(cells["flag"] == column)
        words = pd.Series(cells["taken"][here], dtype=object)
        codes[here] = words.map({word: place for place, word in enumerate(levels)}).to_numpy(float)
        strange = words[np.isnan(codes[here])]
        if not len(strange):
            continue
        near = [level for word in strange.unique() for level in levels
                if nearest(word, [level])]  # fmt: skip
        hint = f" Did you mean {near[0]!r}?" if near else ""
        what = (
            f"{modality.at(column)}: {len(strange)} of {len(words)} values of "
            f"{modality.columns[column]!r} of {modality.file.name} are no level "
            f"({', '.join(levels)}): {tally(strange.value_counts().to_dict())}."
        )
        if config.text == "error" and not config.scoring:
            raise ValueError(f"{what}{hint or ' Add them to the levels'}")
        tables.notes.append(f"{what}{hint} They are missing")
        listed = ", ".join(map(text_of, levels))
        name = f"{modality.name}.{modality.columns[column]}"
        tables.mark(f"flag = {column} AND text NOT IN ({listed})", f"{name}: no level")
        tables.flow[modality.name]["unreadable"] += len(strange)
    _count(tables, modality)
    return _grid(modality, cells, codes, n)


def _refuse_no_category(modality: ModalityConfig, grid: pd.DataFrame) -> None:
    for i, name in enumerate(modality.columns):
        column = grid[name].dropna()
        bad = int(((column != np.floor(column)) | (column < 0)).sum())
        if bad:
            raise ValueError(
                f"{modality.at(i)}: {bad} of {len(column)} values of {name!r} are no whole numbers "
                f"from 0 on, so no categories. Write its levels: {{{name}: [one, other]}}, or "
                "kind: vector"
            )


def _one_each(
    tables: Tables, modality: ModalityConfig, value: str, of: str | None = None
) -> dict[str, np.ndarray]:
    """One value per row of the cohort and column; or what else the cell has that holds it."""
    if modality.time is None and modality.take in ("last", "first"):
        twice = tables.fetch(
            "SELECT count(*) AS n FROM (SELECT 1 FROM cell GROUP BY position, flag "
            "HAVING count(*) > 1)"
        )["n"][0]
        if twice:
            raise ValueError(
                f"{modality.where}: {modality.file.name} has several rows for one "
                f"{tables.config.id_told} ({twice} times), and no time to tell which is "
                f"{modality.take}. Name a time, or take: mean"
            )
    taken = _TAKE[modality.take].format(value)
    if of is not None:
        first = modality.take in ("first", "min")
        order = "(value, side)" if modality.take in ("min", "max") else "(t, value, side)"
        taken = f"{'arg_min' if first else 'arg_max'}({of}, {order})"
    return tables.fetch(
        f"SELECT position, flag, {taken} AS taken FROM cell GROUP BY position, flag"
    )


def _grid(
    modality: ModalityConfig, cells: dict[str, np.ndarray], values: np.ndarray, n: int
) -> pd.DataFrame:
    grid = np.full((n, len(modality.columns)), np.nan)
    grid[cells["position"], cells["flag"].astype(int)] = values
    return pd.DataFrame(grid, columns=list(modality.columns))


def _codes(tables: Tables, n: int) -> Ragged:
    words = pd.DataFrame(tables.fetch("SELECT DISTINCT text AS word FROM cell"))
    words["code"] = np.array([code_id(word) for word in words["word"]], dtype=np.int64)
    tables.connection.register("word", words)
    cells = tables.fetch(
        "SELECT position, code FROM cell JOIN word ON text = word ORDER BY position, t, flag, text"
    )
    known = dict(zip(words["code"].tolist(), words["word"].tolist(), strict=True))
    return _ragged(cells["position"], cells["code"].astype(np.int64), n, known)


def _series(modality: ModalityConfig, tables: Tables, n: int) -> Ragged:
    flag = "flag"
    if modality.limits == "flag":
        flag = f"CASE WHEN side = 0 THEN flag ELSE flag + {len(modality.columns)} END"
    cells = tables.fetch(
        f"SELECT position, t, value, {flag} AS flag FROM cell ORDER BY position, t, flag, value"
    )
    rows = np.column_stack([cells[name].astype(float) for name in ("t", "value", "flag")])
    return _ragged(cells["position"], rows, n, dict(enumerate(modality.features)))


def _ragged(position: np.ndarray, values: np.ndarray, n: int, words: dict[int, str]) -> Ragged:
    """Rows that come in the order of their positions, end to end."""
    offsets = np.searchsorted(position, np.arange(n + 1))
    return Ragged(torch.from_numpy(values), torch.from_numpy(offsets), words)

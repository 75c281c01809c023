"""What a configuration says of numbers: how they are written, units, ranges, the window of time."""

import codecs
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from dfdlib.data.tables_node import Node, number_of, shown, word_of
from dfdlib.errors import unknown

Decimal = Literal[".", ","]


@dataclass(frozen=True)
class TextFile:
    """How a text file is written: its encoding, and the sign before decimals."""

    encoding: str = "utf-8"
    decimal: Decimal = "."


@dataclass(frozen=True)
class Unit:
    """What turns a number in one unit into the unit of its column: x * factor + shift."""

    name: str
    factor: float
    shift: float


def read_lookback(node: Node, cut: float | None, inherited: float | None = None) -> float | None:
    """How long before the cut a row may have been recorded; None for as long as there is."""
    value, where = node.get("lookback"), node.place("lookback")
    if value is None:
        return inherited
    if value == "none":
        return None
    number = number_of(value, where, "Write lookback: 48, in the unit of time, or none")
    if number <= 0:
        raise ValueError(f"{where} is {value!r}, no length of time. Write lookback: 48, or none")
    if cut is None:
        raise ValueError(
            f"{where} counts back from the cut, and there is none. Write it: time: {{cut: 24}}"
        )
    return number


def read_text_files(value: Any, folder: Path, named: Sequence[Path]) -> dict[Path, TextFile]:
    """How each text file is written: as said of it, or else of all."""
    where = "config['files']"
    names = {file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file): file
             for file in named}  # fmt: skip
    keys = ("encoding", "decimal")
    node = Node({} if value is None else value, where, (*keys, *names))
    common = _text_file(node, TextFile())
    read = {}
    for name, file in names.items():
        entry = node.get(name)
        if entry is not None and file.name.lower().endswith(".parquet"):
            raise ValueError(
                f"{node.place(name)}: parquet says itself how it is written. Leave it out"
            )
        own = Node(entry, node.place(name), keys) if entry is not None else None
        read[file] = common if own is None else _text_file(own, common)
    return read


def _text_file(node: Node, common: TextFile) -> TextFile:
    encoding = node.text("encoding")
    if encoding is not None:
        where = node.place("encoding")
        advice = "Write cp1252 (Windows), latin-1, utf-16 or utf-8"
        try:
            name = codecs.lookup(encoding).name
            b"ab".decode(name, "ignore")
        except (LookupError, UnicodeError, ValueError):
            raise ValueError(f"{where}: {encoding!r:.40} is no encoding. {advice}") from None
        common = TextFile(name, common.decimal)
    return TextFile(common.encoding, node.choice("decimal", get_args(Decimal), common.decimal))


def read_units(value: Any, columns: Sequence[str], where: str) -> tuple[tuple[Unit, ...], ...]:
    """The units of each column; numbers end up in the first, of which they are 1 times."""
    example = f"{{{columns[0]}: {{umol/L: 1, mg/dL: 88.4}}}}"
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {shown(value)}, expected units of each column: {example}")
    for name in value:
        if name not in columns:
            raise ValueError(f"{where}: {unknown(name, columns, 'column of the modality')}")
    lacking = [name for name in columns if name not in value]
    if lacking:
        raise ValueError(
            f"{where} says nothing of {lacking[0]!r}. Add its unit: {{{lacking[0]}: mmol/L}}, or "
            f"several with factors: {example}"
        )
    return tuple(_units_of(value[name], f"{where}[{name!r}]") for name in columns)


def _units_of(value: Any, where: str) -> tuple[Unit, ...]:
    if not isinstance(value, Mapping):
        return (Unit(word_of(value, where), 1.0, 0.0),)
    advice = "Write what a number is multiplied by, {umol/L: 1, mg/dL: 88.4}, or [factor, shift]"
    units = []
    for name, entry in value.items():
        place = f"{where}[{name!r}]"
        pair = entry if isinstance(entry, list) and len(entry) == 2 else [entry, 0]
        factor, shift = (number_of(part, place, advice) for part in pair)
        if factor == 0:
            raise ValueError(f"{place} multiplies by 0, so every number is one. {advice}")
        units.append(Unit(word_of(name, where), factor, shift))
    if not units:
        raise ValueError(f"{where} is empty. {advice}")
    # not the first: whoever writes YAML again may sort it
    final = [unit for unit in units if (unit.factor, unit.shift) == (1.0, 0.0)]
    if not final:
        raise ValueError(
            f"{where}: no unit has the factor 1, so nobody knows in which numbers end up. {advice}"
        )
    first = min(final, key=lambda unit: (not unit.name, unit.name))
    units.remove(first)
    units.insert(0, first)
    return tuple(units)


def read_bounds(value: Any, columns: Sequence[str], where: str) -> tuple[Any, ...]:
    """The range of each column; None where nothing is said of it."""
    if value is None:
        return (None,) * len(columns)
    node = Node(value, where, columns)
    return tuple(_range(node.get(name), node.place(name)) for name in columns)


def _range(value: Any, where: str) -> tuple[float, float] | None:
    if value is None:
        return None
    advice = "Write the lowest and the highest possible number: [0, 3000]; null for an open end"
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{where} is {shown(value)}, no range. {advice}")
    low, high = (
        end if part is None else number_of(part, where, advice)
        for part, end in zip(value, (-math.inf, math.inf), strict=True)
    )
    if not low < high:
        raise ValueError(f"{where} is [{low:g}, {high:g}], which holds nothing. {advice}")
    return low, high

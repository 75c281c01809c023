"""A mapping of a configuration that knows its place, so that whatever is refused can be found."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dfdlib.errors import unknown

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
    "units": "{creatinine: {umol/L: 1, mg/dL: 88.4}}",
    "column": "measured_at",
}


class Node:
    """A mapping of the configuration that knows its place and its keys."""

    def __init__(self, value: Any, where: str, keys: Sequence[str]) -> None:
        if not isinstance(value, Mapping):
            # a whole file that is no YAML, but a table, is one text
            held = "text" if where == "config" and isinstance(value, str) else shown(value)
            raise ValueError(
                f"{where} is {held}, expected keys and values. Write some of "
                f"{', '.join(keys)} below it, each on a line of its own"
            )
        for key in value:
            if key not in keys:
                raise ValueError(f"{where}: {unknown(key, keys, 'key')}")
        self.value, self.where = value, where

    def place(self, key: str) -> str:
        """Where a key stands, as messages say it."""
        return f"{self.where}[{key!r}]"

    def get(self, key: str, *, required: bool = False) -> Any:
        """What a key holds; None where it is not there."""
        value = self.value.get(key)
        if value is None and required:
            raise ValueError(f"{self.where} has no {key!r}. Add {key}: {_EXAMPLES[key]}")
        return value

    def text(self, key: str, *, required: bool = False) -> str | None:
        """The word that a key holds."""
        value = self.get(key, required=required)
        return None if value is None else word_of(value, self.place(key))

    def choice(self, key: str, options: Sequence[str], default: str | None) -> Any:
        """One of several words; a default of "" says that there is none."""
        value = self.text(key, required=default == "")
        if value is None:
            return default
        if value not in options:
            raise ValueError(f"{self.place(key)}: {unknown(value, options, key)}")
        return value

    def one_or_more(self, key: str, *, required: bool = False) -> tuple[str, ...]:
        """The name of a column, or a list of names that say it together."""
        value = self.get(key, required=required)
        if value is None:
            return ()
        if isinstance(value, list):
            return words_of(value, self.place(key))
        return (word_of(value, self.place(key)),)

    def words(self, key: str, *, required: bool = False) -> tuple[str, ...]:
        """The list of words that a key holds."""
        value = self.get(key, required=required)
        return () if value is None else words_of(value, self.place(key))


def words_of(value: Any, where: str) -> tuple[str, ...]:
    """Read a list of words, each different."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        advice = f"Write [{value}]" if isinstance(value, (str, int)) else "Write [first, second]"
        raise ValueError(f"{where} is {shown(value)}, expected a list. {advice}")
    words = tuple(word_of(word, f"{where}[{i}]") for i, word in enumerate(value))
    for i, word in enumerate(words):
        if word in words[:i]:
            raise ValueError(f"{where}[{i}]: {word!r} is there twice. Leave one out")
    return words


def word_of(value: Any, where: str) -> str:
    """Read a word; YAML may have taken it for a truth value or a date."""
    if isinstance(value, bool):
        raise ValueError(
            f"{where} is read as {value} by YAML, which takes yes, no, on and off for truth "
            'values. Write the word in quotes: "no"'
        )
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"{where} is {shown(value)}, expected a word. Write dates in quotes")
    return str(value)


def number_of(value: Any, where: str, advice: str) -> float:
    """Read a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{where} is {shown(value)}, no number. {advice}")
    return float(value)


def shown(value: Any) -> str:
    """What stands in the configuration; a text that is long, or a whole file, is not repeated."""
    if isinstance(value, str) and (len(value) > 40 or "\n" in value):
        return f"text of {len(value)} characters"
    if value is None or isinstance(value, (str, int, float)):
        return repr(value)
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"

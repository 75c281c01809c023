"""What entered of a user's own tables, in the form that a cohort takes."""

import hashlib
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch

from dfdlib.data._ragged import Ragged
from dfdlib.data._tables_config import ModalityConfig, TablesConfig
from dfdlib.data._tables_files import number
from dfdlib.data._tables_sql import Tables
from dfdlib.data._validate import unknown

_TAKE = {
    "last": "arg_max({0}, (t, {0}))",
    "first": "arg_min({0}, (t, {0}))",
    # summed without rounding errors, so that the order in which threads read does not matter
    "mean": "favg({0})",
    "min": "min({0})",
    "max": "max({0})",
}


def code_id(word: str) -> int:
    """Number a word of a codes modality: the same in every extract, and on every machine.

    Example:
        >>> code_id("I21.4") == code_id("I21.4"), code_id("0389") == code_id("389")
        (True, False)
    """
    # 63 bits of a hash: among 100,000 words two meet with probability 5e-10
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest()) >> 1


def values(config: TablesConfig, tables: Tables, modality: ModalityConfig, n: int) -> Any:
    """Bring what entered of a modality into the form that a cohort takes."""
    without = tables.open_cells(modality)
    if without:
        warnings.warn(
            f"{modality.where}: {without} values of {modality.file.name} have no {modality.time!r} "
            "and do not enter",
            UserWarning,
            stacklevel=5,
        )
    if modality.kind == "codes":
        return _codes(tables, n)
    if modality.kind == "categorical" and modality.levels is not None:
        cells = _one_each(tables, modality, "text")
        codes = [
            _levels(config, modality, int(flag), text)
            for flag, text in zip(cells["flag"], cells["taken"], strict=True)
        ]
        return _grid(modality, cells, np.array(codes, dtype=float), n)
    _refuse_words(config, tables, modality)
    if modality.kind == "series":
        return _series(modality, tables, n)
    cells = _one_each(tables, modality, number("text"))
    return _grid(modality, cells, np.ma.filled(cells["taken"].astype(float), np.nan), n)


def _refuse_words(config: TablesConfig, tables: Tables, modality: ModalityConfig) -> None:
    """Refuse words in columns of numbers, unless they count as missing."""
    value = number("text")
    found = tables.fetch(
        f"SELECT flag, min(text) AS word, count(*) AS n, list(DISTINCT text ORDER BY text)[:5] AS "
        f"words FROM cell WHERE {value} IS NULL GROUP BY flag ORDER BY flag LIMIT 1"
    )
    if len(found["n"]) and config.text == "error":
        column = int(found["flag"][0])
        listed = ", ".join(found["words"][0])
        advice = (
            "List it in config['missing']['values'], or write config['missing']['text']: missing"
        )
        if modality.kind == "categorical":
            advice = f"Write its levels: {{{modality.columns[column]}: [{listed}]}}"
        raise ValueError(
            f"{modality.at(column)}: {modality.columns[column]!r} of {modality.file.name} holds "
            f"{found['word'][0]!r} and {found['n'][0] - 1} more that are no numbers. {advice}"
        )
    tables.fetch(f"DELETE FROM cell WHERE {value} IS NULL")


def _levels(config: TablesConfig, modality: ModalityConfig, column: int, text: str) -> float:
    assert modality.levels is not None
    levels = modality.levels[column]
    if text in levels:
        return float(levels.index(text))
    if config.text == "missing":
        return np.nan
    raise ValueError(f"{modality.at(column)}: {unknown(text, levels, 'level')}")


def _one_each(tables: Tables, modality: ModalityConfig, value: str) -> dict[str, np.ndarray]:
    """One value per row of the cohort and column."""
    if modality.time is None and modality.take in ("last", "first"):
        twice = tables.fetch(
            "SELECT id FROM cell JOIN row_of USING (position) "
            "GROUP BY id, flag HAVING count(*) > 1 ORDER BY id LIMIT 1"
        )["id"]
        if len(twice):
            raise ValueError(
                f"{modality.where}: {modality.file.name} has several rows for {twice[0]!r} and no "
                f"time to tell which is {modality.take}. Name a time, or take: mean"
            )
    taken = _TAKE[modality.take].format(value)
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
    cells = tables.fetch(
        f"SELECT position, t, {number('text')} AS value, flag FROM cell "
        "ORDER BY position, t, flag, value"
    )
    rows = np.column_stack([cells[name].astype(float) for name in ("t", "value", "flag")])
    return _ragged(cells["position"], rows, n, dict(enumerate(modality.columns)))


def _ragged(position: np.ndarray, values: np.ndarray, n: int, words: dict[int, str]) -> Ragged:
    """Rows that come in the order of their positions, end to end."""
    offsets = np.searchsorted(position, np.arange(n + 1))
    return Ragged(torch.from_numpy(values), torch.from_numpy(offsets), words)

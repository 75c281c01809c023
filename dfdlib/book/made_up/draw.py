"""What all made-up data sets draw with: blocks of patients, columns, and the files they go to."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

# So many patients are drawn at a time: the memory that a data set takes does not grow with its size
BLOCK = 4096

Columns = dict[str, Any]


def words(codes: np.ndarray, vocabulary: Sequence[str]) -> pa.DictionaryArray:
    """Name positions in a vocabulary; -1 is missing."""
    return pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(np.int32), mask=codes < 0), pa.array(vocabulary, pa.string())
    )


def pick(
    rng: np.random.Generator, weights: Mapping[str, float | int], size: int, *, missing: float = 0.0
) -> pa.DictionaryArray:
    """Draw words with the given weights; a share of them is missing."""
    p = np.array(list(weights.values()), float)
    codes = rng.choice(len(p), size, p=p / p.sum())
    codes[rng.random(size) < missing] = -1
    return words(codes, list(weights))


def blank(values: np.ndarray, where: np.ndarray) -> pa.Array:
    """Leave values out where a mask says so."""
    return pa.array(values, mask=where)


def blocks(n: int, seed: int, salt: int = 0) -> Iterator[tuple[int, int, np.random.Generator]]:
    """Cut n patients into blocks: the number of the first one, how many, and what to draw from.

    A block draws from its own stream, so the first patients are the same in data sets of any size
    that is a whole number of blocks.
    """
    for first in range(0, n, BLOCK):
        yield first, min(BLOCK, n - first), np.random.default_rng([seed, first, salt])


def parts(
    draw: Callable[[int, int, np.random.Generator], Any],
    table: Callable[[Any, np.random.Generator], Columns],
    salt: int,
    n: int,
    seed: int,
) -> Iterator[Columns]:
    """Draw a table block by block: each has its own stream, and all see the same patients."""
    for (first, size, rng), (*_, stream) in zip(
        blocks(n, seed), blocks(n, seed, salt), strict=True
    ):
        yield table(draw(first, size, rng), stream)


def write_csv(path: Path, parts: Iterator[Columns]) -> None:
    """Write the parts of a table, one after the other, as .csv or .csv.gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    batches = map(pa.RecordBatch.from_pydict, parts)
    first = next(batches)

    def chained() -> Iterator[pa.RecordBatch]:
        yield first
        yield from batches

    reader = pa.RecordBatchReader.from_batches(first.schema, chained())
    name = str(path).replace("'", "''")
    compression = "gzip" if path.suffix == ".gz" else "none"
    with duckdb.connect() as connection:
        # one thread and the order kept: equal seeds give equal files
        connection.execute("SET threads = 1")
        connection.execute("SET enable_progress_bar = false")
        connection.register("made_up", reader)
        connection.execute(
            f"COPY (FROM made_up) TO '{name}' (FORMAT csv, HEADER, COMPRESSION {compression})"
        )

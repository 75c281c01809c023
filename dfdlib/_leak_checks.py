"""What an audit can see in the data alone: patients, equal rows, times, masks."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dfdlib.data import Cohort, Ragged

Verdict = Literal["ok", "leak", "look", "not checked"]


class Finding(NamedTuple):
    """One line of the audit."""

    check: str
    verdict: Verdict
    note: str
    value: float = np.nan
    low: float = np.nan
    high: float = np.nan


def patients(cohort: Cohort, others: tuple[Cohort, ...]) -> Finding:
    """Count the patients who stand in two parts."""
    parts = (cohort, *others)
    if not all(part._ids_given for part in parts):
        return Finding(
            "patients", "look", "rows stand in for patients: pass groups={'patient': ids}"
        )
    if not others:
        return Finding("patients", "ok", "cut by patient here", 0)
    ids = [pd.Index(part.groups["patient"]).unique() for part in parts]
    shared = {p for a, b in combinations(ids, 2) for p in a.intersection(b)}
    note = f"in more than one of {len(parts)} parts" if shared else "each in one part"
    return Finding("patients", "leak" if shared else "ok", note, len(shared))


def equal_rows(train: Cohort, test: Cohort) -> Finding:
    """Count the rows to test on that training holds too, under whichever name."""
    seen = set(_fingerprints(train).tolist())
    twice = sum(row in seen for row in _fingerprints(test).tolist())
    note = "of the rows to test on are equal to one to train on"
    return Finding("equal rows", "look" if twice else "ok", note, twice)


def _fingerprints(cohort: Cohort) -> np.ndarray:
    """A number per row that is equal where all values are; rows with nothing are left out."""
    found = []
    for batch in cohort.batches(4096):
        total = np.zeros(len(batch), np.uint64)
        for place, values in enumerate(batch.x.values()):
            owner = np.arange(len(batch))
            if isinstance(values, Ragged):
                lengths = values.lengths.cpu().numpy()
                owner, cells = np.repeat(owner, lengths), values.values
                rank = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            else:
                cells, rank = values, np.zeros_like(owner)
            if len(owner):
                np.add.at(total, owner, _hash(cells.reshape(len(owner), -1), rank, place))
        seen = torch.cat([batch.observed, *batch.x_observed.values()], dim=1).cpu().numpy()
        total += pd.util.hash_pandas_object(pd.DataFrame(seen), index=False).to_numpy()
        found.append(total[seen.any(axis=1)])
    return np.concatenate(found)


def _hash(cells: Tensor, rank: np.ndarray, place: int) -> np.ndarray:
    """A number for each line of a table: of its cells, its rank, and the table's place."""
    values = cells.cpu().numpy()
    # multiplying by an odd number loses nothing
    odd = 2 * np.arange(values.shape[1], dtype=np.uint64) + np.uint64(1)
    line = pd.util.hash_array(values.ravel()).reshape(values.shape) * odd
    # a hash of 0 is 0, and an entry that is 0 must not be as none
    mixed = line.sum(axis=1, dtype=np.uint64) + pd.util.hash_array(rank + 1)
    return pd.util.hash_array(mixed) * np.uint64(2 * place + 1)


def after_the_cut(parts: tuple[Cohort, ...], cut: int | float | None) -> Iterator[Finding]:
    """Count what each series holds after the moment of prediction."""
    for name, kind in parts[0].schema.kinds.items():
        check = f"after the cut: {name}"
        if kind != "series" or cut is None:
            why = "cut= is not given" if kind == "series" else f"{kind} carries no time"
            yield Finding(check, "not checked", why)
            continue
        late, latest = 0, -np.inf
        for part in parts:
            values = part.x[name]
            assert isinstance(values, Ragged)
            times = values.values[:, 0].cpu().numpy()
            late += int((times > np.float32(cut)).sum())
            latest = max(latest, float(times.max(initial=-np.inf)))
        note = f"entries after {cut:g}; the latest is at {latest:g}"
        yield Finding(check, "leak" if late else "ok", note, late)


def masks(cohort: Cohort) -> pd.DataFrame:
    """What was observed, and no value of it."""
    table = {name: cohort.observed[:, j] for j, name in enumerate(cohort.names)}
    for name, mask in cohort.x_observed.items():
        features = cohort.schema.features[name]
        table |= {f"{name}.{f}": column for f, column in zip(features, mask.T, strict=True)}
    return pd.DataFrame(
        {name: column.cpu().numpy().astype(float) for name, column in table.items()}
    )


def times(cohort: Cohort) -> pd.DataFrame:
    """How many entries series and codes have, and when, and nothing of what they say."""
    table: dict[str, Any] = {}
    for name, values in cohort.x.items():
        if not isinstance(values, Ragged):
            continue
        lengths = values.lengths.cpu().numpy()
        table[f"{name}: entries"] = lengths.astype(float)
        if cohort.schema.kinds[name] == "series":
            time = pd.Series(values.values[:, 0].cpu().numpy())
            by_row = time.groupby(np.repeat(np.arange(len(cohort)), lengths))
            for how in ("min", "max", "mean"):
                table[f"{name}: {how}"] = by_row.agg(how).reindex(range(len(cohort))).to_numpy()
    return pd.DataFrame(table, index=range(len(cohort)))

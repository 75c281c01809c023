"""From a description to arrays: DuckDB joins, cuts and sorts; nothing loops over rows."""

import numpy as np
import pandas as pd
import torch

from dfdlib.data._clinical import Extract
from dfdlib.data._clinical_study import Codes, Events, Feature, Modality, Series, Vector
from dfdlib.data._ragged import Ragged
from dfdlib.data.tables import code_id

# Only these columns, so that no other name of a table is ambiguous.
_UNIT = "(SELECT position, id, cut, origin FROM unit) u"


def read(extract: Extract, modality: Modality, n: int) -> pd.DataFrame | Ragged:
    """Read one modality of the rows in `unit`, in the form that a cohort takes."""
    if isinstance(modality, Vector):
        return _vector(extract, modality, n)
    if isinstance(modality, Codes):
        return _codes(extract, modality, n)
    return _series(extract, modality, n)


def _vector(extract: Extract, modality: Vector, n: int) -> pd.DataFrame:
    columns = ", ".join(
        f'max({_bounded(feature)}) AS "{name}"' for name, feature in modality.features.items()
    )
    # a stay that a table has twice counts once; its rows should be the same
    found = extract.fetch(
        f"SELECT u.position, {columns} FROM {modality.source} "
        f"JOIN {_UNIT} ON {modality.key} = u.id GROUP BY u.position"
    )
    grid = np.full((n, len(modality.features)), np.nan)
    values = [found[name].astype(np.float64) for name in modality.features]
    grid[found["position"].astype(np.int64)] = np.column_stack(values)
    return pd.DataFrame(grid, columns=list(modality.features))


def _bounded(feature: Feature) -> str:
    tests = []
    if feature.low is not None:
        tests.append(f"({feature.value}) >= {feature.low}")
    if feature.high is not None:
        tests.append(f"({feature.value}) <= {feature.high}")
    value = f"CAST({feature.value} AS DOUBLE)"
    return f"CASE WHEN {' AND '.join(tests)} THEN {value} END" if tests else value


def _codes(extract: Extract, modality: Codes, n: int) -> Ragged:
    # rows that stand in a table twice count once
    events = " UNION ALL ".join(
        f"SELECT DISTINCT u.position, {event.time} AS t, {event.word} AS word {_from(event)}"
        for event in modality.events
    )
    extract.run(
        f"CREATE OR REPLACE TEMP TABLE event AS SELECT * FROM ({events}) "
        "WHERE t IS NOT NULL AND word IS NOT NULL"
    )
    words = pd.DataFrame(extract.fetch("SELECT DISTINCT word FROM event"))
    words["code"] = np.array([code_id(word) for word in words["word"]], dtype=np.int64)
    extract.register("numbered", words)
    found = extract.fetch(
        "SELECT position, code FROM event JOIN numbered USING (word) ORDER BY position, t, word"
    )
    extract.run("DROP TABLE event")
    known = dict(zip(words["code"].tolist(), words["word"].tolist(), strict=True))
    return ragged(found["position"], found["code"].astype(np.int64), n, known)


def _series(extract: Extract, modality: Series, n: int) -> Ragged:
    event = modality.events
    names = pd.DataFrame({"name": list(modality.units), "flag": range(len(modality.units))})
    extract.register("item", names.astype({"name": object, "flag": "int32"}))
    found = extract.fetch(
        f"SELECT * FROM (SELECT DISTINCT u.position, {event.time} AS t, {event.value} AS value, "
        f"{event.flag} AS flag {_from(event)}) WHERE t IS NOT NULL AND isfinite(value) "
        "AND flag IS NOT NULL ORDER BY position, t, flag, value"
    )
    columns = [found[name].astype(np.float32) for name in ("t", "value", "flag")]
    return ragged(found["position"], np.column_stack(columns), n, dict(enumerate(modality.units)))


def _from(event: Events) -> str:
    """Whose events, and which: those that were recorded by the cut of their row."""
    # the last test follows from the one before, and can be made before the join: a third less time
    return (
        f"FROM {event.source} JOIN {_UNIT} ON {event.key} = u.id "
        f"WHERE ({event.where}) AND ({event.recorded}) <= u.cut "
        f"AND ({event.recorded}) <= (SELECT max(cut) FROM unit)"
    )


def ragged(position: np.ndarray, values: np.ndarray, n: int, words: dict[int, str]) -> Ragged:
    """Store rows that come in the order of their positions, end to end."""
    offsets = np.searchsorted(position, np.arange(n + 1))
    return Ragged(torch.from_numpy(values), torch.from_numpy(offsets), words)

"""Series and codes as plain columns, for methods that read tables."""

from dataclasses import replace

import numpy as np
import pandas as pd

from dfdlib.data.arrays import Ragged
from dfdlib.data.cohort import Cohort
from dfdlib.data.modalities import modalities

_OF_VALUES = ("last", "min", "max", "count")


def flatten(train: Cohort, *others: Cohort, max_columns: int = 200) -> tuple[Cohort, ...]:
    """Turn series and codes into vectors, so that gradient boosting can read a whole cohort.

    A series becomes, for each flag, the last value in time, the smallest, the largest, and how many
    there are; codes become how often each one is there. Which flags and codes have columns is told
    by the training part alone: those that most of its patients have. Other kinds stay as they are.

    Args:
        train: the training part.
        *others: other parts, with the same modalities.
        max_columns: how many flags, and how many codes, a modality has columns for.

    Returns:
        The same cohorts, in this order, with the same names, labels and groups.

    Example:
        >>> cohort = Cohort(x={"dx": [[7, 7, 9], [9], []], "age": np.array([50.0, 60, 70])})
        >>> (flat,) = flatten(cohort)
        >>> flat.to_frame()[["dx.7 count", "dx.9 count"]].to_numpy().tolist()
        [[2.0, 1.0], [0.0, 1.0], [nan, nan]]
    """
    words = {
        name: _commonest(values, train.schema.kinds[name], max_columns)
        for name, values in train.x.items()
        if isinstance(values, Ragged)
    }
    return tuple(_flat(part, words) for part in (train, *others))


def _commonest(values: Ragged, kind: str, size: int) -> np.ndarray:
    """The flags or codes that most rows have, in order of their number."""
    cells = _cells(values, kind)[["row", "word"]].drop_duplicates()
    # of equals the smaller number, so that the order of rows does not matter
    counts = cells["word"].value_counts().rename("n").reset_index()
    return np.sort(counts.sort_values(["n", "word"], ascending=[False, True])["word"][:size])


def _cells(values: Ragged, kind: str) -> pd.DataFrame:
    row = np.repeat(np.arange(len(values)), values.lengths.cpu().numpy())
    entries = values.values.cpu().numpy()
    if kind == "codes":
        return pd.DataFrame({"row": row, "word": entries})
    time, value, flag = entries.reshape(-1, 3).T
    table = pd.DataFrame({"row": row, "word": flag.astype(np.int64), "t": time, "value": value})
    return table.sort_values(["row", "t"], kind="stable")


def _flat(cohort: Cohort, words: dict[str, np.ndarray]) -> Cohort:
    if not words:
        return cohort
    flat = modalities({name: _table(cohort, name, words[name]) for name in words}, None, None, None)
    old = cohort.schema
    schema = replace(
        old,
        kinds=old.kinds | {name: made.kind for name, made in flat.items()},
        sizes=old.sizes | {name: made.size for name, made in flat.items()},
        features=old.features | {name: made.features for name, made in flat.items()},
    )
    masks = {n: m.x_observed.to(cohort.device) for n, m in flat.items() if m.x_observed is not None}
    values = {n: m.values.to(cohort.device) for n, m in flat.items()}
    # the mask of modalities stays: a count is there wherever the modality is
    return cohort._with(x=cohort.x | values, x_observed=cohort.x_observed | masks, schema=schema)


def _table(cohort: Cohort, name: str, known: np.ndarray) -> pd.DataFrame:
    """The columns of one modality."""
    values, kind = cohort.x[name], cohort.schema.kinds[name]
    assert isinstance(values, Ragged)
    observed = cohort.observed[:, cohort.names.index(name)].cpu().numpy()
    if not len(known):
        return pd.DataFrame({"count": np.where(observed, 0.0, np.nan)})
    cells = _cells(values, kind)
    cells = cells[cells["word"].isin(known)].groupby(["row", "word"])
    columns: dict[str, np.ndarray] = {}
    for how in _OF_VALUES if kind == "series" else ("count",):
        cell = cells.size() if how == "count" else cells["value"].agg(how)
        wide = cell.unstack("word").reindex(index=range(len(cohort)), columns=known)
        grid = wide.to_numpy(float)
        if how == "count":  # 0 where the modality was looked at, unknown where not
            grid = np.where(observed[:, None], np.nan_to_num(grid), np.nan)
        columns |= {f"{word} {how}": grid[:, place] for place, word in enumerate(known)}
    return pd.DataFrame(columns)

"""Which modalities are observed, where, and what that tells of the outcome."""

import math

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from dfdlib.data._schema import Schema


def summarise(
    schema: Schema,
    observed: np.ndarray,
    by: str,
    levels: np.ndarray | None,
    y: np.ndarray | None,
) -> pd.DataFrame:
    """Describe each modality in a row, as `Cohort.summary` promises.

    Args:
        schema: Of the cohort.
        observed: Patients × modalities.
        by: The name of a group.
        levels: The level of each row in it, for one column per level.
        y: Binary labels, NaN where missing.
    """
    table = pd.DataFrame(index=pd.Index(schema.names, name="modality"))
    table["kind"] = [schema.kinds[name] for name in schema.names]
    table["size"] = [math.prod(schema.sizes[name]) for name in schema.names]
    table["observed"] = observed.mean(axis=0)
    if levels is not None:
        shares = pd.DataFrame(observed, columns=table.index).groupby(levels).mean().T
        taken = {*table.columns, "auroc_of_observed"}
        table = table.join(shares.rename(columns={c: f"{by}={c}" for c in shares if c in taken}))
    if y is not None:
        known = ~np.isnan(y)
        both = len(np.unique(y[known])) == 2
        table["auroc_of_observed"] = [
            roc_auc_score(y[known], column[known]) if both else math.nan for column in observed.T
        ]
    return table


def patterns(names: tuple[str, ...], observed: np.ndarray) -> np.ndarray:
    """Name the observed modalities of each row, joined by "+"; "nothing" where there are none."""
    frame = pd.DataFrame(observed)
    code = frame.groupby(list(frame.columns), sort=False).ngroup().to_numpy()
    _, first = np.unique(code, return_index=True)
    shown = ["+".join(np.array(names)[row]) or "nothing" for row in observed[first]]
    return np.array(shown)[code]

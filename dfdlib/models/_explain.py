"""The tables that `Deconfounder` answers with."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dfdlib.models._route import Route


def strata_table(route: Route, names: Sequence[str] | None) -> pd.DataFrame:
    """What predictions are averaged over: its share, and P(modality is there | stratum)."""
    labels, share, there = route.strata()
    names = [f"modality {j + 1}" for j in range(there.shape[1])] if names is None else names
    table = there.double().cpu().numpy()
    if not labels:
        labels = ["+".join(np.array(names)[row > 0]) or "nothing" for row in table]
    return pd.DataFrame(
        {"share": share.double().cpu().numpy(), **dict(zip(names, table.T, strict=True))},
        index=pd.Index(labels, name="stratum"),
    )


@torch.no_grad()
def explanation(
    route: Route,
    h: Float[Tensor, "n d"],
    observed: Bool[Tensor, "n m"],
    names: Sequence[str] | None,
) -> pd.DataFrame:
    """One row per patient, output and stratum, as `Deconfounder.explain` promises."""
    logits, weight = route.parts(h, observed)
    p, naive = route.probability(logits), route.probability(route.naive(h, observed))
    n, g, k = p.shape
    labels = strata_table(route, names).index.to_numpy(dtype=object)
    stratum = ["as observed"] if g != len(labels) else labels
    contribution = weight[:, :, None] * p
    keys = {
        "row": np.repeat(np.arange(n), k * g),
        # the one output of a binary task is the probability of class 1
        "output": np.tile(np.repeat(np.arange(k) + (k == 1), g), n),
        "stratum": np.tile(np.asarray(stratum, dtype=object), n * k),
    }
    columns = {
        "weight": weight[:, None, :].expand(n, k, g),
        "probability": p.transpose(1, 2),
        "contribution": contribution.transpose(1, 2),
        "naive": naive[:, :, None].expand(n, k, g),
        "adjusted": contribution.sum(1)[:, :, None].expand(n, k, g),
    }
    return pd.DataFrame(
        keys | {name: v.double().cpu().numpy().ravel() for name, v in columns.items()}
    )

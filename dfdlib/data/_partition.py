"""Who stands in which part of a cohort that is cut."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd


def random_parts(level: np.ndarray, fractions: Sequence[float], seed: int) -> np.ndarray:
    """Give each row a part at random, all rows of a level the same.

    Levels are laid end to end in random order, each as long as it has rows; a level goes to the
    part in which its middle lies.

    Args:
        level: The level of each row, 0 to the number of levels - 1.
        fractions: The share of rows of each part.
        seed: Of the random order.
    """
    if min(fractions, default=0) <= 0 or not math.isclose(sum(fractions), 1):
        raise ValueError(
            f"fractions {tuple(fractions)} sum to {sum(fractions):g}, expected positive ones "
            "that sum to 1. Pass for example (0.7, 0.1, 0.2)"
        )
    n_rows = np.bincount(level)
    order = np.random.default_rng(seed).permutation(len(n_rows))
    middle = (n_rows[order].cumsum() - n_rows[order] / 2) / len(level)
    part_of_level = np.empty(len(n_rows), dtype=np.int64)
    part_of_level[order] = np.searchsorted(np.cumsum(fractions)[:-1], middle, side="right")
    return part_of_level[level]


def refuse_parts(part_of: np.ndarray, n_parts: int, patients: np.ndarray, by: str) -> None:
    """Refuse parts without rows, and patients who stand in two parts."""
    n_rows = np.bincount(part_of, minlength=n_parts)
    if not n_rows.all():
        raise ValueError(
            f"part {int(n_rows.argmin())} would hold nobody: {len(part_of)} rows cannot be cut by "
            f"{by!r} into parts of {n_rows.tolist()} rows. Pass fewer parts, or another group"
        )
    pairs = pd.DataFrame({"patient": patients, "part": part_of}).drop_duplicates()
    twice = pairs["patient"][pairs["patient"].duplicated()].unique()
    if len(twice):
        raise ValueError(
            f"{len(twice)} patients would stand in two parts when cut by {by!r}. "
            f"Cut by 'patient', or give each patient one level of {by!r}"
        )

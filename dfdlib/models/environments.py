"""Environments: a group of the training part, such as the hospital, that only training reads."""

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dfdlib.data import Batch, Cohort
from dfdlib.data._validate import unknown


class Environments:
    """Number the levels of a group, so that a method can tell them apart in training.

    A plain object: nothing of it is saved, so a model that was loaded scores patients whose
    hospital nobody knows, and has to be prepared anew before it is trained on.

    Args:
        group: name of the group, a key of `cohort.groups`.

    Example:
        >>> cohort = Cohort(x={"labs": torch.zeros(3, 1)}, groups={"site": ["b", "a", "b"]})
        >>> environments = Environments("site")
        >>> environments.prepare(cohort)
        >>> environments.codes(next(cohort.batches(3))), len(environments)
        (tensor([1, 0, 1]), 2)
    """

    def __init__(self, group: str) -> None:
        self.group = group
        self.levels: np.ndarray | None = None

    def __len__(self) -> int:
        return 0 if self.levels is None else len(self.levels)

    def prepare(self, train: Cohort) -> None:
        """Fix the levels, in sorted order.

        Raises:
            ValueError: if there is no such group, it has one level only, or one for each patient.
        """
        levels = np.unique(_sortable(_read(train.groups, self.group)))
        if len(levels) < 2:
            raise ValueError(
                f"the group {self.group!r} is {levels[0]} for all {len(train)} patients, so there "
                "are no environments to compare. Pass another group, or train Classifier or DFD "
                "without environment="
            )
        if len(levels) == len(train):
            raise ValueError(
                f"the group {self.group!r} has another level for each of {len(train)} patients, so "
                "an environment has nobody to compare. Pass a coarser group, such as the hospital"
            )
        self.levels = levels

    def codes(self, batch: Batch) -> Int64[Tensor, " n"]:
        """Number of each patient's level, from 0, on the device of the batch.

        Raises:
            RuntimeError: before `prepare`, such as for a model that was loaded from disk.
            ValueError: if the batch lacks the group, or has a level that training did not have.
        """
        if self.levels is None:
            raise RuntimeError(
                f"the levels of {self.group!r} belong to the training part, and are not kept with "
                "a saved model. Call model.prepare(train) before training on."
            )
        own = _sortable(_read(batch.groups, self.group))
        code = np.searchsorted(self.levels, own).clip(max=len(self.levels) - 1)
        new = self.levels[code] != own
        if new.any():
            raise ValueError(
                f"the level {own[new][0]} of the group {self.group!r} was not in the training part "
                f"({', '.join(map(str, self.levels[:20]))}). Call model.prepare(train) with it"
            )
        return torch.from_numpy(code).to(batch.index.device)


def _read(groups: dict[str, np.ndarray], group: str) -> np.ndarray:
    if group not in groups:
        raise unknown(group, groups, "group")
    return groups[group]


def _sortable(levels: np.ndarray) -> np.ndarray:
    """Levels of mixed types have no order; their names do."""
    return levels.astype(str) if levels.dtype == object else levels

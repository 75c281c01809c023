"""The one data type that models, graphs and metrics read: a multimodal cohort with holes."""

import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from torch import Tensor

from dfdlib.data import validation
from dfdlib.data.modalities import modalities as read_modalities
from dfdlib.data.schema import Batch, Schema
from dfdlib.data.validation import Task, refuse_other_index
from dfdlib.errors import unknown

__all__ = ["Batch", "Cohort", "Schema", "check_disjoint"]


class Cohort:
    """Patients × modalities, with masks, labels, covariates and groups.

    Everything is checked here, once; what comes out holds no NaN, but zeros where nothing is
    observed. Without a mask, NaN (or an empty row) means missing. A mask that is passed is taken at
    its word: NaN under it is refused. An infinite value is never missing, what is masked in a
    masked array always is. Rows belong together by position; pandas objects whose indexes differ
    are refused. What is passed is copied, but for `Images` and memory-mapped pixels.

    Args:
        x: A dict, one array per modality: numpy, torch, pandas, polars, pyarrow, `Images`, or a
            list of ragged rows. Tables keep the names of their columns.
        kinds: A dict, `vector`, `categorical`, `codes`, `series` or `image`, where the guess is
            wrong. Numbers and booleans are vectors, whole ones too; columns of pandas' category
            type categorical, four dimensions an image, lists of id lists codes, lists of
            (length, 3) arrays series.
        observed: Which modality a patient has.
        x_observed: A dict, which features of a vector or categorical modality a patient has.
        y: Labels; NaN where missing.
        task: `binary`, `multiclass` or `multilabel`, where the guess would be wrong.
        covariates: A DataFrame, or a dict of columns, that evaluation stratifies by.
        groups: A dict of levels, such as site; "patient" defaults to the row number.
        truth: What only a generator knows, one row per patient.

    Attributes:
        tables: How `from_tables` read the cohort: columns, units, levels and classes, the cut and
            the unit of time, as plain types. None for all other cohorts.

    Shapes:
        observed (n, M), x_observed[m] (n, d_m), y (n,) or (n, L).

    Raises:
        ValueError: Anything that contradicts itself; the message says what to pass instead.

    Example:
        >>> labs = pd.DataFrame({"sodium": [140, None, 133], "lactate": [1.1, None, None]})
        >>> x = {"labs": labs, "ward": np.array([3, 0, 3])}
        >>> cohort = Cohort(x=x, kinds={"ward": "categorical"}, y=[0, 1, 1])
        >>> cohort
        Cohort(3 rows: labs (vector), ward (categorical); binary)
        >>> cohort.observed.tolist(), cohort.x["labs"].tolist()[1]
        ([[True, True], [False, True], [True, True]], [0.0, 0.0])
        >>> [len(part) for part in cohort.split((0.67, 0.33))]
        [2, 1]
    """

    def __init__(
        self,
        *,
        x: Any,
        kinds: Any = None,
        observed: Any = None,
        x_observed: Any = None,
        y: Any = None,
        task: str | None = None,
        covariates: Any = None,
        groups: Any = None,
        truth: Any = None,
    ) -> None:
        """Check everything that is passed, once."""
        refuse_other_index(
            x=x, observed=observed, x_observed=x_observed, y=y,
            covariates=covariates, groups=groups, truth=truth,
        )  # fmt: skip
        read = read_modalities(x, kinds, observed, x_observed)
        self.observed = torch.stack([m.observed for m in read.values()], dim=1)
        n = len(self.observed)
        self.x = {name: m.values for name, m in read.items()}
        self.x_observed = {k: m.x_observed for k, m in read.items() if m.x_observed is not None}
        labels, known_task, n_classes = validation.labels(y, task, n)
        self.y = None if labels is None else torch.from_numpy(labels)
        self.schema = Schema(
            names=tuple(read),
            kinds={name: m.kind for name, m in read.items()},
            sizes={name: m.size for name, m in read.items()},
            features={name: m.features for name, m in read.items()},
            task=known_task,
            n_classes=n_classes,
        )
        self.covariates = validation.table(covariates, "covariates", n)
        self.groups = validation.groups(groups, n)
        self.truth = None if truth is None else validation.table(truth, "truth", n)
        self.tables: Mapping[str, Any] | None = None
        # Two parts of one cohort share row numbers as patients; two cohorts only share ids.
        self._source = uuid.uuid4().hex
        self._ids_given = groups is not None and "patient" in groups
        validation.warn_if_empty(self.observed)

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.observed)

    def __repr__(self) -> str:
        """Show size, modalities and task."""
        kinds = ", ".join(f"{name} ({kind})" for name, kind in self.schema.kinds.items())
        return f"Cohort({len(self)} rows: {kinds}; {self.task or 'no labels'})"

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities, in the order of the columns of `observed`."""
        return self.schema.names

    @property
    def task(self) -> Task | None:
        """What the labels are."""
        return self.schema.task

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.observed.device

    @property
    def pattern(self) -> np.ndarray:
        """The observed modalities of each row, joined by "+"; "nothing" where there are none."""
        return patterns(self.names, self.observed.cpu().numpy())

    def select(
        self, rows: Any = None, *, modalities: Sequence[str] | str | None = None
    ) -> "Cohort":
        """Take rows, by a boolean mask or by position, and modalities by name.

        Raises:
            ValueError: A mask of another length, a position outside, nothing left, an unknown name.
        """
        names = (modalities,) if isinstance(modalities, str) else modalities
        names = self.names if names is None else tuple(names)
        if not names:
            raise ValueError(f"empty cohort: no modality is selected. Pass some of {self.names}")
        for name in names:
            if name not in self.names:
                raise unknown(name, self.names, "modality")
        part = self if rows is None else self._take(validation.positions(rows, len(self)))
        if names == self.names:
            return part
        columns = [self.names.index(name) for name in names]
        chosen = part._with(
            x={name: part.x[name] for name in names},
            x_observed={name: part.x_observed[name] for name in names if name in part.x_observed},
            observed=part.observed[:, columns],
            schema=self.schema.only(names),
        )
        if part.observed.any(dim=1).all():
            validation.warn_if_empty(chosen.observed)
        return chosen

    def split(
        self, fractions: Sequence[float] = (0.7, 0.1, 0.2), *, by: str = "patient", seed: int = 0
    ) -> tuple["Cohort", ...]:
        """Cut at random into parts that keep every level of a group whole.

        Levels are drawn by their place of first occurrence, so another order of the same rows gives
        other parts under the same seed. Sort by an id before you make the cohort.

        Raises:
            ValueError: Fractions that do not sum to 1, a part without rows, an unknown group, or
                one patient in two parts.
        """
        level = pd.factorize(self.groups[self._known(by)])[0]
        return self._parts(random_parts(level, fractions, seed), len(fractions), by)

    def leave_out(self, by: str, level: Any) -> tuple["Cohort", "Cohort"]:
        """Cut into the rest and the rows of one level, in this order.

        Levels that name patients are never listed in a message.

        Raises:
            ValueError: An unknown group or level, nobody left, or one patient in both parts.
        """
        levels = self.groups[self._known(by)]
        if level is None or np.ndim(level):
            raise ValueError(
                f"leave_out takes one level of {by!r}, got a {type(level).__name__}. Pass one, and "
                "call it again for the next"
            )
        held_out = np.broadcast_to(np.asarray(levels == level), levels.shape)
        if not held_out.any():
            raise validation.unknown_level(level, levels, by)
        rest, out = self._parts(held_out.astype(np.int64), 2, by)
        return rest, out

    def batches(self, size: int = 512, *, seed: int | None = None) -> Iterator[Batch]:
        """Yield all rows in batches: in order, or shuffled by a seed.

        Raises:
            ValueError: A size that is no whole number from 1 on.
        """
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"batch size {size!r}. Pass a whole number, 1 or more: 512")
        order = torch.arange(len(self))
        if seed is not None:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        for index in order.split(size):
            yield Batch.of(self._rows(index), index.to(self.device))

    def to(self, device: str | torch.device) -> "Cohort":
        """Copy the tensors to a device; tables and group labels stay where they are."""
        return self._with(
            x={name: value.to(device) for name, value in self.x.items()},
            observed=self.observed.to(device),
            x_observed={name: mask.to(device) for name, mask in self.x_observed.items()},
            y=None if self.y is None else self.y.to(device),
        )

    def to_frame(self) -> pd.DataFrame:
        """Return vectors and categoricals as columns `modality.feature`, NaN where missing."""
        columns = {}
        for name, mask in self.x_observed.items():
            values = self.x[name].to("cpu")
            assert isinstance(values, Tensor)  # only dense modalities have a mask of features
            holes = np.where(mask.cpu().numpy(), values.numpy(), np.nan)
            for feature, column in zip(self.schema.features[name], holes.T, strict=True):
                columns[f"{name}.{feature}"] = column
        return pd.DataFrame(columns, index=pd.RangeIndex(len(self)))

    def summary(self, by: str | None = "site") -> pd.DataFrame:
        """Describe each modality: kind, size, and the share of rows in which it is observed.

        Where the group `by` exists, one column per level holds the share within that level. For a
        binary task, `auroc_of_observed` is the AUROC of "is it observed?" as a score for y: away
        from 0.5, whether somebody was examined tells the outcome before any value is read. It is
        NaN where only one class is present. `size` counts the numbers of one entry. A level that is
        called like one of these columns is written `site=size`.

        Raises:
            ValueError: An unknown group.
        """
        if by == "site" and by not in self.groups:
            by = None
        levels = None if by is None else self.groups[self._known(by)]
        y = None if self.y is None or self.task != "binary" else self.y.cpu().numpy()
        return summarise(self.schema, self.observed.cpu().numpy(), by or "", levels, y)

    def _known(self, group: str) -> str:
        if group not in self.groups:
            raise unknown(group, self.groups, "group")
        return group

    def _parts(self, part_of: np.ndarray, n_parts: int, by: str) -> tuple["Cohort", ...]:
        refuse_parts(part_of, n_parts, self.groups["patient"], by)
        return tuple(
            self._take(torch.from_numpy(np.flatnonzero(part_of == k))) for k in range(n_parts)
        )

    def _rows(self, index: Int64[Tensor, " k"]) -> dict[str, Any]:
        """Slice what a batch holds; nothing is validated again."""
        positions, index = index.numpy(), index.to(self.device)
        return {
            "x": {name: value[index] for name, value in self.x.items()},
            "observed": self.observed[index],
            "y": None if self.y is None else self.y[index],
            "groups": {name: levels[positions] for name, levels in self.groups.items()},
            "x_observed": {name: mask[index] for name, mask in self.x_observed.items()},
        }

    def _take(self, index: Int64[Tensor, " k"]) -> "Cohort":
        positions = index.numpy()
        return self._with(
            **self._rows(index),
            covariates=self.covariates.iloc[positions].reset_index(drop=True),
            truth=None if self.truth is None else self.truth.iloc[positions].reset_index(drop=True),
        )

    def _with(self, **changed: Any) -> "Cohort":
        part = object.__new__(Cohort)
        part.__dict__.update(self.__dict__, **changed)
        return part


def check_disjoint(*cohorts: Cohort) -> None:
    """Refuse cohorts that share a patient.

    Row numbers that stand in for patients are compared only between parts of one cohort: between
    two others they mean nothing.

    Raises:
        ValueError: A patient stands in two of the cohorts.

    Example:
        >>> cohort = Cohort(x={"labs": np.ones((4, 1))})
        >>> check_disjoint(*cohort.split((0.5, 0.5)))
        >>> check_disjoint(cohort, cohort.select([1]))
        Traceback (most recent call last):
        ValueError: cohorts 0 and 1 share 1 patients. ...
    """
    for (i, a), (j, b) in combinations(enumerate(cohorts), 2):
        if a._source != b._source and not (a._ids_given and b._ids_given):
            continue
        shared = pd.Index(a.groups["patient"]).unique().intersection(pd.Index(b.groups["patient"]))
        if len(shared):
            raise ValueError(
                f"cohorts {i} and {j} share {len(shared)} patients. Cut them "
                "with cohort.split(by='patient'), or make ids unique: f'{site}-{patient}'"
            )


# ---------------- what the methods of a cohort compute


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
        from sklearn.metrics import roc_auc_score

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

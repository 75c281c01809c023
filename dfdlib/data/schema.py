"""What travels between a cohort and a model: the schema, and batches of rows."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from dfdlib.data.arrays import Ragged, scaled
from dfdlib.data.modalities import Kind
from dfdlib.data.validation import Task
from dfdlib.errors import unknown

_TUPLES = ("sizes", "features")


def _words(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)


def _of_each(stored: Mapping[str, Any], value: Any) -> bool:
    names = stored.get("names")
    return _words(names) and isinstance(value, dict) and set(value) == set(names or ())


def _numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(type(k) is int and k >= 0 for k in value)


def _classes_fit(stored: Mapping[str, Any], n: Any) -> bool:
    if stored.get("task") is None:
        return n is None
    least = 1 if stored["task"] == "multilabel" else 2
    return type(n) is int and (n == 2 if stored["task"] == "binary" else n >= least)


#: What each part of a stored schema has to be: gets the schema and the part.
_FITS: dict[str, Callable[[Mapping[str, Any], Any], bool]] = {
    "names": lambda _, v: _words(v) and len(set(v)) == len(v) > 0,
    "kinds": lambda stored, v: _of_each(stored, v) and all(k in get_args(Kind) for k in v.values()),
    "sizes": lambda stored, v: _of_each(stored, v) and all(map(_numbers, v.values())),
    "features": lambda stored, v: _of_each(stored, v) and all(map(_words, v.values())),
    "task": lambda _, v: v is None or v in get_args(Task),
    "n_classes": _classes_fit,
}


@dataclass(frozen=True)
class Schema:
    """What a model is built from: names, kinds, sizes and features of the modalities, and the task.

    Args:
        names: The modalities, in the order of the columns of `observed`.
        kinds: The kind of each.
        sizes: Vector and categorical `(d,)`, image `(channels, height, width)`, codes `()`,
            series `(3,)`.
        features: Column names of vectors and categoricals; empty for other kinds.
        task: What the labels are; None without labels.
        n_classes: 2 for binary, K for multiclass, the number of labels for multilabel.

    Example:
        >>> from dfdlib.data import Cohort
        >>> schema = Cohort(x={"labs": np.zeros((3, 2))}, y=[0, 1, 1]).schema
        >>> schema.features, schema.task, schema.n_outputs
        ({'labs': ('labs_0', 'labs_1')}, 'binary', 1)
        >>> Schema.from_dict(schema.to_dict()) == schema
        True
    """

    names: tuple[str, ...]
    kinds: dict[str, Kind]
    sizes: dict[str, tuple[int, ...]]
    features: dict[str, tuple[str, ...]]
    task: Task | None = None
    n_classes: int | None = None

    @property
    def n_outputs(self) -> int | None:
        """How many logits a model gives: 1 for binary, K for multiclass, one per label."""
        return 1 if self.task == "binary" else self.n_classes

    def to_dict(self) -> dict[str, Any]:
        """Return plain types that JSON can store."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Schema":
        """Read what `to_dict` returned, also after a round trip through JSON.

        Raises:
            ValueError: If it is no schema, or none that a cohort could have; says which part.
        """
        wrong = [key for key, fits in _FITS.items() if not fits(stored, stored.get(key))]
        wrong += sorted(set(stored) - set(_FITS))
        if wrong:
            raise ValueError(f"the schema is none of a cohort: see its {str(wrong[0])[:40]!r}")
        tuples = {key: {k: tuple(v) for k, v in stored[key].items()} for key in _TUPLES}
        return cls(**{**stored, **tuples, "names": tuple(stored["names"])})

    def check(self, other: "Schema", *, labels: bool = False) -> None:
        """Refuse a cohort that a model made for this schema would misread.

        Modalities may stand in another order, and some may be absent. Columns have to be the same,
        in the same order, wherever both sides name them.

        Args:
            other: The cohort's schema.
            labels: Whether the labels have to fit too, as in training.

        Raises:
            ValueError: Says what differs, and what to pass.
        """
        for name in other.names:
            if name not in self.names:
                raise unknown(name, self.names, "modality of this model")
            if other.kinds[name] != self.kinds[name]:
                raise ValueError(
                    f"{name!r} is of kind {other.kinds[name]!r} here, and the model was made for "
                    f"{self.kinds[name]!r}. Pass kinds={{{name!r}: {self.kinds[name]!r}}} to Cohort"
                )
            self._check_columns(name, other)
        if labels and (other.task, other.n_classes) != (self.task, self.n_classes):
            raise ValueError(
                f"the labels are {other.task} with {other.n_classes} classes here, and the model "
                f"was made for {self.task} with {self.n_classes}. Make it with schema=train.schema"
            )

    def _check_columns(self, name: str, other: "Schema") -> None:
        ours, theirs = self.features[name], other.features[name]
        if other.sizes[name] != self.sizes[name]:
            raise ValueError(
                f"{name!r} has size {other.sizes[name]} here, and the model was made for "
                f"{self.sizes[name]}: {', '.join(ours)}. Pass these columns, in this order"
            )
        numbered = tuple(f"{name}_{i}" for i in range(len(ours)))
        if ours != theirs and numbered not in (ours, theirs):
            raise ValueError(
                f"{name!r} has the columns {', '.join(theirs)} here, and the model was made for "
                f"{', '.join(ours)}. Pass {name}[{list(ours)}]"
            )

    def only(self, names: tuple[str, ...]) -> "Schema":
        """Keep some of the modalities."""
        parts = {key: {n: getattr(self, key)[n] for n in names} for key in ("kinds", *_TUPLES)}
        return Schema(names, **parts, task=self.task, n_classes=self.n_classes)


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows of a cohort, with their positions in it (`index`).

    Images of 8 bits (uint8) come as shares of 255; all other values are those of the cohort.

    Shapes:
        x[m] (b, ...) or Ragged, observed (b, M), y (b,) or (b, L), index (b,),
        x_observed[m] (b, d).
    """

    x: dict[str, Tensor | Ragged]
    observed: Bool[Tensor, "b m"]
    y: Float32[Tensor, "b ..."] | None
    groups: dict[str, np.ndarray]
    index: Int64[Tensor, " b"]
    x_observed: dict[str, Tensor]

    @classmethod
    def of(cls, rows: Mapping[str, Any], index: Int64[Tensor, " b"]) -> "Batch":
        """Make a batch of what a cohort holds of some rows."""
        x = {name: scaled(value) for name, value in rows["x"].items()}
        return cls(**{**rows, "x": x}, index=index)

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.index)

    def rows(self, positions: Int64[Tensor, " k"]) -> "Batch":
        """Take some rows, by position."""
        return Batch(
            x={name: value[positions] for name, value in self.x.items()},
            observed=self.observed[positions],
            y=None if self.y is None else self.y[positions],
            groups={name: levels[positions.cpu().numpy()] for name, levels in self.groups.items()},
            index=self.index[positions],
            x_observed={name: mask[positions] for name, mask in self.x_observed.items()},
        )

    def to(self, device: str | torch.device) -> "Batch":
        """Copy to a device; group labels stay where they are."""
        return Batch(
            x={name: value.to(device) for name, value in self.x.items()},
            observed=self.observed.to(device),
            y=None if self.y is None else self.y.to(device),
            groups=self.groups,
            index=self.index.to(device),
            x_observed={name: mask.to(device) for name, mask in self.x_observed.items()},
        )

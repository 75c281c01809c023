"""Cohorts: the one data type that models, graphs and metrics read."""

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from typing import Any

from dfdlib.data.arrays import Images, Ragged
from dfdlib.data.cohort import Batch, Cohort, Schema, check_disjoint
from dfdlib.data.flatten import flatten
from dfdlib.data.tables import from_tables
from dfdlib.errors import unknown

__all__ = [
    "Batch",
    "Cohort",
    "Images",
    "Ragged",
    "Schema",
    "check_disjoint",
    "flatten",
    "from_tables",
    "load",
]


_LOADERS = ("heart", "synthetic", "phantom", "digits", "eicu", "mimic_iv", "adni", "mimic_cxr")


def load(name: str, **options: Any) -> Cohort:
    """Load a cohort by name.

    Args:
        name: `heart`, the UCI heart disease data of four hospitals; `synthetic`, cohorts with known
            truth; `phantom`, made-up chest X-rays; `digits`, pairs of handwritten digits; or, from
            your own copy, `eicu`, `mimic_iv`, `adni`, `mimic_cxr`. Each is `dfdlib.data.NAME.load`;
            a hyphen may stand for the underscore.
        **options: What the loader of that name takes.

    Raises:
        ValueError: An unknown name, or an option that its loader refuses.

    Example:
        >>> load("hart")
        Traceback (most recent call last):
        ValueError: 'hart' is not a data set (heart, synthetic, phantom, ...). Did you mean 'heart'?
    """
    name = str(name).replace("-", "_")
    if name not in _LOADERS:
        raise unknown(name, _LOADERS, "data set")
    loader: Callable[..., Cohort] = import_module(f"dfdlib.data.{name}").load
    known = signature(loader).parameters
    for option in options:
        if not known:
            raise ValueError(f"{name!r} takes no settings, got {option!r}. Call load({name!r})")
        if option not in known:
            raise unknown(option, known, f"setting of {name} cohorts")
    return loader(**options)

"""Cohorts: the one data type that models, graphs and metrics read."""

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from typing import Any

from dfdlib.data._ragged import Ragged
from dfdlib.data._validate import unknown
from dfdlib.data.cohort import Batch, Cohort, Schema, check_disjoint

__all__ = ["Batch", "Cohort", "Ragged", "Schema", "check_disjoint", "load"]


_LOADERS = ("heart", "synthetic")


def load(name: str, **options: Any) -> Cohort:
    """Load a cohort by name.

    Args:
        name: `heart`, the UCI heart disease data of four hospitals (`dfdlib.data.heart.load`), or
            `synthetic`, cohorts with known truth (`dfdlib.data.synthetic.load`).
        **options: What the loader of that name takes.

    Raises:
        ValueError: An unknown name, or an option that its loader refuses.

    Example:
        >>> load("hart")
        Traceback (most recent call last):
        ValueError: 'hart' is not a data set (heart, synthetic). Did you mean 'heart'?
    """
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

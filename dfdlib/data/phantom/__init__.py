"""Chest X-rays of a phantom: frontal and lateral views of random anatomy, drawn in closed form."""

from dfdlib.data.phantom.cohort import LABELS, SCANNERS, TRUTH, VIEWS, load, scm

__all__ = [
    "LABELS",
    "SCANNERS",
    "TRUTH",
    "VIEWS",
    "load",
    "scm",
]

"""Stress cohorts: known truth, a declared graph, and one departure each from the plain case.

A cohort has four worlds: `train` and `home` (the same hospitals), `shifted` (a hospital where the
bias has turned around) and `randomised` (bias and availability are coins).
"""

from dfdlib.stress.cohorts import graph, kinds, load, nodes

__all__ = ["graph", "kinds", "load", "nodes"]

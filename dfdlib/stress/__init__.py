"""Stress cohorts: known truth, a declared graph, and one departure each from the plain case.

A cohort has four worlds: `train` and `home` (the same hospitals), `shifted` (a hospital where the
bias has turned around) and `randomised` (bias and availability are coins). `run` tries a method of
anybody's on them, beside plain training.
"""

from dfdlib.stress.cohorts import graph, kinds, load, nodes
from dfdlib.stress.flat import flat
from dfdlib.stress.run import StressTable, read_rows, run

__all__ = ["StressTable", "flat", "graph", "kinds", "load", "nodes", "read_rows", "run"]

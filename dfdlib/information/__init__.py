"""Mutual information between two representations: bounds to minimise, tests, and an audit.

`MINE`, `InfoNCE` and `CLUB` are modules. A call gives two terms of one loss, for one backward pass
and one optimiser: `learn` teaches the estimator on features that are held fixed, `features` is the
estimate, to be minimised through an estimator that is held fixed. None of them certifies that
nothing is left. `audit` asks anew, on patients held out, and says what it could have found.
"""

from dfdlib.information.audit import MIN_ROWS, audit
from dfdlib.information.bounds import CLUB, MINE, InfoNCE
from dfdlib.information.critics import Terms, learn
from dfdlib.information.independence import Dependence, distance_correlation, hsic, permutation_test

__all__ = [
    "CLUB",
    "MINE",
    "MIN_ROWS",
    "Dependence",
    "InfoNCE",
    "Terms",
    "audit",
    "distance_correlation",
    "hsic",
    "learn",
    "permutation_test",
]

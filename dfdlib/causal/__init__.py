"""Structural causal models, missingness graphs and estimators on plain tables."""

from dfdlib.causal import papers
from dfdlib.causal.drawing import draw
from dfdlib.causal.estimators import AIPW, IPW, BackdoorAdjustment
from dfdlib.causal.graphs import (
    Answer,
    adjustment_sets,
    check_adjustment,
    explain_adjustment,
    frontdoor_sets,
    implied_independences,
)
from dfdlib.causal.imputation import MultipleImputation, Pooled, rubin
from dfdlib.causal.missingness import classify, hide, indicators, proxies, recoverable
from dfdlib.causal.scm import SCM
from dfdlib.causal.separation import d_separated, dag, paths

__all__ = [
    "AIPW",
    "IPW",
    "SCM",
    "Answer",
    "BackdoorAdjustment",
    "MultipleImputation",
    "Pooled",
    "adjustment_sets",
    "check_adjustment",
    "classify",
    "d_separated",
    "dag",
    "draw",
    "explain_adjustment",
    "frontdoor_sets",
    "hide",
    "implied_independences",
    "indicators",
    "papers",
    "paths",
    "proxies",
    "recoverable",
    "rubin",
]

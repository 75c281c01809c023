"""Backbones, methods and heads."""

from dfdlib.models.classifier import Classifier
from dfdlib.models.dfd import DFD
from dfdlib.models.grape import GRAPE
from dfdlib.models.heads import Deconfounder, Linear
from dfdlib.models.method import Method, Stage
from dfdlib.models.transformer import TokenTransformer

__all__ = [
    "DFD",
    "GRAPE",
    "Classifier",
    "Deconfounder",
    "Linear",
    "Method",
    "Stage",
    "TokenTransformer",
]

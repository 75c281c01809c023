"""Backbones, methods and heads."""

from dfdlib.models.classifier import Classifier
from dfdlib.models.grape import GRAPE
from dfdlib.models.heads import Linear
from dfdlib.models.transformer import TokenTransformer

__all__ = ["GRAPE", "Classifier", "Linear", "TokenTransformer"]

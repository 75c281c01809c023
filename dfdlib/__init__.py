"""Causal debiasing of medical multimodal learning: the library behind the book."""

from importlib.metadata import version

__version__ = version("dfdlib")

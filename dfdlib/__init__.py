"""Causal debiasing of medical multimodal learning: the library behind the book."""

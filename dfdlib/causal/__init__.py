"""Structural causal models, missingness graphs and estimators on plain tables."""

"""Cohorts: the one data type that models, graphs and metrics read."""

"""Figures that README and docs quote, each written by a command of its own: ``python -m benchmarks.<name>``."""

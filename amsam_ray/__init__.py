"""Distributed hyperparameter search for adapting the Segment Anything Model to small datasets."""

__version__ = "0.1.0"

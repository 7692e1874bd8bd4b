"""Labelled images: datasets, splits, few-shot draws, transforms. Knows nothing of models or of Ray."""

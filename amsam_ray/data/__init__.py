"""Labelled images: datasets, splits, few-shot draws and augmentation. Independent of models and of Ray."""

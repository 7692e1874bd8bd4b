"""Inference: prepared inputs, predictions, adapter files and exports."""

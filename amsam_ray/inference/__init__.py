"""From photographs to masks: prepared inputs, predictions, adapter files, exports."""

"""The segmentation systems that AM-SAM compares with and that are not SAM."""

"""One trial: prepared inputs, losses, the bi-level loop, metrics, checkpoints. Knows nothing of Ray."""

"""Records, the storage that holds them, and what is computed from them. Knows nothing of Ray."""

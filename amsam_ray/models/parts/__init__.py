"""The components from which methods are built."""

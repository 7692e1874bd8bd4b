"""The torch modules that methods are built from."""

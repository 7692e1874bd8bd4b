"""Training of the nano SAM and the nano detector."""

"""Parts of the pretraining of the nano SAM and the nano detector."""

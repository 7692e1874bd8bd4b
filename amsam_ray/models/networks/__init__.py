"""The methods that are not SAM, as models of the training loop; their modules are in ``models.baselines``."""

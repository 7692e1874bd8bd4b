"""From a space file to finished records, with Ray Tune, Ray Train and Optuna."""

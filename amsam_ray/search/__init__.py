"""The search: runs the trials of a space file on Ray Tune and Ray Train, with Optuna's suggestions."""

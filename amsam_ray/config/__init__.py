"""What a user may write: space files, trial configurations, parameters and metrics. Imports neither torch nor Ray."""

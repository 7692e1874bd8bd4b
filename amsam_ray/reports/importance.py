"""Hyperparameter importance in a cell, by Optuna."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MINIMUM_TRIALS = 8


def parameter_importances(trials: Sequence[tuple[Mapping[str, Any], float]], *, maximise: bool) -> dict[str, float]:
    """Return the importance of each varied hyperparameter for being among the best trials; the values sum to 1.

    Uses Optuna's PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255). Ranges are those of the tried values, logarithmic
    if positive values span a factor of more than 30.

    Args:
        trials: (hyperparameters, score) of completed trials.
        maximise: True if larger scores are better.

    Returns:
        Hyperparameter -> importance in [0, 1], largest first; empty with fewer than ``MINIMUM_TRIALS`` trials or if
        nothing varied.
    """
    import optuna

    shared = set.intersection(*(set(params) for params, _ in trials)) if trials else set()
    spaces = {name: space for name in sorted(shared) if (space := _space([params[name] for params, _ in trials]))}
    if len(trials) < MINIMUM_TRIALS or not spaces or len({score for _, score in trials}) < 2:
        return {}
    loud = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="maximize" if maximise else "minimize")
        for params, score in trials:
            values = {name: params[name] for name in spaces}
            study.add_trial(optuna.trial.create_trial(params=values, distributions=spaces, value=score))
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(), params=list(spaces)
        )
    finally:
        optuna.logging.set_verbosity(loud)
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _space(values: Sequence[Any]) -> Any:
    """Return an Optuna distribution that covers ``values``; None if they are all equal."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if len({str(value) for value in values}) < 2:
        return None
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return CategoricalDistribution(sorted(set(values), key=str))
    low, high = min(values), max(values)
    logarithmic = low > 0 and high / low > 30
    if all(isinstance(value, int) for value in values):
        return IntDistribution(low, high, log=logarithmic)
    return FloatDistribution(float(low), float(high), log=logarithmic)

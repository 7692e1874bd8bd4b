"""Whole trials as a population, in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from amsam_ray.training.population import Population
from amsam_ray.training.stacked import JointSteps

Result = TypeVar("Result")


def train_together(trials: Sequence[Callable[[], Result]]) -> list[Result | BaseException]:
    """Run trials as a population and return what they return, or the exception that ended them, in their order.

    Args:
        trials: each runs one trial, for example a call of ``train_trial``.

    Example:
        >>> trials = [partial(train_trial, config, cache_dir=cache, work_dir=work) for config in configs]
        >>> [result.val["dice"] for result in train_together(trials)]  # doctest: +SKIP
        [0.81, 0.79]
    """
    population: Population[Any, Any] = Population(JointSteps())
    ends = [population.start(trial) for trial in trials]
    return [end.exception() or end.result() for end in ends]

"""How many trials of each cell a lane trains together, as far as it is known before the lane has measured it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Literal

from amsam_ray.config.populations import lone_reason
from amsam_ray.search.cells import Cell
from amsam_ray.search.trials import TrialSpec

logger = logging.getLogger(__name__)


def population_sizes(
    cells: Iterable[Cell], wanted: int | Literal["auto"], workers: int
) -> Callable[[TrialSpec], int] | None:
    """Return a function from a trial to the size of its population; None if every lane trains one by one.

    The reasons why cells train one by one are logged.

    Args:
        cells: of the sweep.
        wanted: ``resources.population``; with ``auto`` every cell begins with one trial, which its lane measures.
        workers: data-parallel workers of one lane.
    """
    if wanted == 1:
        return None
    if workers > 1:
        logger.info("Populations of 1: a lane with %d data-parallel workers trains one by one", workers)
        return None
    reasons = {cell.id: reason for cell in cells if (reason := lone_reason(cell.entry.name))}
    for cell, reason in reasons.items():
        logger.info("%s: population of 1: the method %s", cell, reason)
    size = 1 if wanted == "auto" else wanted
    return lambda trial: 1 if trial.cell in reasons else size

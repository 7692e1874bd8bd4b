"""One ASHA ladder per cell: scores of different cells cannot be compared."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from amsam_ray.search.assignment import Outcome
from amsam_ray.search.cells import Cell


class Ladder:
    """Ray's asynchronous successive halving (Li et al. 2018, arXiv 1810.05934) for one cell.

    Args:
        cell: whose trials climb it.
        epochs: its rungs.
    """

    def __init__(self, cell: Cell, epochs: tuple[int, ...]):
        reduction = cell.source.search.scheduler.reduction
        # Ray's ladder has rungs at 1, r, r^2, ...; ours are epochs, rounded, so each stands for its place there.
        self._steps = {epoch: reduction**index for index, epoch in enumerate(epochs)}
        self._asha: Any = AsyncHyperBandScheduler(
            time_attr="step",
            metric="score",
            mode="max" if cell.maximise else "min",
            grace_period=1,
            max_t=math.ceil(reduction ** len(epochs)),
            reduction_factor=reduction,
            stop_last_trials=False,
        )

    def stops(self, trial: str, epoch: int, score: float) -> bool:
        """Whether ``trial`` ends at this rung. A trial that is run again is not judged against itself."""
        stub = SimpleNamespace(trial_id=trial)
        self._asha.on_trial_add(None, stub)
        decision = self._asha.on_trial_result(None, stub, {"step": self._steps[epoch], "score": score})
        self._asha.on_trial_remove(None, stub)
        return bool(decision == TrialScheduler.STOP)

    def remember(self, outcome: Outcome) -> None:
        """Put the rung scores of an earlier run's trial on the ladder."""
        for epoch, score in outcome.rung_scores.items():
            if epoch in self._steps:
                self.stops(outcome.trial_id, epoch, score)

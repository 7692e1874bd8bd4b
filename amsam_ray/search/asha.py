"""Asynchronous successive halving (ASHA, Li et al. 2018, arXiv 1810.05934), one per cell.

Scores of different cells cannot be compared, so each cell has rungs of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class Asha:
    """Decides at each rung whether a trial continues.

    A trial stops if its score is below the top ``1 / reduction`` of the scores recorded at that rung so far. The
    first trial at a rung always continues, and every score is recorded whatever the decision, as in Ray Tune's
    ``AsyncHyperBandScheduler``.

    Args:
        rungs: epochs (from 1) at which trials are judged, ascending; none: no trial is ever stopped.
        reduction: of the trials at a rung, about one in this many continues; above 1.
        maximise: whether a larger score is better.
    """

    def __init__(self, rungs: tuple[int, ...], reduction: float, maximise: bool):
        self._percentile = (1 - 1 / reduction) * 100
        self._sign = 1.0 if maximise else -1.0
        self._recorded: dict[int, dict[str, float]] = {epoch: {} for epoch in rungs}

    def stops(self, trial: str, epoch: int, score: float) -> bool:
        """Return whether ``trial`` stops at the rung ``epoch``. A trial that is run again is not judged against itself.

        Raises:
            KeyError: ``epoch`` is not a rung.
        """
        recorded = self._recorded[epoch]
        if trial in recorded:
            return False
        value = self._sign * score
        stop = bool(recorded) and value < float(np.nanpercentile(list(recorded.values()), self._percentile))
        recorded[trial] = value
        return stop

    def restore(self, trial: str, rung_scores: Mapping[int, float]) -> None:
        """Record the rung scores of a trial of an earlier run of the sweep."""
        for epoch, score in rung_scores.items():
            if epoch in self._recorded:
                self.stops(trial, epoch, score)

"""Observers of a sweep: they receive its events and never influence it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Literal

from amsam_ray.search.trials import TrialOutcome, TrialSpec

logger = logging.getLogger(__name__)

LaneStage = Literal["running", "start", "room", "node"]
"""How a lane was lost: it was up; it did not start; the cluster had no room for it; its node died with it."""


class Observer:
    """Receives the events of a sweep in the driver. Every method does nothing by default."""

    def trial_started(self, trial: TrialSpec) -> None:
        """A lane received ``trial``."""

    def trial_ended(self, trial: TrialSpec, attempt: TrialOutcome, recorded: TrialOutcome | None) -> None:
        """An attempt at ``trial`` ended; ``recorded`` is None if the trial will be retried."""

    def population_chosen(self, trial: TrialSpec, size: int, step_ms: Mapping[int, float]) -> None:
        """A lane has measured with ``trial`` that it trains ``size`` trials of this cell together."""

    def lanes_busy(self, lanes: int) -> None:
        """From now on ``lanes`` lanes run trials, one each or a population."""

    def lane_lost(self, reason: str, stage: LaneStage) -> None:
        """A lane without a trial was lost."""


class EventLog(Observer):
    """Writes the outcome of every trial, and errors in full, to the log."""

    def trial_ended(self, trial: TrialSpec, attempt: TrialOutcome, recorded: TrialOutcome | None) -> None:
        """Log how an attempt ended."""
        if attempt.status == "error":
            more = f"\n{attempt.traceback}" if attempt.traceback else ""  # a dead lane leaves none
            logger.warning("%s, attempt %d: %s%s", trial.trial_id, trial.attempt, attempt.reason, more)
        if recorded is not None:
            score = "" if recorded.score is None else f" {recorded.score:.4f}"
            logger.info("%s: %s%s in %.1f s", recorded.trial_id, recorded.status, score, recorded.seconds)

    def population_chosen(self, trial: TrialSpec, size: int, step_ms: Mapping[int, float]) -> None:
        """Log the choice and what was measured."""
        measured = ", ".join(f"{count}: {ms:.3g}" for count, ms in step_ms.items())
        logger.info("%s: population of %d (ms per trial and step of each size: %s)", trial.cell, size, measured)

    def lane_lost(self, reason: str, stage: LaneStage) -> None:
        """Log why a lane was lost."""
        logger.warning("Lane lost (%s): %s", stage, reason)


class StartupLog(Observer):
    """Logs once, when the first trial is recorded, how long each phase before it took.

    Args:
        started: when the command began, in seconds since the epoch.
    """

    def __init__(self, started: float):
        self._last = self._started = started
        self._phases: dict[str, float] = {}
        self._over = False

    def reached(self, phase: str) -> None:
        """Note that ``phase`` ends now."""
        now = time.time()
        self._phases.setdefault(phase, now - self._last)
        self._last = now

    def trial_started(self, trial: TrialSpec) -> None:
        """Note when the first lane was up."""
        if "lanes" not in self._phases:
            self.reached("lanes")

    def trial_ended(self, trial: TrialSpec, attempt: TrialOutcome, recorded: TrialOutcome | None) -> None:
        """Log the phases."""
        if recorded is not None and not self._over:
            self._over = True
            self.reached("first trial")
            phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self._phases.items())
            logger.info("Start-up: %s; %.1f s in all", phases, self._last - self._started)

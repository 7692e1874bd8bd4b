"""Whether another trial may start: budgets, interrupts, and errors that end a sweep."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Literal

from amsam_ray.search.observers import Observer
from amsam_ray.search.trials import TrialOutcome, TrialSpec

StopCode = Literal["aborted", "interrupted", "seconds", "trials", "gpu_hours"]
"""Why no further trial starts, for programs: the sweep was aborted or interrupted, or that budget is spent."""

_STOP_REASONS: dict[StopCode, str] = {
    "interrupted": "interrupted",
    "seconds": "the time budget is spent",
    "trials": "the budget of trials is spent",
    "gpu_hours": "the budget of GPU hours is spent",
}


@dataclass(frozen=True)
class Budget:
    """Limits of one run of a sweep; None: no limit. Trials that run when a limit is reached are finished.

    Attributes:
        seconds: no trial starts later than this after the start of the run.
        trials: number of trials that this run records, finals included.
        gpu_hours: wall time of lanes with trials times the GPUs of a lane.
    """

    seconds: float | None = None
    trials: int | None = None
    gpu_hours: float | None = None


class StopConditions(Observer):
    """Decides whether trials may start: until a budget is spent, the run is interrupted, or the sweep is aborted.

    Args:
        budget: limits of this run.

    Attributes:
        gpus: number of GPUs of one lane.
        interrupts: number of requests to stop so far.
        abort_reason: why the sweep cannot continue, None while it can.
    """

    def __init__(self, budget: Budget):
        self._budget = budget
        self.gpus = 0.0
        self._started = time.monotonic()
        self._trials = 0
        self._lane_seconds = 0.0
        self._busy, self._since = 0, 0.0  # how many lanes have trials, and since when
        self._lock = threading.Lock()
        self.interrupts = 0
        self.abort_reason: str | None = None

    @property
    def stop_code(self) -> StopCode | None:
        """Why no further trial starts, None while trials may start."""
        if self.abort_reason:
            return "aborted"
        if self.interrupts:
            return "interrupted"
        budget = self._budget
        if budget.seconds is not None and time.monotonic() - self._started >= budget.seconds:
            return "seconds"
        if budget.trials is not None and self._trials >= budget.trials:
            return "trials"
        if budget.gpu_hours is not None and self.gpu_hours >= budget.gpu_hours:
            return "gpu_hours"
        return None

    @property
    def stop_reason(self) -> str | None:
        """``stop_code`` in words."""
        code = self.stop_code
        return None if code is None else self.abort_reason or _STOP_REASONS[code]

    @property
    def stop_now(self) -> bool:
        """Whether running trials are stopped as well."""
        return self.interrupts >= 2 or self.abort_reason is not None

    @property
    def gpu_hours(self) -> float:
        """GPU hours of this run's trials, including running ones."""
        with self._lock:
            return (self._lane_seconds + self._busy * (time.monotonic() - self._since)) * self.gpus / 3600

    def may_start(self) -> bool:
        """Whether another trial may start."""
        return self.stop_code is None

    def abort(self, reason: str) -> None:
        """End the sweep now. The first reason is kept."""
        self.abort_reason = self.abort_reason or reason

    def trial_started(self, trial: TrialSpec) -> None:
        """Count a trial that starts."""
        with self._lock:
            self._trials += 1

    def trial_ended(self, trial: TrialSpec, attempt: TrialOutcome, recorded: TrialOutcome | None) -> None:
        """A trial that will be retried does not count against the number of trials."""
        with self._lock:
            self._trials -= recorded is None

    def lanes_busy(self, lanes: int) -> None:
        """Count the time of lanes, not of trials: those of a population use the same GPUs."""
        with self._lock:
            now = time.monotonic()
            self._lane_seconds += self._busy * (now - self._since)
            self._busy, self._since = lanes, now


@contextlib.contextmanager
def interruptible(conditions: StopConditions) -> Iterator[None]:
    """Handle signals: the first SIGINT lets running trials finish, the second stops them, and so does SIGTERM at once.

    Does nothing outside the main thread, which receives no signals.
    """

    def count(signum: int, frame: FrameType | None) -> None:
        conditions.interrupts += 2 if signum == signal.SIGTERM else 1

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

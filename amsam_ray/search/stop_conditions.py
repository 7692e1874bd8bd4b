"""Whether another trial may begin: budgets, interrupts, and faults that end a sweep."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from amsam_ray.search.assignment import Assignment, Outcome


@dataclass(frozen=True)
class Budget:
    """Limits of one run of a sweep; None: no limit. Reaching one lets running trials finish.

    Attributes:
        seconds: no trial begins later than this after the start.
        trials: this many trials are recorded in this run, finals included.
        gpu_hours: wall time of trials times the GPUs they hold.
    """

    seconds: float | None = None
    trials: int | None = None
    gpu_hours: float | None = None


class Gate:
    """Open until a budget is spent, somebody interrupts, or the sweep cannot go on.

    Args:
        budget: limits of this run.

    Attributes:
        gpus: GPUs that one trial holds.
        interrupts: how often somebody has asked to stop.
        fault: why the sweep cannot go on, None while it can.
    """

    def __init__(self, budget: Budget):
        self._budget = budget
        self.gpus = 0.0
        self._started = time.monotonic()
        self._begun = 0
        self._gpu_seconds = 0.0
        self._since: dict[str, float] = {}
        self._lock = threading.Lock()
        self.interrupts = 0
        self.fault: str | None = None

    @property
    def why_closed(self) -> str | None:
        """Why no trial may begin, None while it may."""
        if self.fault:
            return self.fault
        if self.interrupts:
            return "interrupted"
        budget = self._budget
        if budget.seconds is not None and time.monotonic() - self._started >= budget.seconds:
            return "the time budget is spent"
        if budget.trials is not None and self._begun >= budget.trials:
            return "the budget of trials is spent"
        if budget.gpu_hours is not None and self.gpu_hours >= budget.gpu_hours:
            return "the budget of GPU hours is spent"
        return None

    @property
    def stop_now(self) -> bool:
        """Whether running trials are to be stopped as well."""
        return self.interrupts >= 2 or self.fault is not None

    @property
    def gpu_hours(self) -> float:
        """GPU hours of this run's trials, the running ones included."""
        with self._lock:
            running = sum(time.monotonic() - since for since in self._since.values()) * self.gpus
            return (self._gpu_seconds + running) / 3600

    def may_start(self) -> bool:
        """Whether another trial may begin."""
        return self.why_closed is None

    def fail(self, reason: str) -> None:
        """End the sweep now; the first reason stands."""
        self.fault = self.fault or reason

    def began(self, assignment: Assignment) -> None:
        """Count a trial that begins."""
        with self._lock:
            self._begun += 1
            self._since[assignment.trial_id] = time.monotonic()

    def ended(self, assignment: Assignment, attempt: Outcome, recorded: Outcome | None) -> None:
        """Count what it took; one that will be tried again has not yet used up a trial."""
        with self._lock:
            self._begun -= recorded is None
            self._gpu_seconds += (time.monotonic() - self._since.pop(assignment.trial_id)) * self.gpus

    def lost(self, reason: str, stage: str) -> None:
        """A lane without a trial costs none of the budgets."""


@contextlib.contextmanager
def interruptible(gate: Gate) -> Iterator[None]:
    """Ctrl-C once lets running trials finish, twice stops them. SIGTERM, a scheduler's notice, does the latter at once.

    Does nothing outside the main thread, where signals do not arrive.
    """

    def count(signum: int, frame: FrameType | None) -> None:
        gate.interrupts += 2 if signum == signal.SIGTERM else 1

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

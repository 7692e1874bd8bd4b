"""A lane's mailbox: the one place where the lane, its training workers and the sweep's driver meet.

Calls go one way only (everybody calls the mailbox, the mailbox calls nobody), so none of the three can block another,
and each may die at any moment without leaving a lock behind. Trials are numbered by ``ticket``; a message that carries
an old ticket, say from a worker that was given up for dead, is ignored. A call costs milliseconds, so each does two
things where it can: a trial without rungs takes one call of the driver, one of the lane and one of each worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from amsam_ray.search.assignment import Assignment, Outcome

Decision = Literal["go", "stop", "abandon"]


@dataclass(frozen=True)
class Event:
    """What a lane's workers report.

    Attributes:
        kind: ``ready``: all workers have come up; ``rung``: an epoch that the ladder decides on was reached; ``end``:
            the trial is over.
        ticket: which trial of this lane, 0 for ``ready``.
        group: of ``ready``: id of the placement group in which the workers run.
        epoch, score: of a rung; the score is the best so far.
        outcome: of an end.
    """

    kind: Literal["ready", "rung", "end"]
    ticket: int = 0
    group: str = ""
    epoch: int = 0
    score: float = float("nan")
    outcome: Outcome | None = None


@dataclass(frozen=True)
class News:
    """Answer to a lane that waits: an event if there is one, and how its workers are.

    Attributes:
        event: the next event, if there is one.
        ready: whether all workers have come up.
        silent_s: seconds since the last sign of life from the workers (or since the trial was posted); 0 between
            trials.
    """

    event: Event | None
    ready: bool
    silent_s: float


class Mailbox:
    """An asyncio Ray actor; every method returns at once or waits without blocking the others.

    Args:
        workers: how many training workers serve this lane.
    """

    def __init__(self, workers: int):
        self._workers = workers
        self._present: set[int] = set()
        self._changed = asyncio.Condition()
        self._ticket = 0
        self._assignment: Assignment | None = None
        self._running = False
        self._closed = self._bringing = False
        self._events: list[Event] = []
        self._decisions: dict[tuple[int, int], Decision] = {}
        self._last_sign = time.monotonic()

    # The lane's side.

    async def news(self, timeout_s: float) -> News:
        """Wait up to ``timeout_s`` for an event."""
        await self._until(lambda: bool(self._events), timeout_s)
        event = self._events.pop(0) if self._events else None
        silent_s = time.monotonic() - self._last_sign if self._running else 0.0
        return News(event, len(self._present) == self._workers, silent_s)

    async def close(self) -> None:
        """Tell the workers to go home; a trial that runs is stopped at its next epoch."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def bringing(self) -> bool:
        """Whether a worker that was sent home is still bringing results to the storage."""
        return self._bringing

    # The driver's side.

    async def post(self, assignment: Assignment) -> None:
        """Hand out the next trial."""
        async with self._changed:
            self._ticket += 1
            self._assignment, self._running = assignment, True
            self._events.clear()
            self._decisions.clear()
            self._last_sign = time.monotonic()
            self._changed.notify_all()

    async def decide(self, ticket: int, epoch: int, stop: bool) -> None:
        """The ladder's answer to a rung."""
        async with self._changed:
            self._decisions[ticket, epoch] = "stop" if stop else "go"
            self._changed.notify_all()

    # The workers' side.

    async def arrive(self, rank: int, group: str) -> None:
        """A worker is up, with all that it needs imported, in the placement group with the id ``group``."""
        async with self._changed:
            self._present.add(rank)
            if len(self._present) == self._workers:
                self._events.append(Event("ready", group=group))
            self._changed.notify_all()

    async def take(self, after: int, outcome: Outcome | None = None) -> tuple[int, Assignment] | None:
        """Hand in what came of the trial ``after`` and wait for the next one; None: the lane closes.

        Every worker of a lane asks for itself, so a lane that idles holds no collective operation open.

        Args:
            after: the ticket of the worker's last trial, 0 before the first.
            outcome: of that trial, from the one worker that recorded it.
        """
        if outcome is not None:
            await self._put(Event("end", after, outcome=outcome))
        await self._until(lambda: self._closed or self._ticket > after)
        if self._closed or self._assignment is None:
            return None
        return self._ticket, self._assignment

    async def bring(self) -> None:
        """A worker goes home, but results wait on its node's disk for the storage: its lane is to wait too."""
        self._bringing = True

    async def beat(self, ticket: int) -> bool:
        """A sign of life; answers False where the trial is to be abandoned: the lane closes or has moved on."""
        self._last_sign = time.monotonic()
        return not self._closed and ticket == self._ticket

    async def rung(self, ticket: int, epoch: int, score: float | None) -> Decision:
        """The trial has reached a rung: wait for the ladder's answer.

        Args:
            score: the best so far, from one of the workers; None from the others.

        Returns:
            The answer; ``abandon``: the lane closes, nobody waits for this trial.
        """
        if score is not None:
            await self._put(Event("rung", ticket, epoch=epoch, score=score))
        await self._until(lambda: self._closed or ticket != self._ticket or (ticket, epoch) in self._decisions)
        self._last_sign = time.monotonic()
        return self._decisions.get((ticket, epoch), "abandon")

    async def _put(self, event: Event) -> None:
        async with self._changed:
            self._last_sign = time.monotonic()
            if event.ticket == self._ticket:
                self._running = event.kind != "end"
                self._events.append(event)
                self._changed.notify_all()

    async def _until(self, condition: Callable[[], bool], timeout_s: float | None = None) -> None:
        async def wait() -> Any:
            async with self._changed:
                return await self._changed.wait_for(condition)

        try:
            await asyncio.wait_for(wait(), timeout_s)
        except TimeoutError:
            return

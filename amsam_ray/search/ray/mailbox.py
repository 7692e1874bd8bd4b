"""A lane's mailbox: an actor through which the lane, its training workers and the sweep's driver communicate.

All three call the mailbox and the mailbox calls none of them, so none can block another, and each may die at any moment
without leaving a lock behind. Trials are numbered by ``ticket``; a message with an old ticket, for instance from a
worker that was presumed dead, is ignored. A call takes milliseconds, so calls combine two steps where they can: a trial
without rungs takes one call of the driver, one of the lane and one of each worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from amsam_ray.search.trials import LaneEvent, TrialOutcome, TrialSpec

Decision = Literal["go", "stop", "abandon"]


@dataclass(frozen=True)
class LaneUpdate:
    """What a waiting lane receives: the next event, if there is one, and the state of its workers.

    Attributes:
        event: the next event; None if there is none.
        ready: whether all workers are up.
        silent_s: seconds since the workers' last heartbeat (or since the trial was posted); 0 between trials.
    """

    event: LaneEvent | None
    ready: bool
    silent_s: float


class Mailbox:
    """An asyncio Ray actor; every method returns at once or waits without blocking the others.

    Args:
        workers: number of training workers of this lane.
    """

    def __init__(self, workers: int):
        self._workers = workers
        self._present: set[int] = set()
        self._changed = asyncio.Condition()
        self._posted = 0
        self._trials: dict[int, TrialSpec] = {}  # those that have not ended, by ticket
        self._closed = self._uploading = False
        self._events: list[LaneEvent] = []
        self._decisions: dict[tuple[int, int], Decision] = {}
        self._last_heartbeat = time.monotonic()

    # Called by the lane.

    async def next_update(self, timeout_s: float) -> LaneUpdate:
        """Wait for an event for at most ``timeout_s`` seconds."""
        await self._until(lambda: bool(self._events), timeout_s)
        event = self._events.pop(0) if self._events else None
        silent_s = time.monotonic() - self._last_heartbeat if self._trials else 0.0
        return LaneUpdate(event, len(self._present) == self._workers, silent_s)

    async def close(self) -> None:
        """Signal the workers to shut down; a running trial stops at its next epoch."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def is_uploading(self) -> bool:
        """Whether a worker that shuts down still uploads results to the storage."""
        return self._uploading

    # Called by the driver.

    async def post(self, ticket: int, trial: TrialSpec) -> None:
        """Hand the next trial to the workers. A lane that trains a population has several at a time.

        Args:
            ticket: the trial's number in this lane. Calls of an asyncio actor may begin in any order, so each waits for
                the one before.
            trial: to run.
        """
        await self._until(lambda: self._posted == ticket - 1)
        async with self._changed:
            self._posted = ticket
            self._trials[ticket] = trial
            self._decisions = {key: stop for key, stop in self._decisions.items() if key[0] in self._trials}
            self._last_heartbeat = time.monotonic()
            self._changed.notify_all()

    async def decide(self, ticket: int, epoch: int, stop: bool) -> None:
        """Hand ASHA's decision at a rung to the workers."""
        async with self._changed:
            self._decisions[ticket, epoch] = "stop" if stop else "go"
            self._changed.notify_all()

    # Called by the workers.

    async def register(self, rank: int, placement_group: str, node: str) -> None:
        """Report that a worker is up, with its imports done, in the placement group and on the node with these ids."""
        async with self._changed:
            self._present.add(rank)
            if len(self._present) == self._workers:
                self._events.append(LaneEvent("ready", placement_group=placement_group, node=node))
            self._changed.notify_all()

    async def take(self, after: int, outcome: TrialOutcome | None = None) -> tuple[int, TrialSpec] | None:
        """Report the outcome of trial ``after`` and wait for the first one after it; None: the lane closes.

        Every worker of a lane asks by itself, so an idle lane keeps no collective operation open.

        Args:
            after: the ticket of the worker's last trial, 0 before the first.
            outcome: of that trial, from the worker that recorded it; None from the others.
        """
        if outcome is not None:
            await self._put(LaneEvent("end", after, outcome=outcome))
        await self._until(lambda: self._closed or max(self._trials, default=0) > after)
        if self._closed:
            return None
        ticket = min(ticket for ticket in self._trials if ticket > after)
        return ticket, self._trials[ticket]

    async def finish(self, ticket: int, outcome: TrialOutcome) -> None:
        """Report the outcome of one trial of a population."""
        await self._put(LaneEvent("end", ticket, outcome=outcome))

    async def size(self, ticket: int, size: int, step_ms: Mapping[int, float]) -> None:
        """Report how many trials of a trial's cell the lane trains together, as measured for that trial.

        Args:
            size: that number; 1: one by one.
            step_ms: milliseconds per trial of one step, for each number of trials that was measured.
        """
        await self._put(LaneEvent("size", ticket, size=size, step_ms=step_ms))

    async def start_upload(self) -> None:
        """Report that a worker that shuts down still uploads waiting results, so that its lane waits for it."""
        self._uploading = True

    async def heartbeat(self, ticket: int) -> bool:
        """Report a heartbeat; returns False if the trial is to be abandoned: the lane closes or the trial has ended."""
        self._last_heartbeat = time.monotonic()
        return not self._closed and ticket in self._trials

    async def rung(self, ticket: int, epoch: int, score: float | None) -> Decision:
        """Report that the trial reached a rung and wait for ASHA's decision.

        Args:
            score: the best so far, from one of the workers; None from the others.

        Returns:
            The decision; ``abandon``: the lane closes or the trial has ended.
        """
        if score is not None:
            await self._put(LaneEvent("rung", ticket, epoch=epoch, score=score))
        await self._until(lambda: self._closed or ticket not in self._trials or (ticket, epoch) in self._decisions)
        self._last_heartbeat = time.monotonic()
        return self._decisions.get((ticket, epoch), "abandon")

    async def _put(self, event: LaneEvent) -> None:
        async with self._changed:
            self._last_heartbeat = time.monotonic()
            if event.ticket in self._trials:
                if event.kind == "end":
                    del self._trials[event.ticket]
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

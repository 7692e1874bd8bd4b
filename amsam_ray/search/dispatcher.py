"""Assigns trials to lanes and takes in their events. Uses Ray only through ``Sender`` and ``PlacementGroups``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from amsam_ray.search.observers import LaneStage, Observer
from amsam_ray.search.state import SweepState
from amsam_ray.search.trials import ErrorSource, LaneEvent, TrialOutcome, TrialSpec


class Sender(Protocol):
    """Sends messages to one lane's mailbox without waiting."""

    def post(self, trial: TrialSpec) -> None:
        """Send the next trial."""

    def decide(self, ticket: int, epoch: int, stop: bool) -> None:
        """Send ASHA's decision at a rung."""


class PlacementGroups(Protocol):
    """Removes the placement groups of dead lanes."""

    def remove(self, group: str) -> None:
        """Remove the placement group with this id."""

    def remove_others(self, known: Collection[str]) -> None:
        """Remove all of this driver's placement groups but the known ones."""


@dataclass
class _Lane:
    sender: Sender | None = None  # None until the lane is up
    placement_group: str = ""
    trial: TrialSpec | None = None
    closing: bool = False


class Dispatcher:
    """Assigns trials to the lanes that are up, and hands their events to the state and the observers.

    Args:
        state: answers which trial is next and takes in outcomes.
        capacity: returns how many lanes there may be now.
        may_start: whether another trial may start (budgets, interrupts).
        observers: receive the sweep's events.
        connect: returns the sender for a mailbox, given its name.
        placement_groups: removes what dead lanes held.
    """

    def __init__(
        self,
        state: SweepState,
        *,
        capacity: Callable[[], int],
        may_start: Callable[[], bool],
        observers: Sequence[Observer],
        connect: Callable[[str], Sender],
        placement_groups: PlacementGroups,
    ):
        self._state = state
        self._capacity = capacity
        self._may_start = may_start
        self._observers = list(observers)
        self._connect = connect
        self._placement_groups = placement_groups
        self._lost_while_starting = False
        self._lanes: dict[str, _Lane] = {}
        # A suggestion takes milliseconds: it is made while all lanes are busy, not while one waits.
        self._prefetched: TrialSpec | None = None

    @property
    def finished(self) -> bool:
        """Whether no lane is left and none will be opened."""
        return not self._lanes and not self._has_work()

    def _has_work(self) -> bool:
        return self._may_start() and not self._state.finished

    def open_lane(self, name: str) -> bool:
        """Return whether another lane is to be started; it is known as ``name`` from then on."""
        if not self._has_work() or len(self._lanes) >= min(self._capacity(), self._state.remaining):
            return False
        if self._lost_while_starting:
            # The placement group of a lane that died while starting is unknown. Once no other lane is starting, it is
            # any group that belongs to no lane.
            if any(lane.sender is None for lane in self._lanes.values()):
                return False
            self._placement_groups.remove_others({lane.placement_group for lane in self._lanes.values()})
            self._lost_while_starting = False
        self._lanes[name] = _Lane()
        return True

    def handle(self, name: str, mailbox: str, event: LaneEvent | None) -> bool:
        """Take in an event of a lane, or a heartbeat, and return whether the lane is still needed.

        Args:
            name: the lane's name.
            mailbox: its mailbox's name, empty while the lane starts.
            event: what happened; None for a heartbeat.
        """
        lane = self._lanes[name]
        if lane.sender is None and mailbox:
            lane.sender = self._connect(mailbox)
        if event is not None and event.kind == "ready":
            lane.placement_group = event.placement_group
        if event is not None and lane.trial is not None and lane.sender is not None:
            if event.kind == "rung":
                stop = self._state.stops_at(lane.trial, event.epoch, event.score)
                lane.sender.decide(event.ticket, event.epoch, stop)
            elif event.kind == "end" and event.outcome is not None:
                self._settle(lane, event.outcome)
        self._assign()
        if self._prefetched is None and self._may_start():
            self._prefetched = self._state.next_trial()
        # An idle lane stays open: another one may die and leave its trial, and a cell's finals start when its last
        # search trial ends.
        lane.closing = lane.trial is None and not self._has_work()
        return not lane.closing

    def lane_closed(self, name: str, reason: str | None = None, stage: LaneStage = "running") -> None:
        """Forget a lane that closed as asked (no ``reason``) or died."""
        lane = self._lanes.pop(name)
        if reason and lane.placement_group:
            self._placement_groups.remove(lane.placement_group)
        elif reason:
            self._lost_while_starting = True
        if lane.trial is not None:
            source: ErrorSource = "lost" if stage == "node" else "lane" if reason else "stop"
            attempt = TrialOutcome(lane.trial.trial_id, "error", reason=reason, source=source)
            self._settle(lane, attempt)
            self._assign()
        elif reason:
            for observer in self._observers:
                observer.lane_lost(reason, stage)

    def _settle(self, lane: _Lane, attempt: TrialOutcome) -> None:
        trial, lane.trial = lane.trial, None
        assert trial is not None
        recorded = self._state.settle(trial, attempt)
        for observer in self._observers:
            observer.trial_ended(trial, attempt, recorded)

    def _assign(self) -> None:
        for lane in self._lanes.values():
            if lane.sender is None or lane.trial is not None or lane.closing:
                continue
            if not self._may_start():
                return
            trial = self._prefetched or self._state.next_trial()
            if trial is None:
                return
            self._prefetched, lane.trial = None, trial
            for observer in self._observers:
                observer.trial_started(trial)
            lane.sender.post(trial)

"""Assigns trials to lanes and takes in their events. Uses Ray only through ``Sender`` and ``PlacementGroups``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from amsam_ray.search.observers import LaneStage, Observer
from amsam_ray.search.state import SweepState
from amsam_ray.search.trials import ErrorSource, LaneEvent, TrialOutcome, TrialSpec


class Sender(Protocol):
    """Sends messages to one lane's mailbox without waiting."""

    def post(self, ticket: int, trial: TrialSpec) -> None:
        """Send the next trial, with its number in this lane, from 1."""

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
    trials: dict[int, TrialSpec] = field(default_factory=dict)  # by ticket: all of one cell
    posted: int = 0
    sizes: dict[str, int] = field(default_factory=dict)  # cell -> how many of its trials the lane trains together
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
        population: returns how many trials like the given one a lane trains together, unless the lane has measured it.
            None: every lane trains one by one.
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
        population: Callable[[TrialSpec], int] | None = None,
    ):
        self._state = state
        self._capacity = capacity
        self._may_start = may_start
        self._observers = list(observers)
        self._connect = connect
        self._placement_groups = placement_groups
        self._population = population
        self._busy = self._busy_before = 0
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
        if event is not None and event.ticket in lane.trials and lane.sender is not None:
            trial = lane.trials[event.ticket]
            if event.kind == "rung":
                stop = self._state.stops_at(trial, event.epoch, event.score)
                lane.sender.decide(event.ticket, event.epoch, stop)
            elif event.kind == "size":
                lane.sizes[trial.cell] = event.size
                for observer in self._observers:
                    observer.population_chosen(trial, event.size, event.step_ms)
            elif event.kind == "end" and event.outcome is not None:
                assert event.outcome.trial_id == trial.trial_id
                self._settle(lane, event.ticket, event.outcome)
        self._assign()
        if self._prefetched is None and self._may_start():
            self._prefetched = self._state.next_trial()
        # An idle lane stays open: another one may die and leave its trial, and a cell's finals start when its last
        # search trial ends.
        lane.closing = not lane.trials and not self._has_work()
        return not lane.closing

    def lane_closed(self, name: str, reason: str | None = None, stage: LaneStage = "running") -> None:
        """Forget a lane that closed as asked (no ``reason``) or died."""
        lane = self._lanes.pop(name)
        if reason and lane.placement_group:
            self._placement_groups.remove(lane.placement_group)
        elif reason:
            self._lost_while_starting = True
        if lane.trials:
            # Which trial of a population made its lane die is not known, so this is an attempt of none. Each is tried
            # again by itself, and if its lane dies then, that is an attempt, so that retries end.
            uncounted = stage == "node" or len(lane.trials) > 1
            source: ErrorSource = "stop" if not reason else "lost" if uncounted else "lane"
            for ticket, trial in list(lane.trials.items()):
                self._settle(lane, ticket, TrialOutcome(trial.trial_id, "error", reason=reason, source=source))
            self._assign()
        elif reason:
            for observer in self._observers:
                observer.lane_lost(reason, stage)

    def _settle(self, lane: _Lane, ticket: int, attempt: TrialOutcome) -> None:
        trial = lane.trials.pop(ticket)
        self._busy -= not lane.trials
        recorded = self._state.settle(trial, attempt)
        for observer in self._observers:
            observer.trial_ended(trial, attempt, recorded)

    def _assign(self) -> None:
        for lane in self._lanes.values():
            if lane.sender is None or lane.trials or lane.closing:
                continue
            trial = (self._prefetched or self._state.next_trial()) if self._may_start() else None
            if trial is None:
                break
            self._prefetched = None
            self._post(lane, trial)
        if self._population is not None:
            self._fill(self._population)
        if self._busy != self._busy_before:
            self._busy_before = self._busy
            for observer in self._observers:
                observer.lanes_busy(self._busy)

    def _fill(self, population: Callable[[TrialSpec], int]) -> None:
        """Let lanes train further trials of their cells."""
        for lane in self._lanes.values():
            # What is tried again is tried by itself.
            while lane.trials and all(trial.is_first_try for trial in lane.trials.values()):
                one = next(iter(lane.trials.values()))
                room = lane.sizes.get(one.cell, population(one)) - len(lane.trials)
                trial = self._next_with(one) if room > 0 and self._may_start() else None
                if trial is None:
                    break
                self._post(lane, trial)

    def _post(self, lane: _Lane, trial: TrialSpec) -> None:
        assert lane.sender is not None
        self._busy += not lane.trials
        lane.posted += 1
        lane.trials[lane.posted] = trial
        for observer in self._observers:
            observer.trial_started(trial)
        lane.sender.post(lane.posted, trial)

    def _next_with(self, one: TrialSpec) -> TrialSpec | None:
        """Return a trial to train together with ``one``."""
        waiting = self._prefetched
        if waiting and waiting.is_first_try and (waiting.cell, waiting.is_final) == (one.cell, one.is_final):
            self._prefetched = None
            return waiting
        return self._state.next_with(one)

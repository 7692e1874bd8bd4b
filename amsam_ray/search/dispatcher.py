"""Which lane runs which trial: the driver's side of the lanes' mailboxes. Knows Ray only as a way to send."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from amsam_ray.search.asha import Asha
from amsam_ray.search.assignment import Assignment, Outcome
from amsam_ray.search.ray.lane import Stage
from amsam_ray.search.ray.mailbox import Event
from amsam_ray.search.trial_queue import Dealer


class Watcher(Protocol):
    """Is told of every trial that begins, is put back or is recorded, and of every lane that is lost."""

    def began(self, assignment: Assignment) -> None:
        """A lane got this trial."""

    def ended(self, assignment: Assignment, attempt: Outcome, recorded: Outcome | None) -> None:
        """An attempt ended; ``recorded`` is None where the trial will be tried again."""

    def lost(self, reason: str, stage: Stage) -> None:
        """A lane without a trial is of no more use."""


class Sender(Protocol):
    """Sends to one lane's mailbox, and does not wait."""

    def post(self, assignment: Assignment) -> None:
        """As Mailbox.post."""

    def decide(self, ticket: int, epoch: int, stop: bool) -> None:
        """As Mailbox.decide."""


class Groups(Protocol):
    """Takes back what dead lanes held, as LaneGroups does."""

    def remove(self, group: str) -> None:
        """One lane's placement group."""

    def remove_others(self, known: Collection[str]) -> None:
        """All but those of known lanes."""


@dataclass
class _Lane:
    sender: Sender | None = None  # known once it is up
    group: str = ""
    assignment: Assignment | None = None
    closing: bool = False


class Desk:
    """Deals trials to the lanes that are up, and takes in what came of them.

    Args:
        dealer: which trial is next.
        ladders: by cell id.
        room: how many lanes there may be now.
        may_start: whether another trial may begin (budgets, an interrupt).
        watchers: told of all that happens.
        connect: from a mailbox's name to what sends there.
        groups: takes back what dead lanes held.
    """

    def __init__(
        self,
        dealer: Dealer,
        ladders: Mapping[str, Asha],
        *,
        room: Callable[[], int],
        may_start: Callable[[], bool],
        watchers: Sequence[Watcher],
        connect: Callable[[str], Sender],
        groups: Groups,
    ):
        self._dealer = dealer
        self._ladders = ladders
        self._room = room
        self._may_start = may_start
        self._watchers = list(watchers)
        self._connect = connect
        self._groups = groups
        self._died_starting = False
        self._lanes: dict[str, _Lane] = {}
        # A suggestion costs milliseconds: it is made while all lanes are busy, not while one waits for it.
        self._prepared: Assignment | None = None

    @property
    def finished(self) -> bool:
        """Whether no lane is left and none is to come."""
        return not self._lanes and not self._more

    @property
    def _more(self) -> bool:
        return self._may_start() and not self._dealer.finished

    def open(self, lane: str) -> bool:
        """Whether another lane is to be started; it is known by the name ``lane`` from then on."""
        if not self._more or len(self._lanes) >= min(self._room(), self._dealer.left):
            return False
        if self._died_starting:
            # Which group it had is not known, but once no other lane is starting, it is any that belongs to none.
            if any(lane.sender is None for lane in self._lanes.values()):
                return False
            self._groups.remove_others({lane.group for lane in self._lanes.values()})
            self._died_starting = False
        self._lanes[lane] = _Lane()
        return True

    def hear(self, lane: str, mailbox: str, event: Event | None) -> bool:
        """Take in a lane's event, or a mere sign of life; returns whether the lane is still of use.

        Args:
            lane: its name.
            mailbox: its mailbox's name, empty while it is coming up.
            event: what happened, None: nothing.
        """
        state = self._lanes[lane]
        if state.sender is None and mailbox:
            state.sender = self._connect(mailbox)
        if event is not None and event.kind == "ready":
            state.group = event.group
        if event is not None and state.assignment is not None and state.sender is not None:
            if event.kind == "rung":
                ladder = self._ladders[state.assignment.cell]
                stop = ladder.stops(state.assignment.trial_id, event.epoch, event.score)
                state.sender.decide(event.ticket, event.epoch, stop)
            elif event.kind == "end" and event.outcome is not None:
                self._settle(state, event.outcome)
        self._deal()
        self._prepare()
        # A lane that idles stays: another one may die and leave its trial, and finals begin when the last search trial
        # of their cell is over.
        state.closing = state.assignment is None and not self._more
        return not state.closing

    def closed(self, lane: str, reason: str | None = None, stage: Stage = "running") -> None:
        """A lane is gone: by itself or because the sweep was stopped, or for a ``reason``."""
        state = self._lanes.pop(lane)
        if reason and state.group:
            self._groups.remove(state.group)
        elif reason:
            self._died_starting = True
        if state.assignment is not None:
            blamed = Outcome(state.assignment.trial_id, "error", reason=reason, blame="lane" if reason else "stop")
            self._settle(state, blamed)
            self._deal()
        elif reason:
            for watcher in self._watchers:
                watcher.lost(reason, stage)

    def _settle(self, state: _Lane, outcome: Outcome) -> None:
        assignment, state.assignment = state.assignment, None
        assert assignment is not None
        recorded = self._dealer.settle(assignment, outcome)
        for watcher in self._watchers:
            watcher.ended(assignment, outcome, recorded)

    def _deal(self) -> None:
        for state in self._lanes.values():
            if state.sender is None or state.assignment is not None or state.closing:
                continue
            self._prepare()
            if (assignment := self._prepared) is None or not self._may_start():
                return
            self._prepared, state.assignment = None, assignment
            for watcher in self._watchers:
                watcher.began(assignment)
            state.sender.post(assignment)

    def _prepare(self) -> None:
        if self._prepared is None and self._may_start():
            self._prepared = self._dealer.next_assignment()

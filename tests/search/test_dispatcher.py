"""The dispatcher that Tune and the lanes talk to, without starting Ray."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from amsam_ray.search.dispatcher import Dispatcher
from amsam_ray.search.lane_size import LaneSize
from amsam_ray.search.observers import LaneStage, Observer
from amsam_ray.search.ray.lane import LaneError, LaneSettings
from amsam_ray.search.ray.tune_adapter import LaneSearcher
from amsam_ray.search.ray.worker import WorkerSettings
from amsam_ray.search.state import SweepState
from amsam_ray.search.trials import LaneEvent, TrialOutcome, TrialSpec
from tests.search.spaces import space
from tests.search.test_state import FailureLog, completed, make_state

SETTINGS = LaneSettings(WorkerSettings("s", "r", "m:f", 0.0, Path("w")), LaneSize(1, 1.0, 0.0), 60.0, 60.0, Path("r"))


class Box:
    """Collects what is sent to a lane."""

    def __init__(self) -> None:
        self.posted: list[TrialSpec] = []
        self.decided: list[tuple[int, int, bool]] = []

    def post(self, ticket: int, trial: TrialSpec) -> None:
        self.posted.append(trial)
        assert ticket == len(self.posted)

    def decide(self, ticket: int, epoch: int, stop: bool) -> None:
        self.decided.append((ticket, epoch, stop))


class Lanes(Observer):
    """Opens lanes at a dispatcher and sends their events."""

    def __init__(self, state: SweepState, room: int = 2, population: int = 1):
        self.room, self.may_start, self.lost_lanes = room, True, list[tuple[str, str]]()
        self.boxes: dict[str, Box] = {}
        self.state = state
        self.dispatcher = Dispatcher(
            state,
            capacity=lambda: self.room,
            may_start=lambda: self.may_start,
            observers=[self],
            connect=lambda name: self.boxes.setdefault(name, Box()),
            placement_groups=self,
            population=None if population == 1 else lambda trial: population,
        )
        self.busy: list[int] = []
        self.removed: list[str] = []
        self.kept: list[set[str]] = []
        self.events: list[str] = []

    def trial_started(self, trial: TrialSpec) -> None:
        self.events.append(f"started {trial.trial_id}")

    def trial_ended(self, trial: TrialSpec, attempt: TrialOutcome, recorded: TrialOutcome | None) -> None:
        self.events.append(f"ended {trial.trial_id} {recorded and recorded.status}")

    def lanes_busy(self, lanes: int) -> None:
        self.busy.append(lanes)

    def lane_lost(self, reason: str, stage: LaneStage) -> None:
        self.lost_lanes.append((reason, stage))

    def remove(self, group: str) -> None:
        self.removed.append(group)

    def remove_others(self, known: Collection[str]) -> None:
        self.kept.append(set(known))

    def up(self, *names: str) -> None:
        for name in names:
            assert self.dispatcher.open_lane(name)
            assert self.dispatcher.handle(name, name, LaneEvent("ready", placement_group=f"group of {name}"))

    def now(self, name: str) -> TrialSpec:
        return self.boxes[name].posted[-1]

    def finish(self, name: str, ticket: int = 0) -> bool:
        posted = self.boxes[name].posted
        ticket = ticket or len(posted)
        return self.dispatcher.handle(name, name, LaneEvent("end", ticket, outcome=completed(posted[ticket - 1])))


def test_lanes_are_limited_by_the_capacity() -> None:
    lanes = Lanes(make_state(space()))
    assert lanes.dispatcher.open_lane("a") and lanes.dispatcher.open_lane("b") and not lanes.dispatcher.open_lane("c")
    lanes.room = 3  # a node was added
    assert lanes.dispatcher.open_lane("c") and not lanes.dispatcher.open_lane("d")


def test_lanes_are_limited_by_the_trials() -> None:
    lanes = Lanes(make_state(space(methods=("sam",), space={})), room=8)  # a trial and a final
    assert [lanes.dispatcher.open_lane(name) for name in "abc"] == [True, True, False]


def test_trials_go_only_to_lanes_that_are_up() -> None:
    lanes = Lanes(make_state(space()))
    assert lanes.dispatcher.open_lane("slow")
    lanes.up("a")
    first = lanes.now("a")
    assert lanes.finish("a") and lanes.now("a") != first
    assert "slow" not in lanes.boxes and len(lanes.boxes["a"].posted) == 2


def test_idle_lane_stays_until_the_finals_are_done() -> None:
    lanes = Lanes(make_state(space(trials=2)))
    lanes.up("a", "b")
    assert lanes.finish("a") and len(lanes.boxes["a"].posted) == 1  # waits for the other's trial
    assert lanes.dispatcher.handle("a", "a", None)
    assert lanes.finish("b")
    # The end of the last search trial gives both a final at once.
    assert lanes.now("a").is_final and lanes.now("b").is_final
    for _ in range(2):  # the finals of the published setting follow those of the best
        assert lanes.finish("a") and not lanes.state.finished
        last = lanes.finish("b")
    assert not last and not lanes.dispatcher.handle("a", "a", None)
    for name in "ab":
        lanes.dispatcher.lane_closed(name)
    assert lanes.dispatcher.finished and not lanes.lost_lanes


def test_starting_lane_closes_when_no_trial_may_start() -> None:
    lanes = Lanes(make_state(space()))
    assert lanes.dispatcher.open_lane("a") and lanes.dispatcher.handle("a", "", None) and not lanes.boxes
    lanes.may_start = False
    assert not lanes.dispatcher.handle("a", "", None)
    lanes.dispatcher.lane_closed("a")
    assert lanes.dispatcher.finished and not lanes.lost_lanes


def test_running_trials_finish_when_no_trial_may_start() -> None:
    lanes = Lanes(make_state(space()))
    lanes.up("a", "b")
    lanes.may_start = False
    assert lanes.dispatcher.handle("a", "a", None), "it still trains"
    assert not lanes.finish("a") and not lanes.dispatcher.open_lane("c") and not lanes.dispatcher.finished
    assert not lanes.finish("b")
    for name in "ab":
        lanes.dispatcher.lane_closed(name)
    assert lanes.dispatcher.finished


def test_reason_of_a_dead_lane_is_recorded() -> None:
    log = FailureLog()
    lanes = Lanes(make_state(space(retries=0), log))
    lanes.up("a")
    cause = RuntimeError("wrapped by Ray")
    cause.__cause__ = LaneError("hung: no heartbeat for 60 s")
    searcher = LaneSearcher(lanes.dispatcher, SETTINGS)
    searcher.errors["a"] = cause
    searcher.on_trial_complete("a", error=True)
    assert [o.reason for o in log.failed] == ["hung: no heartbeat for 60 s"]


def test_trial_of_a_dead_lane_goes_to_an_idle_lane() -> None:
    lanes = Lanes(make_state(space(methods=("sam",), space={})))
    lanes.up("a", "b")
    trial = lanes.now("a")
    assert not lanes.boxes["b"].posted
    lanes.dispatcher.lane_closed("a", "the lane's training worker died")
    assert lanes.now("b") == replace(trial, attempt=2)


def test_trial_of_a_lost_node_is_repeated_without_costing_an_attempt() -> None:
    log = FailureLog()
    lanes = Lanes(make_state(space(methods=("sam",), space={}, retries=0), log))
    lanes.up("a", "b")
    trial = lanes.now("a")
    lanes.dispatcher.lane_closed("a", "the lane's node was lost", "node")
    assert lanes.now("b") == replace(trial, lost=1) and not log.failed
    assert lanes.removed == ["group of a"]


def test_placement_groups_of_dead_lanes_are_removed() -> None:
    lanes = Lanes(make_state(space()), room=3)
    lanes.up("a", "b")
    assert lanes.dispatcher.open_lane("starting")
    lanes.dispatcher.lane_closed("a", "the lane's training worker died")
    assert lanes.removed == ["group of a"]
    assert lanes.dispatcher.open_lane("doomed")
    lanes.dispatcher.lane_closed("doomed", "its node died", "start")
    assert not lanes.dispatcher.open_lane("d"), "whose group is whose is not known while another lane starts"
    assert lanes.dispatcher.handle("starting", "starting", LaneEvent("ready", placement_group="group of starting"))
    assert lanes.dispatcher.open_lane("d")
    assert lanes.kept == [{"group of b", "group of starting"}] and lanes.removed == ["group of a"]


def test_closing_lane_removes_its_own_placement_group() -> None:
    lanes = Lanes(make_state(space()))
    lanes.up("a")
    lanes.dispatcher.lane_closed("a")
    assert not lanes.removed and not lanes.kept


def test_stopped_sweep_costs_no_attempt() -> None:
    log = FailureLog()
    lanes = Lanes(make_state(space(retries=0), log))
    lanes.up("a")
    tried = lanes.now("a")
    lanes.may_start = False
    lanes.dispatcher.lane_closed("a")
    assert not log.failed and lanes.state.next_trial() == tried


def test_lane_that_does_not_start_is_reported_and_replaced() -> None:
    lanes = Lanes(make_state(space()), room=1)
    assert lanes.dispatcher.open_lane("a")
    searcher = LaneSearcher(lanes.dispatcher, SETTINGS)
    searcher.errors["a"] = LaneError("no room", "room")
    searcher.on_trial_complete("a", error=True)
    assert lanes.lost_lanes == [("no room", "room")] and not lanes.events
    assert searcher.suggest("b") == {"lane": SETTINGS} and searcher.suggest("c") is None


def test_rung_is_answered_through_the_mailbox() -> None:
    source = space(epochs=9, scheduler={"name": "asha", "grace_epochs": 3, "reduction": 3})
    lanes = Lanes(make_state(source), room=3)
    lanes.up("a", "b", "c")
    for name, score in zip("abc", (0.9, 0.8, 0.1), strict=True):
        assert lanes.dispatcher.handle(name, name, LaneEvent("rung", 1, epoch=3, score=score))
    assert [lanes.boxes[name].decided for name in "abc"] == [[(1, 3, False)], [(1, 3, True)], [(1, 3, True)]]


def test_lane_trains_a_population_of_one_cell_and_one_role() -> None:
    lanes = Lanes(make_state(space(datasets=2, trials=7)), population=4)
    lanes.up("a", "b")
    ended: dict[str, set[int]] = {"a": set(), "b": set()}
    sizes = set()
    while not lanes.state.finished:
        for name, box in lanes.boxes.items():
            running = {ticket: box.posted[ticket - 1] for ticket in range(1, len(box.posted) + 1)}
            running = {ticket: trial for ticket, trial in running.items() if ticket not in ended[name]}
            assert len({(trial.cell, trial.is_final) for trial in running.values()}) <= 1
            sizes.add(len(running))
            if running:
                ended[name].add(max(running))
                lanes.finish(name, max(running))
    assert max(sizes) == 4
    ran = [trial.trial_id for box in lanes.boxes.values() for trial in box.posted]
    assert len(ran) == len(set(ran)) == lanes.state.cells[0].done + lanes.state.cells[1].done
    assert lanes.busy[0] == 1 and max(lanes.busy) == 2 and lanes.busy[-1] == 0


def test_next_trial_takes_the_place_of_one_that_ended() -> None:
    lanes = Lanes(make_state(space(trials=9)), room=1, population=4)
    lanes.up("a")
    posted = lanes.boxes["a"].posted
    assert len(posted) == 4
    for count, ticket in enumerate((2, 4, 1), 5):
        assert lanes.finish("a", ticket) and len(posted) == count


def test_every_trial_of_a_dead_lane_is_tried_again_by_itself() -> None:
    """Which of them made it die is not known, so it costs none an attempt."""
    lanes = Lanes(make_state(space(trials=4, retries=0)), room=1, population=3)
    lanes.up("a")
    tried = list(lanes.boxes["a"].posted)
    lanes.dispatcher.lane_closed("a", "the lane's training worker died")
    lanes.up("b")
    posted = lanes.boxes["b"].posted
    for count in range(1, 5):
        assert len(posted) == count, "each runs by itself"
        assert lanes.finish("b")
    assert posted[1:4] == [replace(one, lost=1) for one in tried]
    assert lanes.busy[:3] == [1, 0, 1]


def test_size_that_a_lane_measures_holds_for_its_cell() -> None:
    lanes = Lanes(make_state(space(trials=9)), room=1)
    lanes.dispatcher = Dispatcher(
        lanes.state,
        capacity=lambda: 1,
        may_start=lambda: True,
        observers=[lanes],
        connect=lambda name: lanes.boxes.setdefault(name, Box()),
        placement_groups=lanes,
        population=lambda trial: 1,
    )
    lanes.up("a")
    posted = lanes.boxes["a"].posted
    assert len(posted) == 1
    assert lanes.dispatcher.handle("a", "a", LaneEvent("size", 1, size=3, step_ms={1: 2.0, 2: 1.0}))
    assert len(posted) == 3
    for ticket in (1, 2, 3):
        assert lanes.finish("a", ticket) and len(posted) == 3 + ticket


def test_rungs_of_a_population_are_answered_one_by_one() -> None:
    source = space(epochs=9, scheduler={"name": "asha", "grace_epochs": 3, "reduction": 3})
    lanes = Lanes(make_state(source), room=1, population=3)
    lanes.up("a")
    for ticket, score in ((2, 0.9), (1, 0.8), (3, 0.1)):
        assert lanes.dispatcher.handle("a", "a", LaneEvent("rung", ticket, epoch=3, score=score))
    assert lanes.boxes["a"].decided == [(2, 3, False), (1, 3, True), (3, 3, True)]

"""The desk, ladders and mailbox that Tune and the lanes talk to, without starting Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from amsam_ray.search.asha import Asha
from amsam_ray.search.assignment import Assignment, Outcome
from amsam_ray.search.cells import Cell
from amsam_ray.search.dispatcher import Desk
from amsam_ray.search.progress import ladder_epochs
from amsam_ray.search.ray.lane import LaneError, LaneSettings
from amsam_ray.search.ray.mailbox import Event, Mailbox
from amsam_ray.search.ray.tune_adapter import LaneSearcher
from amsam_ray.search.ray.worker import WorkerSettings
from amsam_ray.search.trial_queue import Dealer
from tests.search.spaces import one_cell, space
from tests.search.test_trial_queue import Book, completed, deal

SETTINGS = LaneSettings(WorkerSettings("s", "r", "m:f", 0.0, Path("w")), 1, 1.0, 0.0, 60.0, 60.0, Path("r"))


class Box:
    """Notes what is sent to a lane."""

    def __init__(self) -> None:
        self.posted: list[Assignment] = []
        self.decided: list[tuple[int, int, bool]] = []

    def post(self, assignment: Assignment) -> None:
        self.posted.append(assignment)

    def decide(self, ticket: int, epoch: int, stop: bool) -> None:
        self.decided.append((ticket, epoch, stop))


class Lanes:
    """Opens lanes at a desk and lets them speak."""

    def __init__(self, dealer: Dealer, room: int = 2):
        self.room, self.open_gate, self.lost_lanes = room, True, list[tuple[str, str]]()
        self.boxes: dict[str, Box] = {}
        self.dealer = dealer
        self.desk = Desk(
            dealer,
            {p.cell.id: asha(p.cell) for p in dealer.cells},
            room=lambda: self.room,
            may_start=lambda: self.open_gate,
            watchers=[self],
            connect=lambda name: self.boxes.setdefault(name, Box()),
            groups=self,
        )
        self.removed: list[str] = []
        self.kept: list[set[str]] = []
        self.events: list[str] = []

    def began(self, assignment: Assignment) -> None:
        self.events.append(f"began {assignment.trial_id}")

    def ended(self, assignment: Assignment, attempt: Outcome, recorded: Outcome | None) -> None:
        self.events.append(f"ended {assignment.trial_id} {recorded and recorded.status}")

    def lost(self, reason: str, stage: str) -> None:
        self.lost_lanes.append((reason, stage))

    def remove(self, group: str) -> None:
        self.removed.append(group)

    def remove_others(self, known: Collection[str]) -> None:
        self.kept.append(set(known))

    def up(self, *names: str) -> None:
        for name in names:
            assert self.desk.open(name)
            assert self.desk.hear(name, name, Event("ready", group=f"group of {name}"))

    def now(self, name: str) -> Assignment:
        return self.boxes[name].posted[-1]

    def finish(self, name: str) -> bool:
        ticket = len(self.boxes[name].posted)
        return self.desk.hear(name, name, Event("end", ticket, outcome=completed(self.now(name))))


def test_no_more_lanes_are_opened_than_there_is_room_for() -> None:
    lanes = Lanes(deal(space()))
    assert lanes.desk.open("a") and lanes.desk.open("b") and not lanes.desk.open("c")
    lanes.room = 3  # a node came
    assert lanes.desk.open("c") and not lanes.desk.open("d")


def test_no_more_lanes_are_opened_than_there_are_trials() -> None:
    lanes = Lanes(deal(space(methods=("sam",), space={})), room=8)  # a trial and a final
    assert [lanes.desk.open(name) for name in "abc"] == [True, True, False]


def test_a_trial_is_dealt_to_a_lane_that_is_up_and_to_no_other() -> None:
    lanes = Lanes(deal(space()))
    assert lanes.desk.open("slow")
    lanes.up("a")
    first = lanes.now("a")
    assert lanes.finish("a") and lanes.now("a") != first
    assert "slow" not in lanes.boxes and len(lanes.boxes["a"].posted) == 2


def test_an_idle_lane_stays_while_finals_are_to_come_and_goes_when_all_is_done() -> None:
    lanes = Lanes(deal(space(trials=2)))
    lanes.up("a", "b")
    assert lanes.finish("a") and len(lanes.boxes["a"].posted) == 1  # waits for the other's trial
    assert lanes.desk.hear("a", "a", None)
    assert lanes.finish("b")
    # The end of the last search trial gives both a final at once.
    assert lanes.now("a").final and lanes.now("b").final
    assert lanes.finish("a") and not lanes.dealer.finished
    assert not lanes.finish("b") and not lanes.desk.hear("a", "a", None)
    for name in "ab":
        lanes.desk.closed(name)
    assert lanes.desk.finished and not lanes.lost_lanes


def test_a_lane_that_is_coming_up_goes_as_soon_as_the_gate_closes() -> None:
    lanes = Lanes(deal(space()))
    assert lanes.desk.open("a") and lanes.desk.hear("a", "", None) and not lanes.boxes
    lanes.open_gate = False
    assert not lanes.desk.hear("a", "", None)
    lanes.desk.closed("a")
    assert lanes.desk.finished and not lanes.lost_lanes


def test_a_closed_gate_lets_running_trials_finish() -> None:
    lanes = Lanes(deal(space()))
    lanes.up("a", "b")
    lanes.open_gate = False
    assert lanes.desk.hear("a", "a", None), "it still trains"
    assert not lanes.finish("a") and not lanes.desk.open("c") and not lanes.desk.finished
    assert not lanes.finish("b")
    for name in "ab":
        lanes.desk.closed(name)
    assert lanes.desk.finished


def test_why_a_lane_died_reaches_the_record() -> None:
    book = Book()
    lanes = Lanes(deal(space(retries=0), book))
    lanes.up("a")
    cause = RuntimeError("wrapped by Ray")
    cause.__cause__ = LaneError("hung: no sign of life for 60 s")
    searcher = LaneSearcher(lanes.desk, SETTINGS)
    searcher.errors["a"] = cause
    searcher.on_trial_complete("a", error=True)
    assert [o.reason for o in book.failed] == ["hung: no sign of life for 60 s"]


def test_the_trial_of_a_lane_that_died_goes_to_one_that_idles() -> None:
    lanes = Lanes(deal(space(methods=("sam",), space={})))
    lanes.up("a", "b")
    trial = lanes.now("a")
    assert not lanes.boxes["b"].posted
    lanes.desk.closed("a", "the lane's training worker died")
    assert lanes.now("b") == replace(trial, attempt=2)


def test_what_a_dead_lane_held_is_taken_back() -> None:
    lanes = Lanes(deal(space()), room=3)
    lanes.up("a", "b")
    assert lanes.desk.open("starting")
    lanes.desk.closed("a", "the lane's Train controller died")
    assert lanes.removed == ["group of a"]
    assert lanes.desk.open("doomed")
    lanes.desk.closed("doomed", "its node died", "start")
    assert not lanes.desk.open("d"), "whose group is whose is not known while another lane starts"
    assert lanes.desk.hear("starting", "starting", Event("ready", group="group of starting"))
    assert lanes.desk.open("d")
    assert lanes.kept == [{"group of b", "group of starting"}] and lanes.removed == ["group of a"]


def test_a_lane_that_closes_by_itself_gives_its_group_back_by_itself() -> None:
    lanes = Lanes(deal(space()))
    lanes.up("a")
    lanes.desk.closed("a")
    assert not lanes.removed and not lanes.kept


def test_a_stopped_sweep_costs_a_trial_no_attempt() -> None:
    book = Book()
    lanes = Lanes(deal(space(retries=0), book))
    lanes.up("a")
    tried = lanes.now("a")
    lanes.open_gate = False
    lanes.desk.closed("a")
    assert not book.failed and lanes.dealer.next_assignment() == tried


def test_a_lane_that_did_not_come_up_is_told_of_and_replaced() -> None:
    lanes = Lanes(deal(space()), room=1)
    assert lanes.desk.open("a")
    searcher = LaneSearcher(lanes.desk, SETTINGS)
    searcher.errors["a"] = LaneError("no room", "room")
    searcher.on_trial_complete("a", error=True)
    assert lanes.lost_lanes == [("no room", "room")] and not lanes.events
    assert searcher.suggest("b") == {"lane": SETTINGS} and searcher.suggest("c") is None


def test_a_rung_is_answered_through_the_lanes_mailbox() -> None:
    source = space(epochs=9, scheduler={"name": "asha", "grace_epochs": 3, "reduction": 3})
    lanes = Lanes(deal(source), room=3)
    lanes.up("a", "b", "c")
    for name, score in zip("abc", (0.9, 0.8, 0.1), strict=True):
        assert lanes.desk.hear(name, name, Event("rung", 1, epoch=3, score=score))
    assert [lanes.boxes[name].decided for name in "abc"] == [[(1, 3, False)], [(1, 3, True)], [(1, 3, True)]]


def asha(cell: Cell) -> Asha:
    return Asha(ladder_epochs(cell.source), cell.source.search.scheduler.reduction, cell.maximise)


def test_a_ladder_stops_what_is_below_the_best_share() -> None:
    cell = one_cell(epochs=81, scheduler={"name": "asha", "grace_epochs": 3, "reduction": 3})
    ladder = asha(cell)
    assert [ladder.stops(f"t{n}", 3, score) for n, score in enumerate((0.5, 0.6, 0.1, 0.7))] == [
        False,
        False,
        True,
        False,
    ]
    assert not ladder.stops("t3", 9, 0.1)  # the first at its rung


def test_a_trial_that_runs_again_is_not_judged_against_itself() -> None:
    cell = one_cell(epochs=81, scheduler={"name": "asha", "grace_epochs": 3, "reduction": 3})
    ladder = asha(cell)
    for n in range(10):
        ladder.stops(f"t{n}", 3, n / 10)
    assert not ladder.stops("t9", 3, 0.9)


def test_a_ladder_filled_from_records_decides_as_the_one_that_was_there() -> None:
    cell = one_cell(epochs=81, scheduler={"name": "asha", "grace_epochs": 3, "reduction": 3})
    there, filled = (asha(cell) for _ in range(2))
    for n in range(20):
        scores = {3: (n * 7 % 20) / 20, 9: (n * 7 % 20) / 20}
        for epoch, score in scores.items():
            there.stops(f"t{n}", epoch, score)
        filled.restore(f"t{n}", scores)
    probes = [n / 40 for n in range(40)]
    assert [there.stops(f"p{s}", 3, s) for s in probes] == [filled.stops(f"p{s}", 3, s) for s in probes]


@pytest.mark.parametrize("maximise", [True, False])
def test_asha_decides_as_the_scheduler_of_ray_tune(maximise: bool) -> None:
    theirs: Any = AsyncHyperBandScheduler(
        time_attr="step",
        metric="score",
        mode="max" if maximise else "min",
        grace_period=1,
        max_t=27,
        reduction_factor=3,
        stop_last_trials=False,
    )
    ours, draws = Asha((5, 15, 45), 3, maximise), np.random.default_rng(0)
    for n in range(60):
        stub = SimpleNamespace(trial_id=f"t{n}")
        theirs.on_trial_add(None, stub)
        for step, epoch in enumerate((5, 15, 45)):
            score = float(draws.random())
            expected = theirs.on_trial_result(None, stub, {"step": 3**step, "score": score}) == TrialScheduler.STOP
            assert ours.stops(f"t{n}", epoch, score) == expected
            if expected:
                break


def assignment() -> Any:
    return deal(space()).next_assignment()


def test_a_trial_passes_through_the_mailbox() -> None:
    async def run() -> None:
        box = Mailbox(workers=1)
        taken = asyncio.create_task(box.take(0))
        await asyncio.sleep(0)
        sent = assignment()
        await box.post(sent)
        ticket = 1
        assert await taken == (ticket, sent)
        asked = asyncio.create_task(box.rung(ticket, 5, 0.5))
        event = (await box.news(1)).event
        assert event and (event.kind, event.epoch, event.score) == ("rung", 5, 0.5)
        assert not asked.done()
        await box.decide(ticket, 5, stop=True)
        assert await asked == "stop"
        waiting = asyncio.create_task(box.take(ticket, Outcome(sent.trial_id, "pruned")))
        event = (await box.news(1)).event
        waiting.cancel()
        assert event and event.outcome and event.outcome.status == "pruned"

    asyncio.run(run())


def test_what_an_old_trial_says_is_ignored() -> None:
    async def run() -> None:
        box = Mailbox(workers=1)
        await box.post(assignment())
        await box.post(assignment())
        old, new = 1, 2
        taken = await box.take(old, Outcome("x", "completed"))
        assert taken and taken[0] == new
        assert (await box.news(0.01)).event is None
        assert not await box.beat(old) and await box.beat(new)
        assert await box.rung(old, 5, 0.5) == "abandon"
        assert (await box.news(0.01)).event is None

    asyncio.run(run())


def test_a_closing_mailbox_sends_everybody_home() -> None:
    async def run() -> None:
        box = Mailbox(workers=2)
        await box.post(assignment())
        ticket = 1
        waiting = [asyncio.create_task(box.take(ticket)), asyncio.create_task(box.rung(ticket, 5, None))]
        await asyncio.sleep(0.01)
        await box.close()
        assert await asyncio.gather(*waiting) == [None, "abandon"]
        assert not await box.beat(ticket)

    asyncio.run(run())


def test_a_mailbox_knows_who_is_there_and_for_how_long_nobody_spoke() -> None:
    async def run() -> None:
        box = Mailbox(workers=2)
        await box.arrive(0, "g")
        assert not (await box.news(0.01)).ready
        await box.arrive(1, "g")
        news = await box.news(1)
        assert news.ready and news.event == Event("ready", group="g")
        assert (await box.news(0.05)).silent_s == 0, "nothing runs"
        await box.post(assignment())
        assert (await box.news(0.05)).silent_s >= 0.05

    asyncio.run(run())


@pytest.mark.parametrize("workers", [1, 3])
def test_every_rank_gets_every_trial(workers: int) -> None:
    async def run() -> None:
        box = Mailbox(workers)
        await box.post(assignment())
        ticket = 1
        taken = await asyncio.gather(*(box.take(0) for _ in range(workers)))
        assert [t for t, _ in taken] == [ticket] * workers  # type: ignore[misc]

    asyncio.run(run())

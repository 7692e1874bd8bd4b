"""The searcher, ladders and mailbox that Tune and the lanes talk to, without starting Ray."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from amsam_ray.search.assignment import Outcome
from amsam_ray.search.dealer import Dealer
from amsam_ray.search.ladders import Ladder
from amsam_ray.search.lane import LaneError, LaneSettings
from amsam_ray.search.mailbox import Mailbox
from amsam_ray.search.progress import ladder_epochs
from amsam_ray.search.searcher import CellSearcher
from amsam_ray.search.worker import WorkerSettings
from tests.search.spaces import one_cell, space
from tests.search.test_dealer import Book, completed, deal

SETTINGS = LaneSettings(WorkerSettings("s", "r", "m:f", 0.0, Path("w")), 1, 1.0, 0.0, 60.0, 60.0, Path("r"))


class Tune:
    """Calls a searcher as Tune does."""

    def __init__(self, dealer: Dealer, lanes: int = 2):
        self.lanes, self.open, self.errors = lanes, True, dict[str, BaseException]()
        self.searcher = CellSearcher(
            dealer,
            SETTINGS,
            lanes=lambda: self.lanes,
            may_start=lambda: self.open,
            error_of=lambda trial: self.errors.get(trial),
            watchers=[],
        )
        self.live: dict[str, Any] = {}
        self.count = 0

    def ask(self) -> Any:
        self.count += 1
        config = self.searcher.suggest(str(self.count))
        if isinstance(config, dict):
            self.live[str(self.count)] = config
        return config

    def finish(self, trial: str) -> None:
        config = self.live.pop(trial)
        outcome = {"outcome": completed(config["assignment"])} if "assignment" in config else {}
        self.searcher.on_trial_complete(trial, result={"done": True, **outcome})


def test_no_more_trials_run_than_there_are_lanes() -> None:
    tune = Tune(deal(space()))
    assert tune.ask() and tune.ask() and tune.ask() is None
    tune.lanes = 3  # a node came
    assert tune.ask() and tune.ask() is None
    tune.lanes = 1  # two nodes went, and their trials end
    tune.finish("1")
    assert tune.ask() is None


def test_an_idle_lane_is_held_while_finals_are_to_come_and_the_search_ends_when_all_is_done() -> None:
    tune = Tune(deal(space(trials=2)))
    first, second = tune.ask(), tune.ask()
    assert first["assignment"] != second["assignment"]
    tune.finish("1")
    assert tune.ask()["hold_s"] > 0
    assert tune.ask() is None
    tune.finish("3")
    tune.finish("2")
    finals = [tune.ask()["assignment"], tune.ask()["assignment"]]
    assert all(final.final for final in finals)
    for trial in list(tune.live):
        tune.finish(trial)
    assert tune.ask() == Searcher.FINISHED


def test_a_closed_gate_lets_running_trials_finish() -> None:
    tune = Tune(deal(space()))
    tune.ask()
    tune.open = False
    assert tune.ask() is None
    tune.finish("1")
    assert tune.ask() == Searcher.FINISHED


def test_why_a_lane_died_reaches_the_record() -> None:
    book = Book()
    tune = Tune(deal(space(retries=0), book))
    tune.ask()
    cause = RuntimeError("wrapped by Ray")
    cause.__cause__ = LaneError("hung: no sign of life for 60 s")
    tune.errors["1"] = cause
    tune.searcher.on_trial_complete("1", error=True)
    assert [o.reason for o in book.failed] == ["hung: no sign of life for 60 s"]


def test_a_lane_that_did_not_start_does_not_count() -> None:
    book = Book()
    tune = Tune(deal(space(retries=0), book))
    tried = tune.ask()["assignment"]
    tune.errors["1"] = LaneError("no room", "room")
    tune.searcher.on_trial_complete("1", error=True)
    assert not book.failed and tune.ask()["assignment"] == tried


def test_a_ladder_stops_what_is_below_the_best_share() -> None:
    cell = one_cell(epochs=81, scheduler={"name": "asha", "grace_epochs": 3, "reduction": 3})
    ladder = Ladder(cell, ladder_epochs(cell.source))
    assert [ladder.stops(f"t{n}", 3, score) for n, score in enumerate((0.5, 0.6, 0.1, 0.7))] == [
        False,
        False,
        True,
        False,
    ]
    assert not ladder.stops("t3", 9, 0.1)  # the first at its rung


def test_a_trial_that_runs_again_is_not_judged_against_itself() -> None:
    cell = one_cell(epochs=81, scheduler={"name": "asha", "grace_epochs": 3, "reduction": 3})
    ladder = Ladder(cell, ladder_epochs(cell.source))
    for n in range(10):
        ladder.stops(f"t{n}", 3, n / 10)
    assert not ladder.stops("t9", 3, 0.9)


def test_a_ladder_filled_from_records_decides_as_the_one_that_was_there() -> None:
    cell = one_cell(epochs=81, scheduler={"name": "asha", "grace_epochs": 3, "reduction": 3})
    there, filled = (Ladder(cell, ladder_epochs(cell.source)) for _ in range(2))
    for n in range(20):
        scores = {3: (n * 7 % 20) / 20, 9: (n * 7 % 20) / 20}
        for epoch, score in scores.items():
            there.stops(f"t{n}", epoch, score)
        filled.remember(Outcome(f"t{n}", "completed", score=1.0, rung_scores=scores))
    probes = [n / 40 for n in range(40)]
    assert [there.stops(f"p{s}", 3, s) for s in probes] == [filled.stops(f"p{s}", 3, s) for s in probes]


def assignment() -> Any:
    return deal(space()).next_assignment()


def test_a_trial_passes_through_the_mailbox() -> None:
    async def run() -> None:
        box = Mailbox(workers=1)
        taken = asyncio.create_task(box.take(0))
        await asyncio.sleep(0)
        sent = assignment()
        ticket, _ = await box.post(sent, 0.01)
        assert await taken == (ticket, sent)
        asked = asyncio.create_task(box.rung(ticket, 5, 0.5))
        event = (await box.news(ticket, 1)).event
        assert event and (event.kind, event.epoch, event.score) == ("rung", 5, 0.5)
        assert not asked.done()
        await box.decide(ticket, 5, stop=True)
        assert await asked == "stop"
        waiting = asyncio.create_task(box.take(ticket, Outcome(sent.trial_id, "pruned")))
        event = (await box.news(ticket, 1)).event
        waiting.cancel()
        assert event and event.outcome and event.outcome.status == "pruned"

    asyncio.run(run())


def test_what_an_old_trial_says_is_ignored() -> None:
    async def run() -> None:
        box = Mailbox(workers=1)
        old, _ = await box.post(assignment(), 0.01)
        new, _ = await box.post(assignment(), 0.01)
        taken = await box.take(old, Outcome("x", "completed"))
        assert taken and taken[0] == new
        assert (await box.news(new, 0.01)).event is None
        assert not await box.beat(old) and await box.beat(new)
        assert await box.rung(old, 5, 0.5) == "abandon"
        assert (await box.news(new, 0.01)).event is None

    asyncio.run(run())


def test_a_closing_mailbox_sends_everybody_home() -> None:
    async def run() -> None:
        box = Mailbox(workers=2)
        ticket, _ = await box.post(assignment(), 0.01)
        waiting = [asyncio.create_task(box.take(ticket)), asyncio.create_task(box.rung(ticket, 5, None))]
        await asyncio.sleep(0.01)
        await box.close()
        assert await asyncio.gather(*waiting) == [None, "abandon"]
        assert not await box.beat(ticket)

    asyncio.run(run())


def test_a_mailbox_knows_who_is_there_and_for_how_long_nobody_spoke() -> None:
    async def run() -> None:
        box = Mailbox(workers=2)
        ticket, _ = await box.post(assignment(), 0.01)
        await box.arrive(0)
        assert not (await box.news(ticket, 0.01)).ready
        await box.arrive(1)
        news = await box.news(ticket, 0.05)
        assert news.ready and news.silent_s >= 0.05

    asyncio.run(run())


@pytest.mark.parametrize("workers", [1, 3])
def test_every_rank_gets_every_trial(workers: int) -> None:
    async def run() -> None:
        box = Mailbox(workers)
        ticket, _ = await box.post(assignment(), 0.01)
        taken = await asyncio.gather(*(box.take(0) for _ in range(workers)))
        assert [t for t, _ in taken] == [ticket] * workers  # type: ignore[misc]

    asyncio.run(run())

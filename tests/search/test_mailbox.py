"""A lane's mailbox, without starting Ray."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from amsam_ray.search.ray.mailbox import Mailbox
from amsam_ray.search.trials import LaneEvent, TrialOutcome
from tests.search.spaces import space
from tests.search.test_state import make_state


def trial() -> Any:
    return make_state(space()).next_trial()


def test_trial_passes_through_the_mailbox() -> None:
    async def run() -> None:
        box = Mailbox(workers=1)
        taken = asyncio.create_task(box.take(0))
        await asyncio.sleep(0)
        sent = trial()
        await box.post(1, sent)
        ticket = 1
        assert await taken == (ticket, sent)
        asked = asyncio.create_task(box.rung(ticket, 5, 0.5))
        event = (await box.next_update(1)).event
        assert event and (event.kind, event.epoch, event.score) == ("rung", 5, 0.5)
        assert not asked.done()
        await box.decide(ticket, 5, stop=True)
        assert await asked == "stop"
        waiting = asyncio.create_task(box.take(ticket, TrialOutcome(sent.trial_id, "pruned")))
        event = (await box.next_update(1)).event
        waiting.cancel()
        assert event and event.outcome and event.outcome.status == "pruned"

    asyncio.run(run())


def test_messages_about_a_trial_that_has_ended_are_ignored() -> None:
    async def run() -> None:
        box = Mailbox(workers=1)
        old, new = 1, 2
        await box.post(old, trial())
        await box.finish(old, TrialOutcome("x", "completed"))
        await box.post(new, trial())
        assert (event := (await box.next_update(1)).event) and event.kind == "end"
        taken = await box.take(old, TrialOutcome("x", "completed"))
        assert taken and taken[0] == new
        assert (await box.next_update(0.01)).event is None
        assert not await box.heartbeat(old) and await box.heartbeat(new)
        assert await box.rung(old, 5, 0.5) == "abandon"
        assert (await box.next_update(0.01)).event is None

    asyncio.run(run())


def test_several_trials_pass_through_the_mailbox_at_a_time() -> None:
    async def run() -> None:
        box, sent = Mailbox(workers=1), [trial(), trial()]
        late = asyncio.create_task(box.post(2, sent[1]))  # waits for the first one
        await asyncio.sleep(0.01)
        await box.post(1, sent[0])
        await late
        assert [await box.take(0), await box.take(1)] == [(1, sent[0]), (2, sent[1])]
        await box.size(2, 4, {1: 9.0, 4: 3.0})
        event = (await box.next_update(1)).event
        assert event and (event.kind, event.ticket, event.size, event.step_ms) == ("size", 2, 4, {1: 9.0, 4: 3.0})
        asked = [asyncio.create_task(box.rung(ticket, 5, 0.5)) for ticket in (1, 2)]
        assert {(await box.next_update(1)).event.ticket for _ in asked} == {1, 2}  # type: ignore[union-attr]
        await box.decide(2, 5, stop=True)
        assert await asked[1] == "stop" and not asked[0].done()
        await box.finish(2, TrialOutcome("x", "pruned"))
        third = asyncio.create_task(box.take(2))
        assert (await box.next_update(1)).event == LaneEvent("end", 2, outcome=TrialOutcome("x", "pruned"))
        assert not third.done() and await box.heartbeat(1)
        await box.post(3, sent[0])  # takes the place of the pruned one, while the first waits for its decision
        assert await third == (3, sent[0])
        await box.decide(1, 5, stop=False)
        assert await asked[0] == "go"

    asyncio.run(run())


def test_closing_mailbox_ends_all_waiting_calls() -> None:
    async def run() -> None:
        box = Mailbox(workers=2)
        await box.post(1, trial())
        ticket = 1
        waiting = [asyncio.create_task(box.take(ticket)), asyncio.create_task(box.rung(ticket, 5, None))]
        await asyncio.sleep(0.01)
        await box.close()
        assert await asyncio.gather(*waiting) == [None, "abandon"]
        assert not await box.heartbeat(ticket)

    asyncio.run(run())


def test_mailbox_reports_readiness_and_silence() -> None:
    async def run() -> None:
        box = Mailbox(workers=2)
        await box.register(0, "g", "n")
        assert not (await box.next_update(0.01)).ready
        await box.register(1, "g", "n")
        news = await box.next_update(1)
        assert news.ready and news.event == LaneEvent("ready", placement_group="g", node="n")
        assert (await box.next_update(0.05)).silent_s == 0, "nothing runs"
        await box.post(1, trial())
        assert (await box.next_update(0.05)).silent_s >= 0.05

    asyncio.run(run())


@pytest.mark.parametrize("workers", [1, 3])
def test_every_rank_receives_every_trial(workers: int) -> None:
    async def run() -> None:
        box = Mailbox(workers)
        await box.post(1, trial())
        ticket = 1
        taken = await asyncio.gather(*(box.take(0) for _ in range(workers)))
        assert [t for t, _ in taken] == [ticket] * workers  # type: ignore[misc]

    asyncio.run(run())

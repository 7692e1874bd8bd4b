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
        await box.post(sent)
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


def test_messages_with_an_old_ticket_are_ignored() -> None:
    async def run() -> None:
        box = Mailbox(workers=1)
        await box.post(trial())
        await box.post(trial())
        old, new = 1, 2
        taken = await box.take(old, TrialOutcome("x", "completed"))
        assert taken and taken[0] == new
        assert (await box.next_update(0.01)).event is None
        assert not await box.heartbeat(old) and await box.heartbeat(new)
        assert await box.rung(old, 5, 0.5) == "abandon"
        assert (await box.next_update(0.01)).event is None

    asyncio.run(run())


def test_closing_mailbox_ends_all_waiting_calls() -> None:
    async def run() -> None:
        box = Mailbox(workers=2)
        await box.post(trial())
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
        await box.post(trial())
        assert (await box.next_update(0.05)).silent_s >= 0.05

    asyncio.run(run())


@pytest.mark.parametrize("workers", [1, 3])
def test_every_rank_receives_every_trial(workers: int) -> None:
    async def run() -> None:
        box = Mailbox(workers)
        await box.post(trial())
        ticket = 1
        taken = await asyncio.gather(*(box.take(0) for _ in range(workers)))
        assert [t for t, _ in taken] == [ticket] * workers  # type: ignore[misc]

    asyncio.run(run())

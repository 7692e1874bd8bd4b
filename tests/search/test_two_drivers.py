"""Two drivers of one sweep at once, also with clocks an hour apart: one runs it, and the other is refused."""

from __future__ import annotations

import contextlib
import time
import uuid
from pathlib import Path

import pytest

from amsam_ray.storage.open import open_storage
from tests.s3.moto import S3Server
from tests.search.driving import Driver, until
from tests.search.other_machine import other_machine
from tests.search.spaces import space

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def test_a_second_driver_whose_clock_is_an_hour_ahead_is_refused(tmp_path: Path) -> None:
    first = Driver(tmp_path / "first", space(trials=30), {"seconds": 1.0})
    second = Driver(tmp_path / "second", first.space, storage=first.storage, variables=other_machine(tmp_path, 3600))
    with first.start() as process:
        until(lambda: first.recorded() >= 1 or process.poll() is not None)
        began = time.monotonic()
        assert second.run(timeout=120) == 2
        assert time.monotonic() - began < 60
        assert process.wait(300) == 0, first.terminal()
    told = second.terminal().strip().splitlines()[-1]
    assert "lease.json: this sweep is run by " in told and f"process {process.pid}" in told
    assert told.endswith("Its clock is about 60 minutes behind this machine's: set the clocks")
    assert second.starts() == [] and "Traceback" not in second.terminal()
    assert len(first.assert_complete()) == len(first.starts()) >= 30 + 2


def test_of_two_drivers_that_start_at_the_same_moment_on_a_bucket_one_runs(aws: S3Server, tmp_path: Path) -> None:
    uri = f"s3://{aws.bucket}/{uuid.uuid4().hex}"
    drivers = [Driver(tmp_path / name, space(trials=12), {"seconds": 1.0}, storage=uri) for name in ("a", "b")]
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(driver.start()) for driver in drivers]
        statuses = [process.wait(400) for process in processes]
    assert sorted(statuses) == [0, 2], [driver.terminal() for driver in drivers]
    winner, loser = drivers[statuses.index(0)], drivers[statuses.index(2)]
    told = loser.terminal().strip().splitlines()[-1]
    assert "another driver took the lease" in told or "this sweep is run by " in told
    assert loser.starts() == [] and "Traceback" not in loser.terminal()
    assert len(winner.assert_complete()) == len(winner.starts()) >= 12 + 2
    assert len(list(open_storage(uri).list("sweeps/"))) > 12

"""What is left of a driver that is killed or stopped: no process for longer than half a minute, and no record lost."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.search.driving import Driver, processes_with, ray_processes, until
from tests.search.spaces import space

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
GONE_S = 30.0


@pytest.mark.parametrize("seconds", [0.5, 2.0, 4.0])
def test_no_process_is_left_of_a_driver_that_is_killed_while_ray_starts(tmp_path: Path, seconds: float) -> None:
    driver = Driver(tmp_path, space(trials=4))
    with driver.start() as process:
        until(lambda: "starting Ray" in driver.terminal())
        time.sleep(seconds)
        assert processes_with(mark(driver)), "nothing was started"
        process.kill()
    assert_gone(driver, process.pid)


def test_no_process_is_left_of_a_driver_that_is_killed_while_trials_run(tmp_path: Path) -> None:
    driver = Driver(tmp_path, space(trials=40), {"seconds": 2.0})
    with driver.start() as process:
        until(lambda: driver.recorded() >= 2 or process.poll() is not None)
        assert len(processes_with(mark(driver))) > 10
        process.kill()
    assert_gone(driver, process.pid)
    assert len({record.trial for record in driver.records()}) == driver.recorded() >= 2


def mark(driver: Driver) -> str:
    return f"AMSAM_CACHE_DIR={driver.folder / 'cache'}"


def assert_gone(driver: Driver, pid: int) -> None:
    deadline = time.monotonic() + GONE_S
    while left := processes_with(mark(driver)):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    assert not list(Path("/tmp").glob(f"amsam-{pid}-*")), "the folder was left"


def test_a_worker_that_is_stopped_for_longer_than_the_timeout(tmp_path: Path) -> None:
    """Its trial runs again in another lane, and the worker, when it is continued, adds nothing."""
    driver = Driver(tmp_path, space(trials=10, retries=1, timeout_s=12), {"seconds": 2.0})
    with driver.start() as process:
        until(lambda: driver.recorded() >= 2 or process.poll() is not None)
        stopped = driver.starts()[-1]["pid"]
        os.kill(stopped, signal.SIGSTOP)
        begun = time.monotonic()
        until(lambda: "hung: no heartbeat for 12 s" in driver.logs() or process.poll() is not None, 120)
        assert time.monotonic() - begun > 10
        time.sleep(3)
        if stopped in [pid for pids in ray_processes(process.pid).values() for pid in pids]:
            os.kill(stopped, signal.SIGCONT)
        assert process.wait(200) == 0, driver.terminal()
    records = driver.assert_complete()
    assert {record.status for record in records} == {"completed"} and len(records) >= 10 + 2
    assert sorted(record.attempt for record in records)[-2:] == [1, 2]
    assert_gone(driver, process.pid)

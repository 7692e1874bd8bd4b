"""Disks that become full or read-only while a sweep runs: no record is lost or doubled, and the reason is told."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests.disks import Disk, own_mounts
from tests.search.driving import Driver, until
from tests.search.spaces import space

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@own_mounts
def test_a_sweep_outlasts_a_read_only_store_and_full_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disks of the results, of the cache and of Ray's files fail one after the other, each for several trials."""
    short = Path("/tmp") / uuid.uuid4().hex[:8]  # Ray's folder must have a short path
    results, cache = Disk(tmp_path / "results", 2048), Disk(tmp_path / "cache", 2048)
    temporary = Disk(short, 65536)
    monkeypatch.setenv("TMPDIR", str(short))
    driver = Driver(tmp_path, space(trials=24), {"seconds": 1.0})

    def after_trials(count: int) -> None:
        begun = len(driver.starts())
        until(lambda: len(driver.starts()) >= begun + count or process.poll() is not None)

    try:
        with driver.start() as process:
            until(lambda: driver.recorded() >= 2 or process.poll() is not None)
            results.read_only(True)
            after_trials(4)
            results.read_only(False)
            results.fill()
            after_trials(4)
            results.free()
            cache.fill()
            after_trials(4)
            cache.free()
            temporary.fill()
            after_trials(4)
            assert process.poll() is None, driver.terminal()
            temporary.free()
            assert process.wait(300) == 0, driver.terminal()
    finally:
        temporary.close()
    records = driver.assert_complete()
    assert len(records) == len(driver.starts()) >= 24 + 2, "a trial ran twice"
    assert {(record.status, record.attempt) for record in records} == {("completed", 1)}
    assert not list((tmp_path / "cache" / "spool").rglob("*.json"))
    assert "Traceback" not in driver.terminal()


@own_mounts
def test_without_room_for_a_record_the_sweep_ends_and_continues_later(tmp_path: Path) -> None:
    """Storage and spool are full, so the sweep ends; then the cache is, and only the leaderboards are missing."""
    results, cache = Disk(tmp_path / "results", 2048), Disk(tmp_path / "cache", 2048)
    spool = Disk(tmp_path / "cache" / "spool", 2048)
    driver = Driver(tmp_path, space(trials=8, retries=0), {"seconds": 1.0})
    with driver.start() as process:
        until(lambda: driver.recorded() >= 2 or process.poll() is not None)
        results.fill()
        spool.fill()
        assert process.wait(120) == 1
    (told,) = [line for line in driver.terminal().splitlines() if line.startswith("error: ")]
    assert "No space left on device; free some space" in told
    assert told.endswith("Run the same command again to continue.")
    assert {record.status for record in driver.assert_complete()} == {"completed"}
    results.free()
    spool.free()
    cache.fill()
    assert driver.run() == 1
    assert "cannot hold an index" in driver.terminal() and "free some space or set AMSAM_CACHE_DIR" in driver.terminal()
    records = driver.assert_complete()
    assert {record.status for record in records} == {"completed"} and len(records) >= 8 + 2
    cache.free()
    assert driver.run() == 0 and "nothing was left to run" in driver.terminal()
    assert len(driver.assert_complete()) == len(records)
    assert "Traceback" not in driver.terminal()

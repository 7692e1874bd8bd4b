"""The parts of a driver that need no Ray: lease, folder, budgets, interrupts, recording."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from amsam_ray.config.space_file import sweep_id
from amsam_ray.errors import InputError
from amsam_ray.search import lease as lease_module
from amsam_ray.search.budget import Budget, StopConditions, interruptible
from amsam_ray.search.cell_state import CellState
from amsam_ray.search.cells import make_cells
from amsam_ray.search.checks import check_sweep
from amsam_ray.search.dry_run import expected_epochs
from amsam_ray.search.lease import Lease, lease_key, read_lease
from amsam_ray.search.manifest import choose_sweep, read_manifest, stored_space, write_manifest
from amsam_ray.search.options import RunOptions
from amsam_ray.search.ray.cluster import check_ray
from amsam_ray.search.recorder import Recorder
from amsam_ray.search.resume import SweepRecords, restore_cells
from amsam_ray.search.trials import TrialOutcome, TrialSpec
from amsam_ray.storage.base import Storage
from amsam_ray.storage.open import open_storage
from amsam_ray.training.result import TrialResult
from tests.search.other_machine import other_machine
from tests.search.spaces import space


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path / "cache"))
    return open_storage(tmp_path / "results")


def held(storage: Storage, sweep: str = "s", **status: Any) -> Lease:
    lost: list[str] = []
    lease = Lease(storage, sweep, lambda: status, lost.append)
    lease.lost = lost  # type: ignore[attr-defined]
    return lease


def other_driver(storage: Storage, sweep: str, **variables: str) -> subprocess.Popen[str]:
    """Another process that holds the lease until it is killed."""
    code = f"""
import time
from amsam_ray.storage.open import open_storage
from amsam_ray.search.lease import Lease
Lease(open_storage({storage.uri!r}), {sweep!r}, dict, print).take()
print("held", flush=True)
time.sleep(600)
"""
    environment = {**os.environ, **variables}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_second_driver_is_refused_with_the_holders_name(storage: Storage) -> None:
    process = other_driver(storage, "s")
    try:
        with pytest.raises(InputError, match=rf"run by .*process {process.pid}.*heartbeat \d+ s ago"):
            held(storage).take()
    finally:
        process.kill()
        process.wait()
    mine = held(storage)
    mine.take()  # killed on this machine: no need to wait until the lease is stale
    mine.release()


def test_stale_lease_of_another_machine_is_free(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module.platform, "node", lambda: "elsewhere")
    held(storage).take()
    monkeypatch.undo()
    with pytest.raises(InputError, match="elsewhere"):
        held(storage).take()
    later = time.time() + 61
    monkeypatch.setattr(lease_module.time, "time", lambda: later)
    monkeypatch.setattr(lease_module, "WATCH_S", 1.0)
    held(storage).take()


@pytest.mark.parametrize(("clock_s", "told"), [(-3600, "60 minutes behind"), (3600, "60 minutes ahead of")])
def test_lease_of_a_machine_whose_clock_is_an_hour_off_is_watched(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock_s: int, told: str
) -> None:
    process = other_driver(storage, "s", **other_machine(tmp_path, clock_s))
    try:
        with pytest.raises(InputError, match=f"@elsewhere, process {process.pid}.*about {told} this machine's: set"):
            held(storage).check()
    finally:
        process.kill()
        process.wait()
    monkeypatch.setattr(lease_module, "WATCH_S", 1.0)
    mine = held(storage)
    mine.check()
    began = time.monotonic()
    mine.take()  # it was watched already
    assert time.monotonic() - began < 1
    mine.release()


def test_driver_that_lost_its_lease_is_notified(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RENEW_EVERY_S", 0.05)
    mine = held(storage)
    mine.take()
    storage.put(lease_key("s"), b'{"user": "eve", "host": "h", "pid": 1}')
    deadline = time.monotonic() + 10
    while not mine.lost and time.monotonic() < deadline:  # type: ignore[attr-defined]
        time.sleep(0.02)
    assert "eve@h" in mine.lost[0]  # type: ignore[attr-defined]


def test_lease_contains_the_status_of_the_sweep(storage: Storage) -> None:
    mine = held(storage, done=3)
    mine.take()
    lease = read_lease(storage, "s")
    assert lease and lease["status"] == {"done": 3} and not lease_module.stale(lease)
    mine.release()
    lease = read_lease(storage, "s")
    assert lease and lease_module.stale(lease)
    held(storage).take()


def test_same_file_continues_and_a_changed_one_begins_a_sweep(storage: Storage) -> None:
    first = space()
    folder = choose_sweep(storage, first, extend=False, fresh=False)
    assert folder.sweep == sweep_id(first) and not folder.exists
    write_manifest(storage, folder, first)
    again = choose_sweep(storage, first, extend=False, fresh=False)
    assert again.sweep == folder.sweep and again.exists and stored_space(again) == first
    assert again.note is None
    changed = choose_sweep(storage, space(trials=7), extend=False, fresh=False)
    assert not changed.exists and folder.sweep in (changed.note or "")


def test_extend_continues_the_newest_sweep_and_is_recorded(storage: Storage) -> None:
    first, changed = space(), space(trials=7)
    with pytest.raises(InputError, match="no sweep tiny"):
        choose_sweep(storage, changed, extend=True, fresh=False)
    write_manifest(storage, choose_sweep(storage, first, extend=False, fresh=False), first)
    folder = choose_sweep(storage, changed, extend=True, fresh=False)
    assert folder.sweep == sweep_id(first)
    write_manifest(storage, folder, changed)
    for either in (first, changed):  # both files now mean this sweep
        assert choose_sweep(storage, either, extend=False, fresh=False).sweep == sweep_id(first)


def test_extend_passes_over_a_sweep_that_was_stopped_before_its_first_record(storage: Storage) -> None:
    first, changed = space(), space(trials=7)
    sweeps = [choose_sweep(storage, first, extend=False, fresh=False)]
    write_manifest(storage, sweeps[0], first)
    storage.put(f"sweeps/{sweeps[0].sweep}/records/any.json", b"{}")
    sweeps.append(choose_sweep(storage, changed, extend=False, fresh=False))
    write_manifest(storage, sweeps[1], changed)
    assert sweeps[0].sweep != sweeps[1].sweep
    assert choose_sweep(storage, changed, extend=True, fresh=False).sweep == sweeps[0].sweep
    storage.put(f"sweeps/{sweeps[1].sweep}/records/any.json", b"{}")
    assert choose_sweep(storage, changed, extend=True, fresh=False).sweep == sweeps[1].sweep


@pytest.mark.parametrize("path", ["foo", "os:nope", "no_such_module:train"])
def test_a_trial_function_that_cannot_be_imported_is_refused(tmp_path: Path, path: str) -> None:
    (problem,) = check_sweep(space(), str(tmp_path), RunOptions(trial_function=path))
    assert problem.where == "--trial-function" and "use module:function" in problem.what


def test_fresh_creates_another_sweep(storage: Storage) -> None:
    source = space()
    names = []
    for _ in range(3):
        folder = choose_sweep(storage, source, extend=False, fresh=True)
        write_manifest(storage, folder, source)
        names.append(folder.sweep)
        time.sleep(0.01)
    assert names == [sweep_id(source), f"{sweep_id(source)}-2", f"{sweep_id(source)}-3"]
    assert choose_sweep(storage, source, extend=False, fresh=False).sweep == names[-1]
    assert read_manifest(storage, names[0]) is not None


def make_trial(number: int = 0) -> TrialSpec:
    source = space()
    progress = CellState(make_cells(source)[0])
    for _ in range(number):
        progress.next_trial()
    found = progress.next_trial()
    assert found
    return found


@pytest.mark.parametrize(
    ("budget", "why"),
    [(Budget(trials=2), "trials"), (Budget(seconds=0.5), "seconds"), (Budget(gpu_hours=1e-5), "gpu_hours")],
)
def test_spent_budget_starts_no_trial_and_stops_none(budget: Budget, why: str) -> None:
    conditions = StopConditions(budget)
    conditions.gpus = 1.0
    one, two = make_trial(), make_trial(1)
    assert conditions.may_start()
    conditions.trial_started(one)
    conditions.trial_started(two)
    conditions.lanes_busy(2)
    deadline = time.monotonic() + 20
    while conditions.may_start() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert conditions.stop_code == why and "budget" in str(conditions.stop_reason)
    assert not conditions.stop_now


def test_retried_trial_does_not_count_against_the_budget() -> None:
    conditions, one = StopConditions(Budget(trials=1)), make_trial()
    conditions.trial_started(one)
    assert not conditions.may_start()
    conditions.trial_ended(one, TrialOutcome(one.trial_id, "error"), None)
    assert conditions.may_start()


def test_ctrl_c_once_finishes_trials_and_twice_stops_them() -> None:
    conditions = StopConditions(Budget())
    before = signal.getsignal(signal.SIGINT)
    with interruptible(conditions):
        os.kill(os.getpid(), signal.SIGINT)
        assert conditions.stop_code == conditions.stop_reason == "interrupted"
        assert not conditions.may_start() and not conditions.stop_now
        os.kill(os.getpid(), signal.SIGINT)
        assert conditions.stop_now
    assert signal.getsignal(signal.SIGINT) is before


def test_record_is_written_once_and_read_back(storage: Storage) -> None:
    recorder = Recorder(storage.uri, "tiny-00000000", gpus=0.5)
    one = make_trial()
    assert recorder.recorded(one) is None
    result = TrialResult("completed", val={"dice": 0.5}, best_epoch=1, epochs_run=2)
    first = recorder.write(one, result, {5: 0.4}, time.time() - 10, {})
    assert (first.score, first.rung_scores, first.params) == (0.5, {5: 0.4}, {"lr": 5e-3, "lambda": 0.8})
    # A second attempt that ends later receives the recorded outcome and changes nothing.
    late = recorder.write(one, TrialResult("completed", val={"dice": 0.9}), {}, time.time(), {})
    assert late.score == 0.5
    recorder.close(0)
    records = SweepRecords(storage, "tiny-00000000")
    records.refresh()
    (state,) = restore_cells(make_cells(space()), records.records)
    assert not records.problems and state.searched == {0: first}
    (changed,) = restore_cells(make_cells(space(epochs=21)), records.records)
    assert not changed.searched and changed.next_trial().number == 1  # type: ignore[union-attr]


def test_failed_trial_is_recorded_with_its_reason(storage: Storage) -> None:
    recorder = Recorder(storage.uri, "tiny-00000000")
    one = make_trial()
    failed = recorder.write_failure(one, TrialOutcome(one.trial_id, "failed", reason="hung (3 attempts)", seconds=2.0))
    assert (failed.status, failed.reason) == ("failed", "hung (3 attempts)")
    recorder.close(0)


def test_estimate_counts_the_epochs_that_asha_lets_run() -> None:
    assert expected_epochs((), 3, 100) == 100
    assert expected_epochs((10, 30), 3, 90) == pytest.approx(10 + 20 / 3 + 60 / 9)


def test_missing_cluster_is_reported_before_connecting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert check_ray(f"127.0.0.1:{port}") == check_ray("auto") == []
    (problem,) = check_ray(f"ray://127.0.0.1:{port}")
    assert "is an address of Ray Client" in problem.what and "URL of the dashboard" in problem.what
    (problem,) = check_ray(f"127.0.0.1:{port}")
    assert problem.where == "--address" and "nothing answers" in problem.what and "ray start --head" in problem.what
    assert "is not an address" in check_ray("auto2")[0].what


def test_other_copy_of_the_package_in_the_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_ray(None) == []
    (tmp_path / "amsam_ray").mkdir()
    (tmp_path / "amsam_ray" / "__init__.py").touch()
    (problem,) = check_ray(None)
    assert problem.where == str(tmp_path) and "run from another folder" in problem.what

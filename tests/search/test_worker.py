"""The callbacks of a running trial: heartbeats, the pulse between epochs, and decisions at rungs."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from amsam_ray.config.space import ResourcesSection
from amsam_ray.inference import node_cache
from amsam_ray.inference.node_cache import NodeCacheSettings
from amsam_ray.search.manifest import choose_sweep, write_manifest
from amsam_ray.search.ray import worker as worker_module
from amsam_ray.search.ray.worker import (
    Abandoned,
    LaneMustRestart,
    WorkerSettings,
    _Pulse,
    _Together,
    _TrialMonitor,
    _Worker,
    check_version,
)
from amsam_ray.search.trials import TrialSpec
from amsam_ray.storage.open import open_storage
from tests.search.spaces import space
from tests.search.test_state import make_state
from tests.training.toys import toy_trainer


class Method:
    """Stands in for a method of the mailbox actor: records its calls and returns a fixed answer."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.calls = answer, list[tuple[Any, ...]]()

    def remote(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        return self.answer


class FakeMailbox:
    """The methods of the mailbox that a trial calls."""

    def __init__(self) -> None:
        self.heartbeat, self.rung, self.size = Method(True), Method("go"), Method(None)


def lane_of(mailbox: FakeMailbox, *, measure: bool) -> _Together:
    """Return a lane that trains populations; its trials are left to the test."""
    worker: Any = SimpleNamespace()
    return _Together(mailbox, worker, 1.0, measure=measure)


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> FakeMailbox:
    monkeypatch.setattr("ray.get", lambda answer: answer)
    return FakeMailbox()


@pytest.fixture
def trial() -> TrialSpec:
    found = make_state(space()).next_trial()
    assert found
    return found


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.monotonic() + seconds
    monkeypatch.setattr(worker_module.time, "monotonic", lambda: now)


def test_epochs_send_at_most_one_heartbeat_a_second(
    mailbox: FakeMailbox, trial: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = _TrialMonitor(mailbox, 3, trial, 0)
    monitor.epoch(1, 9)
    assert not mailbox.heartbeat.calls
    later(monkeypatch, 1.5)
    monitor.epoch(2, 9)
    monitor.epoch(3, 9)
    assert mailbox.heartbeat.calls == [(3,)]


def test_trial_is_abandoned_when_the_lane_has_moved_on(
    mailbox: FakeMailbox, trial: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = _TrialMonitor(mailbox, 3, trial, 0)
    mailbox.heartbeat.answer = False
    later(monkeypatch, 2)
    with pytest.raises(Abandoned):
        monitor.epoch(1, 9)


def test_abandonment_passes_handlers_of_exceptions() -> None:
    assert not issubclass(Abandoned, Exception)


@pytest.mark.parametrize(("decision", "stops"), [("go", False), ("stop", True)])
def test_decision_at_a_rung(mailbox: FakeMailbox, trial: TrialSpec, decision: str, stops: bool) -> None:
    monitor = _TrialMonitor(mailbox, 3, trial, 0)
    mailbox.rung.answer = decision
    assert monitor.rung(5, 0.25) is stops
    assert mailbox.rung.calls == [(3, 5, 0.25)] and monitor.rung_scores == {5: 0.25}


def test_only_rank_0_reports_the_score_of_a_rung(mailbox: FakeMailbox, trial: TrialSpec) -> None:
    monitor = _TrialMonitor(mailbox, 3, trial, 1)
    monitor.rung(5, 0.25)
    assert mailbox.rung.calls == [(3, 5, None)], "every rank asks, one of them reports"


def test_rung_of_a_closed_lane_abandons_the_trial(mailbox: FakeMailbox, trial: TrialSpec) -> None:
    mailbox.rung.answer = "abandon"
    with pytest.raises(Abandoned):
        _TrialMonitor(mailbox, 3, trial, 0).rung(5, 0.25)


def compute(seconds: float) -> None:
    """Use the processor for ``seconds`` of wall time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def beats(mailbox: FakeMailbox, monitor: _TrialMonitor, monkeypatch: pytest.MonkeyPatch, work: Any) -> int:
    monkeypatch.setattr(worker_module, "_PULSE_S", 0.1)
    with _Pulse(mailbox, 3, monitor):
        work(1.0)
    return len(mailbox.heartbeat.calls)


def test_computing_outside_the_epochs_sends_heartbeats(
    mailbox: FakeMailbox, trial: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = _TrialMonitor(mailbox, 3, trial, 0)
    assert beats(mailbox, monitor, monkeypatch, compute) >= 1
    assert set(mailbox.heartbeat.calls) == {(3,)}
    assert not any(thread.name == "amsam-pulse" and not thread.daemon for thread in threading.enumerate())


def test_waiting_sends_no_heartbeat(mailbox: FakeMailbox, trial: TrialSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    used = time.process_time()
    monkeypatch.setattr(worker_module.time, "process_time", lambda: used)
    assert beats(mailbox, _TrialMonitor(mailbox, 3, trial, 0), monkeypatch, time.sleep) == 0


def test_waiting_for_others_of_a_population_sends_no_heartbeat(
    mailbox: FakeMailbox, trial: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_PULSE_S", 0.1)
    with _Pulse(mailbox, 3, _TrialMonitor(mailbox, 3, trial, 0), lambda: False):
        compute(1.0)
    assert not mailbox.heartbeat.calls


def test_steps_of_a_population_send_at_most_one_heartbeat_a_second(
    mailbox: FakeMailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many members an epoch of each takes longer than the time after which a lane is taken for hung."""
    lane, trainer = lane_of(mailbox, measure=False), toy_trainer("blo_sam")
    lane._ticket = 5
    lane._take_steps([(trainer, trainer.draw())])
    assert not mailbox.heartbeat.calls
    later(monkeypatch, 1.5)
    lane._take_steps([(trainer, trainer.draw())])
    lane._take_steps([(trainer, trainer.draw())])
    lane._take_steps([])
    assert mailbox.heartbeat.calls == [(5,)]


def test_lane_measures_the_size_of_a_population_once_for_each_cell(mailbox: FakeMailbox) -> None:
    lane, trainer = lane_of(mailbox, measure=True), toy_trainer("blo_sam")
    for ticket, cell in enumerate(("a", "a", "b", "b"), 1):
        lane._ticket, lane._cell = ticket, cell
        lane._take_steps([(trainer, trainer.draw())])
    reports = [(ticket, set(step_ms) >= {1, 2}) for ticket, _, step_ms in mailbox.size.calls]
    assert reports == [(1, True), (3, True)]
    alone = toy_trainer("samed")
    lane._cell = "c"
    lane._take_steps([(alone, alone.draw())])
    assert len(mailbox.size.calls) == 2, "a method that trains by itself has no size"


def test_only_epochs_count_between_the_first_and_the_last(
    mailbox: FakeMailbox, trial: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = _TrialMonitor(mailbox, 3, trial, 0)
    monitor.epoch(1, 9)
    assert beats(mailbox, monitor, monkeypatch, compute) == 0
    monitor.epoch(9, 9)  # the test split is scored now
    assert beats(mailbox, monitor, monkeypatch, compute) >= 1


def test_pulse_ends_with_the_trial(mailbox: FakeMailbox, trial: TrialSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = _TrialMonitor(mailbox, 3, trial, 0)
    sent = beats(mailbox, monitor, monkeypatch, compute)
    compute(0.5)
    assert len(mailbox.heartbeat.calls) <= sent + 1


def test_a_folder_that_cannot_be_made_ends_the_attempt_and_not_the_lane(
    mailbox: FakeMailbox, trial: TrialSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path / "cache"))
    storage = open_storage(tmp_path / "results")
    manifest = choose_sweep(storage, space(), extend=False, fresh=False)
    write_manifest(storage, manifest, space())
    (tmp_path / "file").touch()
    settings = WorkerSettings(manifest.sweep, storage.uri, "tests.search.fakes:train", 0.0, tmp_path / "file" / "work")
    outcome = _Worker(mailbox, settings, 0, 1).run(1, trial)
    assert outcome is not None and (outcome.status, outcome.source) == ("error", "trial")
    assert "NotADirectoryError" in (outcome.reason or "")


def test_the_caches_of_a_lane_have_the_sweep_s_settings(
    mailbox: FakeMailbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_cache, "_settings", NodeCacheSettings())
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path / "cache"))
    storage = open_storage(tmp_path / "results")
    manifest = choose_sweep(storage, space(), extend=False, fresh=False)
    write_manifest(storage, manifest, space())
    for share, uri in ((True, storage.uri), (False, "")):
        settings = WorkerSettings(
            manifest.sweep, storage.uri, "tests.search.fakes:train", 0.0, tmp_path, share=share, prepared_bytes=2**30
        )
        _Worker(mailbox, settings, 0, 1)
        assert node_cache._settings == NodeCacheSettings(manifest.sweep, uri, 2**30)


@pytest.mark.parametrize(
    ("prepared", "folder", "bucket"), [("auto", False, True), ("storage", True, True), ("node", False, False)]
)
def test_a_bucket_is_shared_by_default_and_a_folder_by_choice(prepared: str, folder: bool, bucket: bool) -> None:
    resources = ResourcesSection(prepared=prepared)
    assert (resources.shares_prepared("./results"), resources.shares_prepared("s3://lab/results")) == (folder, bucket)


def test_node_with_another_version_than_the_driver_starts_no_lane(tmp_path: Path) -> None:
    settings = WorkerSettings("s", "r", "m:f", 0.0, tmp_path)
    check_version(settings)
    with pytest.raises(LaneMustRestart, match=r"and the driver 9\.9\.9; install the driver's version there"):
        check_version(replace(settings, version="9.9.9"))

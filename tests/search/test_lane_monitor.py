"""Lanes that are lost: when a sweep is aborted, when lanes are reduced, and the reasons that the log states."""

from __future__ import annotations

import logging
import re
import time
import traceback
from typing import NoReturn

import pytest
import ray
from ray._private.utils import format_error_message
from ray.exceptions import ActorDiedError, RayTaskError

from amsam_ray.search.budget import Budget, StopConditions
from amsam_ray.search.observers import EventLog, StartupLog
from amsam_ray.search.ray.lane import LaneError
from amsam_ray.search.ray.tune_adapter import LaneMonitor, _cause
from amsam_ray.search.trials import TrialOutcome, TrialSpec
from tests.search.spaces import space
from tests.search.test_state import completed, error, make_state


class FakeCapacity:
    """Collects how far the lanes are to be reduced, and the number of started trials."""

    wanted = 2

    def __init__(self) -> None:
        self.reduced: list[int] = []
        self.started = 0

    def trial_started(self) -> None:
        self.started += 1

    def trial_ended(self) -> None:
        pass

    def no_room(self, lanes: int) -> None:
        self.reduced.append(lanes)


@pytest.fixture
def conditions() -> StopConditions:
    return StopConditions(Budget())


@pytest.fixture
def capacity() -> FakeCapacity:
    return FakeCapacity()


@pytest.fixture
def monitor(conditions: StopConditions, capacity: FakeCapacity) -> LaneMonitor:
    return LaneMonitor(conditions, capacity)  # type: ignore[arg-type]


@pytest.fixture
def trial() -> TrialSpec:
    found = make_state(space()).next_trial()
    assert found
    return found


def test_sweep_is_aborted_when_lanes_repeatedly_fail_to_start(monitor: LaneMonitor, conditions: StopConditions) -> None:
    for _ in range(4):  # two more than the lanes wanted
        monitor.lane_lost("no module named torch", "start")
    assert conditions.stop_code is None
    monitor.lane_lost("no module named torch", "start")
    assert (conditions.stop_code, conditions.stop_reason) == ("aborted", "lanes do not start: no module named torch")
    assert conditions.stop_now


def test_finished_trial_resets_the_count_of_failed_starts(
    monitor: LaneMonitor, conditions: StopConditions, trial: TrialSpec
) -> None:
    for _ in range(3):
        for _ in range(4):
            monitor.lane_lost("its node died", "start")
        monitor.trial_started(trial)
        monitor.trial_ended(trial, completed(trial), completed(trial))
    assert conditions.stop_code is None


def test_failed_attempt_does_not_reset_the_count(
    monitor: LaneMonitor, conditions: StopConditions, trial: TrialSpec
) -> None:
    for _ in range(5):
        monitor.lane_lost("its node died", "start")
        monitor.trial_started(trial)
        monitor.trial_ended(trial, error(trial), None)
    assert conditions.stop_code == "aborted"


def test_lanes_that_start_on_lost_nodes_do_not_abort_the_sweep(
    monitor: LaneMonitor, conditions: StopConditions, capacity: FakeCapacity
) -> None:
    for _ in range(10):
        monitor.lane_lost("the lane's node was lost", "node")
    assert conditions.stop_code is None and not capacity.reduced


def test_lane_without_room_reduces_the_lanes_to_the_running_ones(
    monitor: LaneMonitor, conditions: StopConditions, capacity: FakeCapacity, trial: TrialSpec
) -> None:
    monitor.trial_started(trial)
    assert capacity.started == 1
    monitor.lanes_busy(1)
    for _ in range(10):
        monitor.lane_lost("the cluster had no room for the lane's workers", "room")
    monitor.trial_ended(trial, completed(trial), completed(trial))
    monitor.lanes_busy(0)
    monitor.lane_lost("the cluster had no room for the lane's workers", "room")
    assert capacity.reduced == [1] * 10 + [0] and conditions.stop_code is None


@pytest.mark.parametrize("stage", ["running", "start", "room", "node"])
def test_log_states_the_stage_of_a_lost_lane(stage: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        EventLog().lane_lost("why", stage)  # type: ignore[arg-type]
    assert [record.message for record in caplog.records] == [f"Lane lost ({stage}): why"]


def test_log_of_an_attempt_ends_with_its_traceback_if_there_is_one(
    trial: TrialSpec, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        EventLog().trial_ended(trial, error(trial), None)
        raised = TrialOutcome(trial.trial_id, "error", reason="ValueError: no", traceback="Traceback: ...")
        EventLog().trial_ended(trial, raised, None)
    dead, failed = (record.message for record in caplog.records)
    assert dead == f"{trial.trial_id}, attempt 1: it broke"
    assert failed == f"{trial.trial_id}, attempt 1: ValueError: no\nTraceback: ..."


# What ended a lane


def setup_failure(error: Exception) -> ActorDiedError:
    """The error of an actor whose constructor raised, as Ray builds it."""

    def frame() -> NoReturn:  # Ray drops the outermost frame, which is its own
        raise error

    try:
        frame()
    except Exception as raised:
        text = format_error_message("".join(traceback.format_exception(raised)), task_exception=True)
        return ActorDiedError(RayTaskError("Lane.__init__", text, raised))


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        (ValueError("no such folder"), "ValueError: no such folder"),
        (RuntimeError("CUDA error\nCompile with more flags\n\nto see more"), "RuntimeError: CUDA error"),
        (KeyError("lane"), "KeyError: 'lane'"),
    ],
)
def test_failed_setup_is_stated_by_the_exception_of_the_actor(raised: Exception, line: str) -> None:
    assert _cause(setup_failure(raised)) == (f"a lane cannot be set up: {line}", "start")


def test_reason_of_a_lane_error_is_found_below_rays_wrappers() -> None:
    wrapped = RayTaskError("step", "traceback", LaneError("hung: no heartbeat for 60 s"))
    assert _cause(wrapped) == ("hung: no heartbeat for 60 s", "running")
    assert _cause(LaneError("the cluster had no room for the lane's workers", "room"))[1] == "room"


def test_dead_process_is_stated_without_rays_text() -> None:
    assert _cause(ActorDiedError()) == ("the lane's process died", "running")
    assert _cause(ray.exceptions.ActorUnavailableError("away", None))[0] == "the lane's process died"
    assert _cause(None) == ("the lane died", "running")
    assert _cause(OSError("disk\nfull")) == ("OSError: disk full", "running")


def test_log_states_the_phases_of_the_start_once(trial: TrialSpec, caplog: pytest.LogCaptureFixture) -> None:
    log = StartupLog(time.time() - 5)
    log.reached("checks and records")
    log.reached("Ray")
    with caplog.at_level(logging.INFO):
        log.trial_started(trial)
        log.trial_ended(trial, error(trial), None)
        assert not caplog.records, "a retried attempt has no record"
        for _ in range(2):
            log.trial_started(trial)
            log.trial_ended(trial, completed(trial), completed(trial))
    phases = r"Start-up: checks and records 5\.\d s, Ray 0\.0 s, lanes 0\.0 s, first trial 0\.0 s; 5\.\d s in all"
    assert len(caplog.records) == 1 and re.fullmatch(phases, caplog.records[0].message)

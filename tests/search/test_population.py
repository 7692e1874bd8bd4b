"""Lanes that train populations, on real Ray: the same trials as one by one, and the faults of a member."""

from __future__ import annotations

import logging
import os
import re
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest

from amsam_ray.config.networks import BackboneConfig
from amsam_ray.config.space import ResourcesSection
from amsam_ray.config.space_file import load_space
from amsam_ray.config.trial import TrialConfig
from amsam_ray.records.schema import Record
from amsam_ray.search.budget import Budget, StopConditions
from amsam_ray.search.cells import make_cells
from amsam_ray.search.populations import population_sizes
from amsam_ray.search.state import SweepState
from amsam_ray.search.trials import TrialSpec
from amsam_ray.training.trial import train_trial
from tests.search.driving import PATIENCE, Driver, ray_processes, until
from tests.search.spaces import space
from tests.search.test_state import make_state
from tests.training.toys import random_nano

TOLERANCE = 1e-5
PIXELS = 1e-2  # of scores that count pixels: rounding moves a pixel whose probability is at the threshold


def real_sweep(folder: Path, backbone: BackboneConfig, *, population: int, **search: Any) -> Driver:
    """Return a sweep of real trials in one lane."""
    source = space(
        methods=({"name": "blo_sam", "params": {"hypergradient": "first_order"}},),
        objective="mae",  # a mean over pixels and not a count: it shows every difference
        resources={"lanes": 1, "population": population},
        space={"lr": {"loguniform": [1e-4, 1e-3]}, "lambda": {"uniform": [0.5, 1.0]}, "rank": {"int": [1, 6]}},
        **search,
    )
    driver = Driver(folder, source.model_copy(update={"backbone": backbone}))
    driver.more = ["--trial-function", "amsam_ray.training.trial:train_trial"]
    return driver


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    """A sweep with early stopping."""
    folder = tmp_path_factory.mktemp("population")
    asha = {"name": "asha", "grace_epochs": 1, "reduction": 2}
    driver = real_sweep(folder, random_nano(folder), population=4, trials=6, epochs=4, scheduler=asha)
    assert driver.run() == 0, driver.terminal()
    return driver


def alone(record: Record, folder: Path) -> tuple[dict[int, float], dict[str, float], int, list[dict[str, float]]]:
    """Train a recorded trial by itself, with the decisions of its rungs."""
    rungs: dict[int, float] = {}

    def report(epoch: int, score: float) -> bool:
        rungs[epoch] = score
        return record.status == "pruned" and epoch == record.epochs_run

    result = train_trial(
        TrialConfig.model_validate(record.config),
        cache_dir=folder / "cache",
        work_dir=folder / "work",
        rungs=(1, 2) if record.role == "search" else (),
        report=report,
    )
    return rungs, {**result.val, **(result.test or {})}, result.best_epoch, result.curve


@pytest.mark.timeout(900)
def test_population_records_the_trials_that_one_by_one_records(swept: Driver, tmp_path: Path) -> None:
    records = swept.assert_complete()
    search = [record for record in records if record.role == "search"]
    state = make_state(load_space(swept.folder / "space.yaml"))
    expected = {trial.trial_id: trial for trial in (state.next_trial() for _ in range(6)) if trial}
    assert {record.trial for record in search} == set(expected) and len(expected) == 6
    assert len(records) - len(search) in (2, 4), (
        "two seeds of the best, and of the published setting if that is another"
    )
    for record in records:
        assert record.attempt == 1 and record.status in ("completed", "pruned")
        if record.role == "search":
            assert TrialConfig.model_validate(record.config) == expected[record.trial].config
        rungs, scores, best, curve = alone(record, tmp_path)
        assert record.rung_scores == pytest.approx(rungs, abs=TOLERANCE)
        found = {**record.val, **(record.test or {})}
        assert found == pytest.approx(scores, abs=PIXELS, rel=PIXELS)
        assert found["mae"] == pytest.approx(scores["mae"], abs=TOLERANCE)
        assert record.best_epoch == best
        assert record.curve == [pytest.approx(entry, abs=TOLERANCE) for entry in curve]
    assert "pruned" in {record.status for record in search}


@pytest.mark.timeout(900)
def test_members_of_a_population_run_at_the_same_time(swept: Driver) -> None:
    search = sorted((r for r in swept.records() if r.role == "search"), key=lambda record: record.started)
    assert any(later.started < earlier.finished for earlier, later in pairwise(search))


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", ["raise", "exit", "hang"])
def test_fault_of_a_member_costs_no_other_trial(tmp_path: Path, fault: str) -> None:
    source = space(trials=5, retries=0, timeout_s=12, resources={"lanes": 1, "population": 3})
    driver = Driver(tmp_path, source)
    driver.fake = {"seconds": 0.3, "faults": {driver.seed("lesions.k4.am_sam", 1): fault}}
    assert driver.run() == 0, driver.terminal()
    records = driver.assert_complete()
    by_status = {record.number: record.status for record in records if record.role == "search"}
    assert by_status == {0: "completed", 1: "failed", 2: "completed", 3: "completed", 4: "completed"}


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_killed_worker_of_a_population_loses_no_trial(tmp_path: Path) -> None:
    driver = real_sweep(tmp_path, random_nano(tmp_path), population=4, trials=8, epochs=30)
    with driver.start() as process:
        until(lambda: driver.recorded() > 0)  # the next trials have taken the places of those that ended
        (worker,) = ray_processes(process.pid)["ray::RayTrainWorker"]
        os.kill(worker, signal.SIGKILL)
        assert process.wait(PATIENCE) == 0, driver.terminal()
    assert len(re.findall("attempt 1: the lane's training worker died", driver.logs())) >= 2
    records = driver.assert_complete()
    assert {record.number for record in records if record.role == "search"} == set(range(8))
    for record in records:
        assert (record.status, record.attempt) == ("completed", 1)
        _, scores, best, curve = alone(record, tmp_path)
        found = {**record.val, **(record.test or {})}
        # Rounding errors grow while a model trains, those of a lone trial with other roundings as well.
        assert record.best_epoch == best and found["mae"] == pytest.approx(scores["mae"], abs=10 * TOLERANCE)
        assert record.curve[:10] == [pytest.approx(entry, abs=TOLERANCE) for entry in curve[:10]]
        assert record.curve == [pytest.approx(entry, abs=10 * TOLERANCE) for entry in curve]


@pytest.fixture
def state() -> SweepState:
    return make_state(space(datasets=1, methods=("am_sam", "samed"), trials=2))


def first_trials(state: SweepState) -> list[TrialSpec]:
    return [trial for trial in (state.next_trial(), state.next_trial()) if trial]


@pytest.mark.parametrize(("wanted", "sizes"), [(4, {"am_sam": 4, "samed": 1}), ("auto", {"am_sam": 1, "samed": 1})])
def test_cells_that_train_one_by_one_are_logged(
    state: SweepState, wanted: int | Literal["auto"], sizes: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        population = population_sizes([cell.cell for cell in state.cells], wanted, 1)
    assert population is not None
    assert {trial.config.method: population(trial) for trial in first_trials(state)} == sizes
    assert "lesions.k4.samed: population of 1: the method trains inside the encoder" in caplog.text


def test_data_parallel_lanes_train_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    cells = make_cells(space())
    with caplog.at_level(logging.INFO):
        assert population_sizes(cells, 4, 2) is None and population_sizes(cells, 1, 1) is None
    assert "2 data-parallel workers" in caplog.text


def test_population_is_off_by_default_and_leaves_old_space_files_as_they_are() -> None:
    assert ResourcesSection().population == 1
    assert "population" not in ResourcesSection().model_dump()
    assert ResourcesSection(population="auto").model_dump()["population"] == "auto"


def test_gpu_hours_count_lanes_and_not_their_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("amsam_ray.search.budget.time.monotonic", lambda: now)
    conditions = StopConditions(Budget(gpu_hours=3.0))
    conditions.gpus = 2.0
    conditions.lanes_busy(1)
    now = 3600.0
    conditions.lanes_busy(0)
    now = 7200.0
    assert conditions.gpu_hours == 2.0 and conditions.may_start()
    conditions.lanes_busy(2)
    now = 7200.0 + 900.0
    assert conditions.gpu_hours == 3.0 and conditions.stop_code == "gpu_hours"

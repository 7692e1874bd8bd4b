"""Whole sweeps on real Ray with a fake trial: faults in trials, a killed driver, an interrupt."""

from __future__ import annotations

import itertools
import signal
import time
from pathlib import Path

import pytest

from tests.search.driving import Driver, until
from tests.search.spaces import space

pytestmark = pytest.mark.timeout(1800)
CELL = "lesions.k4.am_sam"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    """A sweep whose trials meet one kind of fault each."""
    asha = {"name": "asha", "grace_epochs": 5, "reduction": 2}
    source = space(methods=("am_sam", "sam"), trials=8, retries=0, timeout_s=12, scheduler=asha)
    driver = Driver(tmp_path_factory.mktemp("faulty"), source)
    faults = {1: "raise", 2: "memory", 3: "diverge", 4: "exit", 5: "hang"}
    driver.fake = {"seconds": 0.3, "faults": {driver.seed(CELL, n): fault for n, fault in faults.items()}}
    assert driver.run() == 0, driver.terminal()
    return driver


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (1, "ValueError (fakes.py:"),
        (2, "out of memory (fakes.py:"),
        (3, "diverged at epoch 2"),
        (4, "the lane's training worker died"),
        (5, "hung: no heartbeat for 12 s"),
    ],
)
def test_fault_is_recorded_with_its_reason(faulty: Driver, number: int, reason: str) -> None:
    record = next(r for r in faulty.records() if r.trial == f"{CELL}.t{number:04d}")
    assert record.status == "failed" and record.reason and record.reason.startswith(reason)
    starts = [s for s in faulty.starts() if str(s["seed"]) == faulty.seed(CELL, number)]
    assert len(starts) == record.attempt == 1


def test_sweep_with_faults_finishes(faulty: Driver) -> None:
    records = faulty.assert_complete()
    finals = [r for r in records if r.role == "final"]
    assert {r.trial for r in records if r.role == "search"} == {
        *(f"{CELL}.t{n:04d}" for n in range(8)),
        "lesions.k4.sam.t0000",
    }
    assert {r.label for r in finals} == {"am_sam", "sam"} and len(finals) == 3
    assert {r.status for r in finals} == {"completed"}
    assert any(CELL.rpartition(".")[2] in row for row in faulty.leaderboard())


def test_lanes_are_reused(faulty: Driver) -> None:
    # Two lanes, and one more for each of the two faults that ended a lane.
    assert len({s["pid"] for s in faulty.starts()}) <= 2 + 2


def test_terminal_is_quiet_and_the_log_has_no_dead_actors(faulty: Driver) -> None:
    shown = faulty.terminal()
    assert "Traceback" not in shown and "ray::" not in shown
    assert "trials" in shown and "log in" in shown
    after_end = faulty.logs()
    assert "ActorDiedError" not in after_end


def test_dashboard_files_are_readable(faulty: Driver) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    (journal,) = faulty.results.glob("sweeps/*/optuna.journal")
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.load_study(study_name=CELL, storage=storage)
    assert len(study.trials) == 8 and study.best_value > 0
    curves = {path.name for path in faulty.results.glob("sweeps/*/tensorboard/*")}
    assert {r.trial for r in faulty.records() if r.curve} == curves


def most_at_once(driver: Driver) -> int:
    """Return how many trials ran at the same time."""
    records = driver.records()
    moments = [(r.started, 1) for r in records] + [(r.finished, -1) for r in records]
    return max(itertools.accumulate(step for _, step in sorted(moments)))


def test_killed_sweep_continues_and_equals_an_undisturbed_one(tmp_path: Path) -> None:
    source = space(datasets=2, trials=10)
    disturbed = Driver(tmp_path / "disturbed", source, {"seconds": 0.4})
    with disturbed.start() as process:
        until(lambda: disturbed.recorded() >= 8)
        process.kill()
    before = {r.trial: r.to_bytes() for r in disturbed.records()}
    with disturbed.start() as process:
        until(lambda: disturbed.recorded() > len(before) + 2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert "interrupted: finishing running trials" in disturbed.terminal()
    disturbed.fake = {"seconds": 2.0}  # the second lane starts after the first one's trial, which takes it a while
    assert disturbed.run() == 0
    after = {r.trial: r.to_bytes() for r in disturbed.assert_complete()}
    # One cell chose the published setting, the other one has finals of both.
    assert before.items() <= after.items() and len(after) == 2 * 10 + 2 + 4
    assert most_at_once(disturbed) == 2
    # Trials that were running when the driver died ran again; recorded ones did not.
    seeds = [s["seed"] for s in disturbed.starts()]
    assert len(seeds) <= len(after) + 2

    undisturbed = Driver(tmp_path / "undisturbed", source)
    assert undisturbed.run() == 0
    assert undisturbed.leaderboard() == disturbed.leaderboard()
    assert disturbed.run(timeout=60) == 0  # nothing is left to do, and Ray is not even started
    assert [s["seed"] for s in disturbed.starts()] == seeds


def interrupt(driver: Driver, after: float) -> None:
    """Send Ctrl-C before the first trial; the run must end at once."""
    with driver.start() as process:
        until(lambda: "starting Ray" in driver.terminal())
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert "Traceback" not in driver.terminal()


def test_interrupt_before_the_first_trial_ends_the_run_at_once(tmp_path: Path) -> None:
    driver = Driver(tmp_path, space(trials=2), {"seconds": 0.2})
    interrupt(driver, 0.5)  # while Ray starts
    interrupt(driver, 6.0)  # while its lanes do
    lines = [line for line in driver.terminal().splitlines() if " trials, " in line]
    assert "starting Ray" not in lines[-1]
    assert driver.run() == 0
    assert "4 of 4 trials are recorded" in driver.terminal()
    lines = [line for line in driver.terminal().splitlines() if " trials, " in line]
    assert "4/4 trials, 0 running" in lines[-1]
    assert driver.run() == 0
    assert "4 of 4 trials are recorded; nothing was left to run" in driver.terminal()

    victim = next(driver.results.glob("sweeps/*/records/*.t0001.json"))
    victim.write_text(victim.read_text()[:100])
    assert driver.run("--dry-run") == 0
    assert f"warning: {victim.relative_to(driver.results)}: " in driver.terminal()
    # Before the search is over, the plan counts finals of both the best and the published setting.
    assert "1 cell, 6 trials, 3 to run" in driver.terminal()

    # The trial of a damaged record runs again; the new record replaces the file, which is kept.
    damaged = victim.read_text()
    assert driver.run() == 0
    assert len(driver.assert_complete()) == 4
    (kept,) = driver.results.glob("sweeps/*/damaged/*.json")
    assert kept.read_text() == damaged


def test_cell_with_unreadable_images_is_deferred_and_the_others_continue(tmp_path: Path) -> None:
    driver = Driver(tmp_path, space(datasets=2, trials=1, retries=0))
    broken, failing = driver.seed(CELL, 0), driver.seed("polyps.k4.am_sam", 0)
    driver.fake = {"faults": {broken: "data", failing: "raise"}}
    assert driver.run() == 1
    text = driver.terminal()
    assert f"not finished ({CELL} cannot read its images: ImageError (fakes.py:" in text and "photo.jpg" in text
    assert "Every trial failed in polyps.k4.am_sam" in text and "1 of them as failed" in text
    assert [record.trial for record in driver.records()] == ["polyps.k4.am_sam.t0000"]
    assert "ValueError: the labels are upside down" in driver.logs() and "Traceback" in driver.logs()
    driver.fake = {}  # repaired
    assert driver.run() == 1  # the failure stays recorded
    assert [r.status for r in driver.assert_complete()] == ["completed"] * 3 + ["failed"]

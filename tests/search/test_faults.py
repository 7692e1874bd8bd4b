"""Sweeps whose processes are killed at random have the same results as undisturbed ones."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from amsam_ray.config.space_file import sweep_id
from amsam_ray.storage.open import open_storage
from tests.s3.moto import moto_server
from tests.search.driving import Driver, ray_processes, until
from tests.search.fakes import toy
from tests.search.spaces import LAMBDA, LR, space

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3000)]
LONG = 2400.0
KILLS = 10  # in each of four sweeps
CELL = "lesions.k4.am_sam"
# A kill counts as an attempt of the trial, so allow for all kills to hit the same trial.
SIXTY: dict[str, Any] = {"datasets": 2, "trials": 28, "finals": {"top_k": 1, "seeds": 2}, "retries": 4 * KILLS}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    driver = Driver(tmp_path_factory.mktemp("undisturbed"), space(**SIXTY))
    assert driver.run(timeout=LONG) == 0
    return driver


def assert_same_results(driver: Driver, undisturbed: Driver) -> None:
    records = driver.assert_complete()
    assert len(records) == len(undisturbed.records()) >= 60
    assert {r.status for r in records} == {"completed"}
    assert driver.leaderboard() == undisturbed.leaderboard()
    finished = {str(r.seed): r.finished.timestamp() for r in records if r.role == "search"}
    late = [s for s in driver.starts() if s["at"] > finished.get(str(s["seed"]), float("inf"))]
    assert not late, "a trial ran again after it was recorded"


class Killer:
    """Kills one process at a time, after every few recorded trials."""

    def __init__(self, driver: Driver, seed: int, targets: dict[str, Callable[[subprocess.Popen[str]], bool]]):
        self.driver, self.random, self.targets = driver, random.Random(seed), targets
        self.done: list[str] = []

    def run(self, *arguments: str) -> None:
        """Run the sweep to its end while processes are killed."""
        with contextlib.ExitStack() as stack:
            process = stack.enter_context(self.driver.start(*arguments))
            while len(self.done) < KILLS:
                reached = 5 * (len(self.done) + 1)
                until(lambda: self.driver.recorded() >= reached or process.poll() is not None, LONG)  # noqa: B023
                if process.poll() is not None:
                    process = stack.enter_context(self.driver.start(*arguments))
                    continue
                time.sleep(self.random.uniform(0, 0.5))
                kind = self.random.choice(sorted(self.targets))
                if self.targets[kind](process):
                    self.done.append(kind)
            if process.wait(LONG) != 0:
                assert self.driver.run(*arguments, timeout=LONG) == 0


def kill_driver(process: subprocess.Popen[str]) -> bool:
    process.kill()
    process.wait()
    return True


def kill_ray(name: str, rng: random.Random) -> Callable[[subprocess.Popen[str]], bool]:
    """Return a function that kills one of the driver's Ray processes whose title begins with ``name``."""

    def kill(process: subprocess.Popen[str]) -> bool:
        pids = [p for title, ps in ray_processes(process.pid).items() if title.startswith(name) for p in ps]
        for pid in rng.sample(sorted(pids), k=min(1, len(pids))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    return kill


@pytest.mark.parametrize("seed", range(3))
def test_thirty_random_kills_of_processes(tmp_path: Path, undisturbed: Driver, seed: int) -> None:
    driver = Driver(tmp_path, space(**SIXTY), {"seconds": 0.5})
    rng = random.Random(seed)
    targets = {name: kill_ray(name, rng) for name in ("ray::RayTrainWorker", "ray::Mailbox", "ray::Lane")}
    killer = Killer(driver, seed, {**targets, "driver": kill_driver})
    killer.run()
    assert len(killer.done) == KILLS
    assert_same_results(driver, undisturbed)


@contextlib.contextmanager
def local_cluster() -> Iterator[Any]:
    """A Ray cluster on this machine with one raylet at first, started as a user's cluster would be."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield cluster
    finally:
        cluster.shutdown()


def test_ten_random_kills_of_a_second_node_and_the_driver(
    tmp_path: Path, undisturbed: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(tmp_path, space(**SIXTY), {"seconds": 0.5})
    for name, value in driver.environment.items():
        monkeypatch.setenv(name, value)
    with local_cluster() as cluster:
        cluster.add_node(num_cpus=1)

        def kill_node(process: subprocess.Popen[str]) -> bool:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
            cluster.add_node(num_cpus=1)
            return True

        killer = Killer(driver, 3, {"raylet": kill_node, "driver": kill_driver})
        killer.run("--address", cluster.address)
    assert len(killer.done) == KILLS and set(killer.done) == {"raylet", "driver"}
    assert_same_results(driver, undisturbed)


@pytest.mark.cluster
def test_sweep_uses_a_node_that_is_added_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(tmp_path, space(trials=300), {"seconds": 0.5})
    for name, value in driver.environment.items():
        monkeypatch.setenv(name, value)
    with local_cluster() as cluster, driver.start("--address", cluster.address, "--max-trials", "200") as process:
        until(lambda: driver.recorded() >= 3, LONG)
        assert len({start["node"] for start in driver.starts()}) == 1
        cluster.add_node(num_cpus=1)  # a lane follows
        assert process.wait(LONG) == 0
    driver.assert_complete()
    assert len({start["node"] for start in driver.starts()}) == 2


def test_sweep_writes_its_results_to_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_server() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        driver = Driver(tmp_path, space(trials=4), storage=f"s3://{server.bucket}/lab")
        assert driver.run("--max-trials", "3", timeout=LONG) == 0
        assert len(driver.records()) == 3 and "the budget of trials is spent" in driver.terminal()
        assert driver.run(timeout=LONG) == 0
        assert len(driver.assert_complete()) == 4 + 2
        keys = {entry.key for entry in open_storage(driver.storage).list("")}
    assert {"leaderboards/all.csv", f"sweeps/{sweep_id(driver.space)}/optuna.journal"} <= keys


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("segfault", "the lane's training worker died"), ("hang_in_c", "hung: no heartbeat for 15 s")],
)
def test_crashes_and_hangs_below_python_are_recorded(tmp_path: Path, fault: str, reason: str) -> None:
    driver = Driver(tmp_path, space(trials=3, retries=1, timeout_s=15))
    driver.fake = {"faults": {driver.seed(CELL, 1): fault}}
    assert driver.run(timeout=LONG) == 0
    (failed,) = [r for r in driver.assert_complete() if r.status == "failed"]
    assert failed.number == 1 and failed.attempt == 2 and failed.reason and failed.reason.startswith(reason)


def test_lanes_match_sequential_optuna_with_half_the_epochs(tmp_path: Path) -> None:
    trials, epochs = 60, 81
    asha = {"name": "asha", "grace_epochs": 3, "reduction": 3}
    keys = {"lr": LR, "lambda": LAMBDA}
    source = space(sampler="tpe", startup_trials=10, trials=trials, epochs=epochs, scheduler=asha, space=keys)
    driver = Driver(tmp_path, source)
    assert driver.run(timeout=LONG) == 0
    searched = [r for r in driver.assert_complete() if r.role == "search"]
    assert len(searched) == trials
    best = max(toy(r.params["lr"], r.params["lambda"]) for r in searched if r.status == "completed")

    def objective(trial: optuna.Trial) -> float:
        return toy(trial.suggest_float("lr", 1e-4, 1e-1, log=True), trial.suggest_float("lambda", 0.5, 1.0))

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    plain = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    plain.optimize(objective, n_trials=trials)
    assert best >= 0.98 * plain.best_value
    assert sum(r.epochs_run for r in searched) <= 0.5 * trials * epochs

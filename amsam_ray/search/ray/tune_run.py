"""One Ray Tune run over all cells of a sweep. Import only after ``cluster.prepare_environment``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune

from amsam_ray.search.asha import Asha
from amsam_ray.search.assignment import Assignment, Outcome
from amsam_ray.search.dispatcher import Desk, Watcher
from amsam_ray.search.ray.capacity import LANE_CPUS, Capacity
from amsam_ray.search.ray.lane import Lane, LaneSettings, Stage
from amsam_ray.search.ray.not_pickled import NotSaved
from amsam_ray.search.ray.placement_groups import LaneGroups
from amsam_ray.search.ray.tune_adapter import LaneScheduler, LaneSearcher, MailboxSender
from amsam_ray.search.stop_conditions import Gate
from amsam_ray.search.trial_queue import Dealer

# A lane that comes up imports torch and more; on a busy machine with many lanes that takes its time.
_START_TIMEOUT_S = 300.0
_NAME = "lanes"


class _GateStopper(NotSaved, tune.Stopper):
    """Lets the gate end a Tune run."""

    def __init__(self, gate: Gate):
        self._gate = gate

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._gate.stop_now


class LaneWatch:
    """Ends a sweep whose lanes do not come up, and backs off where others use the cluster.

    Args:
        gate: closed when lanes fail to start again and again.
        capacity: told when there was no room.
    """

    def __init__(self, gate: Gate, capacity: Capacity):
        self._gate, self._capacity = gate, capacity
        self._running = self._failed_starts = 0

    def began(self, assignment: Assignment) -> None:
        """One more lane is at work."""
        self._running += 1

    def ended(self, assignment: Assignment, attempt: Outcome, recorded: Outcome | None) -> None:
        """A lane that runs trials has started well."""
        self._running -= 1
        if attempt.status != "error":
            self._failed_starts = 0

    def lost(self, reason: str, stage: Stage) -> None:
        """Look at why a lane came to nothing."""
        if stage == "room":
            self._capacity.no_room(self._running)
            return
        self._failed_starts += 1
        if self._failed_starts > 2 + self._capacity.wanted:
            self._gate.fail(f"lanes do not start: {reason}")


def tune_cells(
    dealer: Dealer,
    *,
    ladders: dict[str, Asha],
    gate: Gate,
    capacity: Capacity,
    settings: LaneSettings,
    watchers: Sequence[Watcher],
    folder: Path,
) -> None:
    """Run until every cell has all its records or the gate closes.

    Args:
        dealer: gives out the trials.
        ladders: by cell id.
        gate: closed by budgets, interrupts and faults.
        capacity: how many lanes there may be.
        settings: how a lane is built.
        watchers: told of every trial.
        folder: throw-away; Tune's own notes go there.
    """
    desk = Desk(
        dealer,
        ladders,
        room=capacity.lanes,
        may_start=gate.may_start,
        watchers=[gate, LaneWatch(gate, capacity), *watchers],
        connect=MailboxSender,
        groups=LaneGroups(capacity.size),
    )
    searcher = LaneSearcher(desk, settings)
    # The workers take the resources, through the placement group of the lane's Train run.
    trainable = tune.with_resources(Lane, tune.PlacementGroupFactory([{"CPU": LANE_CPUS}]))
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=LaneScheduler(desk, searcher.errors),
            num_samples=-1,
            reuse_actors=False,
            trial_name_creator=_short_name,
            trial_dirname_creator=_short_name,
        ),
        run_config=tune.RunConfig(
            name=_NAME,
            storage_path=str(folder / "tune"),
            stop=_GateStopper(gate),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, checkpoint_frequency=0),
        ),
    ).fit()


def lane_settings(capacity: Capacity, worker: Any, *, timeout_s: float, folder: Path) -> LaneSettings:
    """How the lanes of a sweep are built.

    Args:
        capacity: knows their size.
        worker: WorkerSettings.
        timeout_s: without a sign of life from a trial.
        folder: throw-away.
    """
    size = capacity.size
    return LaneSettings(
        worker=worker,
        workers=size.workers,
        cpus=size.worker_cpus,
        gpus=size.gpus,
        timeout_s=timeout_s,
        start_timeout_s=_START_TIMEOUT_S,
        run_dir=folder,
    )


def _short_name(trial: Any) -> str:
    return str(trial.trial_id)

"""A sweep from its space file to its leaderboard."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from amsam_ray import __version__
from amsam_ray.config.space import SpaceFile
from amsam_ray.data.definition import check_dataset_config
from amsam_ray.errors import AmsamError, InputError, Problem
from amsam_ray.paths import spool_dir
from amsam_ray.records.io import list_records, replace_damaged
from amsam_ray.records.leaderboard import update_leaderboards
from amsam_ray.records.schema import record_key
from amsam_ray.search.asha import Asha
from amsam_ray.search.assignment import Assignment, Outcome
from amsam_ray.search.cells import make_cells
from amsam_ray.search.dashboards import Scribe
from amsam_ray.search.lease import Lease
from amsam_ray.search.manifest import choose_folder, write_folder
from amsam_ray.search.progress import CellProgress, ladder_epochs
from amsam_ray.search.ray.cluster import check_ray, connected
from amsam_ray.search.recording import Recorder
from amsam_ray.search.resume import read_history
from amsam_ray.search.samplers import check_sampler
from amsam_ray.search.status import Board, Snapshot
from amsam_ray.search.stop_conditions import Budget, Gate, interruptible
from amsam_ray.search.trial_queue import Dealer
from amsam_ray.storage.base import Storage, UnavailableError
from amsam_ray.storage.open import check_storage, open_storage
from amsam_ray.storage.spool import Spool

if TYPE_CHECKING:
    from amsam_ray.search.ray.capacity import Capacity

logger = logging.getLogger(__name__)

TRIAL_FUNCTION = "amsam_ray.training.trial:train_trial"
# How long results that the storage would not take are offered when a run ends: it outlasts a restart of the server.
_LAST_TRY_S = 300.0

View = Callable[[Callable[[], Snapshot]], AbstractContextManager[None]]


@dataclass(frozen=True)
class RunOptions:
    """How one run of a sweep goes about it.

    Attributes:
        address: of a running Ray cluster; None: this machine.
        extend: go on with the newest sweep of this name although the space file has changed.
        fresh: begin a new folder; deletes nothing.
        budget: limits of this run.
        trial_function: ``module:function`` with the signature of ``amsam_ray.training.trial.train_trial``.
    """

    address: str | None = None
    extend: bool = False
    fresh: bool = False
    budget: Budget = field(default_factory=Budget)
    trial_function: str = TRIAL_FUNCTION


@dataclass(frozen=True)
class SweepOutcome:
    """How a run of a sweep ended.

    Attributes:
        sweep: its id.
        finished: whether every cell has all its records; otherwise running it again continues.
        why: why it ended before it was finished.
        snapshot: the last state.
        problems: files among the records that could not be read.
        waiting: keys of results that the storage has not taken yet; they wait on the disk of the node that made them.
        ran: whether there was anything left to run.
        fruitless: ids of the cells all of whose trials have failed.
        put_off: cell id -> which of its images cannot be read; running again goes on there once they can.
    """

    sweep: str
    finished: bool
    why: str | None
    snapshot: Snapshot
    problems: Sequence[Problem] = ()
    waiting: Sequence[str] = ()
    ran: bool = True
    fruitless: Sequence[str] = ()
    put_off: Mapping[str, str] = field(default_factory=dict)


def check_sweep(space: SpaceFile, storage_uri: str, options: RunOptions) -> list[Problem]:
    """Everything that would keep a sweep from running and can be known before it starts. Leaves nothing behind."""
    problems = check_ray(options.address)
    if options.address is None and options.trial_function == TRIAL_FUNCTION:
        problems += _check_weights(space)
    problems += [
        problem
        for index, dataset in enumerate(space.datasets)
        for problem in check_dataset_config(dataset, max(space.shots), f"datasets[{index}]")
    ]
    seen: set[Problem] = set()
    for cell in make_cells(space) if not problems else ():
        seen.update(check_sampler(cell))
    return [*problems, *sorted(seen, key=str), *check_storage(storage_uri)]


def _check_weights(space: SpaceFile) -> list[Problem]:
    """The frozen models' files, where the trials run on this machine; a cluster's nodes may have their own."""
    from amsam_ray.models.detector import check_detector
    from amsam_ray.models.weights import check_backbone

    return [*check_backbone(space.backbone), *check_detector(space.detector)]


def run_sweep(
    space: SpaceFile,
    storage_uri: str,
    options: RunOptions | None = None,
    view: View | None = None,
    *,
    checked: bool = False,
) -> SweepOutcome:
    """Run a sweep, or continue it: what is recorded is not run again.

    Args:
        space: what to search.
        storage_uri: where records and leaderboards go, a folder or ``s3://bucket/prefix``.
        options: see there.
        view: shows progress; a context manager that is given a function which returns the present state.
        checked: whether ``check_sweep`` has just found nothing wrong with this.

    Raises:
        InputError: the space, its data or the storage will not do; nothing was started.
        AmsamError: the sweep could not go on. What is recorded stays, and running it again continues.

    Example:
        >>> from amsam_ray.config.space_file import load_space
        >>> run_sweep(load_space("search_spaces/demo.yaml"), "./results").finished  # doctest: +SKIP
        True
    """
    options = options or RunOptions()
    if not checked and (problems := check_sweep(space, storage_uri, options)):
        raise InputError(problems)
    run = _Run(space, open_storage(storage_uri), options)
    return run.report(ran=False) if run.complete() else run.drive(view)


class _Run:
    """One run of a sweep."""

    def __init__(self, space: SpaceFile, storage: Storage, options: RunOptions):
        self._space, self._storage, self._options = space, storage, options
        self._folder = choose_folder(storage, space, extend=options.extend, fresh=options.fresh)
        self._sweep = self._folder.sweep
        logger.info("amsam-ray %s: sweep %s in %s, %s", __version__, self._sweep, storage.uri, options)
        self._cells = make_cells(space)
        self._gate = Gate(options.budget)
        self._started = time.monotonic()
        self._problems: list[Problem] = []
        self._waiting: list[str] = []
        self._put_off: dict[str, str] = {}
        self._bring_waiting()
        self._load()

    def _bring_waiting(self) -> None:
        """Bring what an earlier run on this machine could not: it counts as recorded."""
        folder = spool_dir(self._storage.uri)
        if folder.exists():
            self._waiting = Spool(folder, self._storage, replace_damaged).close()

    def _load(self) -> None:
        self._board = self._read()

    def _read(self) -> Board:
        history, self._problems = read_history(self._storage, self._sweep, self._cells)
        rungs = ladder_epochs(self._space)
        self._progress = [CellProgress(cell, rungs, history.get(cell.id, ())) for cell in self._cells]
        return Board(self._progress, self._gate, self._started)

    def complete(self) -> bool:
        """Whether everything is recorded already."""
        return all(cell.finished for cell in self._progress)

    def drive(self, view: View | None) -> SweepOutcome:
        """Run what is missing."""
        lease = Lease(self._storage, self._sweep, lambda: self._board.snapshot().as_dict(), self._gate.fail)
        lease.check()  # a second driver should not have to wait for a Ray of its own to be refused
        watched = (view or _no_view)(lambda: self._board.snapshot())  # the board is made anew under the lease
        # Also while Ray starts, which may swallow a KeyboardInterrupt.
        with interruptible(self._gate), watched, connected(self._options.address) as scratch:
            from amsam_ray.search.ray.capacity import Capacity

            remote = self._options.address is not None
            with contextlib.closing(Capacity(self._space.resources, remote=remote)) as capacity:
                lease.take()
                try:
                    self._load()  # another driver may have recorded more until it gave the lease back
                    write_folder(self._storage, self._folder, self._space)
                    self._search(capacity, scratch)
                    return self.report()
                finally:
                    lease.release()

    def _search(self, capacity: Capacity, scratch: Path) -> None:
        from amsam_ray.search.ray.tune_run import lane_settings, tune_cells
        from amsam_ray.search.ray.worker import WorkerSettings

        gpus = capacity.size.total_gpus
        self._gate.gpus = gpus
        self._board.lanes_now, self._board.wanted_lanes = capacity.lanes, capacity.wanted
        worker = WorkerSettings(self._sweep, self._storage.uri, self._options.trial_function, gpus, scratch / "work")
        recorder = Recorder(self._storage.uri, self._sweep, gpus)
        dealer = Dealer(self._progress, self._space.search.retries, recorder.write_failure, self._gate.fail)
        ladders = {
            p.cell.id: Asha(p.rungs, self._space.search.scheduler.reduction, p.cell.maximise) for p in self._progress
        }
        for progress in self._progress:
            for _, outcome in sorted(progress.searched.items()):
                ladders[progress.cell.id].restore(outcome.trial_id, outcome.rung_scores)
        scribe = Scribe(self._storage, self._sweep, self._progress)
        try:
            with interruptible(self._gate):  # again: Ray takes SIGTERM for itself when it starts
                tune_cells(
                    dealer,
                    ladders=ladders,
                    gate=self._gate,
                    capacity=capacity,
                    settings=lane_settings(capacity, worker, timeout_s=self._space.search.timeout_s, folder=scratch),
                    watchers=[self._board, scribe, _Journal()],
                    folder=scratch,
                )
        finally:
            self._put_off = dealer.put_off
            scribe.close()
            recorder.close(_LAST_TRY_S)
            self._waiting = self._not_stored()
        if self._gate.fault:
            raise AmsamError(f"{self._gate.fault}. Run the same command again to continue.")

    def _not_stored(self) -> list[str]:
        """Keys of what this run has recorded and the storage does not hold."""
        outcomes = [o for p in self._progress for o in (*p.searched.values(), *p.finals.values())]
        recorded = {record_key(self._sweep, outcome.trial_id) for outcome in outcomes}
        try:
            return sorted(recorded - {entry.key for entry in list_records(self._storage, [self._sweep])})
        except UnavailableError:
            return sorted(recorded)

    def report(self, *, ran: bool = True) -> SweepOutcome:
        """Write the leaderboards and say how it went."""
        datasets = [dataset.label for dataset in self._space.datasets]
        skipped = update_leaderboards(self._storage, datasets)
        board = self._board
        if not self.complete():
            board = self._read()  # lanes that were told to stop may have recorded a trial without being heard
        finished = self.complete()
        put_off = ", ".join(f"{cell} cannot read its images: {why}" for cell, why in self._put_off.items())
        return SweepOutcome(
            sweep=self._sweep,
            finished=finished,
            why=None if finished else self._gate.why_closed or put_off,
            snapshot=board.snapshot(),
            problems=tuple(dict.fromkeys([*self._problems, *skipped])),
            waiting=self._waiting,
            ran=ran,
            put_off=self._put_off,
            fruitless=[p.cell.id for p in self._progress if p.fruitless],
        )


class _Journal:
    """Notes in the log what came of every trial, and what went wrong in full."""

    def began(self, assignment: Assignment) -> None:
        """Not noted: its end is."""

    def ended(self, assignment: Assignment, attempt: Outcome, recorded: Outcome | None) -> None:
        """An attempt ended."""
        if attempt.status == "error":
            logger.warning(
                "%s, attempt %d: %s\n%s", attempt.trial_id, assignment.attempt, attempt.reason, attempt.trace
            )
        if recorded is not None:
            score = "" if recorded.score is None else f" {recorded.score:.4f}"
            logger.info("%s: %s%s in %.1f s", recorded.trial_id, recorded.status, score, recorded.seconds)

    def lost(self, reason: str, stage: str) -> None:
        """A lane without a trial is gone."""
        logger.warning("A lane was lost (%s): %s", stage, reason)


@contextlib.contextmanager
def _no_view(snapshot: Callable[[], Snapshot]) -> Iterator[None]:
    yield

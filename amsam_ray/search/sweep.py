"""A sweep from its space file to its leaderboards."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from amsam_ray import __version__
from amsam_ray.config.classes import base_label
from amsam_ray.config.space import SpaceFile
from amsam_ray.errors import AmsamError, InputError, Problem
from amsam_ray.paths import spool_dir
from amsam_ray.records.io import replace_damaged
from amsam_ray.records.leaderboard import update_leaderboards
from amsam_ray.records.schema import record_key
from amsam_ray.records.tables import Row
from amsam_ray.search.budget import StopCode, StopConditions, interruptible
from amsam_ray.search.cells import make_cells
from amsam_ray.search.checks import check_sweep, with_named_classes
from amsam_ray.search.dashboards import DashboardWriter
from amsam_ray.search.lane_memory import lane_memory
from amsam_ray.search.lease import Lease
from amsam_ray.search.manifest import choose_sweep, write_manifest
from amsam_ray.search.observers import EventLog, StartupLog
from amsam_ray.search.options import RunOptions
from amsam_ray.search.populations import population_sizes
from amsam_ray.search.prior import describe_prior
from amsam_ray.search.ray.cluster import connected
from amsam_ray.search.recorder import Recorder
from amsam_ray.search.resume import SweepRecords, restore_cells
from amsam_ray.search.state import SweepState
from amsam_ray.search.status import Snapshot, StatusObserver
from amsam_ray.storage.base import Storage, UnavailableError
from amsam_ray.storage.open import open_storage
from amsam_ray.storage.retry import until_available
from amsam_ray.storage.spool import Spool

if TYPE_CHECKING:
    from amsam_ray.search.ray.capacity import Capacity

T = TypeVar("T")

logger = logging.getLogger(__name__)

# How long a run that ends retries to upload waiting results and to write the leaderboards: longer than a restart of the
# server takes.
_LAST_UPLOAD_S = 300.0

View = Callable[[Callable[[], Snapshot]], AbstractContextManager[None]]


@dataclass(frozen=True)
class SweepResult:
    """How a run of a sweep ended.

    Attributes:
        sweep: the sweep's id.
        finished: whether every cell has all its records; if not, running the sweep again continues it.
        stop_reason: why the run ended before the sweep was finished, in words.
        stop_code: the same for programs; None if the sweep is finished or only waits for deferred cells.
        snapshot: the last status.
        problems: files among the records that could not be read.
        waiting: keys of results that the storage has not received yet; they wait on the disks of their nodes.
        ran: whether any trial was left to run.
        failed_cells: ids of the cells all of whose trials failed.
        leaderboard: rows of the sweep's datasets.
        deferred: cell id -> why its images cannot be read; the next run continues there once they can.
    """

    sweep: str
    finished: bool
    stop_reason: str | None
    snapshot: Snapshot
    problems: Sequence[Problem] = ()
    waiting: Sequence[str] = ()
    ran: bool = True
    failed_cells: Sequence[str] = ()
    leaderboard: Sequence[Row] = ()
    deferred: Mapping[str, str] = field(default_factory=dict)
    stop_code: StopCode | None = None


def run_sweep(
    space: SpaceFile,
    storage_uri: str,
    options: RunOptions | None = None,
    view: View | None = None,
    *,
    checked: bool = False,
) -> SweepResult:
    """Run a sweep, or continue it: recorded trials are not run again.

    Args:
        space: what to search.
        storage_uri: where records and leaderboards are stored, a folder or ``s3://bucket/prefix``.
        options: options of this run.
        view: shows progress: a context manager, given a function that returns the present status.
        checked: whether ``check_sweep`` has just found no problem.

    Raises:
        InputError: the space, its data or the storage cannot be used; nothing was started.
        AmsamError: the sweep could not continue. Records are kept, and running it again continues.

    Example:
        >>> from amsam_ray.config.space_file import load_space
        >>> run_sweep(load_space("search_spaces/demo.yaml"), "./results").finished  # doctest: +SKIP
        True
    """
    options = options or RunOptions()
    if not checked and (problems := check_sweep(space, storage_uri, options)):
        raise InputError(problems)
    run = _Run(with_named_classes(space), open_storage(storage_uri), options)
    return run.result(ran=False) if run.complete() else run.drive(view)


class _Run:
    """One run of a sweep."""

    def __init__(self, space: SpaceFile, storage: Storage, options: RunOptions):
        self._space, self._storage, self._options = space, storage, options
        self._manifest = choose_sweep(storage, space, extend=options.extend, fresh=options.fresh)
        self._sweep = self._manifest.sweep
        logger.info("amsam-ray %s: sweep %s in %s, %s", __version__, self._sweep, storage.uri, options)
        if space.search.prior:
            logger.info("%s", describe_prior(self._manifest.prior, space))
        self._cells = make_cells(space, self._manifest.prior)
        self._records = SweepRecords(storage, self._sweep)
        self._conditions = StopConditions(options.budget)
        self._startup = StartupLog(options.started)
        self._waiting: list[str] = []
        self._deferred: dict[str, str] = {}
        self._deadline = 0.0  # until when the end of the run waits for the storage, on the monotonic clock
        self._upload_waiting()
        self._records.refresh()
        self._states = restore_cells(self._cells, self._records.records)
        self._status = StatusObserver(self._states, self._conditions, time.monotonic())
        if self._manifest.note:
            self._status.note(self._manifest.note)

    def _upload_waiting(self) -> None:
        """Upload what an earlier run on this machine could not: it counts as recorded."""
        folder = spool_dir(self._storage.uri)
        if folder.exists():
            self._waiting = Spool(folder, self._storage, replace_damaged).close()

    def _reload(self) -> None:
        """Bring the cells' states up to what is recorded now."""
        self._records.refresh()
        self._states = restore_cells(self._cells, self._records.records)
        self._status.reset(self._states)

    def _once_available(self, action: Callable[[], T]) -> T:
        """Do what the end of the run needs of the storage, which may be unavailable until the deadline."""
        return until_available(action, self._deadline, self._status.note)

    def complete(self) -> bool:
        """Whether all records exist already."""
        return all(state.finished for state in self._states)

    def drive(self, view: View | None) -> SweepResult:
        """Run the trials without a record."""
        lease = Lease(self._storage, self._sweep, lambda: self._status.snapshot().as_dict(), self._conditions.abort)
        lease.check()  # refuses a second driver before that starts Ray
        # The handlers are installed before Ray starts, which may swallow a KeyboardInterrupt.
        watched = (view or _no_view)(self._status.snapshot)
        self._startup.reached("checks and records")
        with interruptible(self._conditions), watched, connected(self._options.address) as scratch:
            self._startup.reached("Ray")
            from amsam_ray.search.ray.capacity import Capacity

            remote = self._options.address is not None
            wanted, estimate = self._space.resources, lane_memory(self._space)
            with contextlib.closing(Capacity(wanted, remote=remote, memory=estimate, tell=self._tell)) as capacity:
                lease.take()
                try:
                    self._reload()  # another driver may have recorded more until it released the lease
                    write_manifest(self._storage, self._manifest, self._space)
                    self._search(capacity, scratch)
                    return self.result()
                finally:
                    lease.release()

    def _tell(self, what: str) -> None:
        logger.warning("%s", what)
        self._status.note(what)

    def _search(self, capacity: Capacity, scratch: Path) -> None:
        from amsam_ray.search.ray.tune_adapter import run_lanes
        from amsam_ray.search.ray.worker import WorkerSettings

        gpus = capacity.size.total_gpus
        self._conditions.gpus = gpus
        self._status.lanes_now, self._status.wanted_lanes = capacity.lanes, capacity.wanted
        recorder = Recorder(self._storage.uri, self._sweep, gpus)
        state = SweepState(self._states, self._space.search.retries, recorder.write_failure, self._conditions.abort)
        wanted = self._space.resources.population
        population = population_sizes(self._cells, wanted, capacity.size.workers)
        dashboards = DashboardWriter(self._storage, self._sweep, self._states)
        try:
            with interruptible(self._conditions):  # again: Ray installs its own SIGTERM handler when it starts
                run_lanes(
                    state,
                    conditions=self._conditions,
                    capacity=capacity,
                    worker=WorkerSettings(
                        self._sweep,
                        self._storage.uri,
                        self._options.trial_function,
                        gpus,
                        scratch / "work",
                        share=self._space.resources.shares_prepared(self._storage.uri),
                        prepared_bytes=int((self._space.resources.prepared_gib or 0) * 2**30),
                        population=1 if population is None else wanted,
                    ),
                    population=population,
                    timeout_s=self._space.search.timeout_s,
                    observers=[self._status, dashboards, EventLog(), self._startup],
                    scratch=scratch,
                )
        finally:
            self._deferred = state.deferred
            dashboards.close()
            self._deadline = time.monotonic() + _LAST_UPLOAD_S
            recorder.close(_LAST_UPLOAD_S)
            self._waiting = self._not_stored()
        if self._conditions.abort_reason:
            raise AmsamError(f"{self._conditions.abort_reason}. Run the same command again to continue.")

    def _not_stored(self) -> list[str]:
        """Return the keys of what this run has recorded and the storage does not hold."""
        outcomes = [o for state in self._states for o in (*state.searched.values(), *state.finals.values())]
        recorded = {record_key(self._sweep, outcome.trial_id) for outcome in outcomes}
        try:
            self._once_available(self._records.refresh)
        except UnavailableError:
            return sorted(recorded)
        return sorted(recorded - self._records.keys)

    def result(self, *, ran: bool = True) -> SweepResult:
        """Write the leaderboards and return how the run ended."""
        datasets = {base_label(dataset.label) for dataset in self._space.datasets}
        try:
            rows, skipped = self._once_available(lambda: update_leaderboards(self._storage, datasets))
        except UnavailableError as error:
            waiting = f" {len(self._waiting)} results wait in {spool_dir(self._storage.uri)}." if self._waiting else ""
            raise AmsamError(
                f"{error}{waiting} Run the same command again to upload what waits and to write the leaderboards."
            ) from error
        if not self.complete():
            # A lane that was stopped may have recorded a trial without reporting it.
            self._once_available(self._reload)
        finished = self.complete()
        deferred = ", ".join(f"{cell} cannot read its images: {why}" for cell, why in self._deferred.items())
        return SweepResult(
            sweep=self._sweep,
            finished=finished,
            stop_reason=None if finished else self._conditions.stop_reason or deferred,
            stop_code=None if finished else self._conditions.stop_code,
            snapshot=self._status.snapshot(),
            problems=tuple(dict.fromkeys([*self._records.problems, *skipped])),
            waiting=self._waiting,
            ran=ran,
            leaderboard=[row for row in rows if base_label(row["dataset"]) in datasets],
            deferred=self._deferred,
            failed_cells=[state.cell.id for state in self._states if state.all_failed],
        )


@contextlib.contextmanager
def _no_view(snapshot: Callable[[], Snapshot]) -> Iterator[None]:
    yield

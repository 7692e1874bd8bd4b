"""Writes TensorBoard curves and an Optuna journal while trials are recorded."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

from amsam_ray.errors import Problem
from amsam_ray.paths import cache_dir
from amsam_ray.records.io import parse_record
from amsam_ray.records.schema import Record, record_key
from amsam_ray.search.cell_state import CellState
from amsam_ray.search.observers import Observer
from amsam_ray.search.recorder import outcome_of
from amsam_ray.search.samplers import optuna_distribution
from amsam_ray.search.study import trial_state
from amsam_ray.search.trials import TrialOutcome, TrialSpec
from amsam_ray.storage.base import Storage, StorageError
from amsam_ray.storage.local import LocalStorage

logger = logging.getLogger(__name__)

JOURNAL = "optuna.journal"
CURVES = "tensorboard"


def dashboard_dir(storage: Storage, sweep: str) -> Path:
    """Return the folder of a sweep's journal and curves: beside its records, or on this machine if those are in S3."""
    base = storage.root if isinstance(storage, LocalStorage) else cache_dir()
    return base / "sweeps" / sweep


class DashboardWriter(Observer):
    """Reads each record after it is written, in a thread, so that a slow disk delays no lane.

    Every run writes the journal anew from the records; like the curves, it can be deleted at any time.

    Args:
        storage: where the records are.
        sweep: the sweep's id.
        cells: the sweep's cells; their recorded trials go into the journal at once.
    """

    def __init__(self, storage: Storage, sweep: str, cells: Sequence[CellState]):
        self._storage, self._sweep = storage, sweep
        self._folder = dashboard_dir(storage, sweep)
        self._queue: queue.Queue[str | None] = queue.Queue()
        for state in cells:
            for outcome in (*state.searched.values(), *state.finals.values()):
                self._queue.put(outcome.trial_id)
        self._cells = {state.cell.id: state.cell for state in cells}
        self._studies: dict[str, optuna.Study] = {}
        self._thread = threading.Thread(target=self._write_all, name="amsam-dashboards", daemon=True)
        self._thread.start()

    def trial_ended(self, trial: TrialSpec, attempt: TrialOutcome, recorded: TrialOutcome | None) -> None:
        """Queue a recorded trial."""
        if recorded is not None:
            self._queue.put(recorded.trial_id)

    def close(self) -> None:
        """Write what is queued and stop the thread."""
        self._queue.put(None)
        self._thread.join()
        if not isinstance(self._storage, LocalStorage):
            with contextlib.suppress(StorageError, OSError):
                self._storage.upload(f"sweeps/{self._sweep}/{JOURNAL}", self._folder / JOURNAL)

    def _write_all(self) -> None:
        try:
            self._begin()
        except Exception as error:  # a dashboard must never end the sweep
            logger.warning("No dashboard data in %s: %s", self._folder, error)
            return
        while (trial := self._queue.get()) is not None:
            try:
                self._write(trial)
            except Exception as error:
                logger.warning("No dashboard data for %s: %s", trial, error)

    def _begin(self) -> None:
        """Begin a new journal with a study per cell."""
        self._folder.mkdir(parents=True, exist_ok=True)
        journal = self._folder / JOURNAL
        journal.unlink(missing_ok=True)
        storage = JournalStorage(JournalFileBackend(str(journal)))
        for cell in self._cells.values():
            self._studies[cell.id] = optuna.create_study(
                storage=storage,
                study_name=cell.id,
                direction=StudyDirection.MAXIMIZE if cell.maximise else StudyDirection.MINIMIZE,
            )

    def _write(self, trial: str) -> None:
        key = record_key(self._sweep, trial)
        record = parse_record(key, self._storage.get(key))
        if isinstance(record, Problem):
            return
        if record.role == "search":
            self._journal(record)
        if record.curve and not (self._folder / CURVES / trial).exists():
            self._curves(record)

    def _journal(self, record: Record) -> None:
        cell, outcome = self._cells[record.cell], outcome_of(record)
        state = trial_state(outcome)
        params = {k: v for k, v in outcome.params.items() if k in cell.space}
        frozen = optuna.trial.create_trial(
            state=state,
            value=outcome.score if state is optuna.trial.TrialState.COMPLETE else None,
            user_attrs={"trial": record.trial, "seed": record.seed, "reason": record.reason or "", **params},
            intermediate_values=dict(outcome.rung_scores),
        )
        frozen.datetime_start = record.started.astimezone(UTC).replace(tzinfo=None)
        frozen.datetime_complete = record.finished.astimezone(UTC).replace(tzinfo=None)
        for name, value in params.items():
            distribution = optuna_distribution(cell.space[name])
            if _contains(distribution, value):
                frozen.params = {**frozen.params, name: value}
                frozen.distributions = {**frozen.distributions, name: distribution}
        self._studies[record.cell].add_trial(frozen)

    def _curves(self, record: Record) -> None:
        # Not through a SummaryWriter: each of them has a thread and prints a traceback at exit if the disk is full.
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import RecordWriter
        from tensorboardX.summary import scalar

        folder = self._folder / CURVES / record.trial
        folder.mkdir(parents=True, exist_ok=True)
        begun = _epoch_time(record, 0)
        events = [Event(wall_time=begun, file_version="brain.Event:2")]
        for entry in record.curve:
            epoch = int(entry.get("epoch") or 0)
            for name, value in entry.items():
                if name != "epoch" and value is not None and math.isfinite(value):
                    at = _epoch_time(record, epoch)
                    events.append(Event(wall_time=at, step=epoch, summary=scalar(name, value)))
        with contextlib.closing(RecordWriter(str(folder / f"events.out.tfevents.{begun:.0f}"))) as writer:
            for event in events:
                writer.write(event.SerializeToString())


def _contains(distribution: BaseDistribution, value: object) -> bool:
    """Whether ``value`` can be drawn; a point outside the space cannot, such as a published setting."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:  # not among the choices
        return False


def _epoch_time(record: Record, epoch: int) -> float:
    """Return the approximate time at which an epoch ended, in seconds since the Unix epoch."""
    share = epoch / max(1, record.epochs_run)
    begun = record.started.astimezone(UTC)
    return datetime.timestamp(begun) + share * record.seconds

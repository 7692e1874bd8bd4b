"""Writes the records of trials, and converts a record to the outcome that the search needs."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Mapping

from amsam_ray.errors import AmsamError, Problem
from amsam_ray.paths import spool_dir
from amsam_ray.records.environment import describe_environment
from amsam_ray.records.io import parse_record, replace_damaged, write_trial
from amsam_ray.records.schema import Record, record_key
from amsam_ray.search.manifest import read_manifest
from amsam_ray.search.trials import TrialOutcome, TrialSpec
from amsam_ray.storage.base import ExistsError, NotFoundError, UnavailableError
from amsam_ray.storage.open import open_storage
from amsam_ray.storage.spool import Spool
from amsam_ray.training.result import TrialResult


class Recorder:
    """Writes each record of one process once. While the storage is unavailable, records wait in a spool on this disk.

    Args:
        storage: URI of the results.
        sweep: the sweep's id.
        gpus: number of GPUs that a trial uses, for its record.
    """

    def __init__(self, storage: str, sweep: str, gpus: float = 0.0):
        # Not patient: the spool retries in the background while the lane trains on.
        self._storage = open_storage(storage, patient=False)
        self._sweep = sweep
        self._spool = Spool(spool_dir(storage), self._storage, replace_damaged)
        self._gpus = gpus

    def check_shared(self) -> None:
        """Raise AmsamError if this node cannot see what the driver has written, as with a folder that is not shared."""
        with contextlib.suppress(UnavailableError):
            if read_manifest(self._storage, self._sweep) is None:
                raise AmsamError(
                    f"{self._storage.uri} on node {platform.node()} is not the folder that the driver writes to; "
                    "give --storage a folder that all nodes share, or s3://bucket/prefix"
                )

    def recorded(self, trial: TrialSpec) -> TrialOutcome | None:
        """Return the recorded outcome of a trial; None if there is none or the storage is unavailable."""
        key = record_key(self._sweep, trial.trial_id)
        with contextlib.suppress(NotFoundError, UnavailableError):
            found = parse_record(key, self._storage.get(key))
            return None if isinstance(found, Problem) else outcome_of(found)
        return None

    def write(
        self,
        trial: TrialSpec,
        result: TrialResult,
        rung_scores: Mapping[int, float],
        started: float,
        hardware: Mapping[str, str],
        share: float = 1.0,
    ) -> TrialOutcome:
        """Record a result and return what is recorded: another attempt's outcome if that one was faster.

        Args:
            started: seconds since the epoch.
            hardware: as ``amsam_ray.device.hardware`` describes it.
            share: of the lane's GPUs that the trial used, below 1 in a population.
        """
        record = Record.build(
            trial=trial.trial_id,
            sweep=self._sweep,
            config=trial.config,
            result=result,
            environment=describe_environment(hardware),
            started=started,
            finished=time.time(),
            gpus=self._gpus * share,
            attempt=trial.attempt,
            searched=trial.searched,
            rung_scores=rung_scores,
            published=trial.published,
            choice=trial.choice,
            flat_after=trial.flat_after,
        )
        try:
            try:
                write_trial(self._storage, record, result)
            except ExistsError:
                # The record of another attempt, or a damaged file, which is why the trial ran again.
                if not replace_damaged(self._storage, record.key, record.to_bytes()):
                    return self.recorded(trial) or outcome_of(record)
        except UnavailableError:
            write_trial(self._spool, record, result)
        return outcome_of(record)

    def write_failure(self, trial: TrialSpec, outcome: TrialOutcome) -> TrialOutcome:
        """Record a trial all of whose attempts failed, with the reason."""
        result = TrialResult(status="failed", reason=outcome.reason)
        return self.write(trial, result, outcome.rung_scores, time.time() - outcome.seconds, {})

    def waiting(self) -> list[str]:
        """Return the keys of results that wait on this node's disk."""
        return self._spool.pending()

    def close(self, timeout_s: float) -> list[str]:
        """Upload what waits, for at most ``timeout_s`` seconds, and return the keys that still wait."""
        return self._spool.close(timeout_s)


def outcome_of(record: Record) -> TrialOutcome:
    """Return the outcome of a recorded trial."""
    return TrialOutcome(
        trial_id=record.trial,
        status=record.status,
        score=record.score,
        rung_scores=dict(record.rung_scores),
        params={key: record.params[key] for key in record.searched},
        image_scores={
            str(row["name"]): score for row in record.val_images if (score := _number(row, record.metric)) is not None
        },
        best_epoch=record.best_epoch,
        seconds=record.seconds,
        reason=record.reason,
        # Training itself fails for one cause only, and then its record names the shots.
        diverged=record.status == "failed" and bool(record.shots_sha256),
    )


def _number(row: Mapping[str, object], name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else None

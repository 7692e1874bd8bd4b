"""From a trial's result to its record in storage, and back from a record to what the search needs of it."""

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
from amsam_ray.search.assignment import Assignment, Outcome
from amsam_ray.search.manifest import read_folder
from amsam_ray.storage.base import ExistsError, NotFoundError, UnavailableError
from amsam_ray.storage.open import open_storage
from amsam_ray.storage.spool import Spool
from amsam_ray.training.result import TrialResult


class Recorder:
    """Writes one process's records, once each; what the storage cannot take now waits in a spool on this disk.

    Args:
        storage: URI of the results.
        sweep: the sweep's id.
        gpus: GPUs that a trial holds, for its record.
    """

    def __init__(self, storage: str, sweep: str, gpus: float = 0.0):
        # Not patient: the spool tries again, and a lane has better things to do than to wait for a storage.
        self._storage = open_storage(storage, patient=False)
        self._sweep = sweep
        self._spool = Spool(spool_dir(storage), self._storage, replace_damaged)
        self._gpus = gpus

    def check_shared(self) -> None:
        """Raise AmsamError if this node does not see what the driver has written: a folder that is not shared."""
        with contextlib.suppress(UnavailableError):
            if read_folder(self._storage, self._sweep) is None:
                raise AmsamError(
                    f"{self._storage.uri} on node {platform.node()} is not the folder that the driver writes to; "
                    "give --storage a folder that all nodes share, or s3://bucket/prefix"
                )

    def recorded(self, assignment: Assignment) -> Outcome | None:
        """What is recorded of this trial already; None if nothing is, or the storage is away."""
        key = record_key(self._sweep, assignment.trial_id)
        with contextlib.suppress(NotFoundError, UnavailableError):
            found = parse_record(key, self._storage.get(key))
            return None if isinstance(found, Problem) else outcome_of(found)
        return None

    def write(
        self,
        assignment: Assignment,
        result: TrialResult,
        rung_scores: Mapping[int, float],
        started: float,
        hardware: Mapping[str, str],
    ) -> Outcome:
        """Record a result. Returns what is recorded: another's, should one have been faster with this trial.

        Args:
            started: seconds since the epoch.
            hardware: as ``amsam_ray.device.hardware`` describes it.
        """
        return self._store(assignment, self._build(assignment, result, rung_scores, started, hardware), result)

    def write_failure(self, assignment: Assignment, outcome: Outcome) -> Outcome:
        """Record a trial that came to nothing in all its attempts, with the reason."""
        result = TrialResult(status="failed", reason=outcome.reason)
        record = self._build(assignment, result, outcome.rung_scores, time.time() - outcome.seconds, {})
        return self._store(assignment, record, result)

    def waiting(self) -> list[str]:
        """Keys of what this node's disk still holds for the storage."""
        return self._spool.pending()

    def close(self, timeout_s: float) -> list[str]:
        """Bring what waits; returns the keys that still do."""
        return self._spool.close(timeout_s)

    def _store(self, assignment: Assignment, record: Record, result: TrialResult) -> Outcome:
        try:
            try:
                write_trial(self._storage, record, result)
            except ExistsError:
                # Another attempt's, or a damaged file, which is why the trial was run again.
                if not replace_damaged(self._storage, record.key, record.to_bytes()):
                    return self.recorded(assignment) or outcome_of(record)
        except UnavailableError:
            write_trial(self._spool, record, result)
        return outcome_of(record)

    def _build(
        self,
        assignment: Assignment,
        result: TrialResult,
        rung_scores: Mapping[int, float],
        started: float,
        hardware: Mapping[str, str],
    ) -> Record:
        return Record.build(
            trial=assignment.trial_id,
            sweep=self._sweep,
            config=assignment.config,
            result=result,
            environment=describe_environment(hardware),
            started=started,
            finished=time.time(),
            gpus=self._gpus,
            attempt=assignment.attempt,
            searched=assignment.searched,
            rung_scores=rung_scores,
        )


def outcome_of(record: Record) -> Outcome:
    """What the search needs to know of a recorded trial."""
    return Outcome(
        trial_id=record.trial,
        status=record.status,
        score=record.score,
        rung_scores=dict(record.rung_scores),
        params={key: record.params[key] for key in record.searched},
        seconds=record.seconds,
        reason=record.reason,
    )

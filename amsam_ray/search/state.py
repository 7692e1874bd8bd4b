"""The state of a sweep: all cells, their turns, and what follows from every outcome. Does not use Ray."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from amsam_ray.search.cell_state import CellState
from amsam_ray.search.sharing import share_trials
from amsam_ray.search.trials import TrialOutcome, TrialSpec
from amsam_ray.storage.base import StorageError

logger = logging.getLogger(__name__)

RecordFailure = Callable[[TrialSpec, TrialOutcome], TrialOutcome]

# How many nodes a trial may lose before a further loss counts as an attempt. A spot market does not take so many from
# one trial; a trial that brings its nodes down does.
_MAX_LOST = 8


def flat_note(trials: int) -> str:
    """Return the sentence that tells that a cell's search stops after ``trials`` trials."""
    return f"no two of the first {trials} trials differ by more than noise; the others go to cells that do"


class SweepState:
    """Answers which trial is next and takes in how trials end. Cells take turns.

    Args:
        cells: in the order of their turns, shots ascending.
        retries: how often a trial is retried after its lane died or it raised. The loss of a node is not counted.
        record_failure: records a trial as failed and returns what is recorded.
        abort: ends the sweep, with a reason.

    Attributes:
        cells: as given.
        deferred: cell id -> why its images cannot be read. Such a cell is left alone until the next run.
    """

    def __init__(
        self,
        cells: Sequence[CellState],
        retries: int,
        record_failure: RecordFailure,
        abort: Callable[[str], None],
    ):
        self.cells = list(cells)
        self.deferred: dict[str, str] = {}
        self._by_id = {state.cell.id: state for state in self.cells}
        self._retries = retries
        self._record_failure = record_failure
        self._abort = abort
        self._turn = 0
        self._undecided = {state.cell.id for state in self.cells if not state.decided}
        self._shared = share_trials(self.cells)

    @property
    def finished(self) -> bool:
        """Whether every cell has all the records that it can get in this run."""
        return all(state.finished for state in self._active())

    @property
    def remaining(self) -> int:
        """Number of trials without a record, finals included, as far as it is known now."""
        return sum(state.planned - state.done for state in self._active())

    def next_trial(self) -> TrialSpec | None:
        """Return a trial of the next cell in turn that has one; None if no trial can start now."""
        for step in range(len(self.cells)):
            index = (self._turn + step) % len(self.cells)
            state = self.cells[index]
            if state.cell.id not in self.deferred and (trial := state.next_trial()) is not None:
                self._turn = index + 1
                return trial
        return None

    def next_with(self, trial: TrialSpec) -> TrialSpec | None:
        """Return a trial that can train together with ``trial``: a new one of its cell; None if there is none now."""
        return None if trial.cell in self.deferred else self._by_id[trial.cell].next_with(trial)

    def stops_at(self, trial: TrialSpec, epoch: int, score: float) -> bool:
        """Whether ``trial`` stops at the rung ``epoch`` with ``score``, its best so far."""
        return self._by_id[trial.cell].stops_at(trial, epoch, score)

    def settle(self, trial: TrialSpec, attempt: TrialOutcome) -> TrialOutcome | None:
        """Take in how an attempt ended.

        Returns:
            The recorded outcome; None if the trial will be retried, in this run or the next.
        """
        state = self._by_id[trial.cell]
        if attempt.status == "error":
            recorded = self._after_error(state, trial, attempt)
            if recorded is None:
                self._share(state)
                return None
            attempt = recorded
        state.settle(trial, attempt)
        self._share(state)
        return attempt

    def _share(self, changed: CellState) -> None:
        """Log that a cell is flat, and divide its trials once all cells that can run have decided."""
        name = changed.cell.id
        if changed.decided and name in self._undecided:
            self._undecided.discard(name)
            if changed.flat_after is not None:
                logger.info("%s: %s", name, flat_note(changed.flat_after))
        if not self._shared and len(self._undecided) <= len(self.deferred):
            self._shared = share_trials(self.cells, self.deferred)

    def _after_error(self, state: CellState, trial: TrialSpec, attempt: TrialOutcome) -> TrialOutcome | None:
        if attempt.source == "data":
            # The file can be repaired, so the trial must not fail for good.
            self.deferred[trial.cell] = attempt.reason or "unknown reason"
            state.retry(trial, attempt=trial.attempt)
            return None
        if attempt.source == "lost" and trial.lost < _MAX_LOST:
            state.retry(replace(trial, lost=trial.lost + 1), attempt=trial.attempt)
            return None
        counts = attempt.source in ("trial", "input", "node", "lane", "lost")
        if attempt.source == "input" and not self._any_success():
            # An input that no trial accepts, a missing file for instance, is a fault of the sweep: record nothing.
            self._abort(f"{trial.trial_id} cannot be run: {attempt.reason}")
            state.retry(trial, attempt=trial.attempt + counts)
            return None
        if not counts or (attempt.source != "input" and trial.attempt <= self._retries):
            state.retry(trial, attempt=trial.attempt + counts)
            return None
        attempts = f" ({trial.attempt} attempts)" if trial.attempt > 1 else ""
        reason = f"{(attempt.reason or 'unknown reason').rstrip('.')}{attempts}"
        if attempt.source == "node":
            # A full disk says nothing about the trial, so the trial must not fail for good.
            self._abort(f"{trial.trial_id} cannot be run: {reason}")
            state.retry(trial, attempt=trial.attempt)
            return None
        try:
            return self._record_failure(trial, replace(attempt, status="failed", reason=reason))
        except StorageError as error:
            self._abort(f"the failure of {trial.trial_id} cannot be recorded: {str(error).rstrip('.')}")
            state.retry(trial, attempt=trial.attempt)
            return None

    def _active(self) -> list[CellState]:
        return [state for state in self.cells if state.cell.id not in self.deferred]

    def _any_success(self) -> bool:
        outcomes = (o for state in self.cells for o in (*state.searched.values(), *state.finals.values()))
        return any(outcome.status != "failed" for outcome in outcomes)

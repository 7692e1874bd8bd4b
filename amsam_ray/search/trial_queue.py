"""Deals trials to lanes: fairly over cells, again where a lane died, and until nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from amsam_ray.search.assignment import Assignment, Outcome
from amsam_ray.search.progress import CellProgress

GiveUp = Callable[[Assignment, Outcome], Outcome]


class Dealer:
    """Round robin over unfinished cells; knows nothing of Ray.

    Args:
        cells: in the order in which they are dealt to, shots ascending.
        retries: how often a trial is tried again after its lane died or it raised.
        give_up: records a trial as failed and returns what is recorded.
        stop: ends the sweep, with a reason.

    Attributes:
        put_off: cell id -> which of its images cannot be read. Such a cell is left as it is until the next run.
    """

    def __init__(self, cells: Sequence[CellProgress], retries: int, give_up: GiveUp, stop: Callable[[str], None]):
        self.cells = list(cells)
        self._by_id = {progress.cell.id: progress for progress in self.cells}
        self._retries = retries
        self._give_up = give_up
        self._stop = stop
        self._turn = 0
        self.put_off: dict[str, str] = {}

    @property
    def finished(self) -> bool:
        """Whether every cell has all its records that it can get in this run."""
        return all(progress.finished for progress in self._active)

    @property
    def _active(self) -> list[CellProgress]:
        return [progress for progress in self.cells if progress.cell.id not in self.put_off]

    @property
    def left(self) -> int:
        """Trials that have no record yet, finals included, as far as is known now."""
        return sum(progress.planned - progress.done for progress in self._active)

    def cell(self, cell_id: str) -> CellProgress:
        """The progress of one cell."""
        return self._by_id[cell_id]

    def next_assignment(self) -> Assignment | None:
        """A trial of the next cell in turn that has one to give; None: nothing now."""
        for step in range(len(self.cells)):
            index = (self._turn + step) % len(self.cells)
            if self.cells[index].cell.id in self.put_off:
                continue
            assignment = self.cells[index].next_assignment()
            if assignment is not None:
                self._turn = index + 1
                return assignment
        return None

    def _any_success(self) -> bool:
        return any(o.status != "failed" for c in self.cells for o in (*c.searched.values(), *c.finals.values()))

    def settle(self, assignment: Assignment, outcome: Outcome) -> Outcome | None:
        """Take in how an attempt ended; returns the recorded outcome, None if the trial will be tried again."""
        progress = self._by_id[assignment.cell]
        if outcome.status == "error" and outcome.blame == "data":
            # Somebody can mend the file, so a failure for good would be too much.
            self.put_off[assignment.cell] = outcome.reason or "unknown reason"
            progress.put_back(assignment, attempt=assignment.attempt)
            return None
        if outcome.status == "error":
            spent = outcome.blame in ("trial", "input", "lane")
            hopeless = outcome.blame == "input" and not self._any_success()
            if hopeless:
                # What no trial can be given is the sweep's fault, a missing file for instance: nothing to record.
                self._stop(f"{assignment.trial_id} cannot be run: {outcome.reason}")
            again = outcome.blame != "input" and assignment.attempt <= self._retries
            if hopeless or not spent or again:
                progress.put_back(assignment, attempt=assignment.attempt + spent)
                return None
            tries = f" ({assignment.attempt} attempts)" if assignment.attempt > 1 else ""
            reason = f"{outcome.reason or 'unknown reason'}{tries}"
            outcome = self._give_up(assignment, replace(outcome, status="failed", reason=reason))
        progress.settle(assignment, outcome)
        return outcome

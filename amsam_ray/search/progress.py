"""How far one cell is: which trial it needs next, what is running, what has come of the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from amsam_ray.config.space import SpaceFile
from amsam_ray.search.assignment import Assignment, Outcome, derived_seed, trial_id
from amsam_ray.search.cells import Cell
from amsam_ray.search.study import CellStudy


@dataclass(frozen=True)
class Remembered:
    """A trial that an earlier run of the sweep recorded.

    Attributes:
        number: its place in the cell.
        seed_index: which fresh seed, for a final; None for a search trial.
        outcome: as recorded.
        counts: whether it trained what the present space file asks for. One that does not (the sweep was extended
            by a changed file) keeps its number and its record, and the cell runs another in its stead.
    """

    number: int
    seed_index: int | None
    outcome: Outcome
    counts: bool = True


def ladder_epochs(space: SpaceFile) -> tuple[int, ...]:
    """Epochs at which a cell's ladder decides: grace, grace * reduction, ... below the last epoch."""
    scheduler, found = space.search.scheduler, []
    epoch = float(scheduler.grace_epochs)
    while scheduler.name == "asha" and round(epoch) < space.train.epochs:
        found.append(round(epoch))
        epoch *= scheduler.reduction
    return tuple(dict.fromkeys(found))


class CellProgress:
    """The trials of one cell: first the search's, then the finals of the best.

    Args:
        cell: the cell.
        rungs: epochs at which its ladder decides.
        past: what is recorded already, in any order.
    """

    def __init__(self, cell: Cell, rungs: tuple[int, ...], past: Iterable[Remembered] = ()):
        self.cell = cell
        self.study = CellStudy(cell)
        self.searched: dict[int, Outcome] = {}
        self.finals: dict[str, Outcome] = {}
        self.running: dict[str, Assignment] = {}
        self.rungs = rungs
        self._again: list[Assignment] = []
        self._taken: set[int] = set()
        self._next_number = 0
        for trial in sorted(past, key=lambda t: (t.number, t.seed_index or 0)):
            self._remember(trial)

    def _remember(self, trial: Remembered) -> None:
        if trial.seed_index is not None:
            if trial.counts:
                self.finals[trial.outcome.trial_id] = trial.outcome
            return
        self._taken.add(trial.number)
        if trial.counts:
            self.searched[trial.number] = trial.outcome
            self.study.remember(trial.outcome)

    @property
    def size(self) -> int:
        """Search trials this cell is to have."""
        return self.study.size

    @property
    def search_done(self) -> bool:
        """Whether no search trial is left to run or running."""
        return len(self.searched) >= self.size and not any(not a.final for a in self._open())

    @property
    def finished(self) -> bool:
        """Whether nothing is left to run or running."""
        return not self._open() and self.search_done and not self._missing_finals()

    @property
    def fruitless(self) -> bool:
        """Whether it is finished and nothing but failures came of it."""
        ends = [*self.searched.values(), *self.finals.values()]
        return self.finished and bool(ends) and all(outcome.status == "failed" for outcome in ends)

    @property
    def best(self) -> Outcome | None:
        """The best completed search trial so far."""
        chosen = self.chosen(1)
        return self.searched[chosen[0]] if chosen else None

    @property
    def planned(self) -> int:
        """All trials of the cell, finals included, as far as is known now."""
        return self.size + len(self._final_ids() if self.search_done else range(self._final_count()))

    @property
    def done(self) -> int:
        """Trials that are recorded, finals included."""
        return len(self.searched) + len(self.finals)

    def chosen(self, count: int) -> list[int]:
        """Numbers of the best completed search trials, best first, the earlier of equals first."""
        sign = -1.0 if self.cell.maximise else 1.0
        scored = [
            (sign * o.score, n)
            for n, o in self.searched.items()
            if o.status == "completed" and o.score is not None and math.isfinite(o.score)
        ]
        return [number for _, number in sorted(scored)[:count]]

    def next_assignment(self) -> Assignment | None:
        """The next trial to run; None: nothing now, as the cell is finished or waits for what is running."""
        assignment = self._again.pop(0) if self._again else self._next_search() or self._next_final()
        if assignment is not None:
            self.running[assignment.trial_id] = assignment
        return assignment

    def settle(self, assignment: Assignment, outcome: Outcome) -> None:
        """A trial is recorded, as completed, pruned or failed."""
        del self.running[assignment.trial_id]
        if assignment.final:
            self.finals[assignment.trial_id] = outcome
        else:
            self.searched[assignment.number] = outcome
            self.study.tell(assignment.number, outcome)

    def put_back(self, assignment: Assignment, *, attempt: int) -> None:
        """A trial came to nothing and is to be run again before anything new."""
        del self.running[assignment.trial_id]
        self._again.append(replace(assignment, attempt=attempt))

    def _open(self) -> list[Assignment]:
        return [*self.running.values(), *self._again]

    def _next_search(self) -> Assignment | None:
        waiting = sum(not a.final for a in self._open())
        if len(self.searched) + waiting >= self.size:
            return None
        busy = {a.number for a in self._open()}
        while self._next_number in self._taken or self._next_number in self.searched or self._next_number in busy:
            self._next_number += 1
        number = self._next_number
        params = self.study.ask(number)
        seed = derived_seed(self.cell.source.search.seed, self.cell.id, number, "trial")
        config = self.cell.config(params, seed=seed)
        name = trial_id(self.cell.id, number)
        return Assignment(name, self.cell.id, number, config, self.rungs, tuple(self.cell.space))

    def _next_final(self) -> Assignment | None:
        missing = self._missing_finals() if self.search_done else []
        if not missing:
            return None
        number, seed_index = missing[0]
        seed = derived_seed(self.cell.source.search.seed, self.cell.id, seed_index, "final")
        config = self.cell.config(self.searched[number].params, seed=seed, role="final")
        name = trial_id(self.cell.id, number, seed_index)
        return Assignment(name, self.cell.id, number, config, searched=tuple(self.cell.space))

    def _final_count(self) -> int:
        return self.cell.source.finals.top_k * self.cell.final_seeds

    def _final_ids(self) -> list[tuple[int, int]]:
        best = self.chosen(self.cell.source.finals.top_k)
        return [(number, seed) for number in best for seed in range(self.cell.final_seeds)]

    def _missing_finals(self) -> list[tuple[int, int]]:
        busy = {a.trial_id for a in self._open()}
        ids = ((n, s, trial_id(self.cell.id, n, s)) for n, s in self._final_ids())
        return [(n, s) for n, s, name in ids if name not in self.finals and name not in busy]

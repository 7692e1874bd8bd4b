"""The state of one cell: which trial is next, which ones run, and how the others ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from amsam_ray.config.space import SpaceFile
from amsam_ray.search.asha import Asha
from amsam_ray.search.cells import Cell
from amsam_ray.search.finals import best_trials, final_trials
from amsam_ray.search.flat import is_flat
from amsam_ray.search.study import CellStudy
from amsam_ray.search.trials import TrialOutcome, TrialSpec, derived_seed, trial_id


@dataclass(frozen=True)
class RecordedTrial:
    """A trial that an earlier run of the sweep recorded.

    Attributes:
        number: its number within the cell.
        seed_index: index of the final's seed; None for a search trial.
        outcome: as recorded.
        counts: whether it trained what the present space file asks for. A trial that does not (the sweep was
            extended with a changed file) keeps its number and its record, and the cell runs another one instead.
    """

    number: int
    seed_index: int | None
    outcome: TrialOutcome
    counts: bool = True


def rung_epochs(space: SpaceFile) -> tuple[int, ...]:
    """Return the epochs at which ASHA decides: grace, grace * reduction, ... below the last epoch of the last fold."""
    scheduler, found = space.search.scheduler, []
    assert scheduler.grace_epochs is not None  # SpaceFile resolves it
    epoch = float(scheduler.grace_epochs)
    while scheduler.name == "asha" and round(epoch) < space.train.epochs * space.selection.fold_count:
        found.append(round(epoch))
        epoch *= scheduler.reduction
    return tuple(dict.fromkeys(found))


class CellState:
    """The trials of one cell: the search's first, then the finals of the best.

    Args:
        cell: the cell.
        recorded: trials recorded by earlier runs, in any order.

    Attributes:
        study: the cell's Optuna study.
        searched: recorded search trials by number.
        finals: recorded finals by trial id.
        running: trials that lanes run now, by trial id.
        rungs: epochs at which ASHA decides.
        flat_after: number of the first trials that differ by no more than noise, after which the search stops; None
            if they differ, if that is not known yet, or if the space file does not ask.
        further: trials that the cell has beyond its own, from flat cells.
        waits: whether other cells may still give it trials, so that its finals wait.
    """

    def __init__(self, cell: Cell, recorded: Iterable[RecordedTrial] = ()):
        self.cell = cell
        self.study = CellStudy(cell)
        self.rungs = rung_epochs(cell.source)
        self.searched: dict[int, TrialOutcome] = {}
        self.finals: dict[str, TrialOutcome] = {}
        self.running: dict[str, TrialSpec] = {}
        self._asha = Asha(self.rungs, cell.source.search.scheduler.reduction, cell.maximise)
        self._retries: list[TrialSpec] = []
        self._taken: set[int] = set()
        self._next_number = 0
        self.flat_after: int | None = None
        self.decided = not self._may_stop
        self.further = 0
        self.waits = False
        for trial in sorted(recorded, key=lambda t: (t.number, t.seed_index or 0)):
            self._restore(trial)
        self._lost_points = self._find_lost_points()
        self._decide()

    def _restore(self, trial: RecordedTrial) -> None:
        if trial.seed_index is not None:
            if trial.counts:
                self.finals[trial.outcome.trial_id] = trial.outcome
            return
        self._taken.add(trial.number)
        if trial.counts:
            self.searched[trial.number] = trial.outcome
            self.study.restore(trial.number, trial.outcome)
            self._asha.restore(trial.outcome.trial_id, trial.outcome.rung_scores)

    def _find_lost_points(self) -> list[Mapping[str, Any]]:
        """Return the fixed points whose numbers are taken by records that do not count; they are tried again.

        So the published setting stays among the trials of a sweep that is extended.
        """
        tried = {frozenset(self.study.live(outcome.params).items()) for outcome in self.searched.values()}
        points = self.study.fixed_points
        taken = (points[number] for number in sorted(self._taken) if number < len(points))
        return [point for point in taken if frozenset(self.study.live(point).items()) not in tried]

    def _next_point(self, number: int) -> Mapping[str, Any] | None:
        """Return the lost point to try as trial ``number``; the fixed point of that number then waits in its place."""
        if not self._lost_points:
            return None
        points = self.study.fixed_points
        if number < len(points):
            self._lost_points.append(points[number])
        return self._lost_points.pop(0)

    @property
    def size(self) -> int:
        """Number of search trials that the cell is to have."""
        if self.flat_after is not None:
            return min(self.study.size, len(self.searched) + self._pending)
        return self.study.size + self.further

    @property
    def _pending(self) -> int:
        """Number of search trials that run or wait to be retried."""
        return sum(not trial.is_final for trial in self._unsettled())

    @property
    def _may_stop(self) -> bool:
        """Whether the search stops early if the first trials do not differ."""
        search = self.cell.source.search
        return search.stop_when_flat and self.study.size > search.startup_trials

    @property
    def differs(self) -> bool:
        """Whether it is known that the cell's configurations differ by more than noise."""
        return self._may_stop and self.decided and self.flat_after is None

    @property
    def freed(self) -> int:
        """Number of trials that the cell does without because it is flat."""
        return self.study.size - self.size if self.flat_after is not None else 0

    @property
    def room(self) -> int:
        """Number of trials that the cell could have beyond its own."""
        return self.study.most - self.study.size

    def _decide(self) -> None:
        """Decide whether the cell is flat, once its first trials are recorded; later ones do not change it.

        They are taken in the order of their numbers, so that a continued sweep decides alike.
        """
        count = self.cell.source.search.startup_trials
        if self.decided or len(self.searched) < count:
            return
        first = sorted(self.searched)[:count]
        if not self._taken.issuperset(range(first[-1])):
            return
        self.decided = True
        if is_flat((self.searched[number] for number in first), maximise=self.cell.maximise):
            self.flat_after = count

    @property
    def search_done(self) -> bool:
        """Whether no search trial is pending or running, and none can be added."""
        waits = self.waits and self.flat_after is None
        return not waits and len(self.searched) >= self.size and not self._pending

    @property
    def finished(self) -> bool:
        """Whether no trial is pending or running."""
        return not self._unsettled() and self.search_done and not self._missing_finals()

    @property
    def all_failed(self) -> bool:
        """Whether the cell is finished and every one of its trials failed."""
        ends = [*self.searched.values(), *self.finals.values()]
        return self.finished and bool(ends) and all(outcome.status == "failed" for outcome in ends)

    @property
    def best(self) -> TrialOutcome | None:
        """The best completed search trial so far."""
        best = best_trials(self.searched, 1, maximise=self.cell.maximise)
        return self.searched[best[0]] if best else None

    @property
    def planned(self) -> int:
        """Number of all trials, finals included, as far as it is known now."""
        if self.search_done:
            return self.size + len(final_trials(self.cell, self.searched))
        configurations = self.cell.source.finals.top_k + (self.cell.published is not None)
        return self.size + min(configurations, self.size) * self.cell.final_seeds

    @property
    def counted(self) -> list[TrialOutcome]:
        """The recorded trials that the plan counts.

        An extended sweep may have chosen another configuration since: the finals of the earlier one keep their records
        and are not counted, nor are search trials beyond the number that the space file asks for now.
        """
        searched = [outcome for _, outcome in sorted(self.searched.items())][: self.size]
        if not self.search_done:  # the recorded finals may still be those of the chosen configurations
            return searched + list(self.finals.values())[: self.planned - self.size]
        wanted = (trial.trial_id for trial in final_trials(self.cell, self.searched))
        return searched + [self.finals[name] for name in wanted if name in self.finals]

    @property
    def done(self) -> int:
        """Number of recorded trials that the plan counts, finals included."""
        return len(self.counted)

    def next_trial(self) -> TrialSpec | None:
        """Return the next trial to run; None if the cell is finished or waits for running trials."""
        if self._retries:
            return self._start(self._retries.pop(0))
        return self._start(self._next_search_trial() or self._next_final())

    def next_with(self, trial: TrialSpec) -> TrialSpec | None:
        """Return a new trial of the same role as ``trial``; None if there is none now, or retries come first."""
        if self._retries:
            return None
        return self._start(self._next_final() if trial.is_final else self._next_search_trial())

    def _start(self, trial: TrialSpec | None) -> TrialSpec | None:
        if trial is not None:
            self.running[trial.trial_id] = trial
        return trial

    def _next_search_trial(self) -> TrialSpec | None:
        if (number := self._free_number()) is None:
            return None
        cell = self.cell
        params = self.study.ask(number, self._next_point(number))
        return TrialSpec(
            trial_id(cell.id, number),
            cell.id,
            number,
            cell.config(params, seed=derived_seed(cell.source.search.seed, cell.id, number, "trial")),
            self.rungs,
            tuple(cell.space),
            published=cell.published is not None and params == self.study.live(cell.published),
        )

    def _next_final(self) -> TrialSpec | None:
        return next(iter(self._missing_finals()), None) if self.search_done else None

    def stops_at(self, trial: TrialSpec, epoch: int, score: float) -> bool:
        """Whether ASHA stops ``trial`` at the rung ``epoch`` with ``score``, its best so far."""
        return self._asha.stops(trial.trial_id, epoch, score)

    def settle(self, trial: TrialSpec, outcome: TrialOutcome) -> None:
        """Take in a recorded outcome: completed, pruned or failed."""
        del self.running[trial.trial_id]
        if trial.is_final:
            self.finals[trial.trial_id] = outcome
        else:
            self._taken.add(trial.number)
            self.searched[trial.number] = outcome
            self.study.tell(trial.number, outcome)
            self._decide()

    def retry(self, trial: TrialSpec, *, attempt: int) -> None:
        """Queue a trial that left no record, to run before any new one."""
        del self.running[trial.trial_id]
        self._retries.append(replace(trial, attempt=attempt))

    def _unsettled(self) -> list[TrialSpec]:
        return [*self.running.values(), *self._retries]

    def _free_number(self) -> int | None:
        """Return the number of the next new search trial; None if the cell has or runs all of them."""
        if len(self.searched) + self._pending >= self.size:
            return None
        used = {trial.number for trial in self._unsettled()} | self._taken
        while self._next_number in used:
            self._next_number += 1
        return self._next_number

    def _missing_finals(self) -> list[TrialSpec]:
        known = {trial.trial_id for trial in self._unsettled()} | set(self.finals)
        wanted = [trial for trial in final_trials(self.cell, self.searched) if trial.trial_id not in known]
        return [replace(trial, flat_after=self.flat_after) for trial in wanted]

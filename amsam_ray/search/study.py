"""One cell's Optuna study: what to try next, told what came of what was tried."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from amsam_ray.search.assignment import Outcome, derived_seed
from amsam_ray.search.cells import Cell
from amsam_ray.search.samplers import Conditions, grid_points, make_sampler, optuna_distribution


@dataclass(frozen=True)
class _Asked:
    trial: optuna.Trial
    params: dict[str, Any]


class CellStudy:
    """Ask-and-tell over one in-memory Optuna study.

    Suggestion ``n`` is drawn by a sampler that is seeded with (seed, cell, n) and nothing else. With ``random`` and
    ``grid`` it therefore depends on no other trial, and a sweep that was killed and continued is the sweep that
    was never disturbed. With ``tpe`` and its like it also depends on what was told before.

    Args:
        cell: whose space is searched.
    """

    def __init__(self, cell: Cell):
        self._cell = cell
        self._conditions = Conditions(cell)
        self._search = cell.source.search
        self._distributions = {key: optuna_distribution(d) for key, d in cell.space.items()}
        self._gridded = self._search.sampler == "grid" and bool(cell.space)
        self._fixed_points = list(cell.first)
        if self._gridded:
            grid = grid_points(cell, derived_seed(self._search.seed, cell.id, "grid"))
            self._fixed_points += [point for point in grid if point not in self._fixed_points]
        self._running: dict[int, _Asked] = {}
        # It would announce every study, and every parameter that a sampler cannot model.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(
            direction=StudyDirection.MAXIMIZE if cell.maximise else StudyDirection.MINIMIZE, study_name=cell.id
        )

    @property
    def size(self) -> int:
        """How many trials the cell has: as the file says, but no more than a grid has points."""
        return min(self._cell.trials, len(self._fixed_points)) if self._gridded else self._cell.trials

    def ask(self, number: int) -> dict[str, Any]:
        """Hyperparameters of trial ``number``, the live keys only."""
        point = self._fixed_points[number] if number < len(self._fixed_points) else None
        seed = derived_seed(self._search.seed, self._cell.id, number)
        sampler = make_sampler(
            self._search.sampler,
            seed=seed,
            startup_trials=self._search.startup_trials,
            conditional=any(d.when for d in self._cell.space.values()),
        )
        asked = self._ask(point, sampler)
        self._running[number] = asked
        return asked.params

    def tell(self, number: int, outcome: Outcome) -> None:
        """What came of a trial that was asked for; its rung scores go along."""
        self._tell(self._running.pop(number), outcome)

    def remember(self, outcome: Outcome) -> None:
        """A trial from an earlier run of the sweep.

        One whose parameters the present space does not hold (the sweep was extended) teaches the sampler nothing.
        """
        params = outcome.params
        if self._known(params) == dict(params):
            self._tell(self._ask(params, RandomSampler(seed=0)), outcome)

    def _ask(self, point: Mapping[str, Any] | None, sampler: BaseSampler) -> _Asked:
        if point is not None:
            self._study.enqueue_trial(self._known(point))
        self._study.sampler = sampler
        with warnings.catch_warnings():
            # A published setting may lie outside the range that is searched; it is tried all the same.
            warnings.filterwarnings("ignore", message="Fixed parameter")
            trial = self._study.ask()
            params: dict[str, Any] = {}
            for key, distribution in self._distributions.items():
                if self._conditions.active(key, params):
                    params[key] = _suggest(trial, key, distribution)
        return _Asked(trial, params)

    def _tell(self, asked: _Asked, outcome: Outcome) -> None:
        for epoch, score in outcome.rung_scores.items():
            if math.isfinite(score):
                asked.trial.report(score, epoch)
        state = trial_state(outcome)
        self._study.tell(asked.trial, outcome.score if state is TrialState.COMPLETE else None, state=state)

    def _known(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a point that Optuna can be given: searched keys, and no choice that is not on the list."""
        return {
            key: value
            for key, value in point.items()
            if (d := self._distributions.get(key)) is not None
            and (not isinstance(d, CategoricalDistribution) or value in d.choices)
        }


def _suggest(trial: optuna.Trial, key: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(key, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(key, distribution.low, distribution.high, log=distribution.log)


def trial_state(outcome: Outcome) -> TrialState:
    """Optuna's word for how a trial ended."""
    if outcome.status == "completed" and outcome.score is not None and math.isfinite(outcome.score):
        return TrialState.COMPLETE
    if outcome.status == "pruned":
        return TrialState.PRUNED
    # A loss that diverged says something about the configuration: pruned without a score is the worst there is.
    diverged = outcome.status == "failed" and (outcome.reason or "").startswith("diverged")
    return TrialState.PRUNED if diverged else TrialState.FAIL

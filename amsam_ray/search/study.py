"""One cell's Optuna study: suggests the next configuration and takes in outcomes."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from amsam_ray.search.cells import Cell
from amsam_ray.search.samplers import Conditions, grid_points, make_sampler, optuna_distribution
from amsam_ray.search.trials import TrialOutcome, derived_seed


@dataclass(frozen=True)
class _Asked:
    trial: optuna.Trial | None  # None: a point outside the space, which Optuna cannot represent
    params: dict[str, Any]


class CellStudy:
    """Ask-and-tell over one in-memory Optuna study.

    Suggestion ``n`` is drawn by a sampler seeded with (seed, cell, n) alone. With ``random`` and ``grid`` it therefore
    depends on no other trial, and a sweep that was killed and continued equals the undisturbed one. With ``tpe`` and
    the other model-based samplers it also depends on the outcomes known at that moment.

    Args:
        cell: the cell whose space is searched.
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
        # Optuna logs every new study, and every parameter that a sampler cannot model.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(
            direction=StudyDirection.MAXIMIZE if cell.maximise else StudyDirection.MINIMIZE, study_name=cell.id
        )

    @property
    def size(self) -> int:
        """Number of trials of the cell: as the space file says, but no more than a grid has points."""
        return min(self._cell.trials, self.most)

    @property
    def most(self) -> int:
        """Largest number of trials that the cell can have: the points of a grid, otherwise any number."""
        return len(self._fixed_points) if self._gridded else sys.maxsize

    @property
    def fixed_points(self) -> list[Mapping[str, Any]]:
        """Points tried before the sampler is asked: the cell's first points, then those of a grid."""
        return list(self._fixed_points)

    def live(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part of a point that acts: searched keys whose conditions hold."""
        chosen: dict[str, Any] = {}
        for key in self._distributions:
            if key in point and self._conditions.active(key, chosen):
                chosen[key] = point[key]
        return chosen

    def ask(
        self, number: int, point: Mapping[str, Any] | None = None, sampler: BaseSampler | None = None
    ) -> dict[str, Any]:
        """Return the hyperparameters of trial ``number``, live keys only.

        A point may hold a choice that the space does not list, as a published setting can. It is tried as it is, and
        the sampler does not learn of it.

        Args:
            number: the trial's number within the cell.
            point: what to try; None: the fixed point of this number if there is one, else what the sampler suggests.
            sampler: suggests what ``point`` leaves open; None: the space file's.
        """
        if point is None and number < len(self._fixed_points):
            point = self._fixed_points[number]
        if point is not None:
            live = self.live(point)
            if self._known(live) != live:
                self._running[number] = _Asked(None, live)
                return live
            self._study.enqueue_trial(self._known(point))
        self._study.sampler = sampler or make_sampler(
            self._search.sampler,
            seed=derived_seed(self._search.seed, self._cell.id, number),
            startup_trials=self._search.startup_trials,
            conditional=any(d.when for d in self._cell.space.values()),
        )
        with warnings.catch_warnings():
            # A published setting may be outside the searched range; it is tried nevertheless.
            warnings.filterwarnings("ignore", message="Fixed parameter")
            trial = self._study.ask()
            params: dict[str, Any] = {}
            for key, distribution in self._distributions.items():
                if self._conditions.active(key, params):
                    params[key] = _suggest(trial, key, distribution)
        self._running[number] = _Asked(trial, params)
        return params

    def tell(self, number: int, outcome: TrialOutcome) -> None:
        """Take in the outcome of a trial that ``ask`` returned, with its rung scores."""
        asked = self._running.pop(number)
        if asked.trial is None:
            return
        for epoch, score in outcome.rung_scores.items():
            if math.isfinite(score):
                asked.trial.report(score, epoch)
        state = trial_state(outcome)
        self._study.tell(asked.trial, outcome.score if state is TrialState.COMPLETE else None, state=state)

    def restore(self, number: int, outcome: TrialOutcome) -> None:
        """Take in a trial from an earlier run of the sweep.

        A trial with parameters outside the present space (the sweep was extended) is ignored by the sampler.
        """
        params = outcome.params
        if self._known(params) == dict(params):
            self.ask(number, params, RandomSampler(seed=0))
            self.tell(number, outcome)

    def _known(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part of a point that Optuna accepts: searched keys, and only choices from the list."""
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


def trial_state(outcome: TrialOutcome) -> TrialState:
    """Return the state of an Optuna trial with this outcome."""
    if outcome.status == "completed" and outcome.score is not None and math.isfinite(outcome.score):
        return TrialState.COMPLETE
    if outcome.status == "pruned":
        return TrialState.PRUNED
    # Divergence is informative: a pruned trial without a score ranks below all others.
    return TrialState.PRUNED if outcome.diverged else TrialState.FAIL

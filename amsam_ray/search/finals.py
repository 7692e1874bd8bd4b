"""The finals of a cell: the chosen configurations and the published setting, retrained and scored on the test split.

Where configurations are cross-fitted, another one replaces the published setting only if its mean advantage over the
judged shots exceeds ``search.margin`` standard errors of that mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from amsam_ray.search.cells import Cell
from amsam_ray.search.trials import TrialOutcome, TrialSpec, derived_seed, trial_id


@dataclass(frozen=True)
class Choice:
    """A configuration that gets finals.

    Attributes:
        number: its search trial.
        rank: 1 for the chosen one, 2, 3, ... for the runners-up, 0 for the published setting if it is only compared.
        published: whether it is the published setting.
    """

    number: int
    rank: int
    published: bool


def best_trials(searched: Mapping[int, TrialOutcome], count: int, *, maximise: bool) -> list[int]:
    """Return the numbers of the best completed search trials, best first; of equal ones, the earlier first."""
    sign = -1.0 if maximise else 1.0
    scored = [
        (sign * outcome.score, number)
        for number, outcome in searched.items()
        if outcome.status == "completed" and outcome.score is not None and math.isfinite(outcome.score)
    ]
    return [number for _, number in sorted(scored)[:count]]


def advantage(first: TrialOutcome, second: TrialOutcome, *, maximise: bool) -> tuple[float, float] | None:
    """Return the mean advantage of ``first`` over ``second`` on the shots that judged both, and its standard error.

    Returns:
        (mean, standard error of the mean), in units of the objective, positive if ``first`` is better; None if fewer
        than two shots judged both.
    """
    shared = sorted(first.image_scores.keys() & second.image_scores.keys())
    if len(shared) < 2:
        return None
    sign = 1.0 if maximise else -1.0
    gains = np.array([sign * (first.image_scores[name] - second.image_scores[name]) for name in shared])
    return float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains)))


def choose(cell: Cell, searched: Mapping[int, TrialOutcome]) -> list[Choice]:
    """Return the configurations that get finals, the chosen one first; empty if no search trial completed."""
    best = best_trials(searched, cell.source.finals.top_k, maximise=cell.maximise)
    published = published_trial(cell, searched)
    if best and published is not None and published != best[0]:
        compared = advantage(searched[best[0]], searched[published], maximise=cell.maximise)
        if searched[published].status == "completed" and compared is not None:
            mean, error = compared
            if not mean > cell.source.search.margin * error:
                best = [published, *(number for number in best if number != published)]
                best = best[: cell.source.finals.top_k]
    choices = [Choice(number, rank, number == published) for rank, number in enumerate(best, start=1)]
    if best and published is not None and published not in best:
        choices.append(Choice(published, 0, True))
    return choices


def published_trial(cell: Cell, searched: Mapping[int, TrialOutcome]) -> int | None:
    """Return the number of the search trial that tried the published setting; None if there is none."""
    wanted = cell.published
    if wanted is None:
        return None
    return next((number for number, outcome in sorted(searched.items()) if dict(wanted) == outcome.params), None)


def final_trials(cell: Cell, searched: Mapping[int, TrialOutcome]) -> list[TrialSpec]:
    """Return all finals of a cell whose search is over, the chosen configuration's first."""
    return [
        _final(cell, searched[choice.number], choice, seed_index)
        for choice in choose(cell, searched)
        for seed_index in range(cell.final_seeds)
    ]


def _final(cell: Cell, outcome: TrialOutcome, choice: Choice, seed_index: int) -> TrialSpec:
    seed = derived_seed(cell.source.search.seed, cell.id, seed_index, "final")
    crossfit = cell.source.selection.mode == "crossfit"
    config = cell.config(
        outcome.params,
        seed=seed,
        role="final",
        published=choice.published,
        stop_epoch=outcome.best_epoch if crossfit and not choice.published else 0,
    )
    return TrialSpec(
        trial_id(cell.id, choice.number, seed_index),
        cell.id,
        choice.number,
        config,
        searched=tuple(cell.space),
        published=choice.published,
        choice=choice.rank,
    )

"""The finals of a cell: its best configurations, retrained with several seeds and scored on the test split."""

from __future__ import annotations

import math
from collections.abc import Mapping

from amsam_ray.search.cells import Cell
from amsam_ray.search.trials import TrialOutcome, TrialSpec, derived_seed, trial_id


def best_trials(searched: Mapping[int, TrialOutcome], count: int, *, maximise: bool) -> list[int]:
    """Return the numbers of the best completed search trials, best first; of equal ones, the earlier first."""
    sign = -1.0 if maximise else 1.0
    scored = [
        (sign * outcome.score, number)
        for number, outcome in searched.items()
        if outcome.status == "completed" and outcome.score is not None and math.isfinite(outcome.score)
    ]
    return [number for _, number in sorted(scored)[:count]]


def final_keys(cell: Cell, searched: Mapping[int, TrialOutcome]) -> list[tuple[int, int]]:
    """Return (trial number, seed index) of every final of a cell whose search is over."""
    best = best_trials(searched, cell.source.finals.top_k, maximise=cell.maximise)
    return [(number, seed) for number in best for seed in range(cell.final_seeds)]


def final_trial(cell: Cell, chosen: TrialOutcome, number: int, seed_index: int) -> TrialSpec:
    """Return the final that retrains search trial ``number``, whose outcome is ``chosen``, with one seed."""
    seed = derived_seed(cell.source.search.seed, cell.id, seed_index, "final")
    config = cell.config(chosen.params, seed=seed, role="final")
    return TrialSpec(trial_id(cell.id, number, seed_index), cell.id, number, config, searched=tuple(cell.space))

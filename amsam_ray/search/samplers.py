"""Optuna's samplers by name, and the conversion of a cell's space to Optuna's distributions."""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler

from amsam_ray.config.methods import resolve_params
from amsam_ray.config.space import Distribution
from amsam_ray.errors import Problem
from amsam_ray.search.cells import Cell

_MAX_GRID = 100_000
# TPE proposes from a mixture over this many random candidates; Optuna's default.
_TPE_CANDIDATES = 24


def make_sampler(name: str, *, seed: int, startup_trials: int, conditional: bool = False) -> BaseSampler:
    """Return one of Optuna's samplers.

    Args:
        name: ``tpe`` (Bergstra et al. 2011), ``random``, ``grid``, ``cmaes`` (Hansen 2016) or ``gp``. A grid's points
            are given as fixed trials; its sampler only fills the keys that a point leaves open.
        seed: of all random draws.
        startup_trials: number of random trials before a model is used.
        conditional: whether some keys are searched only under a condition.

    Raises:
        ValueError: unknown ``name``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            # constant_liar: trials running in other lanes count as bad, so that lanes explore different regions.
            # Parameters are modelled jointly (multivariate), conditional ones within their branch (group, slower).
            return TPESampler(
                seed=seed,
                n_startup_trials=startup_trials,
                n_ei_candidates=_TPE_CANDIDATES,
                constant_liar=True,
                multivariate=True,
                group=conditional,
            )
        if name == "cmaes":
            return CmaEsSampler(seed=seed, n_startup_trials=startup_trials)
        if name == "gp":
            return GPSampler(seed=seed, n_startup_trials=startup_trials)
    if name in ("random", "grid"):
        return RandomSampler(seed=seed)
    raise ValueError(f"unknown sampler {name!r}")


def optuna_distribution(distribution: Distribution) -> BaseDistribution:
    """Return the Optuna counterpart of a searched distribution."""
    if distribution.kind == "choice":
        return CategoricalDistribution(_listed(distribution))
    low, high = distribution.values
    log = distribution.kind.startswith("log")
    if distribution.kind.endswith("int"):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(float(low), float(high), log=log)


class Conditions:
    """Decides which keys of a cell's space are searched, given the values chosen so far."""

    def __init__(self, cell: Cell):
        self._cell = cell
        # The value of a key that is not searched in this cell: the fixed one or the method's default.
        self._otherwise = resolve_params(cell.entry.name, dict(cell.fixed)).as_dict()

    def active(self, key: str, chosen: Mapping[str, Any]) -> bool:
        """Whether every condition (``when``) of ``key`` holds. A condition on an inactive key does not."""
        for parent, wanted in self._cell.space[key].when.items():
            if parent in chosen:
                value = chosen[parent]
            elif parent in self._cell.space:
                return False
            else:
                value = self._otherwise.get(parent)
            if _word(value) not in {_word(w) for w in wanted}:
                return False
        return True


def _word(value: Any) -> Any:
    """YAML reads a bare on/off as a boolean; a switch's values are words."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def grid_points(cell: Cell, seed: int) -> list[dict[str, Any]]:
    """Return every combination of the cell's values that differs in a live key, in a seeded order.

    Only choices and integer ranges can be enumerated; ``check_sampler`` refuses the others.
    """
    conditions = Conditions(cell)
    keys = list(cell.space)
    points: dict[tuple[Any, ...], dict[str, Any]] = {}
    for values in itertools.product(*(_listed(cell.space[key]) for key in keys)):
        point: dict[str, Any] = {}
        for key, value in zip(keys, values, strict=True):
            if conditions.active(key, point):
                point[key] = value
        points.setdefault(tuple(point.items()), point)
    ordered = list(points.values())
    random.Random(seed).shuffle(ordered)
    return ordered


def _listed(distribution: Distribution) -> list[Any]:
    if distribution.kind == "choice":
        return [_word(value) for value in distribution.choices]
    low, high = distribution.values
    return list(range(int(low), int(high) + 1))


def check_sampler(cell: Cell) -> list[Problem]:
    """Return what prevents the chosen sampler from searching this cell's space."""
    if cell.source.search.sampler != "grid":
        return []
    problems, size = [], 1
    for key, distribution in cell.space.items():
        if distribution.kind in ("uniform", "loguniform"):
            what = (
                "is a continuous range, which the grid sampler cannot enumerate; use {choice: [...]} or another sampler"
            )
            problems.append(Problem(f"search.space.{key}", what))
        else:
            size *= len(_listed(distribution))
    if not problems and size > _MAX_GRID:
        what = f"makes a grid of {size:,} points; reduce it below {_MAX_GRID:,} or use another sampler"
        problems.append(Problem("search.space", what))
    return problems

"""ASHA: which trials stop at a rung."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from amsam_ray.config.space_file import space_hash
from amsam_ray.search.asha import Asha
from amsam_ray.search.cell_state import rung_epochs
from amsam_ray.search.cells import Cell
from tests.search.spaces import one_cell


def asha(cell: Cell) -> Asha:
    return Asha(rung_epochs(cell.source), cell.source.search.scheduler.reduction, cell.maximise)


def test_trial_below_the_best_share_stops() -> None:
    cell = one_cell(epochs=81, scheduler={"name": "asha", "grace_epochs": 3, "reduction": 3})
    pruner = asha(cell)
    assert [pruner.stops(f"t{n}", 3, score) for n, score in enumerate((0.5, 0.6, 0.1, 0.7))] == [
        False,
        False,
        True,
        False,
    ]
    assert not pruner.stops("t3", 9, 0.1)  # the first at its rung


def test_retried_trial_is_not_judged_against_itself() -> None:
    cell = one_cell(epochs=81, scheduler={"name": "asha", "grace_epochs": 3, "reduction": 3})
    pruner = asha(cell)
    for n in range(10):
        pruner.stops(f"t{n}", 3, n / 10)
    assert not pruner.stops("t9", 3, 0.9)


def test_restored_rungs_decide_like_the_original() -> None:
    cell = one_cell(epochs=81, scheduler={"name": "asha", "grace_epochs": 3, "reduction": 3})
    original, restored = (asha(cell) for _ in range(2))
    for n in range(20):
        scores = {3: (n * 7 % 20) / 20, 9: (n * 7 % 20) / 20}
        for epoch, score in scores.items():
            original.stops(f"t{n}", epoch, score)
        restored.restore(f"t{n}", scores)
    probes = [n / 40 for n in range(40)]
    assert [original.stops(f"p{s}", 3, s) for s in probes] == [restored.stops(f"p{s}", 3, s) for s in probes]


@pytest.mark.parametrize(
    ("selection", "rungs"),
    [
        ({}, (5, 15)),
        ({"mode": "crossfit"}, (40,)),
        ({"mode": "crossfit", "folds": 2}, (20,)),
        ({"mode": "crossfit", "folds": 5}, (60,)),
    ],
)
def test_first_rung_with_cross_fitting_is_after_half_of_the_folds(
    selection: dict[str, Any], rungs: tuple[int, ...]
) -> None:
    cell = one_cell(epochs=20, shots=(16,), selection=selection, scheduler="asha")
    assert rung_epochs(cell.source) == rungs
    named = {"name": "asha", "grace_epochs": rungs[0]}
    written_out = one_cell(epochs=20, shots=(16,), selection=selection, scheduler=named)
    assert space_hash(written_out.source) == space_hash(cell.source)


@pytest.mark.parametrize("maximise", [True, False])
def test_asha_decides_as_the_scheduler_of_ray_tune(maximise: bool) -> None:
    theirs: Any = AsyncHyperBandScheduler(
        time_attr="step",
        metric="score",
        mode="max" if maximise else "min",
        grace_period=1,
        max_t=27,
        reduction_factor=3,
        stop_last_trials=False,
    )
    ours, draws = Asha((5, 15, 45), 3, maximise), np.random.default_rng(0)
    for n in range(60):
        stub = SimpleNamespace(trial_id=f"t{n}")
        theirs.on_trial_add(None, stub)
        for step, epoch in enumerate((5, 15, 45)):
            score = float(draws.random())
            expected = theirs.on_trial_result(None, stub, {"step": 3**step, "score": score}) == TrialScheduler.STOP
            assert ours.stops(f"t{n}", epoch, score) == expected
            if expected:
                break

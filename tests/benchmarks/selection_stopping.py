"""What early stopping would have chosen among the trials of the selection benchmark, and what it would have cost.

A sweep tries the published setting, then the first point, then the other configurations in every possible order. A
trial trains one fold after the other and is judged at the rungs, the last epochs of some folds. The choice is the best
among the trials that ran all folds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from amsam_ray.search.asha import Asha
from tests.benchmarks.selection_format import percent, table
from tests.benchmarks.selection_rules import CellRecords
from tests.benchmarks.selection_trials import PUBLISHED, RECIPE

FOLDS = 4
RULES: dict[str, tuple[tuple[int, ...], float]] = {
    "none": ((), 3),
    "after fold 1": ((1,), 3),
    "after folds 1 and 3": ((1, 3), 3),
    "after folds 1 and 2": ((1, 2), 2),
    "after fold 2": ((2,), 3),
    "after fold 2, one in 2": ((2,), 2),
    "after fold 3": ((3,), 3),
}
"""Name -> the folds after which trials are judged, and the reduction."""
BUDGETS = (12, 16, 20)
"""Numbers of trained folds after which the choices are compared."""


class _Trials:
    """The trials of one cell."""

    def __init__(self, records: CellRecords):
        numbers = range(records.count)
        self._scores = [[records.fold_score(number, folds) for folds in range(1, FOLDS + 1)] for number in numbers]
        self._tests = records.means("refit")
        published = records.test(PUBLISHED, "d2")  # as the finals of the published setting train
        assert published is not None
        self._tests[PUBLISHED] = published[0].mean()
        rest = [number for number in numbers if number not in (PUBLISHED, RECIPE)]
        self.orders = [(PUBLISHED, RECIPE, *others) for others in permutations(rest)]

    def course(self, order: Sequence[int], rungs: tuple[int, ...], reduction: float) -> list[tuple[int, float]]:
        """Return, after each trial, the folds trained so far and the test Dice of the choice."""
        pruner = Asha(rungs, reduction, maximise=True)
        found: list[tuple[int, float]] = []
        complete: list[int] = []
        trained = 0
        for number in order:
            scores = self._scores[number]
            stops = (fold for fold in rungs if pruner.stops(str(number), fold, scores[fold - 1]))
            last = next(stops, FOLDS)
            trained += last
            if last == FOLDS:
                complete.append(number)
            choice = max(complete, key=lambda one: self._scores[one][-1])
            found.append((trained, float(self._tests[choice])))
        return found


def stopping(finished: Iterable[CellRecords]) -> list[dict[str, Any]]:
    """Return the figures of each rule, per method and number of shots, of the cells that were searched."""
    groups: dict[tuple[str, int], list[_Trials]] = {}
    for records in finished:
        if records.count > 2:
            groups.setdefault((records.cell.method, records.cell.shots), []).append(_Trials(records))
    found = []
    for (method, shots), cells in sorted(groups.items()):
        for name, (rungs, reduction) in RULES.items():
            courses = [cell.course(order, rungs, reduction) for cell in cells for order in cell.orders]
            row = {
                "method": method,
                "shots": shots,
                "rule": name,
                "folds": float(np.mean([course[-1][0] for course in courses])),
                "test": float(np.mean([course[-1][1] for course in courses])),
                "after": {
                    str(budget): float(np.mean([_by(course, budget) for course in courses])) for budget in BUDGETS
                },
            }
            found.append(row)
    return found


def _by(course: list[tuple[int, float]], budget: int) -> float:
    """Test Dice of the choice once ``budget`` folds are trained."""
    return [test for trained, test in course if trained <= budget][-1]


def stopping_table(found: list[dict[str, Any]]) -> str:
    """Return the figures as a table. Test Dice in per cent."""
    heads = ["early stopping", "judged", "folds trained", "test Dice", *[f"after {budget} folds" for budget in BUDGETS]]
    rows = [
        [
            f"{row['method']}, K = {row['shots']}",
            row["rule"],
            f"{row['folds']:.1f}",
            percent(row["test"]),
            *[percent(row["after"][str(budget)]) for budget in BUDGETS],
        ]
        for row in found
    ]
    return table(heads, rows)

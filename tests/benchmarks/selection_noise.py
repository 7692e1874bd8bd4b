"""Whether the configurations of a cell differ by more than noise, and how well few images can rank them.

A selection score can rank configurations only where they differ, and only as well as the images that it judges: two
things that limit the rank correlation with the test score in the selection benchmark, and that no rule can change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import stats

from tests.benchmarks.selection_format import identity, number, percent, table
from tests.benchmarks.selection_rules import SCORES, CellRecords

SIGNIFICANCE = 0.05
STANDARD_ERRORS = 2.0
DRAWS, DRAW_SEED = 1000, 0


def noise(records: CellRecords) -> dict[str, Any]:
    """Return whether a cell's configurations differ by more than noise, and the ceiling of the rank correlation.

    They differ if both hold: Friedman's test over the test images has p < ``SIGNIFICANCE``, and the test Dice of the
    best minus that of the worst exceeds ``STANDARD_ERRORS`` times the standard error of the difference of their
    cross-fitted scores, paired over the K shots. The rule was fixed before it was applied to any cell.

    Returns:
        ``p``, ``range`` (best minus worst test Dice), ``standard_error``, ``differ``, and ``ceilings``: number of
        images -> Spearman's correlation of the mean over so many random test images with the mean over all of them,
        averaged over ``DRAWS`` draws. A perfect cross-fit reaches that of K images; one that judges half of the shots,
        and D2, that of K / 2.
    """
    tests, shots = records.test_images("refit"), records.shot_scores()
    means = tests.mean(axis=1)
    best, worst = int(means.argmax()), int(means.argmin())
    gains = shots[best] - shots[worst]
    error = float(gains.std(ddof=1) / math.sqrt(len(gains)))
    p = float(stats.friedmanchisquare(*tests).pvalue)
    spread = float(means[best] - means[worst])
    return {
        "p": p,
        "range": spread,
        "standard_error": error,
        "differ": p < SIGNIFICANCE and spread > STANDARD_ERRORS * error,
        "ceilings": {str(count): _ceiling(tests, count) for count in (shots.shape[1] // 2, shots.shape[1])},
    }


def _ceiling(tests: np.ndarray, count: int) -> float:
    random, means = np.random.default_rng(DRAW_SEED), tests.mean(axis=1)
    drawn = (random.choice(tests.shape[1], count, replace=False) for _ in range(DRAWS))
    return float(np.mean([stats.spearmanr(tests[:, images].mean(axis=1), means).statistic for images in drawn]))


def beyond_noise(cells: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean rank correlations and ceilings of the cells whose configurations differ by more than noise.

    Args:
        cells: figures of single cells, with ``noise`` and ``ranking``.

    Returns:
        One entry per method, number of shots and kind of dataset.
    """
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault((cell["method"], cell["shots"], cell["group"]), []).append(cell)
    found = []
    for (method, shots, group), members in sorted(groups.items()):
        differing = [cell for cell in members if cell["noise"]["differ"]]
        names = [name for name in SCORES if differing and all(name in cell["ranking"] for cell in differing)]
        counts = differing[0]["noise"]["ceilings"] if differing else ()
        found.append(
            {
                "method": method,
                "shots": shots,
                "group": group,
                "cells": len(members),
                "differing": len(differing),
                "spearman": {n: np.mean([c["ranking"][n]["spearman"] for c in differing]) for n in names},
                "ceilings": {n: np.mean([c["noise"]["ceilings"][n] for c in differing]) for n in counts},
            }
        )
    return found


def noise_tables(found: dict[str, Any]) -> list[str]:
    """Return the tables of ``beyond_noise`` and of the single cells."""
    summaries = found["beyond_noise"]
    names = [name for name in SCORES if any(name in one["spearman"] for one in summaries)]
    rows = [
        [
            f"{one['method']}, K = {one['shots']}, {one['group']}",
            f"{one['differing']} of {one['cells']}",
            *[number(one["spearman"].get(name)) for name in names],
            ", ".join(f"{number(value)} ({count})" for count, value in one["ceilings"].items()),
        ]
        for one in summaries
    ]
    heads = ["cells that differ by more than noise", "cells", *[f"{name}: Spearman" for name in names]]
    tables = [table([*heads, "ceiling (images)"], rows)]
    rows = [
        [
            *identity(cell),
            f"{one['p']:.4f}",
            percent(one["range"]),
            percent(one["standard_error"]),
            "yes" if one["differ"] else "no",
            *[number(value) for value in one["ceilings"].values()],
        ]
        for cell in found["cells"]
        if (one := cell.get("noise"))
    ]
    heads = ["dataset", "K", "draw", "method", "Friedman's p", "best - worst", "s.e. of their scores", "differ"]
    return [*tables, table([*heads, "ceiling, K / 2", "ceiling, K"], rows)]

"""The selection rules of the selection benchmark, applied to the records of one cell."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from tests.benchmarks.selection_trials import PUBLISHED, RECIPE, Cell

STANDARD_ERRORS = (0.0, 0.5, 1.0)
HALF = "2 of 4"
"""The score of the first two folds of four, which judge half of the shots."""
SCORES = {
    "d2": ("d2", 1),
    "crossfit2": ("refit", 2),
    HALF: ("refit", 2),
    "crossfit4": ("refit", 4),
    "crossfit8": ("refit8", 8),
}
"""Selection score -> protocol of the finals of what it chooses, and the trainings that one configuration costs."""


@dataclass(frozen=True)
class Choice:
    """What a rule chose in a cell.

    Attributes:
        configuration: its number.
        protocol: ``d2`` or ``refit``, the kind of the finals.
        trainings, seconds: spent on selection.
        score: what the rule saw; NaN without one.
    """

    configuration: int
    protocol: str
    trainings: int = 0
    seconds: float = 0.0
    score: float = math.nan


class CellRecords:
    """The records of one cell, as arrays.

    Args:
        cell: which.
        folder: the output folder of the benchmark.
        count: number of configurations, the first ones of the list.
    """

    def __init__(self, cell: Cell, folder: Path, count: int):
        self.cell, self.count = cell, count
        self._records: dict[tuple[int, str, int], dict[str, Any]] = {}
        for path in (folder / "records" / cell.key).glob("*.json"):
            record = json.loads(path.read_text())
            self._records[record["configuration"], record["kind"], record["seed"]] = record

    def has(self, kind: str) -> bool:
        """Whether every configuration has a record of ``kind``."""
        kind = "crossfit4" if kind == HALF else kind
        return all((number, kind, 0) in self._records for number in range(self.count))

    @property
    def complete(self) -> bool:
        """Whether all rules but those of ``crossfit2`` can be applied."""
        return all(self.has(kind) for kind in ("d2", "crossfit4", "refit"))

    def scores(self, kind: str) -> np.ndarray:
        """Selection scores, -inf where the training diverged.

        Args:
            kind: ``d2``, ``crossfit2``, ``crossfit4``, ``crossfit8``, or ``2 of 4`` for the first two folds of four.
        """
        if kind == HALF:
            return np.array([self.fold_score(number, 2) for number in range(self.count)])
        found = [self._records[number, kind, 0]["score"] for number in range(self.count)]
        return np.array([-math.inf if score is None else score for score in found])

    def seconds(self, kind: str) -> np.ndarray:
        """Seconds of training and selection of each configuration."""
        if kind == HALF:
            return self.seconds("crossfit4") / 2
        return np.array([self._records[number, kind, 0]["seconds"] for number in range(self.count)])

    def test(self, number: int, kind: str) -> np.ndarray | None:
        """Test Dice, seeds x images; a diverged training scores 0. None without a record."""
        records = [r for (n, k, _), r in sorted(self._records.items()) if n == number and k == kind]
        images = next((len(r["test"]) for r in records if r["test"]), 1)
        return np.array([r["test"] or [0.0] * images for r in records]) if records else None

    def true_box(self, number: int, kind: str) -> np.ndarray | None:
        """Test Dice with true boxes, 1 x images; None without a record."""
        found = self._records.get((number, kind, 1), {}).get("true_box")
        return np.array([found]) if found else None

    def means(self, kind: str) -> np.ndarray:
        """Mean test Dice of each configuration over the seeds that all of them have."""
        means: np.ndarray = self.test_images(kind).mean(axis=1)
        return means

    def test_images(self, kind: str) -> np.ndarray:
        """Mean test Dice over the seeds that all configurations have, configurations x images."""
        found, seeds = [self.test(number, kind) for number in range(self.count)], self.seeds(kind)
        return np.array([one[:seeds].mean(axis=0) for one in found if one is not None])

    def seeds(self, kind: str) -> int:
        """Number of seeds that all configurations have; the others have more of what a rule chose."""
        found = [self.test(number, kind) for number in range(self.count)]
        return min(0 if one is None else len(one) for one in found)

    def shots(self, number: int) -> dict[str, float]:
        """Dice of each shot, by name, from a model that was not trained on it; empty where the training diverged."""
        found: dict[str, float] = self._records[number, "crossfit4", 0]["shots"]
        return found

    def shot_scores(self) -> np.ndarray:
        """Dice of the shots, configurations x K; a diverged training scores 0."""
        names = sorted({name for number in range(self.count) for name in self.shots(number)})
        return np.array([[self.shots(number).get(name, 0.0) for name in names] for number in range(self.count)])

    @cached_property
    def _curves(self) -> list[list[np.ndarray]]:
        """Per configuration and fold, the score of each epoch; empty where the training diverged."""
        found = []
        for number in range(self.count):
            record = self._records[number, "crossfit4", 0]
            folds = [np.array(fold) for fold in record["folds"]]
            found.append(folds if record["score"] is not None else [])
        return found

    def fold_score(self, number: int, folds: int) -> float:
        """Score of the best epoch of the first ``folds`` of four, which judge equally many shots; -inf if the training
        diverged."""
        curves = self._curves[number][:folds]
        return float(np.mean(curves, axis=0).max()) if curves else -math.inf

    def choices(self) -> dict[str, Choice]:
        """What each rule chooses; rules without records are left out."""
        found = {"published": Choice(PUBLISHED, "d2")}
        if (PUBLISHED, "longer", 0) in self._records:
            found["published, trained longer"] = Choice(PUBLISHED, "longer")
        found["published, refit on all shots"] = Choice(PUBLISHED, "refit")
        found["recipe, no search"] = Choice(RECIPE, "refit")
        if self.count == 2:
            return found  # nothing to search
        found["d2"] = self._best("d2", "d2", self.count)
        if self.has("crossfit2"):
            found["crossfit, 2 folds"] = self._best("crossfit2", "refit", 2 * self.count)
        found["crossfit, 2 folds of 4"] = self._best(HALF, "refit", 2 * self.count)
        found["crossfit, 4 folds"] = self._best("crossfit4", "refit", 4 * self.count)
        if self.has("crossfit8") and self.has("refit8"):
            found["crossfit, 8 folds"] = self._best("crossfit8", "refit8", 8 * self.count)
        for errors in STANDARD_ERRORS[1:]:
            found[f"crossfit, 4 folds, {errors:g} s.e."] = self._cautious(errors, PUBLISHED)
        found["crossfit, 4 folds, 1 s.e. over recipe"] = self._cautious(1.0, RECIPE)
        found["successive halving"] = self._halving()
        best = int(np.argmax(self.means("refit")))
        found["best of all (looks at the test)"] = Choice(best, "refit")
        return found

    def _best(self, kind: str, protocol: str, trainings: int) -> Choice:
        scores = self.scores(kind)
        best = int(np.argmax(scores))
        return Choice(best, protocol, trainings, float(self.seconds(kind).sum()), float(scores[best]))

    def _cautious(self, errors: float, base: int) -> Choice:
        """Keep configuration ``base`` unless the mean paired difference over the shots exceeds its standard error
        ``errors`` times."""
        best = self._best("crossfit4", "refit", 4 * self.count)
        shots, kept = self.shots(best.configuration), self.shots(base)
        if not kept or not shots:
            return best
        gains = np.array([shots[name] - kept[name] for name in kept])
        if gains.mean() > errors * gains.std(ddof=1) / math.sqrt(len(gains)):
            return best
        score = float(self.scores("crossfit4")[base])
        return Choice(base, "refit", best.trainings, best.seconds, score)

    def _halving(self) -> Choice:
        """Train one fold of every configuration, a second one of the better half, and so on."""
        left, trainings, seconds = list(range(self.count)), 0, 0.0
        per_fold = self.seconds("crossfit4") / 4
        for fold in range(1, 5):
            trainings += len(left)
            seconds += float(per_fold[left].sum())
            left.sort(key=lambda number: -self.fold_score(number, fold))
            left = left[: -(-len(left) // 2)] if fold < 4 else left[:1]
        return Choice(left[0], "refit", trainings, seconds, self.fold_score(left[0], 4))

    def ranking(self) -> dict[str, dict[str, float]]:
        """For each selection score: Spearman's correlation with the test over configurations, and the mean excess
        of the score over the test."""
        found = {}
        for kind, (protocol, _) in SCORES.items():
            if self.has(kind) and self.has(protocol):
                scores, test = self.scores(kind), self.means(protocol)
                kept = np.isfinite(scores)
                found[kind] = {
                    "spearman": float(stats.spearmanr(scores, test).statistic),
                    "excess": float((scores[kept] - test[kept]).mean()),
                }
        return found

    def spread(self) -> dict[str, float]:
        """Standard deviations of the refits' test Dice over configurations and over seeds, and the p-value of an F
        test that configurations differ no more than seeds do."""
        repeated = [self.test(number, "refit") for number in range(self.count)]
        groups = [one.mean(axis=1) for one in repeated if one is not None and len(one) > 1]
        freedom = sum(len(group) - 1 for group in groups)
        over = float(self.means("refit").std(ddof=1))
        if not freedom:
            return {"configurations_sd": over}
        noise = math.sqrt(sum(((group - group.mean()) ** 2).sum() for group in groups) / freedom)
        ratio = self.seeds("refit") * (over / max(noise, 1e-9)) ** 2
        p = float(stats.f.sf(ratio, self.count - 1, freedom))
        return {"configurations_sd": over, "seeds_sd": noise, "p": p}

    def equal_compute(self, trainings: int) -> dict[str, float]:
        """Expected test Dice of each score's choice among as many random configurations as ``trainings`` pay for."""
        found = {}
        for kind, (protocol, cost) in SCORES.items():
            if self.has(kind) and self.has(protocol):
                affordable = max(1, min(self.count, trainings // cost))
                found[kind] = _expected(self.scores(kind), self.means(protocol), affordable)
        return found


def _expected(scores: np.ndarray, test: np.ndarray, size: int) -> float:
    subsets: Sequence[tuple[int, ...]] = list(combinations(range(len(scores)), size))
    return float(np.mean([test[max(subset, key=lambda number: scores[number])] for subset in subsets]))

"""Cross-fitted selection: every shot is judged by a model that was not trained on it.

The K shots are divided into N groups. Fold i trains on all shots but group i and is judged on group i, so that after N
folds each shot has been judged once. The epoch is chosen on the average curve over all judged shots, not per fold,
because the best of a noisy curve per fold would overstate the score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from amsam_ray.data.few_shot import FewShotSplit


@dataclass(frozen=True)
class Fold:
    """One fold of the shots, by their positions in ``split.names``.

    Attributes:
        d1, d2: shots that train the lower and the upper level; with one level both train the same weights.
        judged: shots that this fold holds out.
    """

    d1: tuple[int, ...]
    d2: tuple[int, ...]
    judged: tuple[int, ...]

    @property
    def trained(self) -> tuple[int, ...]:
        """All shots that train this fold."""
        return self.d1 + self.d2


def make_folds(split: FewShotSplit, folds: int) -> list[Fold]:
    """Divide the shots of a split into folds.

    The order is that of the shots taken alternately from D1 and D2. Group i holds every N-th of them from the i-th on,
    so the sizes of groups differ by at most one. The shots that remain go alternately to D1 and D2 of the fold, so
    that D1 has as many as D2 or one more. The roles in a fold therefore differ from those in the split, which are
    random too.

    Args:
        split: a draw of K shots without held-out images.
        folds: N, 2 to K.

    Returns:
        N folds; judged groups are disjoint and cover all shots.
    """
    first, second = range(len(split.d1)), range(len(split.d1), len(split.d1) + len(split.d2))
    order = [place for pair in zip(first, second, strict=True) for place in pair]
    found = []
    for number in range(folds):
        judged = tuple(sorted(order[number::folds]))
        rest = [place for place in order if place not in judged]
        found.append(Fold(tuple(rest[0::2]), tuple(rest[1::2]), judged))
    return found


@dataclass
class CrossfitScores:
    """Objective scores of the judged shots, gathered fold by fold.

    Attributes:
        maximise: whether a larger score is better.
        epochs: the epochs (from 1) that were scored, equal for all folds.
        folds: per finished fold, scores as epochs x judged shots.
    """

    maximise: bool
    epochs: list[int] = field(default_factory=list)
    folds: list[np.ndarray] = field(default_factory=list)

    def add(self, epochs: Sequence[int], scores: Sequence[Sequence[float]]) -> None:
        """Add a finished fold.

        Args:
            epochs: the scored epochs.
            scores: for each of them, the score of each judged shot.
        """
        self.epochs = list(epochs)
        self.folds.append(np.asarray(scores, dtype=float))

    @property
    def curve(self) -> np.ndarray:
        """Mean score over all judged shots, per scored epoch."""
        mean: np.ndarray = np.concatenate(self.folds, axis=1).mean(axis=1)
        return mean

    def best(self) -> tuple[int, float]:
        """Return the best epoch of the average curve, the earliest of equals, and its score."""
        curve = self.curve
        place = int(np.argmax(curve) if self.maximise else np.argmin(curve))
        return self.epochs[place], float(curve[place])


def running_score(finished: CrossfitScores, current: float) -> float:
    """Return the score of a trial within a fold, for early stopping.

    The best score so far of the first fold; later, the score of the finished folds, which is less noisy than that of
    a fold under way.
    """
    return finished.best()[1] if finished.folds else (current if math.isfinite(current) else math.nan)

"""Folds of the shots, and the average curve over them."""

import math

import numpy as np
import pytest

from amsam_ray.data.few_shot import FewShotSplit
from amsam_ray.training.crossfit import CrossfitScores, make_folds, running_score

CASES = [(shots, folds) for shots in (4, 8) for folds in range(2, shots + 1)]


def _split(shots, prefix="s"):
    names = tuple(f"{prefix}{number}" for number in range(shots))
    return FewShotSplit(names[: shots // 2], names[shots // 2 :], (), 0, "")


@pytest.mark.parametrize(("shots", "folds"), CASES)
def test_every_shot_is_judged_once_and_never_trains_its_own_fold(shots, folds):
    found = make_folds(_split(shots), folds)
    assert len(found) == folds
    assert sorted(shot for fold in found for shot in fold.judged) == list(range(shots))
    for fold in found:
        assert sorted((*fold.d1, *fold.d2, *fold.judged)) == list(range(shots))
        assert fold.trained == fold.d1 + fold.d2


@pytest.mark.parametrize(("shots", "folds"), CASES)
def test_folds_and_levels_are_of_equal_size_within_one(shots, folds):
    found = make_folds(_split(shots), folds)
    sizes = [len(fold.judged) for fold in found]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
    for fold in found:
        assert len(fold.d2) >= 1 and len(fold.d1) - len(fold.d2) in (0, 1)


def test_folds_depend_on_the_number_of_shots_only():
    assert make_folds(_split(8), 3) == make_folds(_split(8), 3) == make_folds(_split(8, "other"), 3)


def test_folds_of_four_shots_are_pinned():
    """A change of this order would change the score of every recorded cross-fitted trial."""
    found = [(fold.d1, fold.d2, fold.judged) for fold in make_folds(_split(4), 4)]
    assert found == [((2, 3), (1,), (0,)), ((0, 3), (1,), (2,)), ((0, 3), (2,), (1,)), ((0, 1), (2,), (3,))]


def _scores(maximise):
    scores = CrossfitScores(maximise)
    scores.add([2, 4, 6], [[0.9], [0.5], [0.1]])
    scores.add([2, 4, 6], [[0.0, 0.2], [0.6, 0.7], [0.9, 0.2]])
    return scores


def test_the_curve_is_the_mean_over_shots_not_over_folds():
    assert np.allclose(_scores(True).curve, [1.1 / 3, 1.8 / 3, 1.2 / 3])


def test_the_epoch_is_the_best_of_the_average_curve_not_of_a_fold():
    """Fold 0 is best at epoch 2; the average at epoch 4."""
    assert _scores(True).best() == (4, pytest.approx(0.6))
    assert _scores(False).best() == (2, pytest.approx(1.1 / 3))


def test_the_earliest_of_equal_epochs_is_chosen():
    for maximise in (True, False):
        scores = CrossfitScores(maximise)
        scores.add([1, 2, 3], [[0.5], [0.5], [0.5]])
        assert scores.best() == (1, 0.5)


def test_the_running_score_is_the_first_folds_best_and_then_that_of_finished_folds():
    assert running_score(CrossfitScores(True), 0.3) == 0.3
    assert math.isnan(running_score(CrossfitScores(True), math.inf))
    assert running_score(_scores(True), 0.99) == pytest.approx(0.6)

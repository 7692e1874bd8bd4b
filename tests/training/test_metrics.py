"""Scores against reference implementations, and the conventions that docs/data.md states."""

from __future__ import annotations

import math

import numpy as np
import py_sod_metrics
import pytest
from scipy.spatial import cKDTree

from amsam_ray.config.metrics import METRICS
from amsam_ray.training.metrics import low_res_dice, mean_scores, score_image

NAMES = [name for name in METRICS if name != "dice_low_res"]
EMPTY, FULL = np.zeros((20, 30), bool), np.ones((20, 30), bool)
BLOCK = EMPTY.copy()
BLOCK[4:12, 5:20] = True


def _one(prob: np.ndarray, truth: np.ndarray, name: str) -> float:
    return score_image(prob.astype(np.float64), truth, [name])[name]


def _random(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A random blob and a noisy prediction of it, 8-bit as the reference implementation wants it."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(24, 80, 2)
    rows, columns = np.mgrid[:height, :width]
    centre, radius = rng.uniform(0.3, 0.7, 2) * (height, width), rng.uniform(0.15, 0.3) * min(height, width)
    truth = np.hypot(rows - centre[0], columns - centre[1]) < radius
    moved = np.roll(truth, tuple(rng.integers(-5, 6, 2)), (0, 1))
    prob = np.clip(moved * 160 + rng.integers(0, 110, truth.shape), 3, 250).astype(np.uint8)
    return prob, truth


@pytest.mark.parametrize("seed", range(8))
def test_agreement_with_pysodmetrics(seed: int) -> None:
    prob, truth = _random(seed)
    grey = truth.astype(np.uint8) * 255
    measures = {
        "mae": py_sod_metrics.MAE(),
        "sm": py_sod_metrics.Smeasure(),
        "em": py_sod_metrics.Emeasure(),
        "wfm": py_sod_metrics.WeightedFmeasure(),
    }
    reference = {}
    for measure in measures.values():
        measure.step(prob, grey)
        reference.update(measure.get_results())
    handlers = {
        name: handler(with_dynamic=True, with_adaptive=False)
        for name, handler in (("dice", py_sod_metrics.DICEHandler), ("iou", py_sod_metrics.IOUHandler))
    }
    curves = py_sod_metrics.FmeasureV2(metric_handlers=handlers)
    curves.step(prob, grey)
    expected = {
        "mae": reference["mae"],
        "s_measure": reference["sm"],
        "e_measure_mean": reference["em"]["curve"].mean(),
        "e_measure_max": reference["em"]["curve"].max(),
        "e_measure_adaptive": reference["em"]["adp"],
        "weighted_f": reference["wfm"],
        "mdice": curves.get_results()["dice"]["dynamic"].mean(),
        "miou": curves.get_results()["iou"]["dynamic"].mean(),
    }
    scores = score_image(prob / 255, truth, list(expected))
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, abs=1e-6), name


def _border(mask: np.ndarray) -> np.ndarray:
    """Border pixels N x 2 by their definition: a pixel with a 4-neighbour outside the mask or the image."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(mask & ~inner)


@pytest.mark.parametrize("seed", range(8))
def test_hd95_agrees_with_nearest_neighbours(seed: int) -> None:
    prob, truth = _random(seed)
    pred = prob > 127.5
    ours, theirs = _border(pred), _border(truth)
    distances = np.concatenate([cKDTree(theirs).query(ours)[0], cKDTree(ours).query(theirs)[0]])
    assert _one(pred, truth, "hd95") == pytest.approx(np.percentile(distances, 95), abs=1e-6)


def test_hd95_of_a_shift_is_the_shift() -> None:
    assert _one(np.roll(BLOCK, 3, 1), BLOCK, "hd95") == 3.0


@pytest.mark.parametrize("seed", range(4))
def test_dice_iou_and_ber_by_counting(seed: int) -> None:
    prob, truth = _random(seed)
    pred = prob > 127.5
    hit, false, missed = (pred & truth).sum(), (pred & ~truth).sum(), (~pred & truth).sum()
    clear = (~pred & ~truth).sum()
    scores = score_image(prob / 255, truth, ["dice", "iou", "ber"])
    assert scores["dice"] == pytest.approx(2 * hit / (2 * hit + false + missed), abs=1e-12)
    assert scores["iou"] == pytest.approx(hit / (hit + false + missed), abs=1e-12)
    rates = (hit / (hit + missed) + clear / (clear + false)) / 2
    assert scores["ber"] == pytest.approx(1 - rates, abs=1e-12)


def test_ber_by_hand() -> None:
    truth = np.zeros((4, 5), bool)
    truth[0, :4] = True  # 4 object pixels, 16 others
    pred = np.zeros((4, 5), bool)
    pred[0, :3] = pred[1, :4] = True  # 3 of 4 found, 4 of 16 wrongly
    assert _one(pred, truth, "ber") == pytest.approx(1 - (3 / 4 + 12 / 16) / 2)
    assert _one(pred, np.zeros((4, 5), bool), "ber") == pytest.approx(7 / 20)  # of the only class present
    assert _one(pred, np.ones((4, 5), bool), "ber") == pytest.approx(13 / 20)


DIAGONAL = math.hypot(20, 30)


# Scores of two empty masks, of an empty prediction, and of an object where there is none. None: not fixed.
EMPTY_SCORES = {
    "dice": (1.0, 0.0, 0.0),
    "iou": (1.0, 0.0, 0.0),
    "mae": (0.0, BLOCK.mean(), BLOCK.mean()),
    "ber": (0.0, 0.5, BLOCK.mean()),
    "s_measure": (1.0, None, 1 - BLOCK.mean()),
    "e_measure_mean": (1.0, None, 1 - BLOCK.mean()),
    "e_measure_max": (1.0, None, 1 - BLOCK.mean()),
    "e_measure_adaptive": (1.0, None, 1 - BLOCK.mean()),
    "weighted_f": (1.0, 0.0, 0.0),
    "hd95": (0.0, DIAGONAL, DIAGONAL),
    "mdice": (1.0, None, 0.0),
    "miou": (1.0, None, 0.0),
}


@pytest.mark.parametrize("name", NAMES)
def test_empty_masks(name: str) -> None:
    both_empty, missed, invented = EMPTY_SCORES[name]
    assert _one(EMPTY, EMPTY, name) == pytest.approx(both_empty)
    assert _one(BLOCK, EMPTY, name) == pytest.approx(invented)
    if missed is not None:
        assert _one(EMPTY, BLOCK, name) == pytest.approx(missed, abs=1e-9)


def test_metric_without_implementation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "boundary_f", METRICS["dice"])
    with pytest.raises(ValueError, match="boundary_f has no implementation"):
        _one(EMPTY, EMPTY, "boundary_f")


def test_faint_noise_on_an_empty_truth_is_not_stretched() -> None:
    noise = np.random.default_rng(0).random(EMPTY.shape) * 0.02
    scores = score_image(noise, EMPTY, ["mae", "s_measure", "e_measure_mean"])
    assert scores["mae"] < 0.02
    assert scores["s_measure"] > 0.98
    assert scores["e_measure_mean"] > 0.95


def test_predictions_are_stretched_where_there_is_an_object() -> None:
    assert _one(0.2 + 0.5 * BLOCK, BLOCK, "mae") == pytest.approx(0, abs=1e-12)
    assert _one(0.2 + 0.2 * BLOCK, BLOCK, "dice") == 0  # the threshold is on the probability itself


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_prediction_is_best_and_its_inverse_worse(name: str) -> None:
    info = METRICS[name]
    best, worst = _one(BLOCK, BLOCK, name), _one(~BLOCK, BLOCK, name)
    perfect = 1.0 if info.maximise else 0.0
    # Over 256 thresholds the lowest one takes every pixel; pysodmetrics' E-measure divides by one pixel less.
    assert best == pytest.approx(perfect, abs=0.01)
    assert (best > worst) is info.maximise


def test_a_threshold_is_exceeded_not_reached() -> None:
    assert _one(np.full(BLOCK.shape, 0.5), EMPTY, "dice") == 1.0


def test_every_image_has_the_same_weight() -> None:
    small, large = np.ones((2, 2), bool), np.zeros((50, 50), bool)
    scores = [score_image(small.astype(float), small, ["dice"]), score_image(1.0 - large, large, ["dice"])]
    assert mean_scores(scores) == {"dice": 0.5}


def test_means_need_images_with_the_same_scores() -> None:
    with pytest.raises(ValueError, match="no image"):
        mean_scores([])
    with pytest.raises(ValueError, match="different scores"):
        mean_scores([{"dice": 1.0}, {"iou": 1.0}])


def test_scores_are_floats_in_the_order_of_the_metrics() -> None:
    prob, truth = _random(0)
    names = ["hd95", "dice", "e_measure_max", "mae", "e_measure_mean", "dice"]
    scores = score_image(prob / 255, truth, names)
    assert list(scores) == ["hd95", "dice", "e_measure_max", "mae", "e_measure_mean"]
    assert all(type(value) is float for value in scores.values())


@pytest.mark.parametrize(
    ("prob", "truth", "names", "what"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2), bool), ["dice"], "must be HW of one size"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), ["dice"], "must be bool"),
        (np.full((2, 3), 1.5), np.zeros((2, 3), bool), ["dice"], "in \\[0, 1\\]"),
        (np.full((2, 3), np.nan), np.zeros((2, 3), bool), ["dice"], "in \\[0, 1\\]"),
        (np.zeros((2, 3)), np.zeros((2, 3), bool), ["accuracy"], "cannot score accuracy"),
        (np.zeros((2, 3)), np.zeros((2, 3), bool), ["dice_low_res"], "cannot score dice_low_res"),
    ],
)
def test_invalid_input_is_refused(prob: np.ndarray, truth: np.ndarray, names: list[str], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        score_image(prob, truth, names)


def test_low_resolution_dice_leaves_the_padding_out() -> None:
    truth = np.zeros((40, 80), bool)  # fills the upper half of a square grid
    truth[10:30, 20:60] = True
    prob = np.zeros((16, 16))
    prob[2:6, 4:12] = 0.9
    assert low_res_dice(prob, truth) == 1.0
    prob[8:] = 0.9  # padding
    assert low_res_dice(prob, truth) == 1.0
    prob[0] = 0.9
    assert low_res_dice(prob, truth) == pytest.approx(2 * 32 / (32 + 48))
    with pytest.raises(ValueError, match="must be square"):
        low_res_dice(np.zeros((4, 5)), truth)


def test_low_and_original_resolution_differ_by_the_lost_detail() -> None:
    truth = np.zeros((64, 64), bool)
    truth[::2] = True
    assert low_res_dice(np.ones((16, 16)), truth) in (0.0, 1.0)
    assert _one(np.ones((64, 64)), truth, "dice") == pytest.approx(2 / 3)

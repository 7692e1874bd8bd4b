"""Scores of a predicted mask against the true one, at the image's original size.

The S-, E- and F-measure family and MAE come from pysodmetrics, distances from scipy. The
conventions (empty masks, averaging, thresholds) are documented in `docs/data.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from amsam_ray.config.metrics import METRICS, THRESHOLD

_E_MEASURES = ("e_measure_mean", "e_measure_max", "e_measure_adaptive")
_CURVES = ("mdice", "miou")


def score_image(prob_HW: np.ndarray, truth_HW: np.ndarray, metrics: Sequence[str]) -> dict[str, float]:
    """Score one image.

    Args:
        prob_HW: foreground probabilities, HW float in [0, 1].
        truth_HW: the true mask, HW bool.
        metrics: names of `METRICS`, except ``dice_low_res`` (see `low_res_dice`).

    Returns:
        The scores by name, in the order of ``metrics``: fractions in [0, 1], and ``hd95`` in pixels.

    Raises:
        ValueError: shapes differ, probabilities are out of range or not finite, the truth is not bool, or a name
            is unknown or has no implementation.

    Example:
        >>> truth = np.zeros((8, 8), bool); truth[2:6, 2:6] = True
        >>> score_image(truth.astype(np.float32), truth, ["dice", "hd95"])
        {'dice': 1.0, 'hd95': 0.0}
    """
    _check(prob_HW, truth_HW, metrics)
    pred_HW = prob_HW > THRESHOLD
    scores: dict[str, float] = {}
    for name in metrics:
        if name in scores:
            continue
        if name in _BINARY:
            scores[name] = _BINARY[name](pred_HW, truth_HW)
        elif name in _E_MEASURES:
            scores.update(_e_measures(prob_HW, pred_HW, truth_HW))
        elif name in _CURVES:
            scores.update(_threshold_means(prob_HW, pred_HW, truth_HW))
        elif name in _GREY:
            scores[name] = _GREY[name](prob_HW, truth_HW)
        else:
            raise ValueError(f"metric {name} has no implementation; add one to amsam_ray/training/metrics.py")
    return {name: scores[name] for name in metrics}


def mean_scores(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the means over images of per-image scores; every image has the same weight.

    Raises:
        ValueError: there is no image, or the images have different scores.
    """
    if not scores:
        raise ValueError("no image was scored; give at least one")
    if any(set(one) != set(scores[0]) for one in scores):
        raise ValueError("images have different scores; score all with the same metrics")
    return {name: math.fsum(one[name] for one in scores) / len(scores) for name in scores[0]}


def dice(pred_HW: np.ndarray, truth_HW: np.ndarray) -> float:
    """Return 2 |P and T| / (|P| + |T|) of two bool masks; 1 if both are empty."""
    total = _count(pred_HW) + _count(truth_HW)
    return 2 * _count(pred_HW & truth_HW) / total if total else 1.0


def iou(pred_HW: np.ndarray, truth_HW: np.ndarray) -> float:
    """Return |P and T| / |P or T| of two bool masks; 1 if both are empty."""
    union = _count(pred_HW | truth_HW)
    return _count(pred_HW & truth_HW) / union if union else 1.0


def ber(pred_HW: np.ndarray, truth_HW: np.ndarray) -> float:
    """Return the balanced error rate, 1 - (TPR + TNR) / 2, of two bool masks.

    Vicente et al., ECCV 2016. Where the truth has only one class, the error rate of that class alone.
    """
    rates = []
    if truth_HW.any():
        rates.append(_count(pred_HW & truth_HW) / _count(truth_HW))
    if not truth_HW.all():
        rates.append(_count(~pred_HW & ~truth_HW) / _count(~truth_HW))
    return 1 - sum(rates) / len(rates)


def hd95(pred_HW: np.ndarray, truth_HW: np.ndarray) -> float:
    """Return the 95th percentile of the distances between the borders of two bool masks, in pixels.

    Border pixels are those with a 4-neighbour outside the mask (or at the image's edge); distances from each border
    to the other are pooled, as in medpy's ``hd95``. 0 if both masks are empty; the length of the image's diagonal, the
    worst possible value, if one is.
    """
    from scipy import ndimage

    if not pred_HW.any() or not truth_HW.any():
        return 0.0 if pred_HW.any() == truth_HW.any() else math.hypot(*truth_HW.shape)
    rows, columns = np.nonzero(pred_HW | truth_HW)
    # Distances are between pixels of the two masks, so the image can be cropped to both.
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    borders = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (pred_HW, truth_HW)]
    distances = [ndimage.distance_transform_edt(~other)[border] for border, other in (borders, borders[::-1])]
    return float(np.percentile(np.concatenate(distances), 95))


def low_res_dice(prob_SS: np.ndarray, truth_HW: np.ndarray) -> float:
    """Return the Dice on the decoder's grid, where BLO-SAM's published code scores.

    Args:
        prob_SS: foreground probabilities on the S x S grid of the decoder, including the padding.
        truth_HW: the true mask at the original size, HW bool. It is resized to the grid by nearest neighbour: the
            longer side becomes S, as SAM resizes and pads, and the padding does not count.
    """
    side = prob_SS.shape[0]
    if prob_SS.shape != (side, side):
        raise ValueError(f"the decoder's grid must be square, not {prob_SS.shape}")
    height, width = truth_HW.shape
    scale = side / max(height, width)
    rows, columns = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
    take_rows = np.minimum(((np.arange(rows) + 0.5) * height / rows).astype(int), height - 1)
    take_columns = np.minimum(((np.arange(columns) + 0.5) * width / columns).astype(int), width - 1)
    return dice(prob_SS[:rows, :columns] > THRESHOLD, truth_HW[np.ix_(take_rows, take_columns)])


def _count(mask: np.ndarray) -> int:
    return int(np.count_nonzero(mask))


def _check(prob_HW: np.ndarray, truth_HW: np.ndarray, metrics: Sequence[str]) -> None:
    unknown = [name for name in metrics if name not in METRICS or name == "dice_low_res"]
    if unknown:
        raise ValueError(f"cannot score {', '.join(unknown)} from probabilities at the original size")
    if prob_HW.shape != truth_HW.shape or prob_HW.ndim != 2 or not prob_HW.size:
        raise ValueError(f"probabilities {prob_HW.shape} and truth {truth_HW.shape} must be HW of one size")
    if truth_HW.dtype != bool:
        raise ValueError(f"the truth must be bool, not {truth_HW.dtype}")
    if not (prob_HW.min() >= 0 and prob_HW.max() <= 1):  # NaN fails both comparisons
        raise ValueError("probabilities must be finite and in [0, 1]")


def _stretched(prob_HW: np.ndarray, truth_HW: np.ndarray) -> np.ndarray:
    """Return probabilities stretched to [0, 1], as evaluations of camouflage and saliency do.

    If the truth is empty, the best prediction is flat, and stretching would turn noise into objects.
    """
    prob_HW = prob_HW.astype(np.float64)
    low, high = prob_HW.min(), prob_HW.max()
    if low == high or not truth_HW.any():
        return prob_HW
    return (prob_HW - low) / (high - low)


def _mae(prob_HW: np.ndarray, truth_HW: np.ndarray) -> float:
    from amsam_ray.training.sod_package import MAE

    measure = MAE()
    measure.step(_stretched(prob_HW, truth_HW), truth_HW, normalize=False)
    return float(measure.get_results()["mae"])


def _s_measure(prob_HW: np.ndarray, truth_HW: np.ndarray) -> float:
    from amsam_ray.training.sod_package import Smeasure

    measure = Smeasure()
    measure.step(_stretched(prob_HW, truth_HW), truth_HW, normalize=False)
    return float(measure.get_results()["sm"])


def _e_measures(prob_HW: np.ndarray, pred_HW: np.ndarray, truth_HW: np.ndarray) -> dict[str, float]:
    from amsam_ray.training.sod_package import Emeasure

    if not truth_HW.any():
        # Thresholds at 0 and at twice the mean would make every pixel of a blank prediction object.
        return dict.fromkeys(_E_MEASURES, 1 - _count(pred_HW) / pred_HW.size)
    measure = Emeasure()
    measure.step(_stretched(prob_HW, truth_HW), truth_HW, normalize=False)
    result = measure.get_results()["em"]
    values = (result["curve"].mean(), result["curve"].max(), result["adp"])
    return {name: float(value) for name, value in zip(_E_MEASURES, values, strict=True)}


def _weighted_f(prob_HW: np.ndarray, truth_HW: np.ndarray) -> float:
    from amsam_ray.training.sod_package import WeightedFmeasure

    if not truth_HW.any():
        return 0.0 if np.any(prob_HW > THRESHOLD) else 1.0
    measure = WeightedFmeasure()
    measure.step(_stretched(prob_HW, truth_HW), truth_HW, normalize=False)
    return float(measure.get_results()["wfm"])


def _threshold_means(prob_HW: np.ndarray, pred_HW: np.ndarray, truth_HW: np.ndarray) -> dict[str, float]:
    """Return Dice and IoU averaged over 256 thresholds, as PraNet's evaluation of polyps (Fan et al., MICCAI 2020)."""
    from amsam_ray.training.sod_package import DICEHandler, FmeasureV2, IOUHandler

    if not truth_HW.any():
        return {"mdice": dice(pred_HW, truth_HW), "miou": iou(pred_HW, truth_HW)}
    handlers = {
        "mdice": DICEHandler(with_dynamic=True, with_adaptive=False),
        "miou": IOUHandler(with_dynamic=True, with_adaptive=False),
    }
    measure = FmeasureV2(metric_handlers=handlers)
    measure.step(_stretched(prob_HW, truth_HW), truth_HW, normalize=False)
    curves = measure.get_results()
    return {name: float(np.mean(curves[name]["dynamic"])) for name in handlers}


_BINARY: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "dice": dice,
    "iou": iou,
    "ber": ber,
    "hd95": hd95,
}
_GREY: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mae": _mae,
    "s_measure": _s_measure,
    "weighted_f": _weighted_f,
}

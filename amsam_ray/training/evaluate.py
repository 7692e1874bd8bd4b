"""Scores of a model's predictions, at the images' original size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from amsam_ray.inference.inputs import PreparedSet
from amsam_ray.inference.masks import foreground_logits, probability
from amsam_ray.models.trained_model import TrainedModel
from amsam_ray.training.metrics import low_res_dice, score_image

LOW_RES = "dice_low_res"


def score_pictures(
    model: TrainedModel,
    pictures: PreparedSet,
    index: Sequence[int],
    metrics: Sequence[str],
    *,
    precision: str,
    values: Mapping[str, Tensor] | None = None,
) -> list[dict[str, float]]:
    """Score each picture at its original size; other arguments as ``foreground_logits``.

    Args:
        metrics: names of ``METRICS``; ``dice_low_res`` is the Dice on the decoder's grid.

    Returns:
        One dict per entry of ``index``, in its order, with the metrics in the order of ``metrics``.
    """
    found = foreground_logits(model, pictures, index, precision=precision, values=values)
    return [score_logits(logits, pictures.truths[at], model.image_size, metrics) for at, logits in found]


def score_logits(logits_hh: Tensor, truth: np.ndarray, image_size: int, metrics: Sequence[str]) -> dict[str, float]:
    """Score one prediction at the image's original size.

    Args:
        logits_hh: foreground minus background, on the decoder's grid.
        truth: HxW bool, the true mask.
        image_size: side of the encoder's input in pixels.
        metrics: names of ``METRICS``; ``dice_low_res`` is the Dice on the decoder's grid.
    """
    prob = probability(logits_hh, (truth.shape[0], truth.shape[1]), image_size)
    found = score_image(prob, truth, [name for name in metrics if name != LOW_RES])
    if LOW_RES in metrics:
        found[LOW_RES] = low_res_dice(logits_hh.sigmoid().cpu().numpy(), truth)
    return {name: found[name] for name in metrics}

"""Scores of a model's predictions, at the images' original size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from amsam_ray.inference.inputs import PreparedSet
from amsam_ray.inference.masks import foreground_logits, probability
from amsam_ray.models.adapted import AdaptedSam
from amsam_ray.training.metrics import low_res_dice, score_image

LOW_RES = "dice_low_res"


def score_pictures(
    model: AdaptedSam,
    pictures: PreparedSet,
    index: Sequence[int],
    metrics: Sequence[str],
    *,
    precision: str,
    values: Mapping[str, Tensor] | None = None,
) -> list[dict[str, float]]:
    """Scores of each picture at its original size; arguments as ``foreground_logits``.

    Args:
        metrics: names out of ``METRICS``; ``dice_low_res`` is the Dice on the decoder's grid.

    Returns:
        One dict per entry of ``index``, in its order, with the metrics in the order asked for.
    """
    at_size = [name for name in metrics if name != LOW_RES]
    scores = []
    for position, logits in foreground_logits(model, pictures, index, precision=precision, values=values):
        truth = pictures.truths[position]
        prob = probability(logits, (truth.shape[0], truth.shape[1]), model.backbone.image_size)
        found = score_image(prob, truth, at_size)
        if LOW_RES in metrics:
            found[LOW_RES] = low_res_dice(logits.sigmoid().cpu().numpy(), truth)
        scores.append({name: found[name] for name in metrics})
    return scores

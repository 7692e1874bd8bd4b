"""Predicted masks, at the images' original size, whatever the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from amsam_ray import parallel
from amsam_ray.device import autocast
from amsam_ray.inference.inputs import PreparedSet
from amsam_ray.models.adapted import AdaptedSam
from amsam_ray.models.preprocess import logits_to_original


class Diverged(Exception):
    """A loss or a prediction was NaN or Inf."""


@torch.no_grad()
def foreground_logits(
    model: AdaptedSam,
    pictures: PreparedSet,
    index: Sequence[int],
    *,
    precision: str,
    values: Mapping[str, Tensor] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Foreground minus background logit of each picture, on the decoder's h x h grid.

    A prediction never depends on the pictures beside it: where the model mixes a batch (``calibration: batch``) one
    picture is decoded at a time, as the paper's batch of one does.

    Args:
        model: with the pictures' needs.
        pictures: prepared for it.
        index: which of them.
        precision: of activations.
        values: of what trains, by name; None for the model's own.

    Yields:
        A position in ``pictures`` and h x h float32.

    Raises:
        Diverged: a logit is NaN or Inf.
    """
    model.eval()
    size = 1 if model.params.calibration == "batch" else _decoder_batch(pictures)
    for start in range(0, len(index), size):
        positions = list(index[start : start + size])
        inputs = pictures.batch(positions).without_views().inputs
        with parallel.alone(), autocast(inputs.features.device, precision):
            output = functional_call(model, dict(values or {}), (inputs,), tie_weights=False)
        difference = (output.logits[:, 1] - output.logits[:, 0]).float()
        if not bool(torch.isfinite(difference).all()):
            raise Diverged("a logit is NaN or Inf")
        yield from zip(positions, difference, strict=True)


def probability(logits_hh: Tensor, shape: tuple[int, int], image_size: int) -> np.ndarray:
    """Foreground probability at the original size.

    The two logits are resized before the softmax, as SAM resizes its own before the threshold. Resizing is linear, so
    it may act on their difference, whose sigmoid is the softmax.

    Args:
        logits_hh: foreground minus background, on the decoder's grid.
        shape: (H, W) of the original image.
        image_size: S, the side of the encoder's input.

    Returns:
        HxW float32 in [0, 1].
    """
    return logits_to_original(logits_hh, shape, image_size).sigmoid().cpu().numpy()


def _decoder_batch(pictures: PreparedSet) -> int:
    """As many pictures as keep the upscaled embeddings in about 256 MB: 128 at 256 px, 8 at 1024 px."""
    side = pictures.target.shape[-1]
    return max(1, 128 * 64**2 // side**2)

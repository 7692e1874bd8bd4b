"""Predicted masks at the images' original size, independent of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from amsam_ray import parallel
from amsam_ray.device import autocast
from amsam_ray.inference.inputs import PreparedSet
from amsam_ray.models.preprocess import logits_to_original
from amsam_ray.models.trained_model import ModelInputs, Support, TrainedModel

_EPS = 1e-5  # a fused probability of 0 or 1 has no logit


class Diverged(Exception):
    """A loss or a prediction was NaN or Inf."""


@torch.no_grad()
def foreground_logits(
    model: TrainedModel,
    pictures: PreparedSet,
    index: Sequence[int],
    *,
    precision: str,
    values: Mapping[str, Tensor] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield the foreground minus the background logit of each picture, on the decoder's h x h grid.

    A prediction never depends on other pictures but the support: a model that mixes a batch (``calibration: batch``)
    decodes one picture at a time, as with the paper's batch of one.

    Args:
        model: the method to run.
        pictures: prepared for ``model``.
        index: positions in ``pictures``.
        precision: of activations.
        values: trained tensors by name; None uses the model's own.

    Yields:
        A position in ``pictures`` and h x h float32.

    Raises:
        Diverged: a logit is NaN or Inf.
    """
    model.eval()
    decode = _fused if pictures.candidates is not None and model.params.prompt == "fused" else _single
    size = 1 if model.params.calibration == "batch" else min(model.largest_batch, _decoder_batch(pictures))
    given = dict(values or {})
    if model.needs_support and pictures.support is not None:
        given |= _summary(model, pictures.support, given, precision)
    for start in range(0, len(index), size):
        positions = list(index[start : start + size])
        with parallel.alone(), autocast(pictures.features.device, precision):
            difference = decode(model, pictures, positions, given)
        if not bool(torch.isfinite(difference).all()):
            raise Diverged("a logit is NaN or Inf")
        yield from zip(positions, difference, strict=True)


@torch.no_grad()
def keep_support(model: TrainedModel, pictures: PreparedSet, precision: str) -> None:
    """Let a few-shot model remember the support of ``pictures``, for images that have none of their own."""
    assert pictures.support is not None
    model.eval().remember(_summary(model, pictures.support, {}, precision))


def _summary(model: TrainedModel, support: Support, values: dict[str, Tensor], precision: str) -> dict[str, Tensor]:
    with autocast(support.features.device, precision):
        summary: dict[str, Tensor] = functional_call(model, values, (support,), tie_weights=False)
    return summary


def _single(model: TrainedModel, pictures: PreparedSet, positions: list[int], values: dict[str, Tensor]) -> Tensor:
    """Return logit differences with one prompt per picture, B x h x h."""
    return _differences(model, pictures.batch(positions).without_views().inputs, values)


def _fused(model: TrainedModel, pictures: PreparedSet, positions: list[int], values: dict[str, Tensor]) -> Tensor:
    """Fuse the masks of all candidate boxes: the mean of their probabilities, weighted by confidence, as logits.

    A picture without a candidate is decoded without a box. The encoder's part runs once per picture where it is
    frozen; each candidate costs one pass of the decoder.
    """
    assert pictures.candidates is not None and pictures.confidences is not None
    fused = []
    for position in positions:
        keep = pictures.confidences[position] > 0
        count = max(1, int(keep.sum()))
        inputs = pictures.batch([position] * count).without_views().inputs
        weights = pictures.confidences[position][keep]
        if len(weights):
            inputs = replace(inputs, boxes=pictures.candidates[position][keep], has_box=(True,) * len(weights))
        else:
            inputs = replace(inputs, has_box=(False,))
            weights = torch.ones(1, device=inputs.features.device)
        if model.params.calibration == "batch":  # one mask at a time, as a prediction must not depend on the others
            logits = torch.cat([_differences(model, _only(inputs, place), values) for place in range(count)])
        else:
            logits = _differences(model, inputs, values)
        share = (weights[:, None, None] * logits.sigmoid()).sum(0) / weights.sum()
        fused.append(share.clamp(_EPS, 1 - _EPS).logit())
    return torch.stack(fused)


def _only(inputs: ModelInputs, place: int) -> ModelInputs:
    """Return the batch of one picture of ``inputs``."""
    values = {item.name: getattr(inputs, item.name) for item in fields(inputs)}
    return replace(inputs, **{name: v[place : place + 1] for name, v in values.items() if v is not None})


def _differences(model: TrainedModel, inputs: ModelInputs, values: dict[str, Tensor]) -> Tensor:
    output = functional_call(model, values, (inputs,), tie_weights=False)
    return (output.logits[:, 1] - output.logits[:, 0]).float()


def probability(logits_hh: Tensor, shape: tuple[int, int], image_size: int) -> np.ndarray:
    """Return the foreground probability at the original size.

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
    """Return a batch size whose upscaled embeddings take about 256 MB: 128 at 256 px, 8 at 1024 px."""
    side = pictures.target.shape[-1]
    return max(1, 128 * 64**2 // side**2)

"""Boxes for training that differ from the detector's: true, jittered, or none.

A detector errs, and a decoder that has seen its own mistakes corrected, or no box at all, depends less on it. Per
picture and step one of three prompts is drawn with equal probability: the box of the true mask, that box with each edge
moved by Gaussian noise, or no box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from amsam_ray.inference.inputs import Batch

JITTER = 0.1
"""Standard deviation of an edge's shift, as a share of the box's width or height."""

_TRUE, _JITTERED, _NONE = range(3)


def draw_kinds(count: int, draws: torch.Generator) -> tuple[list[int], Tensor]:
    """Draw the prompts of a joint batch.

    Args:
        count: number of pictures.
        draws: source of randomness, on the CPU.

    Returns:
        ``count`` kinds, and (count, 4) standard normal noise on the CPU.
    """
    return torch.randint(3, (count,), generator=draws).tolist(), torch.randn(count, 4, generator=draws)


def with_mixed_boxes(
    batch: Batch, true_boxes: Tensor, has_object: Sequence[bool], kinds: Sequence[int], noise: Tensor, image_size: int
) -> Batch:
    """Return the batch with drawn boxes.

    Args:
        batch: B pictures.
        true_boxes: (B, 4), XYXY in pixels of the encoder's input.
        has_object: B flags; a picture without an object never has a box.
        kinds: B kinds, as drawn by ``draw_kinds``.
        noise: (B, 4), as drawn by ``draw_kinds``, on the CPU.
        image_size: side of the encoder's input in pixels; boxes are clipped to it.
    """
    device = true_boxes.device
    jittered, noise = torch.tensor([kind == _JITTERED for kind in kinds], device=device), noise.to(device)
    sides = (true_boxes[:, 2:] - true_boxes[:, :2]).repeat(1, 2)
    moved = true_boxes + jittered[:, None] * JITTER * noise * sides
    low, high = torch.minimum(moved[:, :2], moved[:, 2:]), torch.maximum(moved[:, :2], moved[:, 2:])
    boxes = torch.cat([low, high], dim=1).clamp(0, image_size)
    has_box = tuple(kind != _NONE and has for kind, has in zip(kinds, has_object, strict=True))
    inputs = replace(batch.inputs, boxes=boxes, has_box=has_box)
    return replace(batch, inputs=inputs)

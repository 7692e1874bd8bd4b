"""Conversions between photographs and SAM's square input: images, boxes and logits.

They equal those of ``segment_anything.SamPredictor`` (Kirillov et al. 2023, arXiv 2304.02643): the longest side is
resized, colours are normalised, and the right and the bottom are padded with zeros.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_ray.models.sam_package import ResizeLongestSide

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class _Resize(ResizeLongestSide):
    """SAM's resizing, which rounds the shorter side of a very long image to zero; here it keeps a pixel."""

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        height, width = ResizeLongestSide.get_preprocess_shape(oldh, oldw, long_side_length)
        return max(1, height), max(1, width)


def resized_shape(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Return the (H, W) of an image of ``shape`` (H, W) after its longest side is resized to ``size`` pixels."""
    return _Resize.get_preprocess_shape(shape[0], shape[1], size)


def to_input(image: np.ndarray, size: int) -> Tensor:
    """Convert an image to SAM's encoder input.

    Args:
        image: HxWx3 uint8 in [0, 255], RGB.
        size: side S of the square input, in pixels.

    Returns:
        3xSxS float32, normalised by SAM's pixel mean and standard deviation, padded with zeros at the right and bottom;
        SxSx3 in memory, as images are.

    Raises:
        ValueError: ``image`` is not HxWx3 uint8.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image must be HxWx3 uint8, not {image.shape} {image.dtype}")
    resized = _Resize(size).apply_image(image)
    square = np.zeros((size, size, 3), dtype=np.float32)
    square[: resized.shape[0], : resized.shape[1]] = cv2.LUT(resized, _normalised())
    return torch.from_numpy(square).permute(2, 0, 1)


def to_inputs(images: Iterable[np.ndarray], size: int) -> Tensor:
    """Return ``to_input`` of B images, Bx3xSxS float32, in the layout ``torch.channels_last``."""
    return torch.stack([to_input(image, size).permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


@lru_cache(maxsize=1)
def _normalised() -> np.ndarray:
    """Return the normalised value of every level and colour, 1x256x3 float32: a look-up is faster than arithmetic."""
    levels = torch.arange(256, dtype=torch.float32)[:, None]
    return ((levels - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)).numpy()[None]


def box_to_input(box: np.ndarray, shape: tuple[int, int], size: int) -> np.ndarray:
    """Convert boxes from the pixels of an image to those of the encoder's input.

    Args:
        box: (..., 4), XYXY in pixels of the original image.
        shape: (H, W) of the original image.
        size: side of the square input, in pixels.

    Returns:
        (..., 4) float32, XYXY in input pixels.
    """
    new_h, new_w = resized_shape(shape, size)
    scale = np.array([new_w / shape[1], new_h / shape[0]] * 2)
    return (np.asarray(box, dtype=np.float64) * scale).astype(np.float32)


def logits_to_original(logits: Tensor, shape: tuple[int, int], size: int) -> Tensor:
    """Resize the decoder's logits of one image to its original size, as SAM's ``postprocess_masks`` does.

    Args:
        logits: (..., h, w), for the whole padded square.
        shape: (H, W) of the original image.
        size: side of the square input, in pixels.

    Returns:
        (..., H, W) float32: resized bilinearly to the square, cropped to the image, resized bilinearly to ``shape``.
    """
    lead, (h, w) = logits.shape[:-2], logits.shape[-2:]
    square = F.interpolate(logits.reshape(1, -1, h, w).float(), (size, size), mode="bilinear", align_corners=False)
    new_h, new_w = resized_shape(shape, size)
    full = F.interpolate(square[..., :new_h, :new_w], shape, mode="bilinear", align_corners=False)
    return full.reshape(*lead, *shape)

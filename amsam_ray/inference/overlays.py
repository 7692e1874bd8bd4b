"""Overlays: small pictures of an image with its true and predicted outlines."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIDE = 256  # longest side of an overlay, in pixels
TRUTH, PREDICTION, BOX = (64, 224, 96), (255, 64, 64), (80, 160, 255)


def overlay(
    image: np.ndarray,
    truth: np.ndarray | None,
    predicted: np.ndarray,
    box: np.ndarray | None = None,
    *,
    side: int = SIDE,
) -> np.ndarray:
    """Draw the outlines of the true mask (green) and the predicted one (red), and the box (blue).

    Args:
        image: HxWx3 uint8, RGB.
        truth: HxW bool, or None.
        predicted: HxW bool.
        box: XYXY in pixels of the image, or None.
        side: longest side of the result, in pixels; smaller images keep their size.

    Returns:
        hxwx3 uint8, RGB, its longest side at most ``side``.
    """
    picture, scale = _reduced(image, side)
    for mask, colour in ((truth, TRUTH), (predicted, PREDICTION)):
        if mask is not None:
            _draw_outline(picture, mask, colour)
    if box is not None:
        left, top, right, bottom = (round(float(value) * scale) for value in box)
        cv2.rectangle(picture, (left, top), (right, bottom), BOX, 1)
    return picture


def label_overlay(image: np.ndarray, labels: np.ndarray, *, side: int = SIDE) -> np.ndarray:
    """Draw the outlines of all classes of a label map, each in its colour of ``palette``.

    Args:
        image: HxWx3 uint8, RGB.
        labels: HxW, whole numbers, 0 on the background.
        side: as in ``overlay``.

    Returns:
        hxwx3 uint8, RGB, its longest side at most ``side``.
    """
    picture, _ = _reduced(image, side)
    colours = palette()
    for value in np.unique(labels[labels > 0]):
        _draw_outline(picture, labels == value, tuple(int(part) for part in colours[value % 256]))
    return picture


def _reduced(image: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """Return a picture whose longest side is at most ``side``, and its scale."""
    scale = min(1.0, side / max(image.shape[:2]))
    width, height = (max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    picture: np.ndarray = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return picture, scale


def _draw_outline(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, ...]) -> None:
    size = (picture.shape[1], picture.shape[0])
    small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    lines, _ = cv2.findContours(small, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, lines, -1, colour, 1)


def palette() -> np.ndarray:
    """Return the colours of the PASCAL VOC development kit, 256x3 uint8 RGB: those of neighbouring values differ."""
    values, colours = np.arange(256), np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((values >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def save_labels(path: Path, labels: np.ndarray) -> None:
    """Write a label map as a PNG; the folder is created if missing.

    Args:
        path: the file.
        labels: HxW uint16. Values up to 255 are written as the indices of ``palette``, larger ones as 16-bit grey.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if labels.max(initial=0) > 255:
        Image.fromarray(labels).save(path)
        return
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(palette().tobytes())
    picture.save(path)


def save_png(path: Path, picture: np.ndarray) -> None:
    """Write HxWx3 uint8 RGB, or HxW uint8 grey, as a PNG; the folder is created if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture)
    assert written
    path.write_bytes(data.tobytes())

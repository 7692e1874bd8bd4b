"""Overlays: small pictures of an image with its true and predicted outlines."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

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
    scale = min(1.0, side / max(image.shape[:2]))
    width, height = (max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    picture = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    for mask, colour in ((truth, TRUTH), (predicted, PREDICTION)):
        if mask is not None:
            small = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
            lines, _ = cv2.findContours(small, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, lines, -1, colour, 1)
    if box is not None:
        left, top, right, bottom = (round(float(value) * scale) for value in box)
        cv2.rectangle(picture, (left, top), (right, bottom), BOX, 1)
    return picture


def save_png(path: Path, picture: np.ndarray) -> None:
    """Write HxWx3 uint8 RGB, or HxW uint8 grey, as a PNG; the folder is created if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture)
    assert written
    path.write_bytes(data.tobytes())

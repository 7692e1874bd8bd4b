"""Backdrops of scenes: sky, walls, ground in perspective and clutter without masks, blurred or sharp."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from tools.nano.scenes import outlines
from tools.nano.scenes.canvas import Canvas
from tools.nano.scenes.materials import any_rgb, crop, painted, surface


def paint_backdrop(canvas: Canvas, bank: Sequence[np.ndarray]) -> float:
    """Fill the canvas; return the y of the horizon in pixels."""
    rng, size = canvas.rng, canvas.size
    contrast = None if rng.random() < 0.7 else 0.02
    canvas.image[:] = painted(rng, surface(rng, bank, contrast=contrast, round_=0.0), size, size)
    if rng.random() < 0.4:
        _shade_across(canvas, rng.uniform(0.1, 0.5))
    horizon = size * rng.uniform(0.35, 1.0)
    if rng.random() < 0.65:
        _ground(canvas, bank, horizon)
    for _ in range(int(rng.integers(0, 22) * (rng.random() < 0.75))):
        _leaf(canvas, bank, horizon)
    for _ in range(int(rng.integers(0, 6) * (rng.random() < 0.4))):
        x, lean = rng.uniform(0, size), rng.normal(0, 0.05) * size
        pole = outlines.tube([[x, -5], [x + lean, size + 5]], [rng.uniform(0.5, 9)] * 2)
        canvas.paint(pole, surface(rng, bank), None)
    if rng.random() < 0.5:
        defocus(canvas)
    return horizon


def _ground(canvas: Canvas, bank: Sequence[np.ndarray], horizon: float) -> None:
    """Paint a textured plane seen in perspective below the horizon."""
    rng, size = canvas.rng, canvas.size
    top = int(min(horizon, size - 2))
    plane = painted(rng, surface(rng, bank, round_=0.0), size, size)
    spread = size * rng.uniform(0.2, 2.0)
    source = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32)
    target = np.array([[0, top], [size, top], [size + spread, size], [-spread, size]], np.float32)
    matrix = cv2.getPerspectiveTransform(source, target)
    warped = cv2.warpPerspective(plane, matrix, (size, size), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)
    canvas.image[top:] = warped[top:]


def _leaf(canvas: Canvas, bank: Sequence[np.ndarray], horizon: float) -> None:
    """Paint one shape of clutter: furniture-like rectangles near the horizon, blobs and polygons anywhere."""
    rng, size = canvas.rng, canvas.size
    radius = size * min(0.5, 0.03 * np.exp(rng.exponential(1.1)))
    centre = rng.uniform(0, size, 2)
    kind = rng.random()
    if kind < 0.4:
        half = np.array([radius * rng.uniform(0.3, 1.5), radius])
        centre[1] = horizon - half[1] * rng.uniform(-0.5, 1.2)
        low, high = centre - half, centre + half
        polygon = np.array([low, [high[0], low[1]], high, [low[0], high[1]]]) + rng.normal(0, 0.02, (4, 2)) * radius
    elif kind < 0.75:
        polygon = outlines.blob(rng, centre, (radius * rng.uniform(0.4, 1.6), radius), 0.15)
    else:
        polygon = outlines.corners(rng, centre, (radius * rng.uniform(0.4, 1.6), radius), int(rng.integers(3, 7)))
    canvas.paint([polygon], surface(rng, bank), None)


def _shade_across(canvas: Canvas, strength: float) -> None:
    """Paint a slow change of lightness and tint over the image."""
    rng, size = canvas.rng, canvas.size
    field = rng.normal(0, strength, (3, 3, 1)) + rng.normal(0, 0.25 * strength, (3, 3, 3))
    canvas.image *= np.clip(
        1 + cv2.resize(field.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC), 0.2, 2
    )


def defocus(canvas: Canvas) -> None:
    """Blur the canvas, sometimes after adding round lights."""
    rng = canvas.rng
    if rng.random() < 0.25:
        for _ in range(int(rng.integers(3, 25))):
            centre = tuple(int(v) for v in rng.uniform(0, canvas.size, 2))
            bright = tuple(float(255 * min(c * 1.6 + 0.2, 1)) for c in any_rgb(rng))
            cv2.circle(canvas.image, centre, int(rng.integers(1, 12)), bright, -1, cv2.LINE_AA)
    sigma = float(np.exp(rng.uniform(np.log(0.6), np.log(8.0))))
    canvas.image = cv2.GaussianBlur(canvas.image, (0, 0), sigma)


def occlude(canvas: Canvas, bank: Sequence[np.ndarray]) -> None:
    """Paint an occluder that belongs to no mask: leaves, the edge of a table, a pole."""
    rng, size = canvas.rng, canvas.size
    kind = rng.random()
    if kind < 0.4:
        top = size * rng.uniform(0.7, 0.97)
        tilt = size * rng.normal(0, 0.05)
        shape = [np.array([[-5, top], [size + 5, top + tilt], [size + 5, size + 5], [-5, size + 5]])]
    elif kind < 0.7:
        edge = rng.choice([0, size])
        shape = [
            outlines.blob(
                rng, (edge + rng.normal(0, 0.08) * size, rng.uniform(0, size)), (size * 0.12, size * 0.2), 0.25
            )
        ]
    else:
        x = rng.uniform(0, size)
        shape = outlines.tube([[x, -5], [x + rng.normal(0, 0.3) * size, size + 5]], [rng.uniform(1, 8)] * 2)
    canvas.paint(shape, surface(rng, bank), 0, blur=float(rng.choice([0.0, 0.0, 3.0])))


def light_field(canvas: Canvas, bank: Sequence[np.ndarray]) -> None:
    """Light the canvas unevenly: by slow gradients, or dappled by a blurred texture."""
    rng, size = canvas.rng, canvas.size
    if rng.random() < 0.6:
        _shade_across(canvas, rng.uniform(0.03, 0.3))
    if rng.random() < 0.15:
        dapple = cv2.GaussianBlur(crop(rng, bank[int(rng.integers(len(bank)))], size, size, 0.5), (0, 0), 4.0)
        canvas.image *= 1 + (rng.uniform(0.1, 0.5) * (dapple.astype(np.float32) - 128) / 128)[..., None]

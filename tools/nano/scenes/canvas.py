"""The image being painted, and a map of the part visible at each pixel."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from tools.nano.scenes.materials import Material, painted

Polygon = np.ndarray
"""N x 2 float, (x, y) in pixels."""

MAX_PARTS = 64
"""Part numbers are 0 (background) to MAX_PARTS - 1."""


class Canvas:
    """An image painted from back to front.

    Attributes:
        aspect: width over height of the photograph that the square canvas is the squeezed form of.
        image: size x size x 3 float32 in [0, 255].
        parts: size x size uint8, the number of the part seen at each pixel, 0 for background.
    """

    def __init__(self, rng: np.random.Generator, size: int, aspect: float = 1.0) -> None:
        self.rng, self.size, self.aspect = rng, size, aspect
        self.image: np.ndarray = np.zeros((size, size, 3), np.float32)
        self.parts = np.zeros((size, size), np.uint8)
        self.light = rng.normal(0, 1, 2)
        self._next = 1

    def new_part(self) -> int:
        """Return an unused part number; the last one, if all are used."""
        number = self._next
        self._next = min(number + 1, MAX_PARTS - 1)
        return number

    @property
    def full(self) -> bool:
        """True if at most eight unused part numbers are left."""
        return self._next > MAX_PARTS - 9

    def paint(
        self,
        polygons: Sequence[Polygon],
        material: Material,
        part: int | None,
        *,
        stolen: bool = False,
        blur: float = 0.0,
    ) -> None:
        """Paint the union of polygons.

        Args:
            part: number written to `parts`; None leaves `parts` as it is (details of a part already there); 0 makes
                the pixels background (something in front that is no object).
            stolen: take the colours from elsewhere in the image instead of the material (camouflage).
            blur: standard deviation of the outline's blur in pixels, besides the material's own.
        """
        blur = max(blur, material.soft)
        where = self._bounds(polygons, int(3 * blur) + 3)
        if where is None:
            return
        alpha = self.silhouette(polygons, where)
        if blur > 0.3:
            alpha = cv2.GaussianBlur(alpha, (0, 0), blur)
        height, width = alpha.shape
        colours = self._elsewhere(height, width) if stolen else painted(self.rng, material, height, width)
        if material.round or material.gloss:
            reach = max(3, int(0.25 * min(height, width)) | 1)
            depth = cv2.blur(alpha, (reach, reach)).astype(np.float32) / 255.0
            shade = 1.0 + material.round * 0.9 * (depth - 0.75)
            step = max(reach // 2, 1)
            side = np.zeros_like(depth)
            side[:, step : -step or None] = depth[:, 2 * step :] - depth[:, : -2 * step] if width > 2 * step else 0.0
            shade += material.gloss * float(np.clip(self.light[0], -1.5, 1.5)) * 0.5 * side
            colours *= np.clip(shade, 0.2, 1.6)[..., None]
        target = self.image[where]
        target += (alpha.astype(np.float32) * (1 / 255.0))[..., None] * (colours - target)
        if part is not None:
            self.parts[where][alpha > 127] = part

    def shade(self, polygons: Sequence[Polygon], strength: float, blur: float) -> None:
        """Darken the union of polygons: a cast shadow with a penumbra of `blur` pixels."""
        where = self._bounds(polygons, int(3 * blur) + 2)
        if where is None:
            return
        alpha = cv2.blur(self.silhouette(polygons, where), (int(2 * blur) | 1, int(2 * blur) | 1))
        self.image[where] *= (1.0 - (strength / 255.0) * alpha.astype(np.float32))[..., None]

    def silhouette(self, polygons: Sequence[Polygon], where: tuple[slice, slice]) -> np.ndarray:
        """Draw the antialiased union of polygons inside a window: h x w uint8, 255 inside."""
        top, left = where[0].start, where[1].start
        alpha = np.zeros((where[0].stop - top, where[1].stop - left), np.uint8)
        points = np.round((np.concatenate(polygons) - (left, top)) * 8.0).astype(np.int32)
        start = 0
        for polygon in polygons:  # one call each: within a call, overlaps would cancel
            cv2.fillPoly(alpha, [points[start : start + len(polygon)]], 255, cv2.LINE_AA, 3)
            start += len(polygon)
        return alpha

    def _bounds(self, polygons: Sequence[Polygon], margin: int) -> tuple[slice, slice] | None:
        """Return the window of the polygons with a margin, clipped to the image; None if outside the image."""
        points = np.concatenate(polygons)
        low, high = points.min(axis=0), points.max(axis=0)
        left, top = (int(max(v - margin, 0)) for v in low)
        right, bottom = (int(min(v + margin + 1, self.size)) for v in high)
        if right - left < 2 or bottom - top < 2:
            return None
        return slice(top, bottom), slice(left, right)

    def _elsewhere(self, height: int, width: int) -> np.ndarray:
        """Return a random patch of the image painted so far, mirrored."""
        top = int(self.rng.integers(self.size - height + 1))
        left = int(self.rng.integers(self.size - width + 1))
        patch = self.image[top : top + height, left : left + width]
        return (patch[::-1] if self.rng.random() < 0.5 else patch[:, ::-1]).copy()

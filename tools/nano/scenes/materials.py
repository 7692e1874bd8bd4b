"""Surfaces: a grey texture, a colour table and lighting."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Rgb = tuple[float, float, float]

SKIN: tuple[Rgb, ...] = (
    (0.95, 0.80, 0.70),
    (0.88, 0.69, 0.56),
    (0.78, 0.58, 0.45),
    (0.62, 0.43, 0.31),
    (0.42, 0.28, 0.20),
    (0.28, 0.19, 0.15),
)
HAIR: tuple[Rgb, ...] = (
    (0.06, 0.05, 0.05),
    (0.12, 0.08, 0.06),
    (0.25, 0.16, 0.10),
    (0.42, 0.28, 0.15),
    (0.72, 0.57, 0.35),
    (0.55, 0.53, 0.52),
    (0.48, 0.20, 0.10),
)
NATURE: tuple[Rgb, ...] = (
    (0.30, 0.40, 0.16),
    (0.16, 0.24, 0.10),
    (0.50, 0.54, 0.28),
    (0.45, 0.36, 0.26),
    (0.62, 0.56, 0.46),
    (0.35, 0.33, 0.31),
    (0.60, 0.60, 0.60),
    (0.55, 0.70, 0.86),
    (0.80, 0.86, 0.92),
    (0.28, 0.42, 0.50),
    (0.20, 0.15, 0.12),
)


@dataclass(frozen=True)
class Material:
    """One surface.

    Attributes:
        texture: SIDE x SIDE uint8, or None for an even surface.
        table: colour of each grey level, 256 x 1 x 3 uint8 RGB.
        zoom: texture pixels per image pixel.
        folds: how strongly a second crop of `relief` lightens and darkens it, 0 to about 0.4.
        relief: the texture of folds, stretched noise.
        round: how strongly light falls off towards the edges, 0 to about 1.
        gloss: how strongly one side is lit, 0 to about 0.6.
        soft: blur of the outline in pixels (hair, fur).
    """

    texture: np.ndarray | None
    table: np.ndarray
    zoom: float = 1.0
    folds: float = 0.0
    relief: np.ndarray | None = None
    round: float = 0.3
    gloss: float = 0.2
    soft: float = 0.0


def any_rgb(rng: np.random.Generator) -> Rgb:
    """Return a colour typical of photographs: mostly dull, of any lightness."""
    if rng.random() < 0.25:
        base = np.asarray(NATURE[rng.integers(len(NATURE))]) * rng.uniform(0.6, 1.25)
        red, green, blue = np.clip(base + rng.normal(0, 0.04, 3), 0, 1)
        return float(red), float(green), float(blue)
    saturation = float(rng.beta(1.1, 3.4))
    return colorsys.hsv_to_rgb(rng.random(), saturation, float(rng.beta(1.2, 1.0) * 0.97 + 0.02))


def colour_table(rng: np.random.Generator, base: Rgb, contrast: float, hue: float = 0.03) -> np.ndarray:
    """Return a table from dark to light around `base`: 256 x 1 x 3 uint8. `hue` shifts single stops."""
    stops = np.linspace(-1, 1, 5)[:, None] * contrast * rng.uniform(0.6, 1.4, (5, 1))
    colours = np.asarray(base)[None] * (1.0 + 0.8 * stops) + 0.25 * stops + rng.normal(0, hue, (5, 3))
    if rng.random() < 0.3:
        colours = colours[rng.permutation(5)]
    grey = np.arange(256)
    at = np.linspace(0, 255, 5)
    table = np.stack([np.interp(grey, at, colours[:, channel]) for channel in range(3)], axis=1)
    return (np.clip(table, 0, 1) * 255).astype(np.uint8).reshape(256, 1, 3)


def surface(
    rng: np.random.Generator,
    bank: Sequence[np.ndarray],
    base: Rgb | None = None,
    *,
    contrast: float | None = None,
    hue: float = 0.03,
    folds: float = 0.0,
    round_: float | None = None,
    soft: float = 0.0,
) -> Material:
    """Return a random material; `base` colour and `contrast` are drawn unless given."""
    if contrast is None:
        contrast = float(np.exp(rng.uniform(np.log(0.03), np.log(0.9))))
        if rng.random() < 0.15:
            hue = 0.25
    return Material(
        texture=bank[int(rng.integers(len(bank)))] if contrast > 0.02 else None,
        table=colour_table(rng, any_rgb(rng) if base is None else base, contrast, hue),
        zoom=float(np.exp(rng.uniform(np.log(0.4), np.log(1.7)))),
        folds=folds,
        relief=bank[int(rng.integers(len(bank))) // 10 * 10] if folds else None,
        round=float(rng.uniform(0.0, 0.7)) if round_ is None else round_,
        gloss=float(rng.uniform(0.0, 0.7)),
        soft=soft,
    )


def crop(rng: np.random.Generator, texture: np.ndarray, height: int, width: int, zoom: float = 1.0) -> np.ndarray:
    """Return a random height x width view of a texture, at `zoom` texture pixels per pixel."""
    side = texture.shape[0]
    tall, wide = min(max(int(height * zoom), 2), side), min(max(int(width * zoom), 2), side)
    top, left = int(rng.integers(side - tall + 1)), int(rng.integers(side - wide + 1))
    view = texture[top : top + tall, left : left + wide]
    if (tall, wide) == (height, width):
        return view
    return cv2.resize(view, (width, height), interpolation=cv2.INTER_LINEAR if zoom < 1.2 else cv2.INTER_AREA)


def painted(rng: np.random.Generator, material: Material, height: int, width: int) -> np.ndarray:
    """Return the material's colours over an area: height x width x 3 float32 in [0, 255]."""
    if material.texture is None:
        grey = np.full((height, width), 128, np.uint8)
    else:
        grey = crop(rng, material.texture, height, width, material.zoom)
    colours = cv2.LUT(cv2.merge((grey, grey, grey)), material.table).astype(np.float32)
    if material.relief is not None:
        fold = crop(rng, material.relief, height, width, 0.5).astype(np.float32)
        colours *= (1.0 + material.folds * (fold - 128.0) / 128.0)[..., None]
    return colours

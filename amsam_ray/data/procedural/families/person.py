"""Articulated, clothed people in cluttered rooms; the mask covers every person with hair and shoes."""

from __future__ import annotations

import numpy as np

from amsam_ray.data.procedural.draws import Draws
from amsam_ray.data.procedural.families.figure import Figure, pose
from amsam_ray.data.procedural.fields import (
    Colour,
    blend,
    coordinates,
    coverage,
    octaves,
    ramp,
    scaled,
    smoothstep,
    speckle,
    waves,
    window,
)


def any_colour(draws: Draws) -> Colour:
    """Return a colour of paint or cloth, more often dull than bright."""
    grey, strength = draws.uniform(0.08, 0.92), draws.uniform(0.0, 0.4)
    red, green, blue = (min(max(grey + strength * draws.uniform(-1.0, 1.0), 0.02), 0.98) for _ in range(3))
    return red, green, blue


def draw(draws: Draws, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image (size x size x 3, float32 in [0, 1]) and its mask (size x size, bool)."""
    image = _room(draws, size)
    mask = np.zeros((size, size), bool)
    count = 2 if draws.chance(0.15) else 1
    for number in range(count):
        middle = 0.5 + draws.signed(0.16) + (0.0 if count == 1 else (number - 0.5) * 0.42)
        figure = pose(draws, middle, draws.uniform(0.55, 1.25), any_colour)
        _paint(draws, figure, image, mask, size)
    x, y = coordinates(size)
    image *= (1.0 + draws.signed(0.5) * (x - 0.5) + draws.signed(0.5) * (y - 0.5))[..., None]
    image *= np.asarray([1.0 + draws.signed(0.12), 1.0, 1.0 + draws.signed(0.12)], np.float32)
    image += speckle(draws, size, draws.uniform(0.01, 0.04))
    return image, mask


def _room(draws: Draws, size: int) -> np.ndarray:
    """Draw a wall, a floor and furniture-like clutter: size x size x 3."""
    horizon = draws.uniform(0.5, 0.95)
    x, y = coordinates(size)
    wall = ramp(octaves(draws, size, draws.uniform(2.0, 6.0), 5, 0.7), (any_colour(draws), any_colour(draws)))
    floor = ramp(octaves(draws, size, 8.0, 3, 0.8), [any_colour(draws)] * 2) * (0.7 + 0.4 * y)[..., None]
    image = wall + (floor - wall) * coverage(horizon - y + 0.0 * x, size)[..., None]
    for _ in range(draws.integer(2, 10)):
        width, height = draws.uniform(0.04, 0.4), draws.uniform(0.05, 0.5)
        left, bottom = draws.uniform(-0.1, 1.0), horizon + draws.uniform(-0.3, 0.15)
        where = window(size, (left, bottom - height), (left + width, bottom))
        colour = np.asarray(any_colour(draws), np.float32)
        if draws.chance(0.4):  # striped: books, blinds, planks
            axis = x[:, where[1]] if draws.chance(0.5) else y[where[0]]
            bands = 1.0 + draws.uniform(0.1, 0.5) * waves(axis * draws.uniform(8.0, 40.0))
            image[where] = colour * bands[..., None]
        else:
            image[where] = colour * (1.0 + 0.5 * (y[where[0]] - bottom))[..., None]
    if draws.chance(0.6):
        leaves = smoothstep(0.3, 0.42, octaves(draws, size, draws.uniform(5.0, 12.0), 3, 0.8))
        leaves = leaves * smoothstep(0.1, 0.3, x - draws.uniform(0.3, 0.8))
        blend(image, scaled(any_colour(draws), 0.8), leaves * 0.9)
    return image


def _paint(draws: Draws, figure: Figure, image: np.ndarray, mask: np.ndarray, size: int) -> None:
    """Paint a figure's parts, far to near, onto `image` and add them to `mask`, both in place."""
    side = draws.choice((-1.0, 1.0)) * draws.uniform(0.05, 0.35)
    folds = octaves(draws, size, draws.uniform(9.0, 20.0), 2) * draws.uniform(0.03, 0.16)
    x, _ = coordinates(size)
    stripe = 1.0 + draws.uniform(0.1, 0.5) * waves(draws.uniform(20.0, 50.0) * x + folds)
    for part in figure:
        where, distance = part.distance(size)
        inside = coverage(distance, size)
        depth = np.clip(-distance / 0.05, 0.0, 1.0)
        shade = 0.72 + 0.3 * depth + folds[where] + side * (x[:, where[1]] - part.start[0]) * 3.0
        if part.patterned:
            shade = shade * stripe[:, where[1]] if stripe.shape[0] == 1 else shade * stripe[where]
        blend(image[where], np.asarray(part.colour, np.float32) * np.clip(shade, 0.25, 1.4)[..., None], inside)
        mask[where] |= distance < 0.0

"""Polyps seen by a colonoscope: domes of nearly the colour of the mucosa, folds, highlights and a dark lumen."""

from __future__ import annotations

import numpy as np

from amsam_ray.data.procedural.draws import Draws
from amsam_ray.data.procedural.fields import (
    Colour,
    blend,
    coordinates,
    ellipse,
    jittered,
    noise,
    octaves,
    smoothstep,
    speckle,
    unit_vector,
    waves,
)

_MUCOSA: tuple[Colour, ...] = ((0.74, 0.40, 0.32), (0.66, 0.32, 0.27), (0.80, 0.52, 0.40), (0.58, 0.30, 0.28))


def draw(draws: Draws, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image (size x size x 3, float32 in [0, 1]) and its mask (size x size, bool)."""
    x, y = coordinates(size)
    mucosa = jittered(draws, draws.choice(_MUCOSA), 0.06)
    light = unit_vector(draws)

    lumen = (draws.uniform(0.1, 0.9), draws.uniform(0.1, 0.9))
    warp = 0.12 * octaves(draws, size, 3.0, 3)
    depth = ellipse(size, lumen, (0.5, 0.5)) + warp
    folds = waves(depth * draws.uniform(1.5, 4.0) + draws.uniform()) * draws.uniform(0.02, 0.16)
    shade = 0.35 + 0.75 * smoothstep(0.0, draws.uniform(0.5, 1.1), depth) + folds
    shade += 0.06 * octaves(draws, size, 10.0, 3, 0.7)

    image = np.empty((size, size, 3), np.float32)
    image[:] = mucosa
    vessels = smoothstep(0.75, 1.0, 1.0 - np.abs(noise(draws, size, 8.0) + 0.5 * noise(draws, size, 19.0)) * 3.0)
    blend(image, (mucosa[0] * 0.8, mucosa[1] * 0.5, mucosa[2] * 0.55), vessels * draws.uniform(0.1, 0.6))

    body, height = _dome(draws, size)
    inside = 1.0 - smoothstep(1.0 - draws.uniform(0.03, 0.14), 1.03, body)
    tint = jittered(draws, mucosa, 0.09)
    blend(image, tint, inside * draws.uniform(0.3, 0.9))

    slope_y, slope_x = np.zeros_like(height), np.zeros_like(height)
    slope_y[1:-1] = height[2:] - height[:-2]
    slope_x[:, 1:-1] = height[:, 2:] - height[:, :-2]
    facing = (slope_x * light[0] + slope_y * light[1]) * (0.5 * size)
    lift = draws.uniform(0.15, 0.4)
    shade = shade + inside * (lift * np.clip(facing, -1.0, 1.0) * 0.6 + 0.12)
    cast = smoothstep(0.0, 0.16, body - 1.0) * (1.0 - smoothstep(0.1, 0.45, body - 1.0)) * (1.0 - inside)
    shade -= draws.uniform(0.02, 0.2) * cast
    image *= np.clip(shade, 0.03, 1.6)[..., None]

    gloss = octaves(draws, size, draws.uniform(9.0, 16.0), 2) + 0.6 * np.clip(facing, -0.5, 0.8) + 0.25 * folds / 0.1
    level = draws.uniform(0.95, 1.35)
    blend(image, (1.0, 0.97, 0.92), smoothstep(level, level + 0.12, gloss) * (shade > 0.5) * 0.95)
    if draws.chance(0.3):  # stool and bubbles
        waste = smoothstep(0.5, 0.62, octaves(draws, size, 6.0, 3)) * (1.0 - inside)
        blend(image, (0.62, 0.50, 0.18), waste * 0.8)
    if draws.chance(0.6):  # the black frame of the video, corners cut
        border = draws.uniform(0.0, 0.05)
        cut = draws.uniform(0.2, 0.45)
        across, down = np.abs(x - 0.5), np.abs(y - 0.5)
        image[(across > 0.5 - border) | (down > 0.5 - border) | (across + down > 1.0 - border - cut / 2)] = 0.02
    image += speckle(draws, size, draws.uniform(0.01, 0.04))
    return image, body < 1.0


def _dome(draws: Draws, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the normalised radius of a polyp (1 on its border) and its height (0 to 1)."""
    centre = (0.5 + draws.signed(0.24), 0.5 + draws.signed(0.24))
    radius = draws.uniform(0.10, 0.30)
    axis = unit_vector(draws)
    body = ellipse(size, centre, (radius, radius * draws.uniform(0.6, 1.0)), axis)
    if draws.chance(0.35):  # a second lobe
        beside = (centre[0] + axis[0] * radius * 0.8, centre[1] + axis[1] * radius * 0.8)
        body = np.minimum(body, ellipse(size, beside, (radius * 0.7, radius * 0.6)))
    body = body + draws.uniform(0.03, 0.14) * octaves(draws, size, 5.0, 3)
    rise = np.clip(1.0 - body * body, 0.0, 1.0)
    return body, np.sqrt(rise) * (0.6 + 0.1 * noise(draws, size, 12.0))

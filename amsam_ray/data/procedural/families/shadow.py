"""Cast shadows on the ground; the mask excludes the object that casts the shadow and dark stains."""

from __future__ import annotations

import numpy as np

from amsam_ray.data.procedural.draws import Draws
from amsam_ray.data.procedural.families.figure import Part, pose
from amsam_ray.data.procedural.families.person import any_colour
from amsam_ray.data.procedural.fields import (
    Point,
    blend,
    coordinates,
    coverage,
    noise,
    octaves,
    ramp,
    scaled,
    smoothstep,
    speckle,
    waves,
)


def draw(draws: Draws, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image (size x size x 3, float32 in [0, 1]) and its mask (size x size, bool)."""
    image = _ground(draws, size)
    parts, foot = _thing(draws)
    slant, length = draws.signed(2.2), draws.uniform(0.5, 1.3) * draws.choice((-1.0, 1.0, 1.0))

    def fall(point: Point) -> Point:
        """Return the shadow on the ground of a point of the upright object."""
        rise = foot - point[1]
        return point[0] + slant * rise * 0.6, foot + length * rise * 0.7

    shade: np.ndarray = np.ones((size, size), np.float32)
    for part in parts:
        fallen = Part(fall(part.start), fall(part.end), part.radius, part.end_radius, part.colour)
        where, distance = fallen.distance(size)
        np.minimum(shade[where], distance, out=shade[where])
    shade = shade + 0.008 * noise(draws, size, 14.0)
    penumbra = draws.uniform(0.004, 0.03)
    dark = coverage(shade, size, penumbra)
    tint = np.asarray([1.0, draws.uniform(1.0, 1.08), draws.uniform(1.02, 1.2)], np.float32)
    strength = draws.uniform(0.35, 0.75)
    image *= 1.0 - dark[..., None] * (1.0 - (1.0 - strength) * tint)

    mask = shade < 0.0
    relief = octaves(draws, size, 10.0, 2) * 0.08
    x, _ = coordinates(size)
    side = -draws.signed(4.0)
    for part in parts:
        where, distance = part.distance(size)
        lit = 0.85 + 0.15 * np.clip(-distance / 0.04, 0.0, 1.0) + relief[where]
        lit = np.clip(lit + side * (x[:, where[1]] - part.start[0]), 0.3, 1.4)
        blend(image[where], np.asarray(part.colour, np.float32) * lit[..., None], coverage(distance, size))
        mask[where] &= distance >= 0.0
    image += speckle(draws, size, draws.uniform(0.01, 0.03))
    return image, mask


def _ground(draws: Draws, size: int) -> np.ndarray:
    """Draw sunlit ground: asphalt, paving, grass or sand, with stains."""
    x, y = coordinates(size)
    paint, grey = any_colour(draws), draws.uniform(0.4, 0.8)
    base = (0.3 * paint[0] + 0.7 * grey, 0.3 * paint[1] + 0.7 * grey, 0.3 * paint[2] + 0.65 * grey)
    base = scaled(base, 0.75 / max(max(base), 0.3))
    grain = octaves(draws, size, draws.uniform(6.0, 20.0), 4, draws.uniform(0.6, 0.95))
    image = ramp(grain, (scaled(base, draws.uniform(0.6, 0.85)), base, scaled(base, 1.2)))
    near = 0.5 + y  # joints widen towards the viewer
    if draws.chance(0.5):
        tiles = draws.uniform(3.0, 7.0)
        across = waves((x - 0.5) / near * tiles + 0.05 * grain)
        down = waves(tiles * 1.6 / near + 0.05 * grain)
        joints = smoothstep(0.93, 0.99, np.maximum(across, down))
        blend(image, scaled(base, draws.uniform(0.5, 1.3)), joints * draws.uniform(0.3, 0.9))
    stains = smoothstep(0.35, draws.uniform(0.4, 0.8), octaves(draws, size, draws.uniform(2.0, 5.0), 3))
    image *= (1.0 - draws.uniform(0.0, 0.4) * stains)[..., None]
    image *= (draws.uniform(0.8, 1.0) + draws.signed(0.2) * (y - 0.5) + draws.signed(0.2) * (x - 0.5))[..., None]
    return image


def _thing(draws: Draws) -> tuple[list[Part], float]:
    """Return the object that casts the shadow, as upright limbs, and the y of the ground below it."""
    if draws.chance(0.45):
        height = draws.uniform(0.45, 0.75)
        figure = pose(draws, draws.uniform(0.3, 0.7), height, any_colour)
        return figure, max(part.end[1] for part in figure)
    colour = any_colour(draws)
    foot_x, foot = draws.uniform(0.25, 0.75), draws.uniform(0.45, 0.75)
    height = draws.uniform(0.25, 0.5)
    top = (foot_x + draws.signed(0.05), foot - height)
    stem = draws.uniform(0.012, 0.10)
    parts = [Part((foot_x, foot), top, stem, stem * draws.uniform(0.6, 1.0), colour)]
    crown = any_colour(draws)
    for _ in range(draws.integer(0, 5)):  # a sign, a crown, branches
        centre = (top[0] + draws.signed(0.14), top[1] + draws.signed(0.1))
        end = (centre[0] + draws.signed(0.12), centre[1] + draws.signed(0.06))
        radius = draws.uniform(0.03, 0.11)
        parts.append(Part(centre, end, radius, radius * draws.uniform(0.6, 1.0), crown))
    return parts, foot

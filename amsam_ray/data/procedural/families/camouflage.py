"""Camouflaged animals: they share the texture of their ground, apart from slight changes of grain, shade and rim."""

from __future__ import annotations

import numpy as np

from amsam_ray.data.procedural.draws import Draws
from amsam_ray.data.procedural.fields import (
    Colour,
    Point,
    coordinates,
    coverage,
    jittered,
    limb,
    octaves,
    ramp,
    speckle,
    unit_vector,
    waves,
)

_GROUNDS: tuple[tuple[Colour, ...], ...] = (
    ((0.16, 0.20, 0.08), (0.34, 0.40, 0.16), (0.58, 0.60, 0.32)),  # leaves
    ((0.30, 0.24, 0.17), (0.52, 0.43, 0.31), (0.76, 0.68, 0.53)),  # sand and dry grass
    ((0.20, 0.19, 0.18), (0.42, 0.41, 0.40), (0.70, 0.68, 0.64)),  # stone
    ((0.14, 0.11, 0.09), (0.33, 0.24, 0.17), (0.52, 0.42, 0.32)),  # bark
    ((0.08, 0.20, 0.24), (0.22, 0.42, 0.42), (0.58, 0.66, 0.52)),  # sea floor
)


def draw(draws: Draws, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image (size x size x 3, float32 in [0, 1]) and its mask (size x size, bool)."""
    palette = tuple(jittered(draws, colour, 0.06) for colour in draws.choice(_GROUNDS))
    cells, gain = draws.uniform(5.0, 14.0), draws.uniform(0.65, 0.95)
    direction = unit_vector(draws)
    stripes = draws.uniform(0.0, 0.8) if draws.chance(0.5) else 0.0
    frequency = draws.uniform(8.0, 24.0)

    ground = _grain(draws, size, cells, gain, direction, frequency, stripes)
    coat = _grain(draws, size, cells * draws.uniform(0.7, 1.5), gain, unit_vector(draws), frequency, stripes)
    distance = _animal(draws, size)
    distance = distance + 0.008 * octaves(draws, size, 12.0, 2)

    inside = coverage(distance, size, draws.uniform(0.0, 0.012))
    shift = draws.choice((-1.0, 1.0)) * draws.uniform(0.05, 0.30)
    # A faint relief: the middle of the body is lighter than its rim.
    depth = np.clip(-distance / 0.06, 0.0, 1.0)
    relief = draws.uniform(0.15, 0.5) * (depth - 0.6)
    field = ground + inside * (coat + shift + relief - ground)
    dim = np.clip(1.0 - np.abs(distance - 0.012) / 0.025, 0.0, 1.0) * draws.uniform(0.1, 0.4)
    image = ramp(np.clip(field * 0.9, -1.0, 1.0), palette)
    image *= (1.0 - dim * (distance > 0.0))[..., None]
    warm = 1.0 + draws.signed(0.10)
    image *= 1.0 + inside[..., None] * (np.asarray([warm, 1.0, 2.0 - warm], np.float32) - 1.0)

    x, y = coordinates(size)
    image *= (1.0 + draws.signed(0.35) * (x - 0.5) + draws.signed(0.35) * (y - 0.5))[..., None]
    image += speckle(draws, size, draws.uniform(0.01, 0.03))
    return image, distance < 0.0


def _grain(
    draws: Draws, size: int, cells: float, gain: float, direction: Point, frequency: float, stripes: float
) -> np.ndarray:
    """Return a texture in about [-1, 1]: octaves of noise, and warped stripes along `direction`."""
    field = octaves(draws, size, cells, 4, gain)
    if stripes == 0.0:
        return field
    x, y = coordinates(size)
    along = (x * direction[0] + y * direction[1]) * frequency + 0.9 * field
    return (field + stripes * waves(along)) / (1.0 + 0.5 * stripes)


def _animal(draws: Draws, size: int) -> np.ndarray:
    """Return the signed distance to a body with head, limbs and tail at a random place: size x size."""
    heading = unit_vector(draws)
    side = (-heading[1], heading[0])
    scale = draws.uniform(0.5, 1.1)
    centre = (0.5 + draws.signed(0.18), 0.5 + draws.signed(0.18))

    def at(forward: float, sideways: float) -> Point:
        return (
            centre[0] + scale * (forward * heading[0] + sideways * side[0]),
            centre[1] + scale * (forward * heading[1] + sideways * side[1]),
        )

    thick = draws.uniform(0.06, 0.15)
    parts = [
        (at(-0.16, 0.0), at(0.12, 0.0), thick, thick * draws.uniform(0.6, 1.1)),
        (at(0.16, draws.signed(0.05)), at(0.27, draws.signed(0.12)), thick * 0.75, thick * 0.45),
    ]
    bend = draws.signed(0.2)
    parts += [
        (at(-0.20, 0.0), at(-0.34, bend * 0.5), thick * 0.5, thick * 0.25),
        (at(-0.34, bend * 0.5), at(-0.44, bend), thick * 0.25, thick * 0.08),
    ]
    for forward in (-0.14, 0.10) if draws.chance(0.75) else (-0.15, 0.0, 0.12):
        for sign in (-1.0, 1.0):
            knee = at(forward + draws.signed(0.1), sign * (thick + draws.uniform(0.03, 0.08)))
            foot = at(forward + draws.signed(0.16), sign * (thick + draws.uniform(0.08, 0.16)))
            parts += [
                (at(forward, sign * thick * 0.4), knee, thick * 0.4, thick * 0.24),
                (knee, foot, thick * 0.24, 0.008),
            ]
    nearest = np.ones((size, size), np.float32)
    for start, end, radius, end_radius in parts:
        where, distance = limb(size, start, end, radius * scale, end_radius * scale)
        np.minimum(nearest[where], distance, out=nearest[where])
    return nearest

"""Scalar fields over the unit square, the building blocks of the families' images.

Coordinates are (x, y) in [0, 1], x to the right and y down, independent of the number of pixels. Distances are in
the same unit. Arrays are float32 and use only operations that IEEE 754 rounds exactly (+, -, *, /, square root,
comparisons, gathers), never `sin`, `exp`, sums or matrix products, whose last bit depends on the processor.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from amsam_ray.data.procedural.draws import Draws

Point = tuple[float, float]
Colour = tuple[float, float, float]


@functools.lru_cache(maxsize=8)
def coordinates(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixel centres of a square image: x as 1 x size and y as size x 1, float32 in (0, 1)."""
    centres = ((np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)).astype(np.float32)
    centres.flags.writeable = False
    return centres[None, :], centres[:, None]


def smoothstep(low: float, high: float, field: np.ndarray) -> np.ndarray:
    """Return 0 below `low`, 1 above `high` and 3 t^2 - 2 t^3 between them."""
    t = np.clip((field - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def noise(draws: Draws, size: int, cells_x: float, cells_y: float | None = None) -> np.ndarray:
    """Return smooth value noise with about `cells_x` by `cells_y` bumps: size x size, in [-1, 1]."""
    cells_y = cells_x if cells_y is None else cells_y
    lattice = draws.uniforms((int(cells_y) + 3, int(cells_x) + 3), -1.0, 1.0)
    x, y = coordinates(size)
    across, down = x[0] * cells_x + draws.uniform(), y[:, 0] * cells_y + draws.uniform()
    column, row = across.astype(np.intp), down.astype(np.intp)
    tx, ty = across - column.astype(np.float32), down - row.astype(np.float32)
    tx, ty = tx * tx * (3.0 - 2.0 * tx), (ty * ty * (3.0 - 2.0 * ty))[:, None]
    lines = lattice[:, column] + (lattice[:, column + 1] - lattice[:, column]) * tx
    upper = lines[row]
    return upper + (lines[row + 1] - upper) * ty


def octaves(draws: Draws, size: int, cells: float, count: int, gain: float = 0.55) -> np.ndarray:
    """Return a sum of `count` noises, each twice as fine and `gain` times as strong as the last: about [-1, 1]."""
    total = noise(draws, size, cells)
    weight, norm = 1.0, 1.0
    for _ in range(count - 1):
        cells, weight = cells * 2.0, weight * gain
        norm += weight
        total += noise(draws, size, cells) * weight
    return total * (1.6 / norm)


def speckle(draws: Draws, size: int, scale: float) -> np.ndarray:
    """Return independent noise per pixel and channel: size x size x 3, about [-scale, scale]."""
    raw = draws.bytes(size * size * 3)
    return (raw.reshape(size, size, 3).astype(np.float32) - 127.5) * (scale / 127.5)


def waves(field: np.ndarray) -> np.ndarray:
    """Return a sine-like, exactly rounded function of period 1: values in [-1, 1]."""
    t = field - np.floor(field)
    t = 4.0 * np.abs(t - 0.5) - 1.0
    return t * (1.5 - 0.5 * t * t)


def ellipse(size: int, centre: Point, radii: Point, direction: Point = (1.0, 0.0)) -> np.ndarray:
    """Return the normalised radius of an ellipse: 0 at the centre, 1 on the border.

    Args:
        direction: unit vector of the first axis.
    """
    x, y = coordinates(size)
    dx, dy = x - centre[0], y - centre[1]
    u = (dx * direction[0] + dy * direction[1]) / radii[0]
    v = (dy * direction[0] - dx * direction[1]) / radii[1]
    return np.sqrt(u * u + v * v)


def window(size: int, low: Point, high: Point) -> tuple[slice, slice]:
    """Return the (rows, columns) slices of the pixels inside a box, at least one pixel wide."""
    left, right = (min(max(int(v * size), 0), size) for v in (low[0], high[0] + 1.0 / size))
    top, bottom = (min(max(int(v * size), 0), size) for v in (low[1], high[1] + 1.0 / size))
    left, top = min(left, size - 1), min(top, size - 1)
    return slice(top, max(bottom, top + 1)), slice(left, max(right, left + 1))


def limb(
    size: int, start: Point, end: Point, radius: float, end_radius: float | None = None
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Return the signed distance to a tapered capsule, inside the window that contains it.

    Returns:
        The window as (rows, columns) slices, and the distance there: negative inside.
    """
    end_radius = radius if end_radius is None else end_radius
    reach = max(radius, end_radius) + 0.01
    where = window(
        size,
        (min(start[0], end[0]) - reach, min(start[1], end[1]) - reach),
        (max(start[0], end[0]) + reach, max(start[1], end[1]) + reach),
    )
    x, y = coordinates(size)
    dx, dy = x[:, where[1]] - start[0], y[where[0]] - start[1]
    ax, ay = end[0] - start[0], end[1] - start[1]
    along = np.clip((dx * ax + dy * ay) / max(ax * ax + ay * ay, 1e-9), 0.0, 1.0)
    dx, dy = dx - along * ax, dy - along * ay
    return where, np.sqrt(dx * dx + dy * dy) - (radius + (end_radius - radius) * along)


def coverage(distance: np.ndarray, size: int, softness: float = 0.0) -> np.ndarray:
    """Return the share of each pixel that is inside (distance < 0): 0 to 1, over one pixel plus `softness`."""
    return np.clip(0.5 - distance / (1.0 / size + softness), 0.0, 1.0)


def blend(image: np.ndarray, colour: np.ndarray | Colour, alpha: np.ndarray) -> None:
    """Paint `colour` (3, or h x w x 3) over `image` (h x w x 3) in place, by `alpha` (h x w, 0 to 1)."""
    image += alpha[..., None] * (np.asarray(colour, dtype=np.float32) - image)


def ramp(field: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """Map `field` in [-1, 1] linearly to the palette `colours`; returns h x w x 3."""
    table = np.asarray(colours, dtype=np.float32)
    position = np.clip((field + 1.0) * (0.5 * (len(colours) - 1)), 0.0, len(colours) - 1.001)
    lower = position.astype(np.intp)
    fraction = (position - lower.astype(np.float32))[..., None]
    start = table[lower]
    return start + (table[lower + 1] - start) * fraction


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Round an image of floats in [0, 1] to uint8."""
    return np.floor(np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def scaled(colour: Colour, factor: float) -> Colour:
    """Return a colour multiplied by `factor`, clipped to [0, 1]."""
    red, green, blue = (min(max(channel * factor, 0.0), 1.0) for channel in colour)
    return red, green, blue


def jittered(draws: Draws, colour: Colour, amount: float) -> Colour:
    """Return a colour shifted by up to `amount` in every channel, clipped to [0, 1]."""
    red, green, blue = (min(max(channel + draws.signed(amount), 0.0), 1.0) for channel in colour)
    return red, green, blue


def unit_vector(draws: Draws) -> Point:
    """Return a random direction as a unit vector (rational parametrisation of the circle, exactly rounded)."""
    t = draws.uniform(-1.0, 1.0)
    cosine, sine = (1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)
    return (cosine, sine) if draws.chance(0.5) else (-cosine, sine)

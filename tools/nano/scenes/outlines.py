"""Outlines as polygons: N x 2 float arrays of (x, y). A shape is the union of a list of polygons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Polygon = np.ndarray
Shape = list[np.ndarray]
Pair = Sequence[float] | np.ndarray
"""(x, y)."""

_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 17)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 17)[:-1])], axis=1)


def disc(centre: Pair, radius: float) -> Polygon:
    """Return a circle as a 16-gon."""
    return np.asarray(centre) + radius * _CIRCLE


def oval(centre: Pair, radii: Pair, angle: float = 0.0) -> Polygon:
    """Return an ellipse turned by `angle` radians."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.asarray(centre) + (_CIRCLE * np.asarray(radii)) @ turn


def tube(points: Sequence[Pair], radii: Pair, samples: int = 4) -> Shape:
    """Return a bent, tapered limb through `points`: trapezoids between discs, smoothed by a Catmull-Rom curve."""
    path = np.column_stack([np.asarray(points, float), np.asarray(radii, float)])
    if len(path) > 2:
        padded = np.vstack([2 * path[0] - path[1], path, 2 * path[-1] - path[-2]])
        t = np.arange(samples)[:, None] / samples
        pieces = [
            0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
            for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False)
        ]
        path = np.vstack([*pieces, path[-1]])
    path[:, 2] = np.maximum(path[:, 2], 1e-4)
    step = path[1:, :2] - path[:-1, :2]
    normal = np.stack([-step[:, 1], step[:, 0]], axis=1) / (np.linalg.norm(step, axis=1, keepdims=True) + 1e-9)
    centre, radius = path[:, :2], path[:, 2:]
    start, end = normal * radius[:-1], normal * radius[1:]
    sides = np.stack([centre[:-1] + start, centre[1:] + end, centre[1:] - end, centre[:-1] - start], axis=1)
    return [*(centre[:, None] + radius[:, None] * _CIRCLE), *sides]


def blob(rng: np.random.Generator, centre: Pair, radii: Pair, rough: float) -> Polygon:
    """Return a closed curve around `centre`: an ellipse whose radius varies by smooth random waves of size `rough`."""
    t = np.linspace(0, 2 * np.pi, 49)[:-1]
    radius = np.ones_like(t)
    for k in range(1, 7):
        radius += rough * rng.normal() / k * np.cos(k * t + rng.uniform(0, 2 * np.pi))
    radius = np.maximum(radius, 0.25)
    turn = rng.uniform(0, np.pi)
    local = np.stack([np.cos(t) * radii[0] * radius, np.sin(t) * radii[1] * radius], axis=1)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.asarray(centre) + local @ rotation


def corners(rng: np.random.Generator, centre: Pair, radii: Pair, count: int) -> Polygon:
    """Return a polygon of `count` corners at jittered angles."""
    t = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count + rng.uniform(0, 2 * np.pi)
    r = rng.uniform(0.7, 1.1, count)
    return np.asarray(centre) + np.stack([np.cos(t) * radii[0] * r, np.sin(t) * radii[1] * r], axis=1)


def moved(shape: Shape, matrix: np.ndarray, offset: Pair) -> Shape:
    """Map every polygon by x -> matrix x + offset."""
    return _split(np.concatenate(shape) @ matrix.T + np.asarray(offset), shape)


def wobbled(rng: np.random.Generator, shape: Shape, amount: float, scale: float) -> Shape:
    """Bend every polygon by one smooth displacement of about `amount`, with waves of length about `scale`."""
    frequency = rng.normal(0, 2 * np.pi / scale, (2, 2))
    phase = rng.uniform(0, 2 * np.pi, 2)
    points = np.concatenate(shape)
    return _split(points + amount * np.sin(points @ frequency + phase), shape)


def _split(points: np.ndarray, like: Shape) -> Shape:
    """Cut an array of points into polygons as long as those of `like`."""
    ends = np.cumsum([len(polygon) for polygon in like])
    return [points[end - len(polygon) : end] for end, polygon in zip(ends, like, strict=True)]

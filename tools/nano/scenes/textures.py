"""A bank of grey textures for walls, ground, cloth, fur and leaves.

Making a texture costs milliseconds to tens of milliseconds, cropping one a fraction of a millisecond: a process makes
its bank once and then draws thousands of scenes with it.
"""

from __future__ import annotations

import cv2
import numpy as np

SIDE = 512
"""Width and height of every texture in pixels."""


def texture_bank(rng: np.random.Generator, count: int = 160) -> list[np.ndarray]:
    """Draw `count` textures, each SIDE x SIDE uint8 over about the whole range."""
    return [_normalised(_MAKERS[i % len(_MAKERS)](rng)) for i in range(count)]


def _normalised(field: np.ndarray) -> np.ndarray:
    low, high = np.percentile(field[::4, ::4], (1.0, 99.0))
    return np.clip((field - low) * (255.0 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)


def spectral(rng: np.random.Generator) -> np.ndarray:
    """Noise with a power spectrum of 1/f^b, from nearly white to cloudy, sometimes stretched in one direction."""
    fy, fx = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :]
    angle, stretch = rng.uniform(0, np.pi), np.exp(rng.normal(0, 0.6))
    u = (fx * np.cos(angle) + fy * np.sin(angle)) * stretch
    v = (fy * np.cos(angle) - fx * np.sin(angle)) / stretch
    radius = np.sqrt(u * u + v * v)
    radius[0, 0] = 1.0
    spectrum = rng.normal(size=radius.shape) + 1j * rng.normal(size=radius.shape)
    low_cut = rng.uniform(0.0, 0.02)
    field = np.fft.irfft2(spectrum * radius ** -rng.uniform(0.7, 2.2) * (radius > low_cut), s=(SIDE, SIDE))
    kind = rng.integers(4)
    if kind == 0:
        return np.abs(field)  # ridges, veins
    if kind == 1:
        return np.tanh(field / field.std() * rng.uniform(1.0, 6.0))  # two tones
    return np.asarray(field)


def stripes(rng: np.random.Generator) -> np.ndarray:
    """Warped stripes or checks, sharp or soft: cloth, blinds, planks, corrugated sheet."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    warp = cv2.resize(rng.normal(size=(6, 6)).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    angle, frequency = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(6), np.log(60)))
    along = (x * np.cos(angle) + y * np.sin(angle)) * frequency + warp * rng.choice([0.0, 0.1, 0.6])
    across = (y * np.cos(angle) - x * np.sin(angle)) * frequency * rng.choice([1.0, 0.5, 2.0])
    sharp = rng.uniform(0.8, 8.0)
    field = np.tanh(sharp * (np.sin(2 * np.pi * along) - rng.uniform(-0.6, 0.6)))
    if rng.random() < 0.4:
        field = field + rng.uniform(0.3, 1.0) * np.tanh(sharp * np.sin(2 * np.pi * across))
    return field + rng.uniform(0.0, 0.5) * rng.normal(size=field.shape)


def masonry(rng: np.random.Generator) -> np.ndarray:
    """Bricks, tiles, shelves or rows of windows with uneven tones."""
    field = np.full((SIDE, SIDE), rng.uniform(0.0, 1.0), np.float32)
    height, width = int(rng.integers(12, 80)), int(rng.integers(16, 120))
    gap = int(rng.integers(1, 1 + max(2, height // 4)))
    shift = rng.choice([0.0, 0.5])
    inner = rng.random() < 0.4
    for row, top in enumerate(range(0, SIDE, height)):
        for left in range(int(-width * shift * (row % 2)), SIDE, width):
            tone = rng.uniform(0.0, 1.0) if inner else rng.normal(0.6, 0.12)
            end = (left + width - gap, top + height - gap)
            cv2.rectangle(field, (left, top), end, float(tone), -1)
            if inner:
                cv2.line(field, ((left + end[0]) // 2, top), ((left + end[0]) // 2, end[1]), float(rng.random()), 1)
    return field + 0.08 * rng.normal(size=field.shape).astype(np.float32)


def leaves(rng: np.random.Generator) -> np.ndarray:
    """Dead leaves (Lee, Mumford and Huang 2001): overlapping shapes of power-law sizes, as foliage or gravel."""
    field = np.full((SIDE, SIDE), 0.5, np.float32)
    slender, largest = rng.uniform(0.2, 1.0), rng.uniform(12, 60)
    for _ in range(900):
        size = largest * (rng.random() * 0.94 + 0.06) ** 2 + 1.5
        centre = tuple(int(v) for v in rng.integers(0, SIDE, 2))
        axes = (max(int(size), 1), max(int(size * slender), 1))
        angle, tone = float(rng.uniform(0, 180)), float(rng.random())
        cv2.ellipse(field, centre, axes, angle, 0, 360, tone, -1, cv2.LINE_8)
    return field + 0.04 * rng.normal(size=field.shape).astype(np.float32)


def strands(rng: np.random.Generator) -> np.ndarray:
    """Noise smeared along curving lines: hair, fur, grass, wood grain."""
    field: np.ndarray = rng.normal(size=(SIDE, SIDE)).astype(np.float32)
    length = int(rng.integers(9, 41))
    kernel = np.zeros((length, length), np.float32)
    slope = rng.uniform(-0.5, 0.5) * length
    middle = length / 2
    cv2.line(kernel, (int(middle - slope), 0), (int(middle + slope), length - 1), 1.0, 1)
    field = cv2.filter2D(field, -1, kernel / kernel.sum())
    bend = cv2.resize(rng.normal(size=(4, 4)).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    field = cv2.remap(field, x + 25 * bend, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(field / field.std() + rng.uniform(0, 1.5) * bend)


def spots(rng: np.random.Generator) -> np.ndarray:
    """Dots, prints and lines of writing on an even ground."""
    field = np.full((SIDE, SIDE), rng.random(), np.float32)
    if rng.random() < 0.4:
        line = int(rng.integers(8, 30))
        for top in range(0, SIDE, line):
            left = 0
            while left < SIDE:
                word = int(rng.integers(2, 4 * line))
                cv2.rectangle(field, (left, top), (left + word, top + line // 2), float(rng.random()), -1)
                left += word + int(rng.integers(2, line))
        return field
    pitch = int(rng.integers(10, 70))
    radius = max(int(pitch * rng.uniform(0.1, 0.45)), 1)
    for top in range(0, SIDE + pitch, pitch):
        for left in range((top // pitch % 2) * pitch // 2, SIDE + pitch, pitch):
            jitter = rng.normal(0, pitch * 0.1, 2)
            centre = (int(left + jitter[0]), int(top + jitter[1]))
            cv2.circle(field, centre, radius, float(rng.random()), -1, cv2.LINE_AA)
    return field


_MAKERS = (spectral, stripes, spectral, leaves, masonry, spectral, strands, leaves, spots, strands)

"""Skin lesions under a dermatoscope: pigmented blobs with fuzzy borders, hair, vignettes and gel bubbles."""

from __future__ import annotations

import numpy as np

from amsam_ray.data.procedural.draws import Draws
from amsam_ray.data.procedural.fields import (
    Colour,
    blend,
    coverage,
    ellipse,
    jittered,
    limb,
    noise,
    octaves,
    scaled,
    smoothstep,
    speckle,
    unit_vector,
)

_SKIN: tuple[Colour, ...] = ((0.90, 0.72, 0.64), (0.83, 0.62, 0.53), (0.78, 0.60, 0.57), (0.66, 0.48, 0.38))
_PIGMENT: tuple[Colour, ...] = (
    (0.42, 0.26, 0.18),
    (0.30, 0.19, 0.15),
    (0.55, 0.34, 0.27),
    (0.62, 0.36, 0.34),
)

HALO = 0.16
"""Distance of the annotated border from the pigment, in lesion radii: dermatologists annotate generously."""


def draw(draws: Draws, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image (size x size x 3, float32 in [0, 1]) and its mask (size x size, bool)."""
    skin = jittered(draws, draws.choice(_SKIN), 0.05)
    image = np.empty((size, size, 3), np.float32)
    image[:] = skin
    image *= 1.0 + 0.10 * octaves(draws, size, 3.0, 5, 0.7)[..., None]

    centre = (0.5 + draws.signed(0.14), 0.5 + draws.signed(0.14))
    radius = draws.uniform(0.12, 0.33)
    radii = (radius, radius * draws.uniform(0.62, 1.0))
    roughness = draws.uniform(0.08, 0.30)
    body = ellipse(size, centre, radii, unit_vector(draws)) + roughness * octaves(draws, size, 4.0, 4, 0.6)

    fuzz = draws.uniform(0.06, 0.34)
    pigment = 1.0 - smoothstep(1.0 - fuzz, 1.0 + fuzz, body)
    redness = 1.0 - smoothstep(1.0, 1.0 + HALO + draws.uniform(0.1, 0.4), body)
    blend(image, scaled((skin[0], skin[1] * 0.84, skin[2] * 0.82), 0.97), redness * draws.uniform(0.3, 0.8))

    tone = jittered(draws, draws.choice(_PIGMENT), 0.06)
    contrast = draws.uniform(0.45, 0.97)
    mottled = 1.0 + draws.uniform(0.05, 0.35) * octaves(draws, size, 9.0, 3, 0.7)
    blend(image, np.asarray(tone, np.float32) * mottled[..., None], pigment * contrast)
    for _ in range(draws.integer(0, 3)):  # islands of another pigment, or of regression
        patch = smoothstep(0.05, 0.6, noise(draws, size, draws.uniform(3.0, 9.0))) * pigment
        blend(image, jittered(draws, draws.choice((*_PIGMENT, (0.45, 0.47, 0.55))), 0.1), patch * 0.6)

    _clutter(draws, image, skin, tone, size)
    _vignette(draws, image, size)
    image += speckle(draws, size, draws.uniform(0.005, 0.03))
    return image, body < 1.0 + HALO


def _clutter(draws: Draws, image: np.ndarray, skin: Colour, tone: Colour, size: int) -> None:
    """Paint distractors onto `image`: small moles, gel bubbles, hair."""
    for _ in range(draws.integer(0, 4)):
        spot = (draws.uniform(0.05, 0.95), draws.uniform(0.05, 0.95))
        where, distance = limb(size, spot, spot, draws.uniform(0.006, 0.022))
        blend(image[where], tone, coverage(distance, size, 0.01) * draws.uniform(0.3, 0.8))
    for _ in range(draws.integer(2, 9) if draws.chance(0.3) else 0):
        spot = (draws.uniform(0.0, 1.0), draws.uniform(0.0, 1.0))
        where, distance = limb(size, spot, spot, draws.uniform(0.008, 0.03))
        rim = coverage(np.abs(distance) - 0.002, size, 0.004)
        blend(image[where], (0.95, 0.93, 0.92), rim * draws.uniform(0.3, 0.8))
    if not draws.chance(0.55):
        return
    shade = scaled(skin, draws.uniform(0.15, 0.5))
    combed = unit_vector(draws)
    for _ in range(draws.integer(3, 22)):
        x, y = draws.uniform(-0.1, 1.1), draws.uniform(-0.1, 1.1)
        step = draws.uniform(0.08, 0.18)
        dx, dy = combed[0] + draws.signed(0.8), combed[1] + draws.signed(0.8)
        bend, width = draws.signed(0.25), draws.uniform(0.0012, 0.0038)
        for _ in range(4):
            end = (x + dx * step, y + dy * step)
            where, distance = limb(size, (x, y), end, width)
            blend(image[where], shade, coverage(distance, size, 0.002) * 0.85)
            (x, y), dx, dy = end, dx - bend * dy, dy + bend * dx


def _vignette(draws: Draws, image: np.ndarray, size: int) -> None:
    """Darken the corners of `image` as a round lens does, with a hard or a soft edge."""
    kind = draws.uniform()
    if kind < 0.45:
        return
    reach = ellipse(size, (0.5 + draws.signed(0.04), 0.5 + draws.signed(0.04)), (0.5, 0.5))
    if kind < 0.7:
        edge = draws.uniform(1.0, 1.3)
        image *= (1.0 - 0.97 * smoothstep(edge, edge + draws.uniform(0.02, 0.1), reach))[..., None]
    else:
        image *= (1.0 - draws.uniform(0.2, 0.6) * smoothstep(0.5, 1.4, reach))[..., None]

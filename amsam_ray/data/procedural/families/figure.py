"""Clothed human figures as lists of tapered limbs in image coordinates, far parts first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from amsam_ray.data.procedural.draws import Draws
from amsam_ray.data.procedural.fields import Colour, Point, limb, scaled

_SKIN: tuple[Colour, ...] = (
    (0.94, 0.78, 0.68),
    (0.86, 0.67, 0.54),
    (0.72, 0.52, 0.39),
    (0.52, 0.35, 0.25),
    (0.33, 0.22, 0.17),
)
_HAIR: tuple[Colour, ...] = (
    (0.08, 0.06, 0.05),
    (0.25, 0.15, 0.09),
    (0.45, 0.30, 0.15),
    (0.75, 0.60, 0.36),
    (0.6, 0.6, 0.6),
)


@dataclass(frozen=True)
class Part:
    """One tapered limb of one colour.

    Attributes:
        start, end: ends of the axis, (x, y) in [0, 1].
        radius, end_radius: half widths at the two ends, in the same unit.
        colour: RGB in [0, 1].
        patterned: True if the stripes of the cloth are drawn on it.
    """

    start: Point
    end: Point
    radius: float
    end_radius: float
    colour: Colour
    patterned: bool = False

    def distance(self, size: int) -> tuple[tuple[slice, slice], np.ndarray]:
        """Return the window and the signed distance (negative inside) of `fields.limb`."""
        return limb(size, self.start, self.end, self.radius, self.end_radius)


Figure = list[Part]


def pose(draws: Draws, middle: float, height: float, cloth: Callable[[Draws], Colour]) -> Figure:
    """Draw a standing, walking, waving or cropped figure.

    Args:
        draws: source of randomness.
        middle: x of the hips.
        height: height of the figure in image heights; above about 0.95 the image crops its legs.
        cloth: draws the colours of the garments.
    """
    top = max(0.03, 0.5 - height / 2) + draws.uniform(0.0, 0.08)
    lean = draws.signed(0.05)
    build = draws.uniform(0.85, 1.25)

    def at(x: float, y: float) -> Point:
        return middle + x * height + lean * (0.5 - y), top + y * height

    def wide(radius: float) -> float:
        return radius * height * build

    skin = draws.choice(_SKIN)
    shirt, trousers, shoes = cloth(draws), cloth(draws), scaled(cloth(draws), 0.6)
    sleeved, skirted = draws.chance(0.6), draws.chance(0.25)
    bare_legs = skirted or draws.chance(0.2)
    patterned = draws.chance(0.3)

    parts: Figure = []
    hip, shoulder = at(0.0, 0.50), at(0.0, 0.22)
    for sign in (-1.0, 1.0):
        spread = sign * 0.04 + draws.signed(0.06)
        knee, foot = at(spread, 0.73), at(spread * 1.3 + draws.signed(0.06), 0.95)
        thigh = skin if bare_legs and skirted else trousers
        parts += [
            Part(
                foot,
                (foot[0] + sign * 0.03 * height, foot[1] + 0.015 * height),
                wide(0.022),
                wide(0.018),
                shoes,
            ),
            Part(knee, foot, wide(0.038), wide(0.024), skin if bare_legs else trousers),
            Part((hip[0] + sign * 0.035 * height, hip[1]), knee, wide(0.058), wide(0.042), thigh),
        ]
    if skirted:
        parts.append(Part(hip, at(0.0, draws.uniform(0.62, 0.72)), wide(0.075), wide(0.115), trousers, patterned))
    arms = [_arm(draws, at, wide, sign, skin, shirt, sleeved, patterned) for sign in (-1.0, 1.0)]
    if draws.chance(0.4):
        parts += arms.pop(0)
    hair = draws.choice(_HAIR)
    head, crown = at(draws.signed(0.01), 0.095), at(0.0, 0.055)
    if draws.chance(0.4):
        parts.append(Part(crown, at(0.0, draws.uniform(0.16, 0.3)), wide(0.055), wide(0.06), hair))
    parts += [
        Part(shoulder, hip, wide(0.088), wide(0.072), shirt, patterned),
        Part(at(-0.05, 0.225), at(0.05, 0.225), wide(0.045), wide(0.045), shirt, patterned),
        Part(at(0.0, 0.14), at(0.0, 0.19), wide(0.028), wide(0.032), skin),
        Part(crown, crown, wide(0.052), wide(0.052), hair),
        Part(
            (head[0], head[1] - 0.02 * height),
            (head[0], head[1] + 0.02 * height),
            wide(0.043),
            wide(0.036),
            skin,
        ),
        Part(at(-0.02, 0.045), at(0.02, 0.045), wide(0.026), wide(0.026), hair),
    ]
    for arm in arms:
        parts += arm
    return parts


def _arm(
    draws: Draws,
    at: Callable[[float, float], Point],
    wide: Callable[[float], float],
    sign: float,
    skin: Colour,
    shirt: Colour,
    sleeved: bool,
    patterned: bool,
) -> Figure:
    """Draw upper arm, forearm and hand of one side: hanging, bent or raised."""
    raised = draws.chance(0.2)
    elbow = (
        sign * draws.uniform(0.12, 0.2),
        draws.uniform(0.08, 0.25) if raised else draws.uniform(0.33, 0.40),
    )
    hand = (
        elbow[0] + sign * draws.uniform(-0.14, 0.08),
        elbow[1] + (draws.uniform(-0.17, -0.1) if raised or draws.chance(0.2) else draws.uniform(0.05, 0.16)),
    )
    start, middle, end = at(sign * 0.085, 0.225), at(*elbow), at(*hand)
    lower = shirt if sleeved else skin
    return [
        Part(start, middle, wide(0.036), wide(0.028), shirt, patterned),
        Part(middle, end, wide(0.028), wide(0.019), lower, patterned and sleeved),
        Part(end, at(hand[0] + draws.signed(0.01), hand[1] + 0.012), wide(0.021), wide(0.018), skin),
    ]

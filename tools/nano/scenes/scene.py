"""One pretraining scene: objects with parts and groups on a backdrop, and all masks that a prompt may refer to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tools.nano.scenes import backdrop, outlines, people, things
from tools.nano.scenes.camera import photograph
from tools.nano.scenes.canvas import MAX_PARTS, Canvas
from tools.nano.scenes.outlines import Shape
from tools.nano.scenes.pieces import Piece

MAX_MASKS = 24
"""Largest number of masks per scene."""

WHOLE, PART, GROUP = 3, 1, 2
"""Kinds of masks; a scene's unused rows have kind 0."""


@dataclass(frozen=True)
class Scene:
    """An image and its masks.

    Attributes:
        aspect: width over height the picture should be shown with; objects are squeezed accordingly.
        image: size x size x 3 uint8 RGB.
        parts: size x size uint8, the part seen at each pixel (0: background).
        members: MAX_MASKS x MAX_PARTS bool; mask m is `members[m][parts]`. Row 0 is the salient object: the one, or
            the group of people, that the picture is of.
        kinds: MAX_MASKS uint8: WHOLE, PART or GROUP, 0 for rows not in use.
    """

    image: np.ndarray
    parts: np.ndarray
    members: np.ndarray
    kinds: np.ndarray
    aspect: float

    def mask(self, row: int) -> np.ndarray:
        """Return mask number `row`: size x size bool."""
        return np.asarray(self.members[row][self.parts])


@dataclass
class _Masks:
    members: list[np.ndarray] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)

    def add(self, parts: Sequence[int], kind: int) -> None:
        row = np.zeros(MAX_PARTS, bool)
        row[list(parts)] = True
        self.members.append(row)
        self.kinds.append(kind)


def render_scene(rng: np.random.Generator, bank: Sequence[np.ndarray], size: int = 288) -> Scene:
    """Draw one scene.

    Args:
        rng: source of everything random.
        bank: textures from `textures.texture_bank`.
        size: side of the square image in pixels.
    """
    while True:
        scene = _attempt(rng, bank, size)
        if np.count_nonzero(scene.mask(0)) > 0.006 * size * size:
            return scene


def _attempt(rng: np.random.Generator, bank: Sequence[np.ndarray], size: int) -> Scene:
    aspect = 1.0 if rng.random() < 0.2 else float(np.exp(rng.uniform(np.log(0.55), np.log(1.9))))
    canvas = Canvas(rng, size, aspect)
    horizon = backdrop.paint_backdrop(canvas, bank)
    masks = _Masks()
    stolen = rng.random() < 0.12
    cluttered = rng.random() < 0.3
    for _ in range(int(rng.integers(2, 8) if cluttered else rng.integers(0, 4) * (rng.random() < 0.6))):
        if not canvas.full:
            human = rng.random() < 0.25
            pieces = people.person(rng, bank) if human else _thing(rng, bank)
            scale = size * rng.uniform(0.12, 0.5) * min(1.0, canvas.aspect)
            middle = rng.uniform(0, size), horizon + rng.uniform(-0.1, 0.3) * size - scale * 0.5
            _place(canvas, masks, pieces, scale, middle, False)
    if rng.random() < 0.25:
        backdrop.defocus(canvas)
    mains = _mains(canvas, masks, bank, stolen)
    if rng.random() < 0.18:
        backdrop.occlude(canvas, bank)
    backdrop.light_field(canvas, bank)
    first = np.zeros(MAX_PARTS, bool)
    first[mains] = True
    rows = sorted(range(len(masks.kinds)), key=lambda i: (masks.kinds[i] == PART, rng.random()))[: MAX_MASKS - 1]
    members = np.zeros((MAX_MASKS, MAX_PARTS), bool)
    kinds = np.zeros(MAX_MASKS, np.uint8)
    members[0], kinds[0] = first, WHOLE
    for place, row in enumerate(rows, start=1):
        members[place], kinds[place] = masks.members[row], masks.kinds[row]
    return Scene(photograph(rng, canvas.image), canvas.parts, members, kinds, aspect)


def _thing(rng: np.random.Generator, bank: Sequence[np.ndarray]) -> list[Piece]:
    return things.MAKERS[rng.integers(len(things.MAKERS))](rng, bank)


def _mains(canvas: Canvas, masks: _Masks, bank: Sequence[np.ndarray], stolen: bool) -> list[int]:
    """Place the main subject in front of everything; return its part numbers."""
    rng, size = canvas.rng, canvas.size
    if rng.random() > 0.68:
        scale = size * rng.uniform(0.3, 0.95) * min(1.0, canvas.aspect * 1.3)
        middle = size * (0.5 + rng.normal(0, 0.1)), size * (0.5 + rng.normal(0, 0.1))
        return _place(canvas, masks, _thing(rng, bank), scale, middle, stolen)
    count = int(rng.choice([1, 2, 3, 4], p=[0.7, 0.19, 0.07, 0.04]))
    numbers: list[int] = []
    framing = rng.random()
    gap = size * rng.uniform(0.12, 0.42) / canvas.aspect
    for number in range(count):
        if canvas.full:
            break
        scale, middle = _framed(rng, size, framing, count)
        offset = (number - (count - 1) / 2) * gap * (scale / size) ** 0.5
        middle = middle[0] + offset, middle[1] + size * rng.normal(0, 0.02)
        numbers += _place(canvas, masks, people.person(rng, bank), scale, middle, stolen)
    if count > 1:
        for _ in range(2):  # groups are rare: asked for more often
            masks.add(numbers, GROUP)
    return numbers


def _framed(rng: np.random.Generator, size: int, framing: float, count: int) -> tuple[float, tuple[float, float]]:
    """Return pixels per body height and the position of the body's middle: from full length to a face."""
    x = size * (0.5 + rng.normal(0, 0.10 if count == 1 else 0.04))
    if framing < 0.42:  # full length
        scale = size * rng.uniform(0.45, 0.98)
        return scale, (x, size * 0.5 + rng.normal(0, 0.25) * max(size - scale, 0.03 * size))
    if framing < 0.62:  # to the knees
        scale = size * rng.uniform(1.0, 1.5)
    elif framing < 0.86:  # to the waist or chest
        scale = size * rng.uniform(1.4, 2.3)
    else:  # head and shoulders, face
        scale = size * rng.uniform(2.2, 4.5)
    return scale, (x, size * rng.uniform(0.0, 0.2) + scale * 0.5)


def _place(
    canvas: Canvas,
    masks: _Masks,
    pieces: list[Piece],
    scale: float,
    middle: tuple[float, float],
    stolen: bool,
) -> list[int]:
    """Paint an object at `scale` pixels per unit with its middle at `middle`, and record its masks."""
    rng = canvas.rng
    angle = rng.normal(0, 0.08) if rng.random() < 0.9 else rng.uniform(-np.pi, np.pi)
    mirror = rng.choice([-1.0, 1.0])
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * [mirror, 1.0]
    matrix[0] /= canvas.aspect
    offset = np.asarray(middle) - matrix @ np.array([0.0, 0.5])
    placed: list[Shape] = [outlines.moved(piece.shape, matrix, offset) for piece in pieces]
    if rng.random() < 0.6:
        shift = np.array([rng.normal(0, 0.08) / canvas.aspect, abs(rng.normal(0, 0.03))]) * scale
        everything = [polygon + shift for shape in placed for polygon in shape]
        canvas.shade(everything, float(rng.uniform(0.1, 0.6)), float(rng.uniform(1, 0.06 * scale + 2)))
    edge = float(rng.choice([0.0, 0.0, 0.7, 1.5]))
    groups: dict[str, int] = {}
    for piece, shape in zip(pieces, placed, strict=True):
        if piece.group not in groups:
            groups[piece.group] = canvas.new_part()
        part = None if piece.detail else groups[piece.group]
        canvas.paint(shape, piece.material, part, stolen=stolen and not piece.detail, blur=edge)
    numbers = list(groups.values())
    masks.add(numbers, WHOLE)
    if len(groups) > 1:
        for number in numbers:
            masks.add([number], PART)
    if "top" in groups and "arm" in groups:
        named = [groups[g] for g in ("head", "hair", "hat") if g in groups]
        masks.add(named, PART)
        masks.add([groups[g] for g in ("top", "coat", "bottom") if g in groups], PART)
    return numbers

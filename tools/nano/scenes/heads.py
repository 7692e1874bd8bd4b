"""Heads: faces with features, hair, hats; seen from the front, turned, or from behind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tools.nano.scenes import outlines
from tools.nano.scenes.materials import surface
from tools.nano.scenes.outlines import Shape
from tools.nano.scenes.pieces import Piece
from tools.nano.scenes.wardrobe import Wardrobe


def hair_behind(rng: np.random.Generator, wear: Wardrobe, head: np.ndarray, size: float) -> list[Piece]:
    """Draw long hair behind neck and shoulders; often none."""
    if rng.random() > 0.45:
        return []
    length = rng.uniform(0.04, 0.28)
    width = rng.uniform(0.045, 0.075) * size
    end = head + np.array([rng.normal(0, 0.02), length])
    middle = (head + end) / 2 + rng.normal(0, 0.01, 2)
    taper = [width, width * rng.uniform(0.8, 1.3), width * rng.uniform(0.5, 1.1)]
    return [Piece(outlines.tube([head, middle, end], taper), wear.hair, "hair")]


def head_and_face(
    rng: np.random.Generator,
    bank: Sequence[np.ndarray],
    wear: Wardrobe,
    head: np.ndarray,
    size: float,
    turned: float,
) -> list[Piece]:
    """Draw hair, face and headgear of a head `size` times as large as an adult's.

    Args:
        head: the head's middle in body heights. turned: 1 seen from the front, less from the side.
    """
    wide, tall = 0.047 * size * rng.uniform(0.9, 1.08), 0.064 * size
    tilt = rng.normal(0, 0.12)
    look = float(rng.uniform(-0.4, 0.4)) * (1.4 - turned) * wide
    bald = rng.random() < 0.06
    pieces = []
    crown = head + np.array([0.0, -0.022 * size])
    if not bald:
        hair = outlines.blob(rng, crown, (wide * rng.uniform(1.1, 1.5), tall * rng.uniform(0.8, 1.05)), 0.06)
        pieces.append(Piece([hair], wear.hair, "hair"))
    jaw = outlines.oval(head + np.array([0.0, 0.022 * size]), (wide * rng.uniform(0.7, 0.9), tall * 0.62), tilt)
    face: Shape = [outlines.oval(head, (wide, tall), tilt), jaw]
    for sign in (-1, 1):
        face.append(outlines.oval(head + np.array([sign * wide, 0.006 * size]), (0.008 * size, 0.014 * size)))
    away = rng.random() < 0.12  # seen from behind
    pieces.append(Piece(face, wear.skin, "head"))
    if not away:
        pieces += _features(rng, bank, wear, head, size, wide, look)
    if not bald:
        drop = 1.3 if away else rng.uniform(0.25, 0.55)
        fringe = outlines.blob(rng, crown - [0, tall * (0.55 - 0.4 * away)], (wide * 1.08, tall * drop), 0.08)
        shape: Shape = [fringe]
        for sign in (-1, 1):
            if rng.random() < 0.6:
                temple = crown + np.array([sign * wide * 0.95, -0.02 * size])
                below = temple + np.array([sign * rng.uniform(-0.002, 0.01), rng.uniform(0.03, 0.11) * size])
                shape += outlines.tube([temple, below], [0.013 * size, 0.009 * size])
        pieces.append(Piece(shape, wear.hair, "hair"))
    if rng.random() < 0.15:  # hat, cap or scarf
        hat = surface(rng, bank)
        brim = outlines.oval(crown - [0, 0.012 * size], (wide * rng.uniform(1.2, 2.2), 0.012 * size), tilt)
        dome = outlines.oval(crown - [0, 0.03 * size], (wide * 1.12, tall * rng.uniform(0.5, 0.9)), tilt)
        pieces.append(Piece([brim, dome], hat, "hat"))
    return pieces


def _features(
    rng: np.random.Generator,
    bank: Sequence[np.ndarray],
    wear: Wardrobe,
    head: np.ndarray,
    size: float,
    wide: float,
    look: float,
) -> list[Piece]:
    """Draw eyes, brows, mouth, nose, beard and glasses, as details of the face."""
    dark = surface(rng, bank, (0.10, 0.07, 0.06), contrast=0.05)
    lips = surface(rng, bank, (0.62, 0.28, 0.26), contrast=0.05)
    cheek = np.asarray(wear.skin.table[40, 0], float) / 255 * 0.85
    nose = surface(rng, bank, (float(cheek[0]), float(cheek[1]), float(cheek[2])), contrast=0.03)
    eyes: Shape = []
    for sign in (-1, 1):
        eye = head + np.array([look + sign * wide * 0.42, 0.002 * size])
        eyes.append(outlines.oval(eye, (0.0085 * size, 0.0045 * size)))
        eyes.append(outlines.oval(eye - [0, 0.012 * size], (0.012 * size, 0.0028 * size), sign * 0.15))
    mouth = outlines.oval(head + np.array([look, 0.040 * size]), (0.016 * size, 0.005 * size * rng.uniform(0.6, 2)))
    ridge = outlines.oval(head + np.array([look, 0.018 * size]), (0.006 * size, 0.012 * size))
    pieces = [
        Piece([ridge], nose, "head", True),
        Piece(eyes, dark, "head", True),
        Piece([mouth], lips, "head", True),
    ]
    if rng.random() < 0.18:
        beard = outlines.blob(rng, head + np.array([look, 0.048 * size]), (wide * 0.75, 0.024 * size), 0.1)
        pieces.insert(0, Piece([beard], wear.hair, "head", True))
    if rng.random() < 0.15:
        glass = [outlines.disc(head + np.array([look + s * wide * 0.42, 0.002]), 0.015 * size) for s in (-1, 1)]
        pieces.append(Piece(glass, dark, "head", True))
    return pieces

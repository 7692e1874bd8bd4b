"""Clothes of people, and colours of skin and hair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tools.nano.scenes.materials import HAIR, SKIN, Material, any_rgb, surface


@dataclass
class Wardrobe:
    """The surfaces of one person, and the extent to which they cover the limbs."""

    skin: Material
    hair: Material
    top: Material
    bottom: Material
    shoes: Material
    coat: Material | None
    sleeve: float  # covered share of the arm, 0 to 1
    trouser: float  # covered share of the leg, 0 to 1
    skirt: float  # length of the skirt in body heights, 0 for none


def draw_wardrobe(rng: np.random.Generator, bank: Sequence[np.ndarray]) -> Wardrobe:
    """Draw skin, hair and clothes of one person; plain cloth more often than patterned."""
    tone = np.asarray(SKIN[rng.integers(len(SKIN))]) * rng.uniform(0.85, 1.1)
    red, green, blue = (float(v) for v in np.clip(tone + rng.normal(0, 0.02, 3), 0, 1))
    hair_rgb = HAIR[rng.integers(len(HAIR))] if rng.random() < 0.93 else any_rgb(rng)

    def cloth(like: tuple[float, float, float] | None = None) -> Material:
        plain = rng.random() < 0.65
        contrast = float(rng.uniform(0.02, 0.12)) if plain else None
        return surface(rng, bank, like, contrast=contrast, folds=float(rng.uniform(0.05, 0.45)))

    top_rgb = any_rgb(rng)
    top = cloth(top_rgb)
    dress = rng.random() < 0.15
    denim = (0.2, 0.26, 0.38) if rng.random() < 0.3 else None
    dark = (0.07, 0.07, 0.08) if rng.random() < 0.3 else denim
    bottom = top if dress else cloth(top_rgb if rng.random() < 0.12 else dark)
    return Wardrobe(
        skin=surface(rng, bank, (red, green, blue), contrast=float(rng.uniform(0.02, 0.10)), hue=0.01, folds=0.05),
        hair=surface(rng, bank, hair_rgb, contrast=float(rng.uniform(0.08, 0.5)), soft=float(rng.uniform(0, 1.6))),
        top=top,
        bottom=bottom,
        shoes=surface(rng, bank, (0.08, 0.07, 0.07) if rng.random() < 0.4 else None),
        coat=cloth() if rng.random() < 0.3 else None,
        sleeve=float(rng.choice([0.0, 0.35, 0.45, 0.75, 1.0, 1.0, 1.0])),
        trouser=float(rng.choice([0.3, 0.5, 1.0, 1.0, 1.0, 1.0])),
        skirt=float(rng.uniform(0.12, 0.4)) if dress or rng.random() < 0.12 else 0.0,
    )

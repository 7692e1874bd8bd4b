"""The `procedural` dataset: images with masks, drawn from a seed.

`render` draws the five families of the dataset. The same arguments give the same bytes on every machine. The nano
SAM is pretrained on the scenes of `tools.nano.scenes`, which share no code with the families: adapting it to a
family means adapting it to images of a kind it was not trained on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from amsam_ray.data.procedural.draws import Draws
from amsam_ray.data.procedural.families import camouflage, lesion, person, polyp, shadow
from amsam_ray.data.procedural.fields import to_bytes

_Drawer = Callable[[Draws, int], tuple[np.ndarray, np.ndarray]]

_DRAWERS: dict[str, _Drawer] = {
    "lesion": lesion.draw,
    "polyp": polyp.draw,
    "camouflage": camouflage.draw,
    "shadow": shadow.draw,
    "person": person.draw,
}

FAMILIES: tuple[str, ...] = tuple(_DRAWERS)
"""Names of the families. The position of a family is part of its seed: append, never reorder."""

_MIN_SHARE, _MAX_SHARE = 0.008, 0.75
_ATTEMPTS = 32


def render(family: str, seed: int, index: int, size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image of a family with its mask.

    Args:
        family: one of `FAMILIES`.
        seed: seed of the whole dataset, >= 0.
        index: index of the image, >= 0; images are independent of one another.
        size: side of the square image in pixels, >= 32.

    Returns:
        The image, HWC uint8 RGB, and the mask, HW bool, True on the object.
        The mask covers between 0.8 % and 75 % of the image.

    Raises:
        ValueError: the family is unknown, or the seed, index or size is out of range.
        RuntimeError: no attempt gives a mask of that size.

    Example:
        >>> image, mask = render("lesion", seed=0, index=3)
        >>> image.shape, mask.shape, image.dtype, mask.dtype
        ((256, 256, 3), (256, 256), dtype('uint8'), dtype('bool'))
    """
    if family not in _DRAWERS:
        raise ValueError(f"unknown family {family!r}: choose one of {', '.join(FAMILIES)}")
    if seed < 0 or index < 0 or size < 32:
        raise ValueError(f"need seed >= 0, index >= 0 and size >= 32, got {seed}, {index} and {size}")
    for attempt in range(_ATTEMPTS):
        image, mask = _DRAWERS[family](Draws(seed, FAMILIES.index(family), index, attempt), size)
        if _MIN_SHARE * mask.size <= np.count_nonzero(mask) <= _MAX_SHARE * mask.size:
            return to_bytes(image), mask
    raise RuntimeError(f"{family} image {index} of seed {seed} has no usable mask in {_ATTEMPTS} attempts")

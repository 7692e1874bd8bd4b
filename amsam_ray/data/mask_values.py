"""Tell masks of one object from label maps by the values in their files.

A mask of one object holds background and object, with compression noise or soft borders between them. A label map
holds one value per class or instance, such as 0, 1, 2; a threshold at half of full scale would read it as empty, or
lose some of its classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NOISE = 0.05
"""Share of full scale up to which values are noise in lossy files, and may be noise in files made from such."""
FEW = 32
"""Most distinct values that a label map is listed with; soft borders and noise have more."""
_LARGEST_WHOLE = 65535
_VOID_SHARE = 0.001
_CHUNK_PIXELS = 2**18


def levels(value_HW: np.ndarray) -> dict[int, int]:
    """Return the number of pixels of every value, by value; empty if a value is no whole number in [0, 65535]."""
    if value_HW.dtype.kind not in "bu":
        if not np.isfinite(value_HW).all() or value_HW.min(initial=0) < 0 or value_HW.max(initial=0) > _LARGEST_WHOLE:
            return {}
        if not np.array_equal(value_HW, np.rint(value_HW)):
            return {}
    flat = value_HW.reshape(-1)
    counts = np.zeros(_LARGEST_WHOLE + 1, np.int64)
    for start in range(0, flat.size, _CHUNK_PIXELS):  # bincount makes 8 bytes of every pixel
        counts += np.bincount(flat[start : start + _CHUNK_PIXELS].astype(np.uint16), minlength=counts.size)
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def listed(values: Sequence[float]) -> str:
    """Return values as text, such as ``0, 1, 2`` or, if there are many, ``0 to 255 (57 values)``."""
    if len(values) <= 12:
        return ", ".join(f"{value:g}" for value in values)
    return f"{values[0]:g} to {values[-1]:g} ({len(values)} values)"


def label_map_fault(value_HW: np.ndarray, scale: float, threshold: float, lossy: bool) -> str | None:
    """Return why a threshold cannot separate object and background, None if it can.

    The threshold rule fails if

    - values are negative or not numbers;
    - no value exceeds the threshold, though some are not zero: they are at most 5 % of full scale, or fill a block of
      3x3 pixels. Soft borders at the edge of a picture do not, and in lossy files up to 5 % is noise;
    - some value below the threshold fills a block of 3x3 pixels, others exceed it, and there are at most ``FEW``
      values: the classes of a map such as 0, 64, 128;
    - values of at most 5 % and full scale occur, and nothing between them: a label map whose 255 marks void pixels.
      Compression noise also leaves values close to full scale.

    Args:
        value_HW: the file's values, whole numbers or floats.
        scale: full scale: 1, 255 or 65535.
        threshold: share of full scale above which a pixel is object.
        lossy: whether the file's format loses information.
    """
    low, top = value_HW.min(initial=0), value_HW.max(initial=0)
    if not np.isfinite(low) or not np.isfinite(top) or low < 0:
        return "it holds values that are negative or not numbers"
    cut, noise = threshold * scale, NOISE * scale
    if not top or (scale == 1 and top == 1):
        return None
    counts = levels(value_HW)
    few = list(counts) if 0 < len(counts) <= FEW else []
    shown = listed(list(counts)) if counts else f"{low:g} to {top:g}"
    if top <= cut:
        if (lossy and top <= noise) or (top > noise and not _solid(value_HW, [v for v in few if v] or None)):
            return None
        return f"it holds the values {shown}, none exceeds {cut:g}, and so nothing would be object"
    if lossy or not few:
        return None
    floor = noise if scale == 255 else 0  # files of 16 bits are not made from lossy ones
    if _solid(value_HW, [value for value in few if floor < value <= cut]):
        return f"it holds the values {shown}, and those up to {cut:g} would be background"
    faint = [value for value in few if 0 < value <= noise]
    void = faint and not any(noise < value < scale for value in few)
    if void and sum(counts[value] for value in faint) > _VOID_SHARE * value_HW.size:
        return f"it holds the values {shown}, and those up to {cut:g} would be background"
    return None


def bright_areas(value_HW: np.ndarray, values: Sequence[int], scale: float, threshold: float) -> tuple[int, ...]:
    """Return the values above the threshold that fill areas, if there are several: classes that become one object.

    An area holds a block of 3x3 pixels of one value, which soft borders do not. Values within 5 % of full scale count
    as one, the largest of them.

    Args:
        value_HW: the file's values.
        values: the distinct ones, sorted; none if they are many.
        scale, threshold: as in `label_map_fault`.
    """
    bright = [value for value in values if value > threshold * scale]
    if len(bright) < 2 or bright[0] >= (1 - NOISE) * scale:
        return ()
    solid = np.unique(value_HW[1:-1, 1:-1][_blocks(value_HW, bright)])
    found = tuple(int(value) for value in solid if value < (1 - NOISE) * scale)
    areas = (*found, int(solid[-1])) if len(found) < len(solid) else found
    return areas if len(areas) > 1 else ()


def _solid(value_HW: np.ndarray, values: Sequence[int] | None) -> bool:
    """Return whether one of ``values`` (None: any but zero) fills a block of 3x3 pixels."""
    if values is not None and not values:
        return False
    return bool(_blocks(value_HW, values).any())


def _blocks(value_HW: np.ndarray, values: Sequence[int] | None) -> np.ndarray:
    """Return the centres of blocks of 3x3 pixels of one of ``values``, as bool without the outermost pixels."""
    height, width = value_HW.shape
    inner_HW = value_HW[1:-1, 1:-1]
    same_HW = np.isin(inner_HW, values) if values is not None else inner_HW != 0
    if height < 3 or width < 3:
        return same_HW
    for row in range(3):
        for column in range(3):
            same_HW &= value_HW[row : height - 2 + row, column : width - 2 + column] == inner_HW
    return same_HW

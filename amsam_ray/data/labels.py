"""Decode label maps: masks whose pixel values are the numbers of classes, 0 the background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from amsam_ray.data.arrays import MAGIC, ArrayError, read_mask_array
from amsam_ray.data.images import MAX_PIXELS, Frame, ImageError, load_picture, turn_as_stored
from amsam_ray.data.schema import MaskRule

_LOSSY = ("JPEG", "MPO")
_ASPECT = 1.05  # largest ratio between the aspect ratios of a map and its photograph
_REMEDY = "save it as a PNG of grey values or of a palette, 0 for the background"


@dataclass(frozen=True)
class LabelMap:
    """A decoded label map.

    Attributes:
        values_HW: HW int32 at the photograph's size, 0 on the background.
        size: width and height of the file's picture, upright, in pixels.
        conversions: codes of the rules that were applied: ``exif`` (turned like its photograph), ``resized``.
    """

    values_HW: np.ndarray
    size: tuple[int, int]
    conversions: tuple[str, ...]


def decode_labels(data: bytes, where: str, rule: MaskRule, frame: Frame | None) -> LabelMap:
    """Decode a label map and resize it to its photograph, by nearest neighbour.

    The value of a pixel is its grey value, or its index in the palette whatever colour that has.

    Args:
        data: the file's bytes.
        where: name of the file in messages.
        rule: what to do with a map of another size; its threshold is not used.
        frame: the photograph's. A map that is stored like a turned photograph is turned with it. None: the map is
            returned as it is stored.

    Raises:
        ImageError: the map is unreadable, in colour, in a lossy format or of values that are no numbers of classes, or
            has another aspect ratio, or another size and the rule refuses that.
    """
    if data.startswith(MAGIC):
        return _fit(_array_values(data, where), where, rule, frame, [])
    picture = load_picture(data, where)
    if picture.format in _LOSSY:
        raise ImageError(where, f"is a label map in the lossy format {picture.format}, which changes values; {_REMEDY}")
    picture, notes = turn_as_stored(picture, frame) if frame else (picture, [])
    return _fit(_values(picture, where), where, rule, frame, notes)


def _fit(values_HW: np.ndarray, where: str, rule: MaskRule, frame: Frame | None, notes: list[str]) -> LabelMap:
    """Return the label map at its photograph's size."""
    size = (values_HW.shape[1], values_HW.shape[0])
    if frame and size != (frame.width, frame.height):
        if rule.other_size == "refuse":
            sizes = f"is {size[0]}x{size[1]} and its photograph {frame.width}x{frame.height}"
            raise ImageError(where, f"the label map {sizes}; use the photograph it was made for, or make it again")
        if not 1 / _ASPECT <= (size[0] / size[1]) / (frame.width / frame.height) <= _ASPECT:
            sizes = f"({size[0]}x{size[1]} against {frame.width}x{frame.height})"
            raise ImageError(where, f"has another aspect ratio than its photograph {sizes}; use its own label map")
        resized = Image.fromarray(values_HW).resize((frame.width, frame.height), Image.Resampling.NEAREST)
        values_HW = np.asarray(resized)
        notes.append("resized")
    return LabelMap(values_HW, size, tuple(notes))


def _array_values(data: bytes, where: str) -> np.ndarray:
    """Return the values of a label map stored as an array, HW int32."""
    try:
        return _whole(read_mask_array(data, MAX_PIXELS // 2), where)
    except ArrayError as error:
        raise ImageError(where, str(error)) from None


def _whole(values_HW: np.ndarray, where: str) -> np.ndarray:
    found = values_HW.astype(np.float64)
    if not np.all((found >= 0) & (found <= 65_535) & (found == np.rint(found))):
        raise ImageError(where, f"holds values that are not whole numbers of 0 to 65,535; {_REMEDY}")
    return found.astype(np.int32)


def _values(picture: Image.Image, where: str) -> np.ndarray:
    """Return the values of a label map, HW int32."""
    if picture.mode in ("1", "L", "P"):
        return np.asarray(picture).astype(np.int32)
    if picture.mode.startswith("I") or picture.mode == "F":
        return _whole(np.asarray(picture), where)
    if picture.mode in ("LA", "PA"):
        return np.asarray(picture)[..., 0].astype(np.int32)
    colours = np.asarray(picture.convert("RGB"))
    if np.any(colours != colours[..., :1]):
        raise ImageError(where, f"is in colour, and a label map holds the numbers of classes; {_REMEDY}")
    return colours[..., 0].astype(np.int32)

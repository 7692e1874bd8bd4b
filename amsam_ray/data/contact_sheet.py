"""Contact sheets: many photographs on one page, each with the outline of its mask and a box."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_OUTLINE = (0, 229, 118)
_BOX = (255, 61, 113)
_PAPER = (24, 26, 30)
_INK = (235, 235, 235)
_CAPTION = 18
_GAP = 6


@dataclass(frozen=True)
class SheetImage:
    """One photograph of a contact sheet.

    Attributes:
        caption: text below the photograph.
        image: HWC uint8 RGB.
        mask: HW bool, drawn as an outline; None for no outline.
        box: XYXY in pixels of ``image``; None for no box.
        confidence: confidence of the box, in [0, 1].
    """

    caption: str
    image: np.ndarray
    mask: np.ndarray | None = None
    box: tuple[float, float, float, float] | None = None
    confidence: float | None = None


def contact_sheet(images: Iterable[SheetImage], columns: int = 6, side: int = 240, legend: str = "") -> Image.Image:
    """Draw a contact sheet.

    Args:
        images: at least one photograph; iterated over once.
        columns: photographs in a row.
        side: side of the square that each photograph is scaled to fit, in pixels.
        legend: a line of text at the top; empty for none.

    Returns:
        An RGB image; outlines are green, boxes red.

    Raises:
        ValueError: there is no photograph.
    """
    tiles = [_tile(image, side) for image in images]
    if not tiles:
        raise ValueError("a contact sheet needs at least one photograph")
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    head = _CAPTION + _GAP if legend else 0
    size = (columns * (side + _GAP) + _GAP, head + rows * (side + _CAPTION + _GAP) + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    if legend:
        ImageDraw.Draw(sheet).text((_GAP, _GAP), legend, fill=_INK, font=_font())
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        sheet.paste(tile, (_GAP + column * (side + _GAP), head + _GAP + row * (side + _CAPTION + _GAP)))
    return sheet


def _tile(image: SheetImage, side: int) -> Image.Image:
    height, width = image.image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(image.image).resize(size, Image.Resampling.LANCZOS)
    left, upper = (side - size[0]) // 2, (side - size[1]) // 2
    if image.mask is not None:
        mask = Image.fromarray(image.mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        pixels_HWC = np.array(picture)
        pixels_HWC[_outline(np.asarray(mask).astype(bool))] = _OUTLINE
        picture = Image.fromarray(pixels_HWC)
    tile = Image.new("RGB", (side, side + _CAPTION), _PAPER)
    tile.paste(picture, (left, upper))
    draw = ImageDraw.Draw(tile)
    if image.box is not None:
        corners = [value * scale + offset for value, offset in zip(image.box, (left, upper) * 2, strict=True)]
        draw.rectangle(corners, outline=_BOX, width=2)
        if image.confidence is not None:
            draw.text((corners[0] + 4, corners[1] + 2), f"{image.confidence:.2f}", fill=_BOX, font=_font())
    draw.text((2, side + 2), _shorten(image.caption, side), fill=_INK, font=_font())
    return tile


def _outline(mask_HW: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask within two pixels of its edge, HW bool."""
    from scipy import ndimage

    inner: np.ndarray = ndimage.binary_erosion(mask_HW, iterations=2, border_value=1)
    return mask_HW & ~inner


def _shorten(text: str, width: int) -> str:
    room = width // 7
    return text if len(text) <= room else f"{text[: room // 2 - 1]}...{text[-(room - room // 2 - 2) :]}"


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(12)


def spread(names: Sequence[str], count: int) -> list[str]:
    """Return ``count`` of ``names`` at even distances in their order; all of them if there are fewer."""
    if count >= len(names):
        return list(names)
    return [names[int((index + 0.5) * len(names) / count)] for index in range(count)]

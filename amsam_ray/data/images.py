"""Decode photographs and masks of all common formats by the rules that `docs/data.md` documents.

Photographs become HWC uint8 RGB, turned upright by their EXIF orientation. Masks become HW bool at the size of
their photograph.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from amsam_ray.data.arrays import MAGIC, ArrayError, read_mask_array
from amsam_ray.data.mask_values import FEW, NOISE, bright_areas, label_map_fault, levels
from amsam_ray.data.schema import MaskRule
from amsam_ray.errors import AmsamError

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
# Pillow knows more formats; for some, such as EPS, it runs a program.
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "TIFF", "WEBP", "PPM", "GIF")
_LOSSY = ("JPEG", "MPO", "WEBP")
_TURN = {  # EXIF orientation -> what makes the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112


MAX_PIXELS = 36_000_000
"""Most pixels of a picture of 8 bits without alpha, and twice those of any other; decoding takes at most 500 MiB."""
MAX_FILE_BYTES = 300 << 20
"""Largest file of a photograph or a mask, in bytes: above the largest picture without compression."""
_PLAIN_MODES = ("1", "L", "P", "RGB")
VOID = 255
"""Value that marks pixels of no class in label maps."""
BETWEEN_TOLERANCE = 0.1
"""Largest share of a mask's pixels that may be neither black nor white, `Mask.between`."""
LABEL_MAP_REMEDY = (
    "write options: {object: nonzero} if every value but 0 is the object (in a definition, mask: {object: nonzero}), "
    "or options: {classes: all} for a class of every value"
)
"""What to write for label maps, in words that end a message."""


class ImageError(AmsamError):
    """A file cannot be read as a photograph or a mask.

    Args:
        where: the file.
        what: what is wrong and what to do.
    """

    def __init__(self, where: str, what: str):
        super().__init__(where, what)
        self.where, self.what = where, what

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class MaskValuesError(ImageError):
    """The values of a mask cannot be divided into object and background.

    Args:
        where, what: as `ImageError`.
        values: the file's distinct values, as `Mask.values`.
    """

    def __init__(self, where: str, what: str, values: tuple[int, ...]):
        super().__init__(where, what)
        self.args = (where, what, values)  # with which it is built again from a pickle
        self.values = values


@dataclass(frozen=True)
class Frame:
    """Size and stored orientation of a photograph.

    Attributes:
        width, height: of the upright photograph, in pixels.
        orientation: EXIF orientation, 1 to 8; 1 means stored upright.
    """

    width: int
    height: int
    orientation: int

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height as stored in the file."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


@dataclass(frozen=True)
class Photograph:
    """A decoded photograph.

    Attributes:
        pixels: HWC uint8 RGB, upright.
        frame: its size and how it is stored.
        conversions: codes of the rules that were applied: ``exif``, ``grey``, ``palette``, ``alpha``, ``16-bit`` or
            the colour mode of the file, such as ``cmyk``.
    """

    pixels: np.ndarray
    frame: Frame
    conversions: tuple[str, ...]


@dataclass(frozen=True)
class Mask:
    """A decoded mask.

    Attributes:
        pixels: HW bool at the photograph's size, True on the object.
        size: width and height of the mask's file in pixels.
        between: share of pixels, in [0, 1], that are more than 5 % away from both zero and full scale.
        conversions: codes of the rules that were applied: ``rgb``, ``palette``, ``alpha``, ``16-bit``, ``array``,
            ``labels`` (values 0 and 1), ``lossy``, ``exif`` (turned like its photograph), ``resized``.
        values: the distinct values of the file (indices of a palette), sorted; empty in lossy files, in colour, and if
            there are more than ``FEW`` or they are not whole numbers.
        colours: number of its colours besides black, if it is a palette or colour image with at most ``FEW``, else 0.
        areas: the values that fill areas and are all object, if there are several (`bright_areas`).
    """

    pixels: np.ndarray
    size: tuple[int, int]
    between: float
    conversions: tuple[str, ...]
    values: tuple[int, ...] = ()
    colours: int = 0
    areas: tuple[int, ...] = ()

    @property
    def void(self) -> bool:
        """Whether it is a palette of several colours whose index 255 is used, in VOC's maps the border of no class."""
        return self.colours > 1 and VOID in self.values and any(0 < value < VOID for value in self.values)


def read_file(path: Path, where: str) -> bytes:
    """Return the bytes of a photograph or a mask.

    Raises:
        ImageError: the file is missing, unreadable or larger than ``MAX_FILE_BYTES``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ImageError(where, f"cannot be read ({error.strerror}); restore it") from None
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(where, f"is larger than {MAX_FILE_BYTES >> 20} MiB; reduce its size")
    return data


def read_frame(data: bytes, where: str) -> Frame:
    """Read the size and orientation of a photograph from its header.

    Raises:
        ImageError: the file is not an image.
    """
    image = _open(data, where)
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _BROKEN:
        orientation = 1  # with a broken EXIF block, viewers show a photograph as stored
    orientation = orientation if orientation in _TURN else 1
    width, height = image.size
    return Frame(height, width, orientation) if orientation >= 5 else Frame(width, height, orientation)


def decode_image(data: bytes, where: str) -> Photograph:
    """Decode a photograph.

    Grey, palette, CMYK and other colour modes become RGB; transparent pixels are composited over white; 16-bit
    values are divided by 257. Of several frames the first is used.

    Args:
        data: the file's bytes.
        where: name of the file in messages.

    Raises:
        ImageError: the file is not an image, is truncated, or is too large to be a photograph.
    """
    frame = read_frame(data, where)
    image = load_picture(data, where)
    notes = []
    if image.mode != "RGB":
        rgb, note = _to_rgb(image)
        notes.append(note)
    else:
        rgb = image
    if frame.orientation != 1:
        rgb = rgb.transpose(_TURN[frame.orientation])
        notes.append("exif")
    return Photograph(np.array(rgb), frame, tuple(notes))


def decode_mask(data: bytes, where: str, rule: MaskRule, frame: Frame) -> Mask:
    """Decode a mask and resize it to its photograph.

    A pixel is object where its value exceeds ``rule.threshold`` of full scale. Full scale is the smallest of 1,
    255 and 65535 that holds the largest value (at least 255 in lossy files). The value of a coloured pixel is its
    largest channel; with a palette that is not grey, every colour but black is object. An alpha channel multiplies
    the colour, or is the mask itself if the whole image has one colour. With ``rule.object`` ``nonzero``, a pixel is
    object where its value, or its index in a palette, is above zero (above 5 % of full scale in lossy files).

    Args:
        data: the file's bytes, of an image or of a NumPy array (.npy).
        where: name of the file in messages.
        rule: threshold, and what to do with a mask of another size.
        frame: the photograph's. A mask that is stored like a turned photograph is turned with it.

    Raises:
        MaskValuesError: the threshold cannot separate its values (`label_map_fault`).
        ImageError: the mask is unreadable, or has another size and the rule refuses that.
    """
    read = _read_array(data, where) if data.startswith(MAGIC) else _read_mask_image(data, where, rule, frame)
    value_HW, scale, lossy, notes = read.value_HW, read.scale, read.lossy, list(read.notes)
    areas: tuple[int, ...] = ()
    if rule.object == "nonzero":
        object_HW = value_HW > (NOISE * scale if lossy else 0)
        between = 0.0
    else:
        if reason := label_map_fault(value_HW, scale, rule.threshold, lossy):
            raise MaskValuesError(where, f"is not a mask of one object: {reason}; {LABEL_MAP_REMEDY}", read.values)
        object_HW = value_HW > rule.threshold * scale
        middling = np.count_nonzero((value_HW > NOISE * scale) & (value_HW < (1 - NOISE) * scale))
        between = middling / value_HW.size
        if read.values:
            levels_of = tuple(levels(value_HW)) if "palette" in notes else read.values  # those are indices
            areas = bright_areas(value_HW, levels_of, scale, rule.threshold)
    height, width = value_HW.shape
    if (width, height) != (frame.width, frame.height):
        if rule.other_size == "refuse":
            sizes = f"is {width}x{height} and its photograph {frame.width}x{frame.height}"
            raise ImageError(where, f"the mask {sizes}; use the photograph it was made for, or make it again")
        resized = Image.fromarray(object_HW.astype(np.uint8)).resize(
            (frame.width, frame.height), Image.Resampling.NEAREST
        )
        object_HW = np.asarray(resized).astype(bool)
        notes.append("resized")
    return Mask(object_HW, (width, height), between, tuple(notes), read.values, read.colours, areas)


@dataclass(frozen=True)
class _MaskValues:
    """The values of a mask's file (HW), their full scale, and what `Mask` tells of them."""

    value_HW: np.ndarray
    scale: float
    lossy: bool
    notes: tuple[str, ...]
    values: tuple[int, ...]
    colours: int


def _read_array(data: bytes, where: str) -> _MaskValues:
    try:
        value_HW = read_mask_array(data, MAX_PIXELS // 2)
    except ArrayError as error:
        raise ImageError(where, str(error)) from None
    scale = _full_scale(value_HW, lossy=False)
    notes = ("array", "labels") if scale == 1 and value_HW.any() else ("array",)
    return _MaskValues(value_HW, scale, False, notes, _few(value_HW), 0)


def _read_mask_image(data: bytes, where: str, rule: MaskRule, frame: Frame) -> _MaskValues:
    image = load_picture(data, where)
    lossy = image.format in _LOSSY
    image, turned = turn_as_stored(image, frame)
    palette = image.mode == "P"
    if palette and rule.object == "nonzero":
        index_HW = np.asarray(image)
        return _MaskValues(index_HW, 255.0, False, (*turned, "palette"), _few(index_HW), _colours(image))
    value_HW, scale, kind = _values(image)
    values = () if lossy or not _has_one_channel(image) else _few(np.asarray(image) if palette else value_HW)
    return _MaskValues(value_HW, scale, lossy, (*turned, *kind), values, 0 if lossy else _colours(image))


def _has_one_channel(image: Image.Image) -> bool:
    if image.mode == "RGB":
        red_HW = np.asarray(image.getchannel(0))  # one channel at a time: a whole picture is copied twice
        return all(np.array_equal(red_HW, np.asarray(image.getchannel(other))) for other in (1, 2))
    return image.mode in ("1", "L", "P", "F") or image.mode.startswith("I")


def _few(value_HW: np.ndarray) -> tuple[int, ...]:
    """Return the distinct values, sorted; none if there are more than ``FEW``."""
    values = tuple(levels(value_HW))
    return values if len(values) <= FEW else ()


def _colours(image: Image.Image) -> int:
    """Return the number of colours besides black of a palette or colour image, 0 if it is grey or has many."""
    if image.mode not in ("P", "RGB"):
        return 0
    indexed = image.getcolors(FEW + 1)
    if indexed is None:
        return 0
    colours = {tuple(np.atleast_1d(colour).tolist()) for _, colour in indexed}
    if image.mode == "P":
        table = np.asarray(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        colours = {tuple(table[index].tolist()) for (index,) in colours if index < len(table)}
    colours.discard((0, 0, 0))
    return len(colours) if any(len(set(colour)) > 1 for colour in colours) else 0


def _open(data: bytes, where: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError:
        raise ImageError(where, f"has more than {MAX_PIXELS:,} pixels; reduce its size") from None
    except _BROKEN as error:
        raise ImageError(where, f"not readable as an image ({_reason(error, data)}); replace it") from None
    limit = MAX_PIXELS if image.mode in _PLAIN_MODES and not image.has_transparency_data else MAX_PIXELS // 2
    if (pixels := image.width * image.height) > limit:
        what = f"has {pixels:,} pixels, more than the {limit:,} of mode {image.mode}; reduce its size"
        raise ImageError(where, what)
    return image


def load_picture(data: bytes, where: str) -> Image.Image:
    """Return the decoded picture of a file, as stored. Raises ImageError if it is damaged or too large."""
    image = _open(data, where)
    try:
        image.load()
    except _BROKEN as error:
        raise ImageError(where, f"damaged ({_reason(error, data)}); replace it") from None
    return image


def _reason(error: Exception, data: bytes) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "no known image format"
    return str(error)


def _to_rgb(image: Image.Image) -> tuple[Image.Image, str]:
    """Convert an image of any other mode to RGB; also return the code of the rule that was applied."""
    if image.mode.startswith("I") or image.mode == "F":
        value_HW = np.asarray(image).astype(np.float32)
        scale = 65535.0 if image.mode.startswith("I") else _full_scale(value_HW, lossy=False)
        grey_HW = np.clip(np.rint(value_HW * (255.0 / scale)), 0, 255).astype(np.uint8)
        return Image.fromarray(grey_HW).convert("RGB"), "16-bit"
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB"), "alpha"
    names = {"L": "grey", "1": "grey", "P": "palette"}
    return image.convert("RGB"), names.get(image.mode, image.mode.lower())


def turn_as_stored(image: Image.Image, frame: Frame) -> tuple[Image.Image, list[str]]:
    """Turn a mask by its own EXIF orientation, or by its photograph's if it was drawn on the stored pixels."""
    if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        return ImageOps.exif_transpose(image), ["exif"]
    turned = frame.orientation >= 5 and frame.stored_size != (frame.width, frame.height)
    if turned and image.size == frame.stored_size:
        return image.transpose(_TURN[frame.orientation]), ["exif"]
    return image, []


def _values(image: Image.Image) -> tuple[np.ndarray, float, list[str]]:
    """Return the values of a mask (HW), their full scale, and the codes of the rules that were applied."""
    lossy = image.format in _LOSSY
    notes = ["lossy"] if lossy else []
    if image.mode == "P" and not image.has_transparency_data:
        value_HW = np.asarray(image.convert("RGB")).max(axis=2)
        colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
        if np.any(colours != colours[:, :1]):
            value_HW = (value_HW > 0).astype(np.uint8)
        return value_HW, _full_scale(value_HW, lossy), [*notes, "palette"]
    if image.has_transparency_data:
        layer_HW4 = np.asarray(image.convert("RGBA"))
        colour_HW, alpha_HW = layer_HW4[..., :3].max(axis=2), layer_HW4[..., 3]
        if colour_HW.min() == colour_HW.max() and alpha_HW.min() != alpha_HW.max():
            return alpha_HW, _full_scale(alpha_HW, lossy), [*notes, "alpha"]
        value_HW = (colour_HW.astype(np.uint16) * alpha_HW // 255).astype(np.uint8)
        return value_HW, _full_scale(value_HW, lossy), [*notes, "alpha"]
    if image.mode in ("1", "L"):
        value_HW = np.asarray(image).astype(np.uint8)
    elif image.mode.startswith("I") or image.mode == "F":
        value_HW = np.asarray(image).astype(np.float32)
        notes.append("16-bit")
    else:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        value_HW = np.array(rgb.getchannel(0))
        for channel in (1, 2):  # one at a time: a whole picture is copied twice
            np.maximum(value_HW, np.asarray(rgb.getchannel(channel)), out=value_HW)
        notes.append("rgb")
    scale = _full_scale(value_HW, lossy)
    if scale == 1 and image.mode != "1" and value_HW.any():
        notes.append("labels")
    return value_HW, scale, notes


def _full_scale(value_HW: np.ndarray, lossy: bool) -> float:
    """Return the smallest of 1, 255 and 65535 that holds all values; at least 255 if ``lossy``, where 1 is noise."""
    largest = float(value_HW.max(initial=0))
    if largest <= 1 and not lossy:
        return 1.0
    return 255.0 if largest <= 255 else 65535.0

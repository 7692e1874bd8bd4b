from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amsam_ray.data.images import Frame, ImageError, decode_image, decode_mask, read_frame
from amsam_ray.data.schema import MaskRule

RULE = MaskRule()
RGB = np.zeros((20, 30, 3), np.uint8)
RGB[:10, :15] = (200, 40, 90)
MASK = np.zeros((20, 30), bool)
MASK[5:12, 8:20] = True
FRAME = Frame(30, 20, 1)


def _bytes(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _photograph(image: Image.Image, form: str = "PNG", **options: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    photograph = decode_image(_bytes(image, form, **options), "x")
    assert photograph.pixels.dtype == np.uint8
    assert photograph.pixels.shape[2] == 3
    return photograph.pixels, photograph.conversions


def _mask(image: Image.Image, form: str = "PNG", frame: Frame = FRAME, **options: Any) -> tuple[np.ndarray, tuple]:
    mask = decode_mask(_bytes(image, form, **options), "m", RULE, frame)
    assert mask.pixels.dtype == bool
    return mask.pixels, mask.conversions


def test_an_rgb_photograph_is_taken_as_it_is() -> None:
    pixels, notes = _photograph(Image.fromarray(RGB))
    assert np.array_equal(pixels, RGB)
    assert notes == ()


def test_grey_palette_and_cmyk_photographs_become_rgb() -> None:
    grey = Image.fromarray(RGB).convert("L")
    pixels, notes = _photograph(grey)
    assert notes == ("grey",)
    assert np.array_equal(pixels, np.repeat(np.asarray(grey)[..., None], 3, axis=2))
    pixels, notes = _photograph(Image.fromarray(RGB).quantize(4))
    assert notes == ("palette",)
    assert np.abs(pixels.astype(int) - RGB).max() <= 4
    cmyk = Image.fromarray(RGB).convert("CMYK")
    pixels, notes = _photograph(cmyk, "JPEG", quality=100)
    assert notes == ("cmyk",)
    assert np.abs(pixels.astype(int) - RGB).mean() < 3


def test_transparent_pixels_are_laid_over_white() -> None:
    layer = np.dstack([RGB, np.full((20, 30), 255, np.uint8)])
    layer[0, 0] = (10, 20, 30, 0)
    layer[1, 1] = (0, 0, 0, 128)
    pixels, notes = _photograph(Image.fromarray(layer))
    assert notes == ("alpha",)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [127, 127, 127]
    assert pixels[2, 2].tolist() == [200, 40, 90]


def test_sixteen_bits_are_scaled_by_their_full_scale() -> None:
    deep = np.array([[0, 257, 65535]], np.uint16)
    pixels, notes = _photograph(Image.fromarray(deep))
    assert notes == ("16-bit",)
    assert pixels[0, :, 0].tolist() == [0, 1, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation: int) -> None:
    """Store a picture the way a camera held in that orientation would, and get the upright one back."""
    upright = np.arange(20 * 30 * 3, dtype=np.uint32).reshape(20, 30, 3).astype(np.uint8)
    inverse = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _bytes(Image.fromarray(np.ascontiguousarray(inverse(upright))), exif=exif.tobytes())
    photograph = decode_image(data, "x")
    assert np.array_equal(photograph.pixels, upright)
    assert photograph.conversions == (() if orientation == 1 else ("exif",))
    frame = read_frame(data, "x")
    assert (frame.width, frame.height, frame.orientation) == (30, 20, orientation)


def test_a_mask_drawn_on_the_stored_pixels_turns_with_its_photograph() -> None:
    frame = Frame(30, 20, 6)
    stored = np.ascontiguousarray(np.rot90(MASK, 1))
    pixels, notes = _mask(Image.fromarray(stored), frame=frame)
    assert np.array_equal(pixels, MASK)
    assert notes == ("exif",)
    upright, notes = _mask(Image.fromarray(MASK), frame=frame)
    assert np.array_equal(upright, MASK)
    assert notes == ()


@pytest.mark.parametrize("data", [b"", b"not an image", b"\xff\xd8\xff\xe0garbage"])
def test_what_is_no_image_is_named(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"photo.jpg: .*; replace it"):
        decode_image(data, "photo.jpg")


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_truncated_file_is_named(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = _bytes(Image.fromarray(noise), form)
    with pytest.raises(ImageError, match="x: damaged"):
        decode_image(data[: len(data) // 2], "x")


EIGHT = MASK.astype(np.uint8)


@pytest.mark.parametrize(
    ("image", "form", "notes"),
    [
        (Image.fromarray(EIGHT * 255), "PNG", ()),
        (Image.fromarray(MASK), "PNG", ()),
        (Image.fromarray(EIGHT), "PNG", ("labels",)),
        (Image.fromarray(EIGHT.astype(np.uint16) * 65535), "PNG", ("16-bit",)),
        (Image.fromarray(EIGHT.astype(np.uint16) * 255), "PNG", ("16-bit",)),
        (Image.fromarray(EIGHT.astype(np.float32)), "TIFF", ("16-bit", "labels")),
        (Image.fromarray(np.dstack([EIGHT * 255] * 3)), "PNG", ("rgb",)),
        (Image.fromarray(np.dstack([EIGHT * 255, EIGHT * 0, EIGHT * 0])), "PNG", ("rgb",)),
        (Image.fromarray(np.dstack([EIGHT * 255] * 3 + [EIGHT * 0 + 255])), "PNG", ("alpha",)),
        (Image.fromarray(np.dstack([EIGHT * 0] * 3 + [EIGHT * 255])), "PNG", ("alpha",)),
        (Image.fromarray(EIGHT * 255).convert("P"), "PNG", ("palette",)),
        (Image.fromarray(np.dstack([EIGHT * 255] * 3)), "JPEG", ("lossy", "rgb")),
        (Image.fromarray(EIGHT * 255).convert("CMYK"), "JPEG", ("lossy", "rgb")),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_every_kind_of_mask_gives_the_same_object(image: Image.Image, form: str, notes: tuple[str, ...]) -> None:
    options: dict[str, Any] = {"quality": 95} if form == "JPEG" else {}
    pixels, told = _mask(image, form, **options)
    assert told == notes
    assert np.array_equal(pixels, MASK)


def test_in_a_coloured_palette_every_colour_but_black_is_object() -> None:
    image = Image.new("P", (30, 20))
    image.putdata((EIGHT * 2).ravel().tolist())
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 64, 0])
    pixels, notes = _mask(image)
    assert notes == ("palette",)
    assert np.array_equal(pixels, MASK)


def test_compression_noise_on_an_empty_mask_is_no_object() -> None:
    faint = np.zeros((20, 30), np.uint8)
    faint[3:6, 3:6] = 1
    buffer = io.BytesIO()
    Image.fromarray(faint).save(buffer, "JPEG", quality=100)
    assert np.asarray(Image.open(io.BytesIO(buffer.getvalue()))).max() == 1
    assert not decode_mask(buffer.getvalue(), "m", RULE, FRAME).pixels.any()


def test_the_threshold_is_a_share_of_full_scale() -> None:
    ramp = np.tile(np.arange(0, 255, 17, dtype=np.uint8)[None], (1, 2))
    data = _bytes(Image.fromarray(np.vstack([ramp, ramp[:, ::-1]])))
    frame = Frame(30, 2, 1)
    for threshold in (0.2, 0.5, 0.9):
        got = decode_mask(data, "m", MaskRule(threshold=threshold), frame).pixels[0]
        assert np.array_equal(got, ramp[0] > threshold * 255)


def test_a_mask_of_another_size_is_resized_or_refused() -> None:
    double = np.repeat(np.repeat(MASK, 2, 0), 2, 1)
    pixels, notes = _mask(Image.fromarray(double))
    assert notes == ("resized",)
    assert np.array_equal(pixels, MASK)
    with pytest.raises(ImageError, match="the mask is 60x40 and its photograph 30x20"):
        decode_mask(_bytes(Image.fromarray(double)), "m", MaskRule(other_size="refuse"), FRAME)


def test_values_between_black_and_white_are_measured() -> None:
    grey = np.full((20, 30), 128, np.uint8)
    grey[:10] = 255
    assert decode_mask(_bytes(Image.fromarray(grey)), "m", RULE, FRAME).between == 0.5

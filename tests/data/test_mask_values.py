"""Masks of one object are read as before; label maps are refused, with their values, or read as one object."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from amsam_ray.data.images import Frame, ImageError, MaskValuesError, decode_mask
from amsam_ray.data.mask_values import label_map_fault, levels, listed
from amsam_ray.data.schema import MaskRule

SIDE = 96
FRAME = Frame(SIDE, SIDE, 1)
NONZERO = MaskRule(object="nonzero")


def _png(pixels: np.ndarray | Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _drawing(scale: int = 1) -> Image.Image:
    """A blob, a thin ring and a line, white on black."""
    image = Image.new("L", (SIDE * scale, SIDE * scale))
    draw = ImageDraw.Draw(image)
    draw.ellipse([10 * scale, 12 * scale, 60 * scale, 50 * scale], fill=255)
    draw.ellipse([50 * scale, 55 * scale, 88 * scale, 90 * scale], outline=255, width=scale)
    draw.line([5 * scale, 90 * scale, 40 * scale, 60 * scale], fill=255, width=scale)
    return image


def _soft() -> dict[str, Image.Image]:
    """Masks of one object with noise or soft borders, stored without loss."""
    drawn = _drawing()
    made: dict[str, Image.Image] = {
        f"from JPEG {q}": Image.open(io.BytesIO(_png(drawn, "JPEG", quality=q))) for q in (5, 30, 60, 75, 90, 95, 100)
    }
    made |= {f"from WebP {q}": Image.open(io.BytesIO(_png(drawn, "WEBP", quality=q))).convert("L") for q in (20, 80)}
    made |= {f"blurred by {r}": drawn.filter(ImageFilter.GaussianBlur(r)) for r in (0.5, 1, 2, 4)}
    made |= {f"drawn {n} times larger": _drawing(n).resize((SIDE, SIDE), Image.Resampling.BOX) for n in (2, 4, 8)}
    made["smoothed"] = drawn.resize((60, 60), Image.Resampling.LANCZOS).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    stray = np.asarray(drawn).copy()
    stray[3, 3:8] = 1
    made["with stray pixels of 1"] = Image.fromarray(stray)
    return made


@pytest.mark.parametrize("name", _soft())
def test_noise_and_soft_borders_are_read_by_the_threshold(name: str) -> None:
    image = _soft()[name]
    mask = decode_mask(_png(image), "m", MaskRule(), FRAME)
    assert np.array_equal(mask.pixels, np.asarray(image) > 127.5)
    assert mask.pixels.any()


@pytest.mark.parametrize("quality", [5, 50, 95, 100])
def test_lossy_files_are_read_by_the_threshold(quality: int) -> None:
    data = _png(_drawing(), "JPEG", quality=quality)
    mask = decode_mask(data, "m", MaskRule(), FRAME)
    assert np.array_equal(mask.pixels, np.asarray(Image.open(io.BytesIO(data))) > 127.5)
    assert mask.values == ()


def _map(*areas: int, kind: type = np.uint8) -> np.ndarray:
    """A map with a block of 12x12 pixels of each value."""
    found: np.ndarray = np.zeros((SIDE, SIDE), kind)
    for number, value in enumerate(areas):
        found[2:14, 2 + 13 * number : 14 + 13 * number] = value
    return found


LABEL_MAPS = {
    "classes": (_png(_map(1, 2)), (0, 1, 2), "none exceeds 127.5"),
    "class 2 alone": (_png(_map(2)), (0, 2), "none exceeds 127.5"),
    "instances": (_png(_map(1, 2, 3, 4, 5)), (0, 1, 2, 3, 4, 5), "none exceeds 127.5"),
    "16 bits": (_png(_map(1, 2, kind=np.uint16)), (0, 1, 2), "none exceeds 127.5"),
    "ids above 255": (_png(_map(1001, 1002, kind=np.uint16)), (0, 1001, 1002), "none exceeds 32767.5"),
    "ids of both sizes": (_png(_map(24, 40_000, kind=np.uint16)), (0, 24, 40_000), "those up to 32767.5"),
    "void at 255": (_png(_map(1, 2, 255)), (0, 1, 2, 255), "those up to 127.5"),
    "large steps": (_png(_map(64, 128, 192)), (0, 64, 128, 192), "those up to 127.5"),
    "no background": (_png(_map(1, 2) + 1), (1, 2, 3), "none exceeds 127.5"),
    "array": (_npy(_map(1, 2, kind=np.int64)), (0, 1, 2), "none exceeds 127.5"),
    "grey palette": (_png(Image.fromarray(_map(1, 2)).convert("P")), (0, 1, 2), "none exceeds 127.5"),
    "grey in three channels": (_png(np.dstack([_map(1, 2)] * 3)), (0, 1, 2), "none exceeds 127.5"),
    "negative": (_npy(_map(-1, 1, kind=np.int8)), (), "negative"),
    "not a number": (_npy(np.where(_map(1) > 0, np.nan, 0)), (), "not numbers"),
}


@pytest.mark.parametrize("name", LABEL_MAPS)
def test_label_maps_are_refused_with_their_values(name: str) -> None:
    data, values, reason = LABEL_MAPS[name]
    with pytest.raises(MaskValuesError) as error:
        decode_mask(data, "m.png", MaskRule(), FRAME)
    assert error.value.values == values
    assert reason in error.value.what
    assert listed(values) in error.value.what
    assert "object: nonzero" in error.value.what and "classes: all" in error.value.what


def test_a_dark_colour_is_not_lost() -> None:
    table = np.array([[0, 0, 0], [128, 0, 0], [64, 0, 0]], np.uint8)
    with pytest.raises(MaskValuesError, match="holds the values 0, 64, 128"):
        decode_mask(_png(table[_map(1, 2)]), "m", MaskRule(), FRAME)
    assert np.array_equal(decode_mask(_png(table[_map(1, 2)]), "m", NONZERO, FRAME).pixels, _map(1, 2) > 0)


@pytest.mark.parametrize(
    "data", [_png(_map(1)), _png(_map(1, kind=np.uint16)), _npy(_map(1)), _npy(_map(1) > 0), _npy(_map(1) / 1.0)]
)
def test_masks_of_0_and_1_are_read_as_what_they_are(data: bytes) -> None:
    for rule in (MaskRule(), NONZERO):
        mask = decode_mask(data, "m", rule, FRAME)
        assert np.array_equal(mask.pixels, _map(1) > 0)
        assert mask.values == (0, 1)


@pytest.mark.parametrize(
    "name", [name for name in LABEL_MAPS if name not in ("no background", "negative", "not a number")]
)
def test_every_value_but_0_is_object_on_request(name: str) -> None:
    truth = decode_mask(LABEL_MAPS[name][0], "m", NONZERO, FRAME).pixels
    blocks = len(LABEL_MAPS[name][1]) - 1
    assert np.array_equal(truth, _map(*[1] * blocks) > 0)


def test_an_empty_mask_is_an_empty_mask() -> None:
    for data in (_png(_map()), _npy(_map()), _png(_map(kind=np.uint16))):
        assert not decode_mask(data, "m", MaskRule(), FRAME).pixels.any()


def test_the_threshold_decides_what_is_lost() -> None:
    half = _map(100, 200)
    assert label_map_fault(half, 255, 0.5, lossy=False) is not None
    assert label_map_fault(half, 255, 0.3, lossy=False) is None


def test_colours_are_counted() -> None:
    image = Image.fromarray(_map(1, 2))
    image.putpalette([0, 0, 0, 200, 30, 30, 0, 0, 90])
    mask = decode_mask(_png(image), "m", MaskRule(), FRAME)
    assert (mask.values, mask.colours) == ((0, 1, 2), 2)
    assert np.array_equal(mask.pixels, _map(1, 2) > 0)


def test_levels_count_pixels_in_parts() -> None:
    noise = np.random.default_rng(0).integers(0, 3, (2100, 2100)).astype(np.uint8)  # more than one part
    assert levels(noise) == {value: int((noise == value).sum()) for value in range(3)}
    assert levels(np.array([[0.5]], np.float32)) == {}


ARRAYS: dict[str, np.ndarray] = {
    "objects": np.array([[None, 1]], dtype=object),
    "text": np.array([["a", "b"]]),
    "complex": np.zeros((4, 4), complex),
    "a record": np.zeros((4, 4), [("a", "u1")]),
    "colour": np.zeros((4, 4, 3), np.uint8),
    "one number": np.array(3, np.uint8),
    "no pixel": np.zeros((0, 4), np.uint8),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_no_masks_are_refused(name: str) -> None:
    with pytest.raises(ImageError, match=r"m\.npy: "):
        decode_mask(_npy(ARRAYS[name]), "m.npy", MaskRule(), FRAME)


def test_the_size_that_an_array_states_is_not_believed() -> None:
    data = _npy(np.zeros((96, 96), np.uint8))
    for wrong in (b"(9600000, 960000), }", b"(96, 9600000000), } ", b"(-6, 96), }        ", b"(96, 95), }        "):
        with pytest.raises(ImageError, match=r"m\.npy: "):
            decode_mask(data.replace(b"(96, 96), }".ljust(len(wrong)), wrong), "m.npy", MaskRule(), FRAME)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(SIDE, SIDE), (SIDE, SIDE, 1), (1, SIDE, SIDE)])
def test_arrays_of_either_order_and_an_axis_of_one(shape: tuple[int, ...], order: str) -> None:
    array = np.asarray((_map(255, 255) >= 1).reshape(shape), dtype=">u2", order=order)  # type: ignore[call-overload]
    mask = decode_mask(_npy(array * 255), "m", MaskRule(), FRAME)
    assert np.array_equal(mask.pixels, _map(1, 1) > 0)
    assert "array" in mask.conversions

"""Photographs and masks: damaged files and bombs are refused, and what is decoded has the promised form."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from amsam_ray.data.images import Frame, decode_image, decode_mask, read_frame
from amsam_ray.data.schema import MaskRule
from tests.fuzz.harness import attempt, fuzz
from tests.fuzz.hostile import damaged


def encoded(pixels: np.ndarray | Image.Image, form: str, **options: Any) -> bytes:
    """Return an image file."""
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, form, **options)
    return buffer.getvalue()


def originals() -> list[bytes]:
    """Return small images of every format and mode that is read."""
    draw = np.random.default_rng(0)
    rgb = draw.integers(0, 255, (24, 32, 3), np.uint8)
    grey = rgb[..., 0]
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        *(encoded(rgb, form) for form in ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")),
        encoded(rgb, "JPEG", exif=exif, progressive=True),
        encoded(rgb, "TIFF", compression="tiff_lzw"),
        encoded(rgb, "TIFF", compression="tiff_adobe_deflate", exif=exif),
        encoded(np.dstack([rgb, grey]), "PNG"),
        encoded(np.dstack([rgb, grey]), "WEBP", lossless=True),
        encoded(grey, "PNG"),
        encoded(Image.fromarray(rgb).quantize(8), "PNG"),
        encoded(Image.fromarray(grey).convert("1"), "PNG"),
        encoded(Image.fromarray(rgb).convert("CMYK"), "JPEG"),
        encoded(grey.astype(np.uint16) * 257, "PNG"),
        encoded(grey.astype(np.float32), "TIFF"),
        encoded(grey.astype(np.int32), "TIFF"),
        encoded(grey // 64, "PNG"),
    ]


def arrays() -> list[bytes]:
    """Return small .npy files of every kind of number, and some that are no masks."""
    draw = np.random.default_rng(0).integers(0, 2, (48, 40))
    kinds = ("?", "u1", "<u2", ">u4", "i8", "f2", "f4", "f8", "c8", "U3", "M8[s]")
    made = [draw.astype(kind) for kind in kinds]
    return [stored(array) for array in (*made, draw[..., None].astype("u1"), np.asfortranarray(draw), draw[0])]


def stored(array: np.ndarray) -> bytes:
    """Return an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, rows: bytes, extra: bytes = b"", *, kind: int = 0, depth: int = 8) -> bytes:
    """Return a PNG that states a size and holds ``rows``, compressed."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + extra + body


BOMBS: dict[str, Callable[[], bytes]] = {
    "a PNG of 30,000 x 30,000": lambda: png(30_000, 30_000, bytes(1_000_000)),
    "a whole PNG of 13,000 x 13,000": lambda: png(13_000, 13_000, bytes(13_001 * 13_000)),
    "a whole PNG with alpha": lambda: png(9_000, 9_000, bytes((4 * 9_000 + 1) * 9_000), kind=6),
    "a PNG of 2,147,483,647 columns": lambda: png(2**31 - 1, 1, bytes(100)),
    "a PNG of no column": lambda: png(0, 1, bytes(100)),
    "a PNG with a text bomb": lambda: png(
        2, 2, bytes(6), chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 1))
    ),
    "a PNG with a profile bomb": lambda: png(
        2, 2, bytes(6), chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(100_000_000), 1))
    ),
    "a TIFF of 60,000 x 60,000": lambda: encoded(np.zeros((8, 8), np.uint8), "TIFF").replace(
        struct.pack("<H", 8), struct.pack("<H", 60_000)
    ),
    "a GIF of 65,535 x 65,535": lambda: (
        b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\0\0\0\0\xff\xff\xff\xff\x00\x02\x02L\x01\x00;"
    ),
    "a PPM of 10^9 columns": lambda: b"P6 1000000000 1000000000 255\n" + bytes(100),
    "a PPM of 10^400 columns": lambda: b"P6 " + b"9" * 400 + b" 1 255\n",
    "a WebP of 16,383 x 16,383": lambda: encoded(np.zeros((16_383 // 4, 16_383), np.uint8), "WEBP", lossless=True),
    "an EPS that runs a program": lambda: (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch /tmp/never) (w) file\n"
    ),
    "the largest photograph": lambda: png(8_000, 4_500, bytes((3 * 8_000 + 1) * 4_500), kind=2),
    "the largest photograph with alpha": lambda: png(5_000, 3_600, bytes((4 * 5_000 + 1) * 3_600), kind=6),
    "the largest photograph of 16 bits": lambda: png(5_000, 3_600, bytes((2 * 5_000 + 1) * 3_600), depth=16),
    "an empty file": lambda: b"",
    "text": lambda: b"not an image",
}


def read(content: bytes, rule: MaskRule) -> None:
    """Read a file as a photograph and as a mask, and check what is promised."""
    photograph = decode_image(content, "photo")
    height, width = photograph.pixels.shape[:2]
    assert photograph.pixels.dtype == np.uint8 and photograph.pixels.shape == (height, width, 3)
    assert (photograph.frame.width, photograph.frame.height) == (width, height)
    assert read_frame(content, "photo") == photograph.frame
    read_mask(content, rule, photograph.frame)


def read_mask(content: bytes, rule: MaskRule, frame: Frame) -> None:
    """Read a file as the mask of a photograph, and check what is promised."""
    mask = decode_mask(content, "mask", rule, frame)
    assert mask.pixels.dtype == bool and mask.pixels.shape == (frame.height, frame.width)
    assert 0 <= mask.between <= 1


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str) -> None:
    content = BOMBS[name]()
    attempt("image and mask", lambda: read(content, MaskRule()))
    attempt("mask", lambda: read_mask(content, MaskRule(), Frame(64, 48, 1)))


@fuzz(8, content=damaged(originals()) | st.binary(max_size=100), other=st.sampled_from(["nearest", "refuse"]))
def test_damaged_images(content: bytes, other: Any) -> None:
    attempt("image and mask", lambda: read(content, MaskRule(other_size=other)))


@fuzz(8, content=damaged(arrays()), nonzero=st.booleans())
def test_damaged_arrays(content: bytes, nonzero: bool) -> None:
    rule = MaskRule(object="nonzero" if nonzero else "bright")
    attempt("array", lambda: read_mask(content, rule, Frame(40, 48, 1)))


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (18000000, 1)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2, 2)}",
        "{'descr': [('x', '<f8', (100000, 100000))], 'fortran_order': False, 'shape': (2, 2)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-2, -2)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (True, 9)}",
        "{'descr': '<u1000000000', 'fortran_order': False, 'shape': (1, 1)}",
        "{'descr': __import__('os').system('touch /tmp/never'), 'fortran_order': False, 'shape': (1, 1)}",
        "(" * 3000,
        "9" * 5000,
    ],
)
def test_headers_of_arrays(header: str) -> None:
    text = header.encode() + b"\n"
    content = b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + bytes(64)
    assert attempt("array", lambda: read_mask(content, MaskRule(), Frame(40, 48, 1)))[0] is False


def test_the_largest_array_is_read_within_the_limits() -> None:
    for kind in ("u1", "f8"):
        content = stored(np.zeros((4_500, 4_000), kind))
        attempt("array", lambda content=content: read_mask(content, MaskRule(), Frame(64, 48, 1)))  # type: ignore[misc]


@fuzz(4, content=damaged(originals()), orientation=st.integers(1, 8), side=st.integers(1, 70))
def test_damaged_masks(content: bytes, orientation: int, side: int) -> None:
    attempt("mask", lambda: read_mask(content, MaskRule(), Frame(side, 48, orientation)))

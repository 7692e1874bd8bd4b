"""Read masks that are stored as NumPy arrays (.npy). Nothing is unpickled and no size is believed."""

from __future__ import annotations

import io

import numpy as np

from amsam_ray.errors import AmsamError

MAGIC = b"\x93NUMPY"
"""First bytes of an .npy file."""
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class ArrayError(AmsamError):
    """An .npy file cannot be read as a mask."""


def read_mask_array(data: bytes, max_pixels: int) -> np.ndarray:
    """Return the values of a mask stored as an array, HW; bool becomes uint8 of 0 and 1.

    Args:
        data: the bytes of an .npy file. The array is H x W, H x W x 1 or 1 x H x W, of bool, whole numbers or floats.
        max_pixels: most pixels.

    Raises:
        ArrayError: the file is damaged, the array has another shape or type, or it is too large.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version not in _READERS:
            raise ValueError(f"version {version} of the format")
        shape, fortran, dtype = _READERS[version](file)
    except Exception as error:  # the header is a Python literal, and its parser raises whatever a strange one leads to
        first = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise ArrayError(f"not readable as an array ({first}); save it with numpy.save") from None
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise ArrayError(f"holds {dtype}, not numbers; save the mask as an array of uint8")
    plane = shape
    if len(shape) == 3 and 1 in (shape[0], shape[-1]):
        plane = shape[:2] if shape[-1] == 1 else shape[1:]
    if len(plane) != 2 or min(plane) < 1:
        size = "x".join(map(str, shape[:8]))
        raise ArrayError(f"is an array of shape {size}; save the mask as height x width")
    if (pixels := plane[0] * plane[1]) > max_pixels:
        raise ArrayError(f"has {pixels:,} pixels, more than the {max_pixels:,} allowed; reduce its size")
    body = memoryview(data)[file.tell() :]
    if len(body) != pixels * dtype.itemsize:
        raise ArrayError("damaged (its length differs from its header); save it again")
    value_HW = np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C").reshape(plane)
    if dtype.kind == "b":
        return value_HW.astype(np.uint8)
    if dtype.kind == "f" or dtype.kind == "i" or dtype.itemsize > 2:
        return value_HW.astype(np.float32)
    return value_HW.astype(dtype.newbyteorder("="))

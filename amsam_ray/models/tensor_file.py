"""Safetensors files from elsewhere: everything that their header states is checked before memory is taken.

A file starts with the length of its header (8 bytes, little endian) and the header, a JSON object of tensors (dtype,
shape, first and last byte) and ``__metadata__`` (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from amsam_ray.errors import InputError, Problem

MAX_FILE_BYTES = 4 << 30
MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 20_000
MAX_DIMENSIONS = 8
FLOATS = frozenset({"F16", "BF16", "F32"})
_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "I64": 8, "U8": 1, "BOOL": 1}
_LENGTH = 8  # bytes of the header's own length

_Count = Annotated[int, Field(strict=True, ge=0, le=MAX_FILE_BYTES)]


class TensorFileError(InputError):
    """The file is not a safetensors file, or its header contradicts it or exceeds a limit."""


class TensorEntry(BaseModel):
    """What the header states about one tensor.

    Attributes:
        dtype: one of safetensors' names.
        shape: at most ``MAX_DIMENSIONS`` sides.
        data_offsets: first byte, and the byte after the last, counted from the end of the header.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: str = Field(strict=True, max_length=16)
    shape: Annotated[tuple[_Count, ...], Field(max_length=MAX_DIMENSIONS)]
    data_offsets: tuple[_Count, _Count]


_ENTRIES = TypeAdapter(dict[str, TensorEntry])
_METADATA = TypeAdapter(dict[str, Annotated[str, Field(strict=True)]])


@dataclass(frozen=True)
class TensorHeader:
    """The checked header of a file.

    Attributes:
        metadata: texts by key.
        tensors: entries by name, whose data cover the rest of the file without gap or overlap.
    """

    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorEntry]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes by name."""
        return {name: entry.shape for name, entry in self.tensors.items()}


def read_content(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        InputError: it is missing, not a regular file, or larger than ``MAX_FILE_BYTES``.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(Problem(str(path), "cannot be read (not a regular file). Give the path of a file."))
        if status.st_size > MAX_FILE_BYTES:
            what = f"has {status.st_size} bytes, more than the {MAX_FILE_BYTES} that are read. Give another file."
            raise InputError(Problem(str(path), what))
        return path.read_bytes()
    except OSError as error:
        what = f"cannot be read ({error.strerror}). Correct the path or its permissions."
        raise InputError(Problem(str(path), what)) from None


def read_header(content: bytes, where: str, *, other_dtypes: Collection[str] = ()) -> TensorHeader:
    """Return the header of a safetensors file.

    Args:
        content: the whole file.
        where: what errors call the file.
        other_dtypes: the dtypes that are allowed besides ``FLOATS``, a part of ``F64``, ``I64``, ``U8``
            and ``BOOL``.

    Raises:
        TensorFileError: the content is not a safetensors file; the header is longer than ``MAX_HEADER_BYTES``, names
            more than ``MAX_TENSORS`` tensors or one twice, has another dtype, or does not agree with the content's
            size.
    """
    length = int.from_bytes(content[:_LENGTH], "little")
    if len(content) < _LENGTH or not 2 <= length <= min(MAX_HEADER_BYTES, len(content) - _LENGTH):
        raise _refused(where, "is not a safetensors file, or is cut short. Copy or download it again.")
    try:
        given = json.loads(content[_LENGTH : _LENGTH + length], object_pairs_hook=_unique)
        if not isinstance(given, dict):
            raise ValueError("the header is not an object")
        metadata = _METADATA.validate_python(given.pop("__metadata__", {}))
        if len(given) > MAX_TENSORS:
            raise _refused(where, f"has {len(given)} tensors, more than {MAX_TENSORS}. Give another file.")
        tensors = _ENTRIES.validate_python(given)
    except (ValueError, RecursionError):  # also pydantic's and the decoder's errors
        what = "is not a safetensors file (its header is not valid). Copy or download it again."
        raise _refused(where, what) from None
    _check_data(tensors, len(content) - _LENGTH - length, where, FLOATS | set(other_dtypes))
    return TensorHeader(metadata, tensors)


def load_tensors(content: bytes, where: str) -> dict[str, Tensor]:
    """Return the tensors of a file whose header is checked, on the CPU.

    Raises:
        TensorFileError: safetensors refuses the content, or a weight is NaN or infinite.
    """
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise _refused(where, f"is damaged ({error}). Copy or download it again.") from None
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            what = f"has NaN or infinite numbers in {name[:100]!r}. Train again with a lower learning rate."
            raise _refused(where, what)
    return tensors


def _check_data(tensors: Mapping[str, TensorEntry], size: int, where: str, dtypes: Collection[str]) -> None:
    end = 0
    for name, entry in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        if entry.dtype not in dtypes:
            what = f"has a tensor of type {entry.dtype!r} ({name[:100]!r}). Save it as {', '.join(sorted(FLOATS))}."
            raise _refused(where, what)
        first, last = entry.data_offsets
        if first != end or last - first != math.prod(entry.shape) * _BYTES[entry.dtype]:
            what = f"is damaged: place and shape of {name[:100]!r} do not agree. Copy or download it again."
            raise _refused(where, what)
        end = last
    if end != size:
        what = f"is damaged: it has {size} bytes of tensors, and its header states {end}. Copy or download it again."
        raise _refused(where, what)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that occurs twice, of which two parsers may take different values."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _refused(where: str, what: str) -> TensorFileError:
    return TensorFileError(Problem(where, what))

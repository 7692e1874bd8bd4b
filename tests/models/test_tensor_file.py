"""Headers of safetensors files are checked before memory is taken."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from amsam_ray.errors import InputError
from amsam_ray.models import tensor_file
from amsam_ray.models.tensor_file import TensorFileError, load_tensors, read_content, read_header


def packed(header: object, data: bytes = b"\0" * 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_a_file_of_safetensors_is_read() -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0, 4), "c": torch.ones(()).half()}
    content = save(tensors, {"key": "value"})
    header = read_header(content, "file")
    assert header.metadata == {"key": "value"}
    assert header.shapes == {"a": (2, 3), "b": (0, 4), "c": ()}
    assert torch.equal(load_tensors(content, "file")["a"], tensors["a"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cut short"),
        (b"\xff" * 16, "cut short"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "cut short"),
        (packed(b"[" * 100_000), "header is not valid"),
        (packed(b"\xff\xfe"), "header is not valid"),
        (packed([1]), "header is not valid"),
        (packed(b'{"a": 1' + b"0" * 10_000 + b"}"), "header is not valid"),
        (packed({"a": entry(shape=(1 << 40, 1 << 40))}), "header is not valid"),
        (packed({"a": entry(shape=(-2,))}), "header is not valid"),
        (packed({"a": entry(shape=(True, 2))}), "header is not valid"),
        (packed({"a": entry(shape=(1,) * 9)}), "header is not valid"),
        (packed({"a": entry(), "__metadata__": {"x": 1}}), "header is not valid"),
        (packed(b'{"a": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}, "a": {}}'), "header is not valid"),
        (packed({"a": entry(shape=(1 << 30, 1 << 30))}), "place and shape"),
        (packed({"a": entry(shape=(3,))}), "place and shape"),
        (packed({"a": entry(offsets=(8, 0))}), "place and shape"),
        (packed({"a": entry(), "b": entry()}), "place and shape"),  # overlap
        (packed({"a": entry(offsets=(8, 16))}, b"\0" * 16), "place and shape"),  # gap
        (packed({"a": entry()}, b"\0" * 7), "has 7 bytes of tensors"),
        (packed({"a": entry()}, b"\0" * 9), "has 9 bytes of tensors"),
        (packed({"a": entry("F64", (1,))}), "type 'F64'"),
        (packed({"a": entry("I64", (1,))}), "type 'I64'"),
        (packed({"a": entry("OBJECT", (1,))}), "type 'OBJECT'"),
    ],
)
def test_a_lying_header_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(TensorFileError, match=words):
        read_header(content, "file")


def test_headers_and_files_have_a_largest_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(TensorFileError, match="cut short"):
        read_header(packed(b" " * (tensor_file.MAX_HEADER_BYTES + 1)), "file")
    many = {str(number): entry(shape=(0,), offsets=(0, 0)) for number in range(tensor_file.MAX_TENSORS + 1)}
    with pytest.raises(TensorFileError, match="more than 20000"):
        read_header(packed(many, b""), "file")
    sparse = tmp_path / "sparse.safetensors"
    with sparse.open("wb") as file:
        file.truncate(tensor_file.MAX_FILE_BYTES + 1)
    with pytest.raises(InputError, match="more than the 4294967296 that are read"):
        read_content(sparse)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match="not a regular file"):
            read_content(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_must_be_finite(value: float) -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        with pytest.raises(TensorFileError, match="NaN or infinite numbers in 'a'"):
            load_tensors(save({"a": torch.tensor([0.0, value], dtype=dtype)}), "file")

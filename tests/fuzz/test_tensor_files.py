"""Adapter files, detectors and checkpoints: damaged bytes and hostile headers are refused before memory is taken."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from amsam_ray.config.networks import BackboneConfig, DetectorConfig
from amsam_ray.errors import InputError
from amsam_ray.hashing import sha256_hex
from amsam_ray.inference.adapter_file import load_adapter, read_adapter_info, read_tuned_detector
from amsam_ray.inference.frozen_networks import find_backbone
from amsam_ray.models.backbone import Backbone, load_backbone
from amsam_ray.models.detector import load_detector
from amsam_ray.models.weights import NANO_FILE
from tests.fuzz.harness import attempt, fuzz
from tests.fuzz.hostile import damaged, mutated
from tests.inference.test_untrusted_adapter import write
from tests.models.tiny_detector import tiny_detector
from tests.models.toy import SIZE


@pytest.fixture(scope="module")
def nano() -> Backbone:
    return load_backbone(BackboneConfig(image_size=SIZE))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_detector(tmp_path_factory.mktemp("detector"), ["cat", "dog"])


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, nano: Backbone, tiny: Path) -> bytes:
    folder = tmp_path_factory.mktemp("adapter")
    return write(folder / "adapter.safetensors", nano, tuned=tiny).read_bytes()


def split(content: bytes) -> tuple[Any, bytes]:
    """Return the header of a safetensors file as data, and its tensors' bytes."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: Any, body: bytes) -> bytes:
    """Return a safetensors file."""
    text = json.dumps(header).encode(errors="surrogatepass")
    return len(text).to_bytes(8, "little") + text + body


def nested(header: Any, key: str) -> Any:
    """Return the header with the JSON text at ``key`` of its metadata as data, so that mutations reach inside."""
    about = header["__metadata__"]
    return {**header, "__metadata__": {**about, key: json.loads(about[key])}}


def flattened(header: Any, key: str) -> Any:
    """Undo ``nested`` on a header of any form."""
    about = header.get("__metadata__") if isinstance(header, dict) else None
    if isinstance(about, dict) and not isinstance(about.get(key), str):
        return {**header, "__metadata__": {**about, key: json.dumps(about.get(key))}}
    return header


def read_adapter(content: bytes, nano: Backbone) -> None:
    """Do what ``export`` does with an adapter's content before it writes files."""
    info = read_adapter_info(content)
    find_backbone(info, "cpu") if info.config.backbone.size <= SIZE else None
    load_adapter(content, nano)
    read_tuned_detector(content)


def test_adapters_with_changed_headers(adapter: bytes, nano: Backbone) -> None:
    header, body = split(adapter)
    some = {name: header[name] for name in list(header)[:4]}

    @fuzz(
        2, given=mutated([nested(header, "config"), nested(some | {"__metadata__": header["__metadata__"]}, "config")])
    )
    def run(given: Any) -> None:
        attempt("adapter header", lambda: read_adapter(joined(flattened(given, "config"), body), nano))

    run()


def test_adapters_with_changed_configs(adapter: bytes, nano: Backbone) -> None:
    header, body = split(adapter)

    @fuzz(3, config=mutated([json.loads(header["__metadata__"]["config"])]))
    def run(config: Any) -> None:
        changed = {**header, "__metadata__": {**header["__metadata__"], "config": json.dumps(config)}}
        attempt("adapter config", lambda: read_adapter(joined(changed, body), nano))

    run()


def test_damaged_adapters(adapter: bytes, nano: Backbone) -> None:
    @fuzz(2, content=damaged([adapter]) | st.binary(max_size=300))
    def run(content: bytes) -> None:
        attempt("adapter bytes", lambda: read_adapter(content, nano))

    run()


def test_detectors_with_changed_headers(tiny: Path, tmp_path: Path) -> None:
    header, body = split(tiny.read_bytes())
    path = tmp_path / "changed.safetensors"

    @fuzz(1, given=mutated([nested(header, "detector")]))
    def run(given: Any) -> None:
        path.write_bytes(joined(flattened(given, "detector"), body))
        attempt("detector header", lambda: load_detector(DetectorConfig(weights=str(path))))

    run()


def test_damaged_detectors(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"

    @fuzz(1, content=damaged([tiny.read_bytes()]) | st.binary(max_size=300))
    def run(content: bytes) -> None:
        path.write_bytes(content)
        attempt("detector bytes", lambda: load_detector(DetectorConfig(weights=str(path))))

    run()


def pickles() -> dict[str, bytes]:
    """Return contents of .pth files, plain and hostile."""

    def saved(value: Any, **options: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save(value, buffer, **options)
        return buffer.getvalue()

    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", bytes(50_000_000))
    huge = torch.empty(0).expand(0)
    return {
        "tensors": saved({"a": torch.zeros(3), "b": torch.ones(2, 2)}),
        "old format": saved({"a": torch.zeros(3)}, _use_new_zipfile_serialization=False),
        "a list": saved([torch.zeros(3)]),
        "numbers": saved({"a": 1}),
        "keys that are no text": saved({1: torch.zeros(1), None: torch.zeros(1)}),
        "a view": saved({"a": torch.zeros(1).expand(1 << 40)}),
        "no elements": saved({"a": huge}),
        "a zip bomb": bomb.getvalue(),
        "a plain pickle": pickle.dumps({"a": 1}),
        "a pickle that calls": b"cos\nsystem\n(S'touch /tmp/never'\ntR.",
        "deep": b"(" * 100_000 + b".",
        "a long integer": b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\xff" * 64 + b".",
        "memory": b"\x80\x04\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        "empty": b"",
        "a folder's name": b"PK\x03\x04" + bytes(30),
    }


def read_checkpoint(path: Path) -> Backbone:
    """Load a checkpoint that a space file names."""
    return load_backbone(BackboneConfig(checkpoint=str(path), image_size=SIZE))


@pytest.mark.parametrize("name", pickles())
def test_hostile_checkpoints(tmp_path: Path, name: str) -> None:
    (tmp_path / "sam.pth").write_bytes(pickles()[name])
    accepted, _ = attempt("checkpoint .pth", lambda: read_checkpoint(tmp_path / "sam.pth"))
    assert not accepted


def test_damaged_checkpoints(tmp_path: Path) -> None:
    path, contents = tmp_path / "sam.pth", list(pickles().values())

    @fuzz(3, content=damaged(contents))
    def run(content: bytes) -> None:
        path.write_bytes(content)
        accepted, _ = attempt("checkpoint .pth", lambda: read_checkpoint(path))
        assert not accepted

    run()


def test_damaged_plain_checkpoints(tmp_path: Path) -> None:
    path, content = tmp_path / "sam.safetensors", NANO_FILE.read_bytes()
    header, body = split(content)

    @fuzz(0.5, content=damaged([content]))
    def damage(content: bytes) -> None:
        path.write_bytes(content)
        attempt("checkpoint .safetensors", lambda: read_checkpoint(path))

    @fuzz(0.5, given=mutated([header]))
    def change(given: Any) -> None:
        path.write_bytes(joined(given, body))
        attempt("checkpoint .safetensors", lambda: read_checkpoint(path))

    damage()
    change()


def test_damaged_pickled_detectors(tmp_path: Path) -> None:
    path, contents = tmp_path / "own.pt", list(pickles().values())

    @fuzz(1, content=st.sampled_from(contents) | damaged(contents))
    def run(content: bytes) -> None:
        path.write_bytes(content)
        config = DetectorConfig(weights=str(path), sha256=sha256_hex(content))
        accepted, _ = attempt("detector .pt", lambda: load_detector(config))
        assert not accepted

    run()


@pytest.mark.parametrize("kind", ["folder", "missing", "device"])
def test_checkpoints_that_are_no_files(tmp_path: Path, kind: str) -> None:
    path = {"folder": tmp_path, "missing": tmp_path / "x", "device": Path("/dev/zero")}[kind]
    for suffix in ("", ".safetensors"):
        with pytest.raises(InputError):
            read_checkpoint(path.with_name(path.name + suffix) if kind == "missing" else path)

"""Detector files from elsewhere are data: nothing in them is executed, opened or allocated before it is checked."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from amsam_ray.config.networks import DetectorConfig
from amsam_ray.errors import InputError
from amsam_ray.models.detector import build_network, load_detector, save_network
from amsam_ray.models.detector_file import NANO_DETECTOR
from amsam_ray.models.detector_networks import network_description, network_name, register_network
from amsam_ray.models.detector_tuning import TuningShot, tune_detector
from amsam_ray.models.ultralytics_quiet import import_ultralytics
from tests.models.tiny_detector import TINY, tiny_detector


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_detector(tmp_path_factory.mktemp("detector"), ["cat", "dog"])


def crafted(source: Path, target: Path, **changes: Any) -> Path:
    """Copy a detector with changes to what it says about itself."""
    with source.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    about = json.loads(header["__metadata__"]["detector"])
    about |= {key: value(about[key]) if callable(value) else value for key, value in changes.items()}
    save_file(load_file(source), target, metadata={"detector": json.dumps(about)})
    return target


def payload(marker: Path) -> str:
    """Return a Python expression that touches a file."""
    return f"[__import__('pathlib').Path({str(marker)!r}).touch(), torch.nn.SiLU()][1]"


def load(path: Path) -> Any:
    return load_detector(DetectorConfig(weights=str(path)))


def attacks(marker: Path) -> dict[str, Any]:
    """Return what a crafted file may state, each of which would act if ultralytics read it."""

    def layer(name: str, *arguments: object) -> Any:
        return lambda network: {**network, "backbone": [[-1, 1, name, list(arguments)], *network["backbone"][1:]]}

    return {
        "activation": lambda network: {**network, "activation": payload(marker)},
        "a function as layer": layer("torch_safe_load", str(marker)),
        "torch's attribute as layer": layer("nn.Module.__init_subclass__"),
        "an argument": layer("Conv", payload(marker), 3, 2),
        "a path": str(marker.with_suffix(".yaml")),
        "an address": "http://127.0.0.1:9/yolov8n.yaml",
        "another key": lambda network: {**network, "end2end": True},
        "a huge network": layer("Conv", 1 << 40, 3, 2),
        "other channels": lambda network: {**network, "channels": 1 << 30},
        "no dictionary": [1],
    }


@pytest.mark.parametrize("name", attacks(Path("x")))
def test_a_crafted_network_is_refused_and_never_executed(tiny: Path, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    path = crafted(tiny, tmp_path / "evil.safetensors", network=attacks(marker)[name])
    with pytest.raises(InputError, match=r"evil\.safetensors: is not a detector of amsam-ray \(network"):
        load(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"names": []},
        {"names": ["a\x1b[2J", "b"]},
        {"names": ["a" * 101, "b"]},
        {"names": ["a"] * 2001},
        {"names": [1, 2]},
        {"names": ["cat"]},  # another number of classes than the weights'
        {"image_size": 1 << 20},
        {"image_size": 64.0},
        {"image_size": "64"},
        {"image_size": True},
        {"more": 1},
    ],
)
def test_names_and_size_have_limits(tiny: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    path = crafted(tiny, tmp_path / "odd.safetensors", **changes)
    with pytest.raises(InputError, match="is not a detector of amsam-ray"):
        load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_must_be_finite(tiny: Path, tmp_path: Path, value: float) -> None:
    model = build_network("tiny", ["cat"])
    next(model.parameters()).data.flatten()[3] = value
    save_network(model, tmp_path / "nan.safetensors", 64)
    with pytest.raises(InputError, match="NaN or infinite"):
        load(tmp_path / "nan.safetensors")


def test_tuning_does_not_execute_the_description_in_a_pickle(tiny: Path, tmp_path: Path) -> None:
    """A .pt with a configured hash may run no code, but ultralytics would evaluate the description inside it."""
    detector = load(tiny)
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    detector.model.yaml = {**detector.model.yaml, "activation": payload(marker)}
    torch.save({"model": detector.model, "train_args": {"imgsz": 64}}, path)
    shot = TuningShot(np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), bool), "a")
    config = DetectorConfig(weights=str(path), trust=True, finetune_epochs=1)
    with pytest.raises(InputError, match="the detector cannot be tuned: it describes a network that is not known"):
        tune_detector(config, [shot], seed=0, cache_dir=tmp_path / "cache")
    assert not marker.exists()


def test_known_networks_are_those_of_ultralytics() -> None:
    import_ultralytics()
    from ultralytics.nn.tasks import yaml_model_load

    for family in ("yolov8", "yolo11"):
        for scale in "nsmlx":
            assert network_name(yaml_model_load(f"{family}{scale}.yaml")) == f"{family}{scale}"
            assert network_name(network_description(f"{family}{scale}", 3)) == f"{family}{scale}"


def test_descriptions_of_ultralytics_first_releases_are_known() -> None:
    known = network_description("yolov8m", 80)
    old: dict[str, Any] = {
        "nc": 80,
        "ch": 3,
        "depth_multiple": 0.67,
        "width_multiple": 0.75,
        "backbone": [*known["backbone"][:7], [-1, 1, "Conv", [768, 3, 2]], [-1, 3, "C2f", [768, True]]],
        "head": [*known["head"][:-2], [-1, 3, "C2f", [768]], known["head"][-1]],
    }
    old["backbone"].append([-1, 1, "SPPF", [768, 5]])
    assert network_name(old) == "yolov8m"


def test_a_name_cannot_be_registered_for_another_network() -> None:
    with pytest.raises(ValueError, match="choose another name"):
        register_network("yolov8n", TINY)
    with pytest.raises(ValueError, match="choose another name"):
        register_network("../tiny", TINY)


def test_the_shipped_detector_keeps_its_fingerprint() -> None:
    """Cache keys and records hold it."""
    detector = load_detector(DetectorConfig(weights="nano"))
    assert detector is not None
    assert detector.fingerprint == "cc30e72c199943c8453d2c98454ead25ff7e1d35fb347e5cecaff8376bb59787"
    assert network_name(detector.model.yaml) == "yolov8n"
    assert detector.weights_sha256 and NANO_DETECTOR.is_file()


def mutations(content: bytes, count: int, seed: int) -> list[bytes]:
    """Return damaged copies: bytes flipped, ranges removed, repeated or replaced; half of them in the header."""
    rng, made = random.Random(seed), []
    header = 8 + int.from_bytes(content[:8], "little")
    for number in range(count):
        data = bytearray(content)
        for _ in range(rng.choice((1, 1, 3, 10))):
            at = rng.randrange(min(header, len(data)) if number % 2 else len(data))
            match rng.randrange(5):
                case 0:
                    data[at] ^= 1 << rng.randrange(8)
                case 1:
                    data[at] = rng.randrange(256)
                case 2:
                    del data[at : at + rng.randrange(1, 64)]
                case 3:
                    data[at:at] = data[at : at + rng.randrange(1, 64)]
                case 4:
                    data[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, b"99999999", b'":{"a":[1', b"NaN,NaN,"))
            if not data:
                break
        made.append(bytes(data))
    return made


def test_damaged_files_are_refused_or_load_the_same_network(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 seeded mutations: no other exception than InputError, and no file is written."""
    shapes = {name: value.shape for name, value in load(tiny).model.state_dict().items()}
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    path, refused = tmp_path / "damaged.safetensors", 0
    for content in mutations(tiny.read_bytes(), 300, seed=5):
        path.write_bytes(content)
        try:
            model = load(path).model
        except InputError:
            refused += 1
        else:
            assert {name: value.shape for name, value in model.state_dict().items()} == shapes
    assert refused > 150
    assert list(work.iterdir()) == [] and [p.name for p in tmp_path.iterdir() if p != work] == [path.name]

"""Adapter files from elsewhere are data: nothing in them is executed, and no file that they name is opened."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from amsam_ray.cli.main import cli
from amsam_ray.config.networks import BackboneConfig, DetectorConfig
from amsam_ray.errors import AmsamError, InputError
from amsam_ray.inference.adapter_file import load_adapter, save_adapter
from amsam_ray.inference.export import export_adapter
from amsam_ray.inference.predict import load_predictor
from amsam_ray.models.adapted import build_method
from amsam_ray.models.backbone import Backbone, load_backbone
from amsam_ray.models.detector import Detector, load_detector
from amsam_ray.models.weights import NANO_FILE
from tests.models.test_detector_file import crafted, mutations, payload
from tests.models.tiny_detector import tiny_detector
from tests.models.toy import SIZE, toy_backbone
from tests.training.toys import small_trial

IMAGE = np.zeros((SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def nano() -> Backbone:
    return load_backbone(BackboneConfig(image_size=SIZE))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_detector(tmp_path_factory.mktemp("detector"))


def write(
    path: Path,
    backbone: Backbone,
    *,
    checkpoint: str | None = None,
    detector: DetectorConfig | None = None,
    used: Detector | None = None,
    tuned: Path | None = None,
) -> Path:
    """Write an AM-SAM adapter whose config names these files."""
    trial = small_trial(BackboneConfig(image_size=SIZE, checkpoint=checkpoint), "am_sam")
    trial = trial.model_copy(update={"detector": detector or DetectorConfig()})
    model = build_method("am_sam", trial.params, backbone, seed=0)
    fingerprint = None if used is None else used.fingerprint
    save_adapter(path, model.trainable_state(), trial, backbone.fingerprint, detector=fingerprint, tuned_detector=tuned)
    return path


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Change the config inside an adapter file."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    config = json.loads(header["__metadata__"]["config"])
    change(config)
    save_file(load_file(path), path, {**header["__metadata__"], "config": json.dumps(config)})
    return path


def test_a_crafted_detector_inside_is_refused_and_never_executed(tmp_path: Path, nano: Backbone, tiny: Path) -> None:
    marker = tmp_path / "marker"

    def network(known: dict[str, Any]) -> dict[str, Any]:
        return {**known, "activation": payload(marker)}

    evil = crafted(tiny, tmp_path / "evil.safetensors", network=network)
    adapter = write(tmp_path / "adapter.safetensors", nano, tuned=evil)
    with pytest.raises(InputError, match="is not a detector of amsam-ray"):
        load_predictor(adapter, "cpu")
    export_adapter(adapter.read_bytes(), tmp_path / "out", decoder="none")  # needs no detector
    assert not marker.exists()


class _Touch:
    """Touches a file when unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("as_weights", [True, False])
def test_trust_inside_an_adapter_has_no_effect(tmp_path: Path, nano: Backbone, tiny: Path, as_weights: bool) -> None:
    marker, pickled = tmp_path / "marker", tmp_path / "evil.pt"
    torch.save({"model": _Touch(marker)}, pickled)
    weights = str(pickled) if as_weights else "nano"
    config = DetectorConfig(weights=weights, trust=True)
    adapter = write(tmp_path / "adapter.safetensors", nano, detector=config, tuned=None if as_weights else pickled)
    with pytest.raises(AmsamError, match="--detector PATH" if as_weights else "is not a detector"):
        load_predictor(adapter, "cpu")
    with pytest.raises(InputError, match="add --trust-detector"):
        load_predictor(adapter, "cpu", detector=pickled)
    assert not marker.exists()
    with pytest.raises(InputError, match="is not an ultralytics detector"):
        load_predictor(adapter, "cpu", detector=pickled, trust_detector=True)
    assert marker.exists()  # trusted by the user


@pytest.mark.parametrize("kind", ["passwd", "fifo", "folder", "missing"])
def test_files_named_in_an_adapter_are_not_opened(
    tmp_path: Path, nano: Backbone, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Opening the FIFO would hang; the other files would be reported in errors."""
    named = {"passwd": Path("/etc/passwd"), "folder": tmp_path / "folder"}.get(kind, tmp_path / kind)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    adapter = write(tmp_path / "adapter.safetensors", nano, checkpoint=str(named))
    edit(adapter, lambda config: config["dataset"].update(root=str(named), name=str(named)))
    assert load_predictor(adapter, "cpu")([IMAGE])[0].mask.shape == IMAGE.shape[:2]
    export_adapter(adapter.read_bytes(), tmp_path / "out", decoder="none")

    edit(adapter, lambda config: config["detector"].update(weights=str(named)))
    with pytest.raises(AmsamError, match=r"neither shipped nor published.*--detector PATH"):
        load_predictor(adapter, "cpu")

    other = write(tmp_path / "other.safetensors", toy_backbone(), checkpoint=str(named))
    for call in (lambda: load_predictor(other, "cpu"), lambda: export_adapter(other.read_bytes(), tmp_path / "o")):
        with pytest.raises(AmsamError, match=rf"fingerprint {toy_backbone().fingerprint}.*--backbone PATH"):
            call()
    monkeypatch.setenv("AMSAM_WEIGHTS_DIR", str(tmp_path / "weights"))
    edit(adapter, lambda config: config["detector"].update(weights="yolov8n.pt"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "yolov8n.pt").write_text("in the working folder")
    with pytest.raises(InputError, match=r"weights/yolov8n\.pt.*weights fetch"):
        load_predictor(adapter, "cpu")


def test_files_that_the_user_names_are_used(tmp_path: Path, nano: Backbone, tiny: Path) -> None:
    checkpoint = tmp_path / "mine.safetensors"
    checkpoint.write_bytes(NANO_FILE.read_bytes())
    used = load_detector(DetectorConfig(weights=str(tiny)))
    adapter = write(tmp_path / "a.safetensors", nano, detector=DetectorConfig(weights="/gone.safetensors"), used=used)
    predictor = load_predictor(adapter, "cpu", backbone=checkpoint, detector=tiny)
    assert predictor.model.frozen.fingerprint == nano.fingerprint
    (tmp_path / "images").mkdir()
    Image.fromarray(IMAGE).save(tmp_path / "images" / "a.png")
    options = ("--backbone", checkpoint, "--detector", tiny, "--out", tmp_path / "out", "--device", "cpu")
    words = ["predict", tmp_path / "images", "--adapter", adapter, *options]
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    words = ["export", adapter, "--backbone", checkpoint, "--decoder", "none", "--out", tmp_path / "model"]
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.output


def test_a_given_file_must_be_the_right_one(tmp_path: Path, nano: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    adapter = write(tmp_path / "a.safetensors", nano, used=load_detector(DetectorConfig(confidence=0.9)))
    (tmp_path / "other.safetensors").write_bytes(b"other")
    with pytest.raises(AmsamError, match=f"trained on nano with fingerprint {nano.fingerprint}"):
        load_predictor(adapter, "cpu", backbone=tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="--backbone: there is no file"):
        load_predictor(adapter, "cpu", backbone=tmp_path)
    with pytest.raises(AmsamError, match="trained with a detector of fingerprint"):
        load_predictor(adapter, "cpu")


def test_a_detector_tuned_on_classes_opens_again(tmp_path: Path, nano: Backbone, tiny: Path) -> None:
    """A tuned detector has one class, whatever the classes of the one that it was tuned from."""
    config = DetectorConfig(classes=("cat",), finetune_epochs=3)
    used = load_detector(DetectorConfig(weights=str(tiny)))
    adapter = write(tmp_path / "a.safetensors", nano, detector=config, used=used, tuned=tiny)
    assert load_predictor(adapter, "cpu")([IMAGE])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config["backbone"].update(image_size=1 << 20), "more than 4096"),
        (lambda config: config["params"].update(rank=10**12), "rank"),
        (
            lambda config: (
                config.update(method="mca_sam"),
                config["params"].update(adaptor_blocks="last_" + "9" * 5000, adaptors="mc"),
            ),
            "cannot be built",
        ),
        (lambda config: config.update(seed=10**40), "cannot be built"),
        (lambda config: config.update(method="os.system"), "is not a method"),
        (lambda config: config.update(method="../nano"), "is not a method"),
        (lambda config: config["detector"].update(confidence=float("nan")), "no usable config"),
    ],
)
def test_values_out_of_range_are_refused(
    tmp_path: Path, nano: Backbone, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    adapter = edit(write(tmp_path / "a.safetensors", nano), change)
    with pytest.raises(AmsamError, match=words):
        load_predictor(adapter, "cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_must_be_finite(tmp_path: Path, nano: Backbone, value: float) -> None:
    path = write(tmp_path / "a.safetensors", nano)
    header = path.read_bytes()
    metadata = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    tensors = load_file(path)
    next(iter(tensors.values())).flatten()[0] = value
    save_file(tensors, path, metadata)
    with pytest.raises(InputError, match="NaN or infinite"):
        load_adapter(path, nano)


def test_damaged_files_are_refused_or_load_the_same_model(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 seeded mutations: no other exception than AmsamError, and no file is written."""
    backbone = toy_backbone()
    path = write(tmp_path / "a.safetensors", backbone, tuned=tiny)
    shapes = {name: value.shape for name, value in load_adapter(path, backbone).trainable_state().items()}
    work, scratch, refused = tmp_path / "work", tmp_path / "scratch", 0
    work.mkdir()
    scratch.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    for content in mutations(path.read_bytes(), 300, seed=7):
        try:
            model = load_predictor(content, "cpu", backbone=backbone).model
        except AmsamError:
            refused += 1
        else:
            assert {name: value.shape for name, value in model.trainable_state().items()} == shapes
    assert refused > 150
    assert list(work.iterdir()) == list(scratch.iterdir()) == []

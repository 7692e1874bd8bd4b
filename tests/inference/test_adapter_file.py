"""Adapter files: read back as written, and only for their backbone."""

import json

import pytest
import torch
from safetensors.torch import save_file

from amsam_ray.config.networks import BackboneConfig
from amsam_ray.errors import AmsamError, InputError
from amsam_ray.inference.adapter_file import (
    load_adapter,
    read_adapter_info,
    read_tuned_detector,
    save_adapter,
)
from amsam_ray.models.adapted import build_method
from tests.models.toy import SIZE, toy_backbone, toy_inputs
from tests.training.toys import small_trial

METHODS = ["samed", "sam_adapter", "blo_sam", "am_sam", "am_mca_sam"]


def _trained(method, folder):
    """Return a model whose trained parameters all differ from their start, and its adapter file."""
    config = small_trial(BackboneConfig(image_size=SIZE), method)
    model = build_method(method, config.params, toy_backbone(), seed=7).eval()
    torch.manual_seed(1)
    state = {name: value + 0.1 * torch.randn_like(value) for name, value in model.trainable_state().items()}
    model.load_trainable_state(state)
    path = folder / "adapter.safetensors"
    save_adapter(path, state, config, model.backbone.fingerprint, detector="d" * 64)
    return model, path, config


@pytest.mark.parametrize("method", METHODS)
def test_a_round_trip_gives_identical_logits(tmp_path, method):
    model, path, _ = _trained(method, tmp_path)
    inputs = toy_inputs(model)
    inputs.view_features = None
    with torch.no_grad():
        for adapter in (path, path.read_bytes()):
            loaded = load_adapter(adapter, toy_backbone())
            assert torch.equal(loaded(inputs).logits, model(inputs).logits)
            assert not loaded.training


def test_the_metadata_are_those_of_the_trial(tmp_path):
    model, path, config = _trained("am_sam", tmp_path)
    info = read_adapter_info(path)
    assert info.config == read_adapter_info(path.read_bytes()).config == config
    assert info.backbone == model.backbone.fingerprint and info.detector == "d" * 64


def test_only_trained_tensors_are_written(tmp_path):
    model, path, _ = _trained("am_sam", tmp_path)
    numbers = sum(value.numel() for value in model.trainable_state().values())
    assert path.stat().st_size < 4 * numbers + 20_000


def test_another_backbone_is_refused(tmp_path):
    _, path, _ = _trained("am_sam", tmp_path)
    with pytest.raises(AmsamError, match=r"was trained on nano at 64 px with weights 000000000000.*this is nano"):
        load_adapter(path, toy_backbone(seed=1))


def test_a_tuned_detector_is_stored_inside(tmp_path):
    model, path, config = _trained("am_sam", tmp_path)
    assert read_tuned_detector(path) is None
    detector = tmp_path / "tuned.safetensors"
    detector.write_bytes(b"weights of a detector")
    save_adapter(path, model.trainable_state(), config, model.backbone.fingerprint, tuned_detector=detector)
    assert read_tuned_detector(path) == b"weights of a detector"
    inputs = toy_inputs(model)
    assert torch.equal(load_adapter(path, toy_backbone())(inputs).logits, model(inputs).logits)


def test_other_files_are_refused_with_their_name(tmp_path):
    missing = tmp_path / "missing.safetensors"
    with pytest.raises(InputError, match=r"missing\.safetensors: cannot be read"):
        read_adapter_info(missing)
    (tmp_path / "text.safetensors").write_text("hello, this is no adapter")
    with pytest.raises(InputError, match=r"text\.safetensors: is not a safetensors file"):
        read_adapter_info(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors: is not an adapter"):
        read_adapter_info(tmp_path / "other.safetensors")
    metadata = {"format": "amsam_ray.adapter/1", "config": json.dumps({"shots": 1}), "backbone": "x"}
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", metadata)
    with pytest.raises(InputError, match=r"odd\.safetensors: holds no usable config"):
        read_adapter_info(tmp_path / "odd.safetensors")


def test_a_truncated_file_is_refused(tmp_path):
    _, path, _ = _trained("blo_sam", tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged"):
        load_adapter(path, toy_backbone())

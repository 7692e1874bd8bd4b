"""Every parameter that a model reads changes the result of the model."""

from __future__ import annotations

import pytest
import torch

from amsam_ray.config.methods import METHODS, live_params, resolve_params
from amsam_ray.config.params import PARAMS
from amsam_ray.errors import InputError
from amsam_ray.models.adapted import AdaptedSam, build_method
from amsam_ray.models.build import build_model
from amsam_ray.models.parts.high_pass import high_pass
from tests.models.test_conformance import train
from tests.models.toy import toy_backbone, toy_images, toy_inputs

BACKBONE = toy_backbone()

# Read by the training loop and not by the model; tests/training/test_live_knobs.py tests them.
OF_TRAINING = {"lambda", "tau_token", "tau_sample", "w_token", "w_sample", "contrast_tokens", "lr", "lr_prompt"} | {
    "weight_decay",
    "warmup",
    "loss",
    "hypergradient",
    "steps",
    "views",
    "box_training",
    "ahead",
    "reach",
}
# Read where masks are predicted; tests/inference/test_fused.py and tests/training/test_live_knobs.py test it.
OF_PREDICTION = {"prompt"}
# Of the methods that are not SAM; tested below, and `prototypes` in test_network_conformance.py.
OF_NETWORKS = {"features", "image_size", "prototypes"}
KNOBS = {
    "alpha": ("am_sam", 0.7, 0.2),
    "rank": ("am_sam", 1, 4),
    "adaptor_ratio": ("mca_sam", 2, 8),
    "freq_ratio": ("sam_adapter", 0.1, 0.6),
    "detector": ("am_sam", "on", "off"),
    "calibration": ("am_sam", "off", "sample"),
    "head": ("am_sam", "cold", "warm"),
    "adaptors": ("mca_sam", "tc", "sc"),
    "adaptor_blocks": ("mca_sam", "all", "last_1"),
    "levels": ("am_sam", 1, 2),
    "protocol": ("sam_adapter", "default", "published"),
}


def trained(method: str, key: str, value: object) -> tuple[AdaptedSam, torch.Tensor]:
    model = build_method(method, resolve_params(method, {key: value}), BACKBONE, seed=0)
    inputs = toy_inputs(model)
    inputs.highpass = high_pass(toy_images(2), model.params.freq_ratio)
    return model, train(model, inputs)


def test_every_parameter_is_read_by_the_model_or_by_training_or_by_prediction():
    assert set(KNOBS) | OF_TRAINING | OF_PREDICTION | OF_NETWORKS == set(PARAMS)
    assert len(KNOBS) + len(OF_TRAINING) + len(OF_PREDICTION) + len(OF_NETWORKS) == len(PARAMS)


@pytest.mark.parametrize("key", [key for key in KNOBS if key != "levels"])
def test_the_logits_depend_on(key):
    method, one, two = KNOBS[key]
    assert not torch.equal(trained(method, key, one)[1], trained(method, key, two)[1])


@pytest.mark.parametrize("mode", ["batch", "sample", "learned"])
def test_alpha_is_live_in_every_calibration(mode):
    inputs_of = []
    for alpha in (0.2, 0.7):
        params = resolve_params("am_sam", {"calibration": mode, "alpha": alpha})
        model = build_method("am_sam", params, BACKBONE, seed=0)
        inputs_of.append(model(toy_inputs(model)).logits)
    assert not torch.allclose(*inputs_of)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_every_update_has_the_configured_rank(rank):
    model, _ = trained("am_sam", "rank", rank)
    updates = [name for name in model.lower if name.endswith(".up")]
    shapes = {dict(model.named_parameters())[name].shape[-1] for name in updates}
    assert len(updates) == 14 and shapes == {rank}


@pytest.mark.parametrize("method", [name for name, spec in METHODS.items() if "adaptor_ratio" in spec.keys])
def test_a_larger_ratio_trains_fewer_parameters(method):
    def count(ratio):
        model = build_method(method, resolve_params(method, {"adaptor_ratio": ratio}), BACKBONE, seed=0)
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    assert count(2) > count(6) > count(24)


def test_the_prompt_belongs_to_the_upper_of_two_levels():
    one, two = (trained("am_sam", "levels", levels)[0] for levels in (1, 2))
    prompts = {"prompt.no_mask_embed", "prompt.corners"}
    assert set(two.upper) == prompts and not one.upper
    assert set(one.lower) == set(two.lower) | prompts


def test_features_and_image_size_change_what_a_network_reads():
    def read(**given):
        model = build_model("ssp", resolve_params("ssp", given), BACKBONE, seed=0)
        return model.cache_point, model.image_size, model.frozen.fingerprint

    small = read(features="random", image_size=64)
    assert small == ("pixels", 64, read(features="random", image_size=96)[2])
    assert read(features="random", image_size=96)[1] == 96
    assert read(features="sam") == ("embedding", BACKBONE.image_size, BACKBONE.fingerprint)
    assert "image_size" not in live_params("ssp", {"features": {"sam"}})
    assert "image_size" in live_params("ssp", {"features": {"random"}})


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("deeplabv3", {"features": "sam"}, r"features: must be imagenet \| random, not 'sam'"),
        ("swin_unet", {"image_size": 100}, "image_size: must be a multiple of 32, not 100; use 96"),
        ("hsnet", {"prototypes": 2}, "prototypes: does not apply to hsnet"),
        ("ssp", {"rank": 4}, "rank: does not apply to ssp"),
    ],
)
def test_a_value_that_the_network_does_not_have_is_refused(method, params, message):
    with pytest.raises(InputError, match=message):
        resolve_params(method, params)

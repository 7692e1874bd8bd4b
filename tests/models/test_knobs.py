"""Every parameter that a model reads changes the result of the model."""

from __future__ import annotations

import pytest
import torch

from amsam_ray.config.methods import METHODS, resolve_params
from amsam_ray.config.params import PARAMS
from amsam_ray.models.adapted import AdaptedSam, build_method
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
    assert set(KNOBS) | OF_TRAINING | OF_PREDICTION == set(PARAMS)
    assert len(KNOBS) + len(OF_TRAINING) + len(OF_PREDICTION) == len(PARAMS)


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

"""Every searchable parameter acts on training, during the whole run and not only on its first step."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from amsam_ray.config.datasets import AugmentConfig
from amsam_ray.config.methods import METHODS, live_params, resolve_params
from amsam_ray.inference.adapter_file import load_adapter
from amsam_ray.inference.inputs import Needs
from amsam_ray.inference.masks import foreground_logits
from amsam_ray.models.adapted import build_method
from amsam_ray.models.backbone import load_backbone
from amsam_ray.training.loop import Roles, Trainer
from amsam_ray.training.optim import cosine_rate, poly_rate
from amsam_ray.training.trial import train_trial
from tests.training.toys import random_nano, small_trial, toy_model, toy_set, toy_trainer

EPOCHS = 4


@cache
def _entries(**given):
    trainer = toy_trainer("am_sam", epochs=EPOCHS, hypergradient="first_order", **given)
    return [trainer.epoch() for _ in range(EPOCHS)]


def _trace(name, **given):
    return [entry[name] for entry in _entries(**given)]


def _end(method="am_mca_sam", **given):
    """Return the weights of both levels after two epochs."""
    trainer = toy_trainer(method, epochs=2, **given)
    for _ in range(2):
        trainer.epoch()
    return torch.cat([trainer.weights, trainer.prompt])


@pytest.mark.parametrize("rate", ["lr", "lr_prompt"])
def test_the_trace_of_a_rate_scales_with_that_rate_only(rate):
    other = "lr_prompt" if rate == "lr" else "lr"
    assert _trace(rate, **{rate: 2e-3}) == pytest.approx([2 * r for r in _trace(rate, **{rate: 1e-3})])
    assert _trace(other, **{rate: 2e-3}) == _trace(other, **{rate: 1e-3})


@pytest.mark.parametrize("rate", ["lr", "lr_prompt"])
def test_a_rate_sets_the_size_of_every_step_of_its_level_only(rate):
    def steps(value):
        trainer = toy_trainer("am_sam", epochs=EPOCHS, weight_decay=0.0, hypergradient="first_order", **{rate: value})
        sizes = []
        for _ in range(EPOCHS):
            before = trainer.weights, trainer.prompt
            trainer.epoch()
            sizes.append([float((trainer.weights - before[0]).norm()), float((trainer.prompt - before[1]).norm())])
        return torch.tensor(sizes)

    ratio = steps(2e-5) / steps(1e-5)  # small, so that both runs see nearly the same gradients
    mine, others = (0, 1) if rate == "lr" else (1, 0)
    assert torch.allclose(ratio[:, mine], torch.full((EPOCHS,), 2.0), rtol=0.1)
    assert torch.allclose(ratio[:, others], torch.ones(EPOCHS), rtol=0.1)


def test_warm_up_changes_both_traces():
    for rate in ("lr", "lr_prompt"):
        cold, warm = _trace(rate, warmup=0.0), _trace(rate, warmup=0.6)
        assert cold[0] > cold[1] and warm[0] < warm[1]


CHANGES = {
    "lambda": (0.8, 0.2),
    "weight_decay": (0.1, 0.5),
    "alpha": (0.7, 0.1),
    "rank": (4, 2),
    "tau_token": (0.1, 0.5),
    "tau_sample": (0.1, 0.5),
    "w_token": (0.1, 1.0),
    "w_sample": (0.1, 1.0),
    "contrast_tokens": (16, 4),
    "adaptor_ratio": (4, 2),
    "freq_ratio": (0.25, 0.05),
    "lr": (5e-3, 1e-3),
    "lr_prompt": (1e-3, 1e-2),
    "warmup": (0.0, 0.5),
    "loss": ("ce_dice", "bce_iou"),
    "calibration": ("off", "learned"),
    "detector": ("on", "off"),
    "head": ("warm", "cold"),
    "adaptors": ("mc", "tc"),
    "adaptor_blocks": ("all", "last_1"),
    "levels": (2, 1),
    "steps": (0, 6),
    "box_training": ("detector", "mix"),
    "ahead": ("adamw", "sgd"),
    "reach": (0.01, 1.0),
    "protocol": ("default", "published"),
}
OF_TRIALS = {"views", "prompt"}  # act before and after the loop; tested at the end of this file
OF_NETWORKS = {"features", "image_size", "prototypes"}  # tests/models/test_knobs.py
MODES = ("first_order", "unrolled", "exact")


def test_every_parameter_of_every_method_has_a_test():
    assert {key for method in METHODS for key in METHODS[method].keys} == {
        *CHANGES,
        *OF_TRIALS,
        *OF_NETWORKS,
        "hypergradient",
    }


@pytest.mark.parametrize("key", CHANGES)
def test_a_change_of_the_parameter_changes_the_trained_weights(key):
    method = next(m for m in ("am_mca_sam", "sam_adapter", "blo_sam") if key in METHODS[m].keys)
    assert key in live_params(method, {"calibration": ["sample"]})
    first, second = (_end(method, **{key: value}) for value in CHANGES[key])
    assert first.shape != second.shape or not torch.allclose(first, second, rtol=1e-4, atol=1e-6)


def test_the_three_hypergradients_give_different_prompts_and_unrolled_is_close_to_exact():
    ends = {}
    for mode in MODES:
        trainer = toy_trainer("am_sam", epochs=2, hypergradient=mode, roles=Roles([0, 1], [2, 3]))
        start = trainer.prompt.clone()
        for _ in range(2):
            trainer.epoch()
        ends[mode] = trainer.prompt - start
    gap = (ends["unrolled"] - ends["exact"]).norm()
    assert (ends["first_order"] - ends["exact"]).norm() > 5 * gap
    assert not torch.equal(ends["unrolled"], ends["exact"])


def test_the_sample_loss_acts_at_batch_size_one_and_not_with_a_single_image():
    assert not torch.equal(_end(w_sample=0.1, adaptors="sc"), _end(w_sample=1.0, adaptors="sc"))
    alone = Roles([0], [2])
    assert torch.equal(_end(w_sample=0.1, adaptors="sc", roles=alone), _end(w_sample=1.0, adaptors="sc", roles=alone))


@pytest.mark.parametrize(("steps", "epochs", "total"), [(12, 4, 12), (10, 4, 12), (2, 4, 4), (0, 4, 8)])
def test_steps_set_the_length_of_the_whole_training_and_its_schedule(monkeypatch, steps, epochs, total):
    """Every epoch has equally many steps, so the length is rounded up; 0 stands for a pass over two pictures."""
    rates, move = [], Trainer._move_weights

    def watched(self, batch, tokens, rate):
        rates.append(rate)
        return move(self, batch, tokens, rate)

    monkeypatch.setattr(Trainer, "_move_weights", watched)
    trainer = toy_trainer("blo_sam", epochs=epochs, steps=steps, hypergradient="first_order")
    for epoch in range(1, epochs + 1):
        trainer.epoch()
        assert trainer.epochs_done == epoch and len(rates) == epoch * total // epochs
    assert rates == pytest.approx([poly_rate(5e-3, step, total, 0) for step in range(total)])


def test_views_replace_those_of_the_augmentation(tmp_path):
    backbone = random_nano(tmp_path)

    def curve(views, augmented):
        params = {"views": views, "steps": 4, "hypergradient": "first_order"}
        train = {"epochs": 1, "augment": AugmentConfig(views=augmented)}
        config = small_trial(backbone, "blo_sam", params=params, train=train)
        return train_trial(config, cache_dir=tmp_path / "cache", work_dir=tmp_path).curve

    one, two = curve(0, 1), curve(0, 2)
    assert one != two
    assert curve(1, 0) == one and curve(1, 2) == one


def test_the_prompt_decides_which_boxes_are_decoded():
    model, fusing = toy_model(prompt="box"), toy_model(prompt="fused")
    pictures = toy_set(model)
    candidates = torch.stack([pictures.boxes, pictures.boxes.roll(1, 0)], dim=1)
    pictures = replace(pictures, candidates=candidates, confidences=torch.full((4, 2), 0.5))
    box, fused = (dict(foreground_logits(m, pictures, [0], precision="fp32"))[0] for m in (model, fusing))
    assert not torch.allclose(box, fused, atol=1e-2)


@pytest.mark.parametrize(
    ("method", "rates"),
    [
        ("samed", [5e-3 * step / 250 for step in (1, 2, 3, 4)]),
        ("sam_adapter", [cosine_rate(2e-4, epoch, 2) for epoch in (0, 0, 1, 1)]),
        ("med_sa", [1e-4] * 4),
    ],
)
def test_a_published_protocol_has_its_own_schedule(monkeypatch, method, rates):
    used, move = [], Trainer._move_weights

    def watched(self, batch, tokens, rate):
        used.append(rate)
        return move(self, batch, tokens, rate)

    monkeypatch.setattr(Trainer, "_move_weights", watched)
    trainer = toy_trainer(method, epochs=2, protocol="published", steps=4)
    for _ in range(2):
        trainer.epoch()
    assert used == pytest.approx(rates)


def test_a_published_protocol_takes_masks_of_its_own_size(tmp_path):
    backbone = load_backbone(random_nano(tmp_path))
    sides = {}
    for method in ("blo_sam", "samed", "sam_adapter", "med_sa"):
        params = resolve_params(method, {"protocol": "published"})
        needs = [
            Needs.of(build_method(method, params, backbone, seed=0), training=t, precision="fp32", fallback="none")
            for t in (True, False)
        ]
        assert needs[1].target_side == 0
        sides[method] = needs[0].target_side
    assert sides == {"blo_sam": 0, "samed": 0, "sam_adapter": backbone.image_size, "med_sa": 256}


@pytest.mark.parametrize("method", ["blo_sam", "samed", "sam_adapter", "med_sa"])
def test_a_trial_with_a_published_protocol_trains_and_is_read_back(method, tmp_path):
    params = {"protocol": "published", **({"detector": "off"} if method == "med_sa" else {})}
    config = small_trial(random_nano(tmp_path), method, params=params, role="final", train={"batch_size": 2})
    result = train_trial(config, cache_dir=tmp_path / "cache", work_dir=tmp_path)
    assert result.status == "completed" and result.adapter is not None
    model = load_adapter(result.adapter, load_backbone(config.backbone))
    assert model.params == config.params and model.params.protocol == "published"

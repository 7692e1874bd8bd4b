"""Boxes drawn for training: true, jittered or none, per picture and step."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from amsam_ray.inference.inputs import Batch
from amsam_ray.models.trained_model import ModelInputs
from amsam_ray.training import loop
from amsam_ray.training.batches import generator
from amsam_ray.training.box_mix import JITTER, draw_kinds, with_mixed_boxes
from tests.models.toy import SIZE
from tests.training.toys import toy_trainer

TRUE, JITTERED, NONE = 0, 1, 2
MIX: dict[str, Any] = {"box_training": "mix", "hypergradient": "first_order"}
BOX = torch.tensor([20.0, 10.0, 40.0, 50.0])  # 20 x 40


def _mixed(kinds, noise, boxes=None, has_object=None):
    count = len(kinds)
    boxes = BOX.expand(count, 4).clone() if boxes is None else boxes
    has_object = [True] * count if has_object is None else has_object
    nothing = torch.zeros(count, dtype=torch.bool)
    inputs = ModelInputs(features=torch.zeros(count, 1), boxes=torch.zeros(count, 4), has_box=(False,) * count)
    batch = Batch(inputs, nothing, nothing)
    return with_mixed_boxes(batch, boxes, has_object, kinds, noise, SIZE).inputs


def test_the_three_kinds_are_equally_likely_and_the_noise_is_standard_normal():
    kinds, noise = draw_kinds(6000, generator(0, 4))
    assert len(kinds) == 6000 and noise.shape == (6000, 4)
    assert all(abs(kinds.count(kind) - 2000) < 150 for kind in (TRUE, JITTERED, NONE))
    assert float(noise.mean()) == pytest.approx(0, abs=0.03) and float(noise.std()) == pytest.approx(1, abs=0.03)


def test_each_kind_gives_its_box():
    noise = torch.tensor([[1.0, -1.0, 2.0, 0.5]]).repeat(3, 1)
    mixed = _mixed([TRUE, JITTERED, NONE], noise)
    assert mixed.has_box == (True, True, False)
    assert torch.equal(mixed.boxes[0], BOX)
    # each edge moves by a tenth of the side that it bounds
    assert torch.allclose(mixed.boxes[1], BOX + 0.1 * torch.tensor([20.0, -40.0, 40.0, 20.0]))


def test_the_jitter_is_a_tenth_of_the_side():
    count = 4000
    mixed = _mixed([JITTERED] * count, torch.randn(count, 4, generator=generator(0, 1)))
    moved = (mixed.boxes - BOX) / torch.tensor([20.0, 40.0, 20.0, 40.0])
    assert torch.allclose(moved.mean(0), torch.zeros(4), atol=0.01)
    assert torch.allclose(moved.std(0), torch.full((4,), JITTER), rtol=0.05)


def test_boxes_are_clipped_to_the_input_and_keep_their_corners_in_order():
    boxes = torch.tensor([[0.0, 0.0, 64.0, 64.0], [30.0, 30.0, 32.0, 32.0]])
    noise = torch.tensor([[-3.0, -3.0, 3.0, 3.0], [20.0, 20.0, -20.0, -20.0]])
    mixed = _mixed([JITTERED, JITTERED], noise, boxes)
    assert mixed.boxes[0].tolist() == [0, 0, 64, 64]
    assert torch.allclose(mixed.boxes[1], torch.tensor([28.0, 28.0, 34.0, 34.0]))


def test_a_picture_without_an_object_has_no_box():
    mixed = _mixed([TRUE, JITTERED, NONE], torch.zeros(3, 4), has_object=[False] * 3)
    assert mixed.has_box == (False,) * 3


def test_every_step_of_both_levels_draws_new_boxes_and_the_detectors_are_not_used(monkeypatch):
    seen = []
    draw = loop.with_mixed_boxes

    def watched(batch, true_boxes, has_object, kinds, noise, size):
        mixed = draw(batch, true_boxes, has_object, kinds, noise, size)
        seen.append((kinds, noise, true_boxes, mixed))
        return mixed

    monkeypatch.setattr(loop, "with_mixed_boxes", watched)
    trainer = toy_trainer(epochs=6, **MIX)
    for _ in range(6):
        trainer.epoch()
    assert len(seen) == 2 * 6 * 2  # two levels, two pictures each
    assert {kind for kinds, *_ in seen for kind in kinds} == {TRUE, JITTERED, NONE}
    assert len({tuple(noise.flatten().tolist()) for _, noise, *_ in seen}) == len(seen)
    for kinds, _, true_boxes, mixed in seen:
        if kinds == [TRUE]:
            assert torch.equal(mixed.inputs.boxes, true_boxes)


def test_the_detectors_boxes_do_not_matter_in_training():
    def end(**changes):
        trainer = toy_trainer(epochs=2, **MIX)
        trainer._pictures = replace(trainer._pictures, **changes)
        for _ in range(2):
            trainer.epoch()
        return trainer.weights

    plain = end()
    assert torch.equal(plain, end(boxes=torch.zeros(4, 4), has_box=torch.zeros(4, dtype=torch.bool)))
    assert not torch.equal(plain, end(has_object=torch.zeros(4, dtype=torch.bool)))

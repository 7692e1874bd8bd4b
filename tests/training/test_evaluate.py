"""Predictions: at the original size, resized as in SAM, independent of other images."""

import numpy as np
import pytest
import torch

from amsam_ray.inference.masks import Diverged, foreground_logits, probability
from amsam_ray.training.evaluate import score_pictures
from amsam_ray.training.metrics import score_image
from tests.models.toy import SIZE
from tests.training.toys import toy_model, toy_set, toy_trainer


@pytest.mark.parametrize("calibration", ["off", "batch", "sample", "learned"])
def test_a_prediction_does_not_depend_on_its_batch(calibration):
    model = toy_model("am_sam", calibration=calibration)
    pictures = toy_set(model, 4)
    together = dict(foreground_logits(model, pictures, range(4), precision="fp32"))
    for position in range(4):
        ((_, single),) = foreground_logits(model, pictures, [position], precision="fp32")
        assert torch.allclose(single, together[position], atol=1e-5)


def test_probabilities_equal_those_of_sam_at_the_original_size():
    """With a warm head and no training, softmax(0, fg) is SAM's sigmoid: compare with its postprocess_masks."""
    model = toy_model("am_sam", calibration="off")
    pictures = toy_set(model, 3)
    for position, logits in foreground_logits(model, pictures, range(3), precision="fp32"):
        shape = pictures.truths[position].shape
        scale = SIZE / max(shape)
        inner = tuple(int(side * scale + 0.5) for side in shape)
        sam = model.backbone.sam.postprocess_masks(logits[None, None], inner, shape)[0, 0].sigmoid()
        assert np.allclose(probability(logits, shape, SIZE), sam.numpy(), atol=1e-6)


def test_scores_are_those_of_the_probabilities_in_the_order_of_the_metrics():
    model = toy_model("blo_sam")
    pictures = toy_set(model, 3)
    scores = score_pictures(model, pictures, [2, 0], ["mae", "dice_low_res", "dice"], precision="fp32")
    assert [list(score) for score in scores] == [["mae", "dice_low_res", "dice"]] * 2
    for position, score in zip([2, 0], scores, strict=True):
        ((_, logits),) = foreground_logits(model, pictures, [position], precision="fp32")
        truth = pictures.truths[position]
        expected = score_image(probability(logits, truth.shape, SIZE), truth, ["mae", "dice"])
        assert {name: score[name] for name in expected} == pytest.approx(expected)


def test_given_values_replace_those_of_the_model():
    trainer = toy_trainer("blo_sam", lr=1e-2)
    trainer.epoch()
    model = toy_model("blo_sam")
    pictures = toy_set(model, 2)
    given = dict(foreground_logits(model, pictures, [0, 1], precision="fp32", values=trainer.named()))
    own = dict(foreground_logits(model, pictures, [0, 1], precision="fp32"))
    assert not torch.allclose(given[0], own[0])
    model.load_trainable_state(trainer.named())
    loaded = dict(foreground_logits(model, pictures, [0, 1], precision="fp32"))
    assert all(torch.equal(given[position], loaded[position]) for position in (0, 1))


def test_non_finite_logits_raise_diverged():
    model = toy_model("blo_sam")
    broken = {name: torch.full_like(value, torch.nan) for name, value in model.trainable_state().items()}
    with pytest.raises(Diverged):
        score_pictures(model, toy_set(model, 2), [0], ["dice"], precision="fp32", values=broken)

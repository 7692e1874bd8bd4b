"""Inputs, boxes and logits equal those of segment_anything's predictor."""

import numpy as np
import pytest
import torch
from segment_anything.utils.transforms import ResizeLongestSide

from amsam_ray.inference.inputs import low_res_target
from amsam_ray.models.preprocess import box_to_input, logits_to_original, resized_shape, to_input
from tests.models.toy import SIZE, toy_sam

SHAPES = [(48, 80), (90, 31), (64, 64), (200, 170)]


def photograph(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
def test_inputs_equal_sams(shape):
    image, sam = photograph(shape), toy_sam()
    resized = ResizeLongestSide(SIZE).apply_image(image)
    theirs = sam.preprocess(torch.as_tensor(resized).permute(2, 0, 1)[None])[0]
    ours = to_input(image, SIZE)
    assert ours.shape == (3, SIZE, SIZE) and ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_equal_sams(shape):
    boxes = np.array([[0, 0, shape[1], shape[0]], [3, 5, 20, 30]], dtype=np.float32)
    theirs = ResizeLongestSide(SIZE).apply_boxes(boxes, shape)
    np.testing.assert_allclose(box_to_input(boxes, shape, SIZE), theirs, rtol=1e-6)
    assert box_to_input(boxes[0], shape, SIZE).shape == (4,)


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_sams(shape):
    logits = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    theirs = toy_sam().postprocess_masks(logits[None], resized_shape(shape, SIZE), shape)[0]
    torch.testing.assert_close(logits_to_original(logits, shape, SIZE), theirs)
    assert logits_to_original(logits[0], shape, SIZE).shape == shape


@pytest.mark.parametrize("shape", [(1, 700), (5000, 1)])
def test_a_line_of_pixels_keeps_a_pixel_of_its_shorter_side(shape):
    inputs = to_input(photograph(shape), SIZE)
    target, valid = low_res_target(np.ones(shape, dtype=bool), SIZE // 4)
    assert min(resized_shape(shape, SIZE)) == 1 and inputs.any(dim=0).sum() == SIZE
    assert target.sum() == valid.sum() == SIZE // 4
    assert logits_to_original(torch.zeros(SIZE // 4, SIZE // 4), shape, SIZE).shape == shape


@pytest.mark.parametrize("bad", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_only_rgb_uint8_images_are_accepted(bad):
    with pytest.raises(ValueError, match="HxWx3 uint8"):
        to_input(bad, SIZE)

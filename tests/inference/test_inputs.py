"""Pictures prepared for a model: masks, boxes and features."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from amsam_ray.inference.feature_cache import FeatureCache
from amsam_ray.inference.inputs import Needs, Picture, Preparer, low_res_target
from amsam_ray.models.backbone import encode_to
from amsam_ray.models.detector import Detection
from amsam_ray.models.preprocess import to_input
from tests.models.toy import SIZE, toy_backbone

NEEDS = Needs("embedding", boxes=True, pixels=False, views=False, precision="fp32", fallback="full_image")


class LeftHalf:
    """A detector that finds the left half of bright images."""

    fingerprint = "left-half"

    def __init__(self):
        self.seen = 0

    def detect(self, images):
        self.seen += len(images)
        return [
            Detection((0.0, 0.0, image.shape[1] / 2, float(image.shape[0])), 0.9) if image.mean() > 100 else None
            for image in images
        ]


def _picture(name, shape, value):
    image = np.full((*shape, 3), value, dtype=np.uint8)
    image[0, 0] = 0
    mask = np.zeros(shape, dtype=bool)
    mask[: shape[0] // 2] = True
    return Picture(name, f"key-{name}", lambda: image, lambda: mask, lambda: 255 - image, f"view-{name}")


PICTURES = [_picture("bright", (100, 200), 200), _picture("dark", (64, 64), 20), _picture("tall", (128, 32), 220)]


@pytest.fixture
def preparer(tmp_path):
    return Preparer(toy_backbone(), LeftHalf(), FeatureCache(tmp_path))  # type: ignore[arg-type]


def test_features_are_outputs_of_the_frozen_encoder(preparer):
    prepared = preparer.prepare(PICTURES, NEEDS)
    images = torch.stack([to_input(picture.image(), SIZE) for picture in PICTURES])
    assert torch.allclose(prepared.features, encode_to(preparer.encoder, images, "embedding"), atol=1e-5)
    assert prepared.features.shape == (3, 32, 4, 4) and prepared.view_features is None and prepared.pixels is None


def test_everything_is_prepared_once(preparer):
    first = preparer.prepare(PICTURES, NEEDS)
    computed = preparer.cache.computed
    again = preparer.prepare(PICTURES, NEEDS)
    assert computed == 6 and preparer.cache.computed == 6  # an embedding and a box each
    assert preparer.detector.seen == 3
    assert torch.equal(first.features, again.features) and torch.equal(first.boxes, again.boxes)


def test_boxes_are_mapped_through_resize_and_pad_and_fall_back_to_the_image(preparer):
    prepared = preparer.prepare(PICTURES, NEEDS)
    assert prepared.detected.tolist() == [True, False, True]
    assert prepared.has_box.tolist() == [True, True, True]
    assert prepared.boxes.tolist() == [[0, 0, 32, 32], [0, 0, 64, 64], [0, 0, 8, 64]]


def test_a_detected_box_is_in_pixels_of_the_original(preparer):
    prepared = preparer.prepare(PICTURES, NEEDS)
    found = [prepared.detected_box(place, SIZE) for place in range(3)]
    assert found[1] is None  # the fallback's box is no detection
    assert np.allclose(found[0], [0, 0, 100, 100], atol=1) and np.allclose(found[2], [0, 0, 16, 128], atol=1)


def test_the_prompt_box_includes_the_fallback(preparer):
    prepared = preparer.prepare(PICTURES, NEEDS)
    boxes = [prepared.prompt_box(place, SIZE) for place in range(3)]
    assert np.allclose(boxes[0], [0, 0, 100, 100], atol=1) and np.allclose(boxes[1], [0, 0, 64, 64])
    none = preparer.prepare(PICTURES, replace(NEEDS, fallback="none"))
    assert none.prompt_box(1, SIZE) is None and np.allclose(none.prompt_box(0, SIZE), boxes[0])


def test_without_a_fallback_or_a_detector_there_is_no_box(preparer):
    none = Needs("embedding", boxes=True, pixels=False, views=False, precision="fp32", fallback="none")
    assert preparer.prepare(PICTURES, none).has_box.tolist() == [True, False, True]
    blind = Preparer(preparer.encoder, None, preparer.cache)
    assert blind.prepare(PICTURES, none).has_box.tolist() == [False, False, False]
    assert blind.prepare(PICTURES, NEEDS).boxes[0].tolist() == [0, 0, 64, 32]


def test_targets_are_placed_as_sam_places_the_image():
    mask = np.zeros((100, 200), dtype=bool)
    mask[:50] = True
    target, valid = low_res_target(mask, 16)
    assert valid[:8].all() and not valid[8:].any()
    assert target[:4].all() and not target[4:].any()


def test_a_target_cell_needs_half_of_its_area():
    mask = np.zeros((64, 64), dtype=bool)
    mask[:, 0:3], mask[:, 8:9] = True, True  # three and one of the four columns that make a cell
    target, _ = low_res_target(mask, 16)
    assert target[:, 0].all() and not target[:, 1:].any()


def test_pixels_views_and_bf16_are_prepared_only_when_needed(preparer):
    needs = Needs("tokens@1", boxes=False, pixels=True, views=True, precision="bf16", fallback="none")
    prepared = preparer.prepare(PICTURES, needs)
    assert prepared.features.dtype == torch.bfloat16 and prepared.features.shape == (3, 4, 4, 24)
    assert prepared.view_features is not None and not torch.equal(prepared.view_features, prepared.features)
    assert prepared.pixels is not None and prepared.pixels.shape == (3, 3, SIZE, SIZE)
    assert preparer.detector.seen == 0
    batch = prepared.batch([2, 0])
    assert batch.inputs.features.dtype == torch.float32
    assert torch.equal(batch.inputs.features[1], prepared.features[0].float())
    assert batch.without_views().inputs.view_features is None

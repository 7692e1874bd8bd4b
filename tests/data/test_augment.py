from __future__ import annotations

import numpy as np
import torch

from amsam_ray.config.datasets import AugmentConfig
from amsam_ray.data.augment import views
from tests.data.layouts import photograph

IMAGE, MASK = photograph(0)
STILL = AugmentConfig(flip=False, scale=0, jitter=0, greyscale=0, blur=0)


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_views_are_fixed_and_nested() -> None:
    four, two = views(IMAGE, MASK, 4, 0, AugmentConfig()), views(IMAGE, MASK, 2, 0, AugmentConfig())
    for (image, mask), (again, mask_again) in zip(four[:2], two, strict=True):
        assert np.array_equal(image, again)
        assert np.array_equal(mask, mask_again)
        assert image.shape == IMAGE.shape
        assert image.dtype == np.uint8
        assert mask.shape == MASK.shape
        assert mask.dtype == bool
    assert not np.array_equal(four[0][0], four[1][0])


def test_seed_and_image_change_the_views() -> None:
    first = views(IMAGE, MASK, 1, 0, AugmentConfig())[0][0]
    assert not np.array_equal(first, views(IMAGE, MASK, 1, 1, AugmentConfig())[0][0])
    only_flip = STILL.model_copy(update={"flip": True})
    flips = set()
    for index in range(6):
        image, mask = photograph(index)
        flips.add(bool(np.array_equal(views(image, mask, 1, 0, only_flip)[0][0], image)))
    assert flips == {True, False}


def test_the_random_state_of_the_process_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    views(IMAGE, MASK, 2, 0, AugmentConfig())
    assert torch.equal(before, torch.get_rng_state())


def test_without_transforms_views_are_the_original() -> None:
    for image, mask in views(IMAGE, MASK, 3, 0, STILL):
        assert np.array_equal(image, IMAGE)
        assert np.array_equal(mask, MASK)


def test_flip_moves_image_and_mask_together() -> None:
    seen = set()
    for image, mask in views(IMAGE, MASK, 16, 0, STILL.model_copy(update={"flip": True})):
        flipped = np.array_equal(image, IMAGE[:, ::-1])
        assert np.array_equal(mask, MASK[:, ::-1] if flipped else MASK)
        assert flipped or np.array_equal(image, IMAGE)
        seen.add(flipped)
    assert seen == {True, False}


def test_zoom_moves_image_and_mask_together() -> None:
    painted = IMAGE.copy()
    painted[:], painted[MASK] = 10, 240
    for image, mask in views(painted, MASK, 6, 0, STILL.model_copy(update={"scale": 0.3})):
        assert _dice(image[..., 0] > 125, mask) > 0.9
        assert mask.sum() != MASK.sum()


def test_a_zoom_never_loses_the_object() -> None:
    corner = np.zeros_like(MASK)
    corner[0, 0] = True
    for _, mask in views(IMAGE, corner, 20, 0, STILL.model_copy(update={"scale": 0.9})):
        assert mask.any()


def test_colour_transforms_leave_the_mask_alone() -> None:
    loud = STILL.model_copy(update={"jitter": 0.5, "greyscale": 1.0, "blur": 1.0})
    for image, mask in views(IMAGE, MASK, 3, 0, loud):
        assert np.array_equal(mask, MASK)
        assert np.array_equal(image[..., 0], image[..., 1])
        assert not np.array_equal(image, IMAGE)

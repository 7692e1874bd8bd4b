"""Fixed augmented views of a labelled image, so that embeddings of them can be cached for a whole sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from amsam_ray.config.datasets import AugmentConfig
from amsam_ray.hashing import sha256_digest
from amsam_ray.lean_imports import import_transforms

if TYPE_CHECKING:
    from torch import Tensor


def views(
    image: np.ndarray, mask: np.ndarray, n: int, seed: int, augment: AugmentConfig
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return N augmented views of an image and its mask, made by the transforms of torchvision v2.

    View i depends only on the image's content, ``seed`` and i: two images get different views, and a larger N keeps
    the first views. The random state of the process does not change.

    Args:
        image: HWC uint8 RGB.
        mask: HW bool.
        n: number of views.
        seed: any integer.
        augment: the transforms and their strengths.

    Returns:
        N pairs of image (HWC uint8 RGB) and mask (HW bool) of the given size. A zoom that would move the whole
        object out of the image is skipped.
    """
    import torch

    import_transforms()
    from torchvision import tv_tensors

    content = sha256_digest(np.ascontiguousarray(image).tobytes() + f"\0{seed}".encode())
    image_CHW = tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))))
    mask_HW = tv_tensors.Mask(torch.from_numpy(mask.astype(np.uint8)))
    made = []
    with torch.random.fork_rng(devices=[]):
        for index in range(n):
            digest = sha256_digest(content + index.to_bytes(4, "big"))
            torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            view_CHW, view_HW = _view(image_CHW, mask_HW, augment)
            made.append(
                (
                    np.ascontiguousarray(view_CHW.numpy().transpose(1, 2, 0)),
                    view_HW.numpy().astype(bool),
                )
            )
    return made


def _view(image_CHW: Tensor, mask_HW: Tensor, augment: AugmentConfig) -> tuple[Tensor, Tensor]:
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    if augment.flip:
        image_CHW, mask_HW = v2.RandomHorizontalFlip(0.5)(image_CHW, mask_HW)
    if augment.scale:
        mean = [float(value) for value in image_CHW.float().mean(dim=(1, 2))]
        zoom = v2.RandomAffine(
            degrees=0,
            scale=(1 - augment.scale, 1 + augment.scale),
            interpolation=v2.InterpolationMode.BILINEAR,
            fill={tv_tensors.Image: mean, tv_tensors.Mask: 0},
        )
        zoomed_CHW, zoomed_HW = zoom(image_CHW, mask_HW)
        if bool(zoomed_HW.any()) or not bool(mask_HW.any()):
            image_CHW, mask_HW = zoomed_CHW, zoomed_HW
    if augment.jitter:
        strength = augment.jitter
        image_CHW = v2.ColorJitter(strength, strength, strength, hue=strength / 10)(image_CHW)
    if augment.greyscale:
        image_CHW = v2.RandomGrayscale(augment.greyscale)(image_CHW)
    if augment.blur:
        radius = max(1, min(image_CHW.shape[1:]) // 100)
        blur = v2.GaussianBlur(kernel_size=2 * radius + 1, sigma=(0.3 * radius, radius))
        image_CHW = v2.RandomApply([blur], p=augment.blur)(image_CHW)
    return image_CHW, mask_HW

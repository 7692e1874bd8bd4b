"""The pictures of a trial: shots, their fixed views, selection images, test images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np

from amsam_ray.data.augment import views
from amsam_ray.data.config import AugmentConfig
from amsam_ray.data.dataset import Dataset
from amsam_ray.training.inputs import Picture

CONTRAST_VIEW = AugmentConfig(views=1, flip=False, scale=0.0, jitter=0.4, greyscale=0.2, blur=0.5)
"""The view that the sample-level loss contrasts: colours, grey and blur as in MCA-SAM (arXiv 2408.05936), with
SimCLR's strengths halved for photographs whose colour carries meaning. Nothing moves, so pooled tokens compare."""


def originals(dataset: Dataset, names: Sequence[str], seed: int) -> list[Picture]:
    """The images called ``names``. ``seed`` decides what their contrast views look like."""
    return [_original(dataset, name, seed) for name in names]


def fixed_views(dataset: Dataset, name: str, seed: int, augment: AugmentConfig) -> list[Picture]:
    """``augment.views`` views of one image, drawn once with ``seed``: further training pictures."""

    @lru_cache(maxsize=1)
    def drawn() -> list[tuple[np.ndarray, np.ndarray]]:
        return views(dataset.image(name), dataset.mask(name), augment.views, _own_seed(name, seed), augment)

    told = hashlib.sha256(f"{augment.model_dump_json()}/{_own_seed(name, seed)}".encode()).hexdigest()
    return [
        Picture(
            name=f"{name}#{number}",
            key=f"{dataset.content_key(name)}/{told}/{number}",
            image=lambda number=number: drawn()[number][0],
            mask=lambda number=number: drawn()[number][1],
            view=lambda number=number: _contrast_view(drawn()[number][0], f"{name}#{number}", seed),
        )
        for number in range(augment.views)
    ]


def _original(dataset: Dataset, name: str, seed: int) -> Picture:
    return Picture(
        name=name,
        key=dataset.content_key(name),
        image=partial(dataset.image, name),
        mask=partial(dataset.mask, name),
        view=lambda: _contrast_view(dataset.image(name), name, seed),
    )


def _contrast_view(image: np.ndarray, name: str, seed: int) -> np.ndarray:
    nothing = np.zeros(image.shape[:2], dtype=bool)
    return views(image, nothing, 1, _own_seed(name, seed), CONTRAST_VIEW)[0][0]


def _own_seed(name: str, seed: int) -> int:
    """A seed for each image, so that two images are not flipped and jittered alike."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4])

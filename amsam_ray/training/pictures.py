"""The pictures of a trial: shots, their fixed views, selection images, test images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np

from amsam_ray.config.datasets import AugmentConfig
from amsam_ray.data.augment import views
from amsam_ray.data.dataset import Dataset
from amsam_ray.inference.inputs import Picture

CONTRAST_VIEW = AugmentConfig(views=1, flip=False, scale=0.0, jitter=0.4, greyscale=0.2, blur=0.5)
"""The view that the sample-level loss contrasts: colours, grey and blur as in MCA-SAM (arXiv 2408.05936), at
about half of SimCLR's strength (arXiv 2002.05709), because colour carries meaning in lesions and shadows. Nothing
moves, so that the pooled tokens of both show the same scene."""


def originals(dataset: Dataset, names: Sequence[str], seed: int) -> list[Picture]:
    """Return the images named ``names``; ``seed`` draws their contrast views."""
    return [_original(dataset, name, seed) for name in names]


def fixed_views(dataset: Dataset, name: str, seed: int, augment: AugmentConfig) -> list[Picture]:
    """Return ``augment.views`` views of one image, drawn once with ``seed``, as additional training pictures."""

    @lru_cache(maxsize=1)
    def drawn() -> list[tuple[np.ndarray, np.ndarray]]:
        return views(dataset.image(name), dataset.mask(name), augment.views, seed, augment)

    # A view also depends on the mask: a zoom that would lose the object is not used.
    content = f"{dataset.content_key(name)}/{dataset.mask_key(name)}" if augment.views else ""
    text = f"{content}/{seed}/{augment.model_dump_json(exclude={'views'})}"

    def view(number: int) -> Picture:
        return Picture(
            name=f"{name}#{number}",
            key=f"{text}/{number}",
            image=lambda: drawn()[number][0],
            mask=lambda: drawn()[number][1],
            view=lambda: _contrast_view(drawn()[number][0], seed),
            view_key=_contrast_key(f"{text}/{number}", seed),
        )

    return [view(number) for number in range(augment.views)]


def with_views(shots: Sequence[int], originals: int, views: int) -> list[int]:
    """Return the positions of shots and of their views among prepared pictures.

    Args:
        shots: positions of originals.
        originals: number of originals; the views of shot 0 follow them, then those of shot 1, and so on.
        views: number of views of each shot.
    """
    return [*shots, *(originals + shot * views + view for shot in shots for view in range(views))]


def _original(dataset: Dataset, name: str, seed: int) -> Picture:
    return Picture(
        name=name,
        key=dataset.content_key(name),
        image=partial(dataset.image, name),
        mask=partial(dataset.mask, name),
        view=lambda: _contrast_view(dataset.image(name), seed),
        view_key=_contrast_key(dataset.content_key(name), seed),
    )


def _contrast_view(image: np.ndarray, seed: int) -> np.ndarray:
    nothing = np.zeros(image.shape[:2], dtype=bool)
    return views(image, nothing, 1, seed, CONTRAST_VIEW)[0][0]


def _contrast_key(key: str, seed: int) -> str:
    return f"{key}/contrast/{seed}/{CONTRAST_VIEW.model_dump_json()}"

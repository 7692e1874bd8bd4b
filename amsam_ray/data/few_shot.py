"""Draw a few labelled images from a train pool and fingerprint the draw. Imports no slow package."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

from amsam_ray.config.datasets import SelectionConfig
from amsam_ray.data.splits import hashed_order
from amsam_ray.errors import InputError, Problem
from amsam_ray.hashing import sha256_hex


class Pool(Protocol):
    """The part of a dataset that a draw reads."""

    label: str
    train: tuple[str, ...]

    def content_key(self, name: str) -> str: ...
    def mask_key(self, name: str) -> str: ...


@dataclass(frozen=True)
class FewShotSplit:
    """The labelled images of one few-shot draw, by name.

    Attributes:
        d1: K / 2 images that train the lower level.
        d2: K / 2 images that train the upper level; with selection ``d2`` they also select the configuration.
        holdout: images that only select the configuration; empty with selection ``d2``.
        seed: seed of the draw.
        sha256: fingerprint of the dataset's label, the names in order and the content of images and masks, 64 hex
            digits.
    """

    d1: tuple[str, ...]
    d2: tuple[str, ...]
    holdout: tuple[str, ...]
    seed: int
    sha256: str

    @property
    def names(self) -> tuple[str, ...]:
        """All drawn images in the order D1, D2, holdout."""
        return self.d1 + self.d2 + self.holdout


def draw_shots(dataset: Pool, shots: int, seed: int, selection: SelectionConfig) -> FewShotSplit:
    """Draw K shots: the first K of the pool in an order that depends on ``seed`` and the names only.

    The shots of K = 4 are therefore among those of K = 8 with the same seed. Held-out images are the last of that
    order, so every K of a sweep is evaluated on the same ones. As in AM-SAM (arXiv 2410.09714), one half of the
    shots is D1 and the other D2.

    Args:
        dataset: pool to draw from; only the drawn images are read.
        shots: K, even and at least 2.
        seed: any integer.
        selection: how many further images to hold out for selection, or into how many folds to divide the shots.

    Raises:
        InputError: K is odd or below 2, cannot be divided into the folds, or the pool is too small.
        ImageError: a drawn file cannot be read.
    """
    problems = []
    if shots < 2 or shots % 2:
        problems.append(Problem("shots", f"{shots} cannot be halved into D1 and D2; use an even number of at least 2"))
    elif fault := selection.shots_fault(shots):
        problems.append(Problem("shots", fault))
    if shots + selection.images > len(dataset.train):
        held = f" and {selection.images} held-out images" if selection.images else ""
        what = f"{shots} shots{held} are more than the {len(dataset.train)} train images of {dataset.label}"
        problems.append(Problem("shots", f"{what}; use fewer"))
    if problems:
        raise InputError(problems)
    order = hashed_order(dataset.train, f"shots-{seed}")
    d1, d2 = tuple(order[: shots // 2]), tuple(order[shots // 2 : shots])
    holdout = tuple(order[len(order) - selection.images :])
    content = {
        role: [[name, dataset.content_key(name), dataset.mask_key(name)] for name in names]
        for role, names in (("d1", d1), ("d2", d2), ("holdout", holdout))
    }
    text = json.dumps({"dataset": dataset.label, **content}, sort_keys=True, separators=(",", ":"))
    return FewShotSplit(d1, d2, holdout, seed, sha256_hex(text))

"""The draw of a few labelled images from a train pool, and its fingerprint. Imports nothing slow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

from amsam_ray.config.datasets import SelectionConfig
from amsam_ray.data.splits import hashed_order
from amsam_ray.errors import InputError, Problem
from amsam_ray.hashing import sha256_hex


class Pool(Protocol):
    """What a draw needs of a dataset."""

    label: str
    train: tuple[str, ...]

    def content_key(self, name: str) -> str: ...
    def mask_key(self, name: str) -> str: ...


@dataclass(frozen=True)
class Manifest:
    """The labelled images of one few-shot draw.

    Attributes:
        d1: names for the lower level's training, K / 2 of them.
        d2: names for the upper level's training, K / 2; with selection ``d2`` they choose among configurations too.
        holdout: names kept for choosing alone; empty with selection ``d2``.
        seed: of the draw.
        sha256: of the dataset's label, the names in order and the content of images and masks, 64 hex digits.
    """

    d1: tuple[str, ...]
    d2: tuple[str, ...]
    holdout: tuple[str, ...]
    seed: int
    sha256: str

    @property
    def names(self) -> tuple[str, ...]:
        """All drawn images: D1, D2, holdout."""
        return self.d1 + self.d2 + self.holdout

    @property
    def judges(self) -> tuple[str, ...]:
        """The images on which configurations are compared: the holdout, or else D2."""
        return self.holdout or self.d2


def draw_shots(dataset: Pool, shots: int, seed: int, selection: SelectionConfig) -> Manifest:
    """Draw K shots: the first K of the pool in an order that ``seed`` and the names alone decide.

    K = 4 is thus contained in K = 8 of the same seed. Held-out images are the last of that order, so that all K of a
    sweep are judged on the same ones. AM-SAM (arXiv 2410.09714): half of the shots is D1, half D2.

    Args:
        dataset: pool to draw from; only drawn images are read.
        shots: K, even and at least 2.
        seed: any whole number.
        selection: whether to hold further images out for choosing.

    Raises:
        InputError: K is odd or below 2, or the pool is too small.
        ImageError: a drawn file cannot be read.
    """
    problems = []
    if shots < 2 or shots % 2:
        problems.append(Problem("shots", f"{shots} cannot be halved into D1 and D2; use an even number from 2 on"))
    if shots + selection.images > len(dataset.train):
        held = f" and {selection.images} to hold out" if selection.images else ""
        what = f"{shots} shots{held} are asked for and {dataset.label} has {len(dataset.train)} train images"
        problems.append(Problem("shots", f"{what}; ask for fewer"))
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
    return Manifest(d1, d2, holdout, seed, sha256_hex(text))

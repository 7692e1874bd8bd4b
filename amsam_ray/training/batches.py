"""Batches: the pictures of each step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from amsam_ray import parallel
from amsam_ray.errors import InputError, Problem


def generator(seed: int, purpose: int) -> torch.Generator:
    """Return an independent random generator for each ``purpose``: draws for one do not change those for another."""
    state = int(np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state & (2**63 - 1))


def joint_batch_size(wanted: int, pictures: int, *, least: int = 1, each: int = 1) -> int:
    """Return the number of pictures per step, over all workers together.

    Args:
        wanted: ``train.batch_size``.
        pictures: number of training pictures; a batch never holds one twice.
        least: pictures that a batch holds at least, if there are as many: the sample-level loss has no negatives in a
            batch of one picture.
        each: pictures that the share of every worker must hold, for batch normalisation.

    Raises:
        InputError: the batch cannot be shared evenly by the workers, or the shares would be too small.
    """
    workers = parallel.world_size()
    needed = each * workers if each > 1 else 1
    size = min(max(wanted, least, needed), pictures)
    if size < needed:
        what = f"{pictures} training pictures are fewer than the {each} that each of {workers} workers needs in a step"
        raise InputError(Problem("shots", f"{what}; use more shots or fewer workers"))
    if size % workers:
        raise InputError(
            Problem(
                "train.batch_size",
                f"a joint batch of {size} of {pictures} pictures cannot be shared evenly by {workers} workers; "
                f"use a multiple of {workers} and enough shots, or fewer workers",
            )
        )
    return size


class Stream:
    """An endless sequence of joint batches: passes over ``pictures``, each in a new random order.

    Every batch is full and holds no picture twice; one that begins at the end of a pass ends in the next.

    Args:
        pictures: indices of pictures.
        size: pictures per joint batch, at most ``len(pictures)``.
        draws: source of the random orders.
    """

    def __init__(self, pictures: Sequence[int], size: int, draws: torch.Generator):
        self._pictures = list(pictures)
        self._size = size
        self._draws = draws
        self._waiting: list[int] = []

    @property
    def steps(self) -> int:
        """Batches per epoch: as many as one pass over the pictures needs."""
        return -(-len(self._pictures) // self._size)

    def next(self) -> list[int]:
        """Return the indices of the next joint batch."""
        if len(self._waiting) < self._size:
            order = torch.randperm(len(self._pictures), generator=self._draws).tolist()
            fresh = [self._pictures[place] for place in order]
            # pictures that are already in this batch come last
            self._waiting += sorted(fresh, key=self._waiting.__contains__)
        batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
        return batch

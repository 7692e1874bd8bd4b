"""Which pictures each step sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from amsam_ray import parallel
from amsam_ray.errors import InputError, Problem


def generator(seed: int, purpose: int) -> torch.Generator:
    """A generator of its own for every ``purpose``, so that one's draws do not move another's."""
    state = int(np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state & (2**63 - 1))


def joint_batch_size(wanted: int, pictures: int, *, contrasts: bool) -> int:
    """How many pictures a step sees, over all workers together.

    Args:
        wanted: ``train.batch_size``.
        pictures: how many there are; a batch never holds one twice.
        contrasts: whether the sample-level loss is in use. It has no negatives in a batch of one picture, so a
            batch then holds two at least, if there are two.

    Raises:
        InputError: the batch cannot be shared evenly by the workers.
    """
    size = min(max(wanted, 2) if contrasts else wanted, pictures)
    workers = parallel.world_size()
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
    """An endless sequence of joint batches: pass after pass over ``pictures``, each in an order of its own.

    Every batch is full and holds no picture twice; one that begins at the end of a pass ends in the next.

    Args:
        pictures: their indices.
        size: pictures per joint batch, at most ``len(pictures)``.
        draws: where the orders come from.
    """

    def __init__(self, pictures: Sequence[int], size: int, draws: torch.Generator):
        self._pictures = list(pictures)
        self._size = size
        self._draws = draws
        self._waiting: list[int] = []

    @property
    def steps(self) -> int:
        """Batches per epoch: enough for every picture to be seen."""
        return -(-len(self._pictures) // self._size)

    def next(self) -> list[int]:
        """The indices of the next joint batch."""
        if len(self._waiting) < self._size:
            order = torch.randperm(len(self._pictures), generator=self._draws).tolist()
            fresh = [self._pictures[place] for place in order]
            # those that are in this batch already come last
            self._waiting += sorted(fresh, key=self._waiting.__contains__)
        batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
        return batch

"""Data parallelism over ``torch.distributed``: N workers compute what one worker with the joint batch would.

Every collective goes through one differentiable sum, so that gradients of any order are right: the exact
hypergradient differentiates through the averaged gradient of the lower level. Without an initialised process
group everything here is the identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


def active() -> bool:
    """Whether this process is one of several that train together."""
    return not _ALONE.get() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """How many workers train together, 1 without a process group."""
    return dist.get_world_size() if active() else 1


def rank() -> int:
    """This worker's number, from 0."""
    return dist.get_rank() if active() else 0


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this worker computes for itself: for evaluation, where the workers hold different images."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


class _Sum(torch.autograd.Function):
    """Sum over workers. The joint loss is the sum of the workers' losses, so its backward is the same sum."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        summed: Tensor = _Sum.apply(grads[0])
        return summed


def mean(values: Tensor) -> Tensor:
    """The mean of ``values`` over the workers, differentiable to any order."""
    if not active():
        return values
    total: Tensor = _Sum.apply(values)
    return total / world_size()


def gather(values_BD: Tensor) -> Tensor:
    """``values_BD`` of all workers in rank order, (B * workers) x D, differentiable. B must be equal everywhere."""
    if not active():
        return values_BD
    slots = values_BD.new_zeros((world_size(), *values_BD.shape))
    slots = slots.index_copy(0, torch.tensor([rank()], device=values_BD.device), values_BD[None])
    filled: Tensor = _Sum.apply(slots)
    return filled.flatten(0, 1)


def my_share(batch: Sequence[int]) -> list[int]:
    """This worker's consecutive part of a joint batch, whose length is a multiple of the number of workers."""
    size = len(batch) // world_size()
    return list(batch[rank() * size : (rank() + 1) * size])


def collect(values: list[Any]) -> list[Any]:
    """The lists of all workers, joined in rank order, on every worker."""
    if not active():
        return values
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, values)
    return [value for part in parts for value in part]

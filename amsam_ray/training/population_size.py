"""How many trials to train together: a few joint steps measured against lone ones."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from amsam_ray.device import synchronize
from amsam_ray.inference.inputs import Batch
from amsam_ray.training.levels import Draw
from amsam_ray.training.loop import Trainer
from amsam_ray.training.stacked import Stack, kind_of

logger = logging.getLogger(__name__)

LARGEST = {"cpu": 8, "cuda": 64}
"""The largest population that ``choose_size`` considers, by the type of the device."""

GAIN = 1.1
"""A population must be this many times as fast per trial as lone trials; less is within the error of measurement."""

_REPEATS = 3


def step_seconds(
    trainer: Trainer, draw: Draw[Batch], sizes: Sequence[int], on_step: Callable[[], None] = lambda: None
) -> dict[int, float]:
    """Return the seconds per trial of one step of populations, on a CPU processor seconds.

    Every size is measured on copies of one trial, whose own values stay as they are. The measurement ends after two
    sizes in a row that are no faster than a smaller one, or at a size whose step fails (for lack of memory, say).

    Args:
        trainer: the trial.
        draw: of one of its steps.
        sizes: numbers of trials, ascending.
        on_step: called after every step.
    """
    found: dict[int, float] = {}
    slower = 0
    for size in sizes:
        members = [copy.copy(trainer) for _ in range(size)]
        try:
            seconds = _fastest(_step(members, draw), trainer.weights.device, on_step) / size
        except RuntimeError as error:
            if size == 1:
                raise
            logger.warning("A step of %d trials together fails: %s", size, error)
            break
        slower = slower + 1 if found and seconds >= min(found.values()) else 0
        found[size] = seconds
        if slower == 2:  # not at the first: two trials may gain less than the stacking costs, and four more
            break
    return found


def _step(members: Sequence[Trainer], draw: Draw[Batch]) -> Callable[[], object]:
    if len(members) == 1:
        return lambda: members[0].step(draw)
    stack = Stack(members)
    return lambda: stack.step_all([draw] * len(members))


def _fastest(step: Callable[[], object], device: torch.device, on_step: Callable[[], None]) -> float:
    # Processor seconds on a CPU, which other lanes use meanwhile.
    now = time.process_time if device.type == "cpu" else time.perf_counter
    seconds = []
    for _ in range(_REPEATS):
        synchronize(device)
        started = now()
        step()
        synchronize(device)
        seconds.append(now() - started)
        on_step()
    return min(seconds)


def best_size(seconds: Mapping[int, float]) -> int:
    """Return the size that is fastest per trial, or 1 if it gains less than ``GAIN`` (see ``step_seconds``)."""
    best = min(seconds, key=lambda size: seconds[size])
    return best if seconds[1] >= GAIN * seconds[best] else 1


def choose_size(
    trainer: Trainer, draw: Draw[Batch], on_step: Callable[[], None] = lambda: None
) -> tuple[int, dict[int, float]]:
    """Return the size of the population for trials like this one, and the measurement, empty if it must be alone.

    Arguments as ``step_seconds``.
    """
    if kind_of(trainer) is None:
        return 1, {}
    largest = LARGEST.get(trainer.weights.device.type, 8)
    sizes = [2**power for power in range(largest.bit_length())]
    seconds = step_seconds(trainer, draw, sizes, on_step)
    return best_size(seconds), seconds

"""What a device can do at best, measured: the rate of its matrix products, and of copies in its memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from amsam_ray.device import synchronize

_REPEATS = 5
_SIDE = {"cpu": 1024, "cuda": 8192}
_COPIED = {"cpu": 2**27, "cuda": 2**30}  # bytes; several times the last cache


@dataclass(frozen=True)
class DeviceRates:
    """Measured rates of a device.

    Attributes:
        flops: floating-point operations per second of a product of square matrices; a multiply-add counts as two.
        bytes: bytes per second that a copy reads and writes, both counted.
    """

    flops: float
    bytes: float


def measure_rates(device: torch.device, dtype: torch.dtype) -> DeviceRates:
    """Measure the rates of a device, in about a second. The fastest of a few repeats counts.

    Args:
        device: ``cpu`` or a CUDA device.
        dtype: of the matrices, for example float32 or bfloat16.
    """
    side, count = _SIDE.get(device.type, 1024), _COPIED.get(device.type, 2**27)
    left, right, product = (torch.rand(side, side, device=device).to(dtype) for _ in range(3))
    source, target = (torch.zeros(count, dtype=torch.uint8, device=device) for _ in range(2))
    return DeviceRates(
        flops=2 * side**3 / fastest(lambda: torch.mm(left, right, out=product), device),
        bytes=2 * count / fastest(lambda: target.copy_(source), device),
    )


def fastest(work: Callable[[], Tensor | None], device: torch.device, repeats: int = _REPEATS) -> float:
    """Return the seconds of the fastest of ``repeats`` calls, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])

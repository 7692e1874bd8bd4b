"""The one place that knows which device this process computes on."""

from __future__ import annotations

import os
import platform
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from amsam_ray.errors import InputError, Problem

if TYPE_CHECKING:
    import torch


def pick_device(want: str | None = None) -> torch.device:
    """The device to compute on.

    Args:
        want: a torch device string. None: the environment variable ``AMSAM_DEVICE``, and without it CUDA if
            there is one, else the CPU.

    Raises:
        InputError: the device is not one that torch knows, or CUDA was asked for and there is none.
    """
    import torch

    name = want or os.environ.get("AMSAM_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    where = "device" if want else "AMSAM_DEVICE"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(Problem(where, f"{name!r} is not a device; use cpu, cuda or cuda:<n>")) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(Problem(where, f"{name!r}: torch sees no CUDA device here; use cpu"))
    return device


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Activations in bfloat16 for ``precision`` "bf16", nothing for "fp32". Weights stay as they are."""
    import torch

    context: AbstractContextManager[None] = torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=precision == "bf16"
    )
    return context


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement for ``peak_memory``. Only CUDA can; elsewhere the process's peak is reported."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that torch held on a CUDA device since the reset, else this process's peak resident set."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


@lru_cache(maxsize=1)
def hardware() -> dict[str, str]:
    """What this machine is, for records: ``cpu``, ``cores``, ``memory`` and, with CUDA, ``gpu``, ``gpu_memory``."""
    import torch

    found = {
        "cpu": _cpu_name(),
        "cores": str(os.cpu_count() or 0),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = properties.name
        found["gpu_memory"] = f"{properties.total_memory / 2**30:.0f} GiB"
    return found


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

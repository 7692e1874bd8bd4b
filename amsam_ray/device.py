"""The device of this process. No other module selects one."""

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

_CPU_INFO = Path("/proc/cpuinfo")


def pick_device(want: str | None = None) -> torch.device:
    """Return the device to compute on.

    Args:
        want: a torch device string. None: the environment variable ``AMSAM_DEVICE``; if it is not set, CUDA if
            available, else the CPU.

    Raises:
        InputError: torch does not know the device, or CUDA is requested and not available.
    """
    import torch

    name = want or os.environ.get("AMSAM_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    where = "device" if want else "AMSAM_DEVICE"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(Problem(where, f"{name!r} is not a device; use cpu, cuda or cuda:<n>")) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(Problem(where, f"{name!r} is not available, torch finds no CUDA device; use cpu"))
    return device


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Return a context that computes activations in bfloat16 for "bf16"; it does nothing for "fp32"."""
    import torch

    context: AbstractContextManager[None] = torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=precision == "bf16"
    )
    return context


def has_onednn_linear(device: torch.device) -> bool:
    """Return whether oneDNN can multiply matrices on ``device``, through an operation without gradients.

    torch multiplies float32 matrices on a CPU with MKL, which uses AVX-512 on Intel's processors only.
    """
    import torch

    return device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether the processor or GPU has instructions for products of bfloat16 matrices."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = _CPU_INFO.read_text(errors="replace").split() if _CPU_INFO.exists() else []
    return "avx512_bf16" in flags or "amx_bf16" in flags


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished what it was given. A CPU has when it returns."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Restart the measurement of ``peak_memory``. Has an effect on CUDA only."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Return torch's peak memory on a CUDA device since the reset, else this process's peak resident set, in bytes."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return peak_resident()


def gpu_memory() -> tuple[int, int]:
    """Return torch's peak memory on the current CUDA device since the reset, and the device's memory, in bytes."""
    import torch

    device = torch.device("cuda", torch.cuda.current_device())
    return peak_memory(device), int(torch.cuda.get_device_properties(device).total_memory)


def peak_resident() -> int:
    """Return this process's largest resident size so far, in bytes."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


@lru_cache(maxsize=1)
def hardware() -> dict[str, str]:
    """Return the machine's ``cpu``, ``cores``, ``memory`` and, with CUDA, ``gpu`` and ``gpu_memory``, for records."""
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
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""Hold every reader of foreign bytes to the same outcomes and limits, and count what it did.

Each input is accepted, or refused with an ``AmsamError`` (exit status 1 or 2 on the command line). Anything else is a
crash; more than ``CPU_SECONDS`` of processor time is a hang; more than ``MEMORY_MIB`` above the start is too large.

Seeds are fixed. ``AMSAM_FUZZ_EXAMPLES`` (default 30) sets the inputs per test, of which slow readers try a stated
share; ``AMSAM_FUZZ_SEED`` tries others. ``python -m pytest tests/fuzz`` ends with one line per reader.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

from amsam_ray.errors import AmsamError

CPU_SECONDS = 5.0
MEMORY_MIB = 500.0
EXAMPLES = int(os.environ.get("AMSAM_FUZZ_EXAMPLES", "30"))
SEED = os.environ.get("AMSAM_FUZZ_SEED")

_STATUS = Path("/proc/self/status")
_RESET_PEAK = Path("/proc/self/clear_refs")


class Hang(BaseException):
    """An input took longer than ``CPU_SECONDS``; no ``except Exception`` of a reader catches it."""


@dataclass
class Tally:
    """What one reader did with the inputs so far."""

    tried: int = 0
    refused: int = 0
    accepted: int = 0
    crashes: int = 0
    hangs: int = 0
    slowest_s: float = 0.0
    peak_mib: float = 0.0


TALLIES: dict[str, Tally] = {}


def fuzz(share: float = 1.0, **inputs: SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that runs a test on drawn inputs, the same ones every time.

    Args:
        share: of ``EXAMPLES``, below 1 for slow readers.
        inputs: a strategy per argument.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        limited = settings(
            max_examples=max(3, round(EXAMPLES * share)),
            derandomize=SEED is None,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )(given(**inputs)(test))
        return limited if SEED is None else seed(int(SEED))(limited)

    return decorate


def attempt(reader: str, read: Callable[[], Any]) -> tuple[bool, Any]:
    """Let a reader read one input, and count the outcome.

    Returns:
        (True, what it returned), or (False, the ``AmsamError``) if it refused the input.
    """
    tally = TALLIES.setdefault(reader, Tally())
    tally.tried += 1
    before = _memory("VmRSS", reset=True)
    start = time.process_time()
    accepted, found = False, None
    try:
        with _limited():
            try:
                found, accepted = read(), True
            except AmsamError as error:
                found = error
    except Hang:
        tally.hangs += 1
        raise AssertionError(f"{reader}: no answer after {CPU_SECONDS:g} s of processor time") from None
    except Exception:
        tally.crashes += 1
        raise
    tally.slowest_s = max(tally.slowest_s, time.process_time() - start)
    grown = _memory("VmHWM") - before
    tally.peak_mib = max(tally.peak_mib, grown)
    assert grown < MEMORY_MIB, f"{reader}: memory grew by {grown:.0f} MiB"
    tally.accepted += accepted
    tally.refused += not accepted
    if not accepted:
        assert str(found).strip(), f"{reader}: refused without a reason"
    return accepted, found


@contextmanager
def _limited() -> Iterator[None]:
    """Raise ``Hang`` after ``CPU_SECONDS``. Processor time does not depend on the machine's other work."""

    def stop(*_: object) -> None:
        raise Hang

    earlier = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, earlier)


def _memory(name: str, *, reset: bool = False) -> float:
    """Return ``VmRSS`` or the peak ``VmHWM`` of this process in MiB; ``reset`` starts a new peak."""
    if reset:
        _RESET_PEAK.write_text("5")
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


def add(counted: dict[str, dict[str, Any]]) -> None:
    """Add what another process counted, as ``dataclasses.asdict`` gives it, by reader."""
    for reader, values in counted.items():
        tally = TALLIES.setdefault(reader, Tally())
        for name, value in values.items():
            mine = getattr(tally, name)
            setattr(tally, name, max(mine, value) if isinstance(value, float) else mine + value)


def summary() -> list[str]:
    """Return the table of all readers tried so far."""
    head = ("reader", "tried", "refused", "accepted", "crashes", "hangs", "slowest s", "peak MiB")
    lines = [
        (
            name,
            *(str(n) for n in (t.tried, t.refused, t.accepted, t.crashes, t.hangs)),
            f"{t.slowest_s:.2f}",
            f"{t.peak_mib:.0f}",
        )
        for name, t in sorted(TALLIES.items())
    ]
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    return [
        "  ".join(f"{c:<{w}}" if i == 0 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in (head, *lines)
    ]

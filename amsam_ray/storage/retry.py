"""Retries while a storage is unavailable, for work whose loss costs more than a wait."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from amsam_ray.storage.base import UnavailableError

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0

logger = logging.getLogger(__name__)


def until_available(action: Callable[[], T], deadline: float, waits: Callable[[str], None] | None = None) -> T:
    """Call ``action`` until the storage is available, with exponential backoff and jitter.

    Each request already has the retries of its storage. This repeats the whole of a longer operation, which fails
    when any one of its requests does.

    Args:
        action: may be repeated from its start.
        deadline: on the clock of ``time.monotonic``; the last attempt begins no later. There is at least one.
        waits: told what is waited for before every pause.

    Raises:
        UnavailableError: the storage was unavailable until the deadline.
    """
    pause = FIRST_PAUSE_S
    while True:
        try:
            return action()
        except UnavailableError as error:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            what = f"{error} Retrying for another {left:.0f} s."
            logger.warning(what)
            if waits is not None:
                waits(what)
            time.sleep(min(left, pause * random.uniform(0.5, 1)))
            pause = min(2 * pause, LONGEST_PAUSE_S)

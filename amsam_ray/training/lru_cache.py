"""What a process keeps between trials, so that the hundredth costs its training and nothing else."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Value = TypeVar("Value")


class Warm:
    """A dictionary that makes what is missing and forgets what was used longest ago.

    Args:
        room: how much is kept, in the units of ``weigh``.
        weigh: what a value costs; by default every value costs 1.
    """

    def __init__(self, room: int, weigh: Callable[[Any], int] = lambda value: 1):
        self._room, self._weigh = room, weigh
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of ``key``, made if it is not there. A value heavier than all the room is made and not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                found: Value = self._kept[key]
                return found
            self._drop_to(self._room - 1)  # before making: two backbones may not fit beside each other
            value = make()
            if self._weigh(value) <= self._room:
                self._drop_to(self._room - self._weigh(value))
                self._kept[key] = value
            return value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()

    def _drop_to(self, room: int) -> None:
        while self._kept and sum(map(self._weigh, self._kept.values())) > room:
            self._kept.popitem(last=False)

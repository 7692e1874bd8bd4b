"""A least-recently-used cache for what a process keeps between trials."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Value = TypeVar("Value")


class LruCache:
    """A thread-safe mapping that computes missing values and drops the least recently used ones.

    Args:
        capacity: total size of the kept values, in the units of ``size_of``.
        size_of: size of a value; by default every value has size 1.
    """

    def __init__(self, capacity: int, size_of: Callable[[Any], int] = lambda value: 1):
        self._capacity, self._size_of = capacity, size_of
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of ``key``, computed if it is missing. A value larger than the capacity is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                found: Value = self._kept[key]
                return found
            self._drop_to(self._capacity - 1)  # before computing: two backbones may not fit side by side
            value = make()
            if self._size_of(value) <= self._capacity:
                self._drop_to(self._capacity - self._size_of(value))
                self._kept[key] = value
            return value

    def clear(self) -> None:
        """Drop all values."""
        with self._lock:
            self._kept.clear()

    def _drop_to(self, size: int) -> None:
        while self._kept and sum(map(self._size_of, self._kept.values())) > size:
            self._kept.popitem(last=False)

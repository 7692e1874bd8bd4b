"""Random draws that give the same numbers on every machine.

`numpy.random.Generator` may change its distributions between releases; the raw 64-bit stream of `PCG64` and
`SeedSequence` may not (NEP 19). All draws here use that stream and exactly rounded arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_TO_UNIT = 2.0**-53


class Draws:
    """A stream of random draws, identified by a tuple of non-negative integers.

    Args:
        *key: integers >= 0, for example (seed, family, index). Equal keys give equal streams, different keys
            independent ones.

    Raises:
        ValueError: a key is negative.
    """

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return one float in [low, high)."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) * _TO_UNIT)

    def uniforms(self, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """Return a float32 array of `shape` with values in [low, high)."""
        raw = self._bits.random_raw(int(np.prod(shape))) >> np.uint64(11)
        unit = raw.astype(np.float64) * _TO_UNIT
        return (low + (high - low) * unit).astype(np.float32).reshape(shape)

    def bytes(self, count: int) -> np.ndarray:
        """Return `count` uniform bytes, uint8."""
        raw = np.asarray(self._bits.random_raw((count + 7) // 8), dtype="<u8")
        return raw.view(np.uint8)[:count]

    def signed(self, scale: float) -> float:
        """Return one float in [-scale, scale) with a triangular density (the sum of two uniforms)."""
        return scale * (self.uniform() + self.uniform() - 1.0)

    def integer(self, low: int, high: int) -> int:
        """Return one integer in [low, high], both ends included."""
        return low + int(self.uniform() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.uniform() < probability

    def choice(self, options: Sequence[T]) -> T:
        """Return one of the options, all equally likely."""
        return options[self.integer(0, len(options) - 1)]

"""Order and division of a pool of images into train and test, by name alone. Imports nothing slow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from amsam_ray.hashing import sha256_digest

_DIGITS = re.compile(r"(\d+)")


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sort key of natural name order: runs of digits count as numbers, so that ``2`` precedes ``10``."""
    parts = _DIGITS.split(name)
    return tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts if p), name


def hashed_order(names: Iterable[str], key: str) -> list[str]:
    """``names`` in an order that looks random and depends on nothing but ``key`` and the names themselves.

    The order is by SHA-256 of ``key`` and name: a seeded permutation that is the same on every machine and with
    every version of every library, and in which names that stay keep their relative order when others come or go.
    """
    return sorted(names, key=lambda name: (sha256_digest(f"{key}\0{name}"), name))


def split_pool(
    names: Sequence[str], test: int | float | Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Divide a pool.

    Args:
        names: the pool, in any order, without duplicates.
        test: a number of images (the last ones in natural order), a share in (0, 1) (that share of the pool
            in hashed order), or the test images' names, with or without suffix.

    Returns:
        Train names and test names, both sorted, and the names of ``test`` that the pool does not hold.
    """
    unknown: list[str] = []
    if isinstance(test, int):
        chosen = set(sorted(names, key=natural_key)[max(0, len(names) - test) :])
    elif isinstance(test, float):
        chosen = set(hashed_order(names, "test-split")[: round(test * len(names))])
    else:
        known = set(names)
        wanted = [name if name in known else PurePosixPath(name).stem for name in test]
        unknown = [given for given, name in zip(test, wanted, strict=True) if name not in known]
        chosen = set(wanted) & known
    return tuple(sorted(set(names) - chosen)), tuple(sorted(chosen)), unknown

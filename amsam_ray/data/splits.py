"""Order a pool of images and split it into train and test, by name alone. Imports no slow package."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from amsam_ray.hashing import sha256_digest

_DIGITS = re.compile(r"(\d+)")


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Return the sort key of natural order: runs of digits compare as numbers, so ``2`` precedes ``10``."""
    parts = _DIGITS.split(name)
    return tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts if p), name


def hashed_order(names: Iterable[str], key: str) -> list[str]:
    """Return ``names`` in a pseudorandom order that depends only on ``key`` and the names themselves.

    The order is by SHA-256 of ``key`` and name: a seeded permutation that is the same on every machine and with every
    library version. Adding or removing a name keeps the relative order of all others.
    """
    return sorted(names, key=lambda name: (sha256_digest(f"{key}\0{name}"), name))


def split_pool(
    names: Sequence[str], test: int | float | Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Split a pool into train and test.

    Args:
        names: the pool, in any order, without duplicates.
        test: a number of images (the last ones in natural order), a share in (0, 1) (the first ones in hashed
            order), or the names of the test images, with or without suffix.

    Returns:
        Train names and test names, both sorted, and the names in ``test`` that the pool does not contain.
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

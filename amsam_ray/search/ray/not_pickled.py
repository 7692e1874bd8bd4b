"""Tune writes snapshots of what it is given. A sweep is continued from its records, so these hold nothing."""

from __future__ import annotations

from typing import Any


class NotSaved:
    """Pickles as a bare object."""

    def __reduce__(self) -> tuple[Any, ...]:
        return object, ()

"""Where a node keeps what outlives a trial but is no result."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def cache_dir() -> Path:
    """Prepared inputs and tuned detectors: ``$AMSAM_CACHE_DIR``, or ``amsam_ray`` in the user's cache folder."""
    if chosen := os.environ.get("AMSAM_CACHE_DIR"):
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "amsam_ray"


def spool_dir(storage: str) -> Path:
    """Where results wait while ``storage`` (a URI) is away; shared by all processes of this node."""
    return cache_dir() / "spool" / hashlib.sha256(storage.encode()).hexdigest()[:16]


def log_dir() -> Path:
    """Log files of sweeps."""
    return cache_dir() / "logs"

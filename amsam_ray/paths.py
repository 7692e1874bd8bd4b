"""Folders on this machine for everything that outlives a trial but is not a result.

All of it can be computed or downloaded again, except the spool: it holds results that the storage lacks.
"""

from __future__ import annotations

import os
from pathlib import Path

from amsam_ray.hashing import sha256_hex


def user_cache_dir() -> Path:
    """Return ``amsam_ray`` in the user's cache folder: below ``$XDG_CACHE_HOME``, or below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "amsam_ray"


def cache_dir() -> Path:
    """Return the root of this machine's caches: ``$AMSAM_CACHE_DIR``, or the user's cache folder."""
    chosen = os.environ.get("AMSAM_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else user_cache_dir()


def weights_dir() -> Path:
    """Return the folder of downloaded weights: ``$AMSAM_WEIGHTS_DIR``, or ``weights`` in the user's cache folder."""
    chosen = os.environ.get("AMSAM_WEIGHTS_DIR")
    return Path(chosen).expanduser() if chosen else user_cache_dir() / "weights"


def mirrors_dir(cache: Path | None = None) -> Path:
    """Return the folder of local copies of datasets in buckets, one folder per bucket prefix.

    Args:
        cache: root of the caches, by default ``cache_dir()``; so for the functions below.
    """
    return (cache or cache_dir()) / "datasets"


def prepared_dir(cache: Path | None = None) -> Path:
    """Return the folder of prepared inputs: frozen image embeddings and detector boxes."""
    return (cache or cache_dir()) / "prepared"


def detectors_dir(cache: Path | None = None) -> Path:
    """Return the folder of detectors that were tuned on shots."""
    return (cache or cache_dir()) / "detectors"


def ultralytics_dir(cache: Path | None = None) -> Path:
    """Return the folder of the settings file that ultralytics insists on writing."""
    return (cache or cache_dir()) / "ultralytics"


def index_dir() -> Path:
    """Return the folder of the local indexes of records, one file per storage."""
    return cache_dir() / "index"


def log_dir() -> Path:
    """Return the folder of the log files of sweeps."""
    return cache_dir() / "logs"


def spool_dir(storage: str) -> Path:
    """Return the folder in which results wait while ``storage`` (a URI) is unavailable.

    All processes of this machine share it.
    """
    return cache_dir() / "spool" / sha256_hex(storage)[:16]

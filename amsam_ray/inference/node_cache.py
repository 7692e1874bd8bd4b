"""How the processes of this node keep and share prepared inputs, set once per process. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amsam_ray.inference.feature_cache import FeatureCache
    from amsam_ray.inference.shared_entries import SharedEntries


@dataclass(frozen=True)
class NodeCacheSettings:
    """Settings of a process.

    Attributes:
        owner: whose entries these are, see ``amsam_ray.inference.cache_limit``; empty: this process's own.
        storage: URI of the storage through which nodes share entries; empty: not shared.
        limit: largest size of the node's folder in bytes; 0: unlimited.
    """

    owner: str = ""
    storage: str = ""
    limit: int = 0


_settings = NodeCacheSettings()


def use_settings(settings: NodeCacheSettings) -> None:
    """Use ``settings`` for the caches that this process opens from now on."""
    global _settings
    _settings = settings


def open_cache(root: Path) -> FeatureCache:
    """Return the cache in the folder ``root`` with the settings of this process."""
    from amsam_ray.inference.feature_cache import FeatureCache

    shared = _shared(_settings.storage) if _settings.storage else None
    return FeatureCache(root, shared, limit=_settings.limit, owner=_settings.owner or f"process-{os.getpid()}")


@cache
def _shared(uri: str) -> SharedEntries:
    """Return the shared entries at ``uri``, whose measured times a process keeps."""
    from amsam_ray.inference.shared_entries import SharedEntries
    from amsam_ray.storage.open import open_storage

    return SharedEntries(open_storage(uri, patient=False))

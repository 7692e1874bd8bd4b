"""A store of computed tensors on a node's disk, shared by all processes of the node.

Outputs of frozen networks are computed once: a process that finds an entry reads it, two that need the same entry at
the same time compute it once, and processes that need the same entries divide the work.

An entry's name is a hash of everything that its value depends on, so entries are never stale; deleting the folder only
costs time. Entries are safetensors files, mapped into memory when read. Nodes may share them through a storage, and the
size of the folder may have a limit.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from amsam_ray.hashing import sha256_hex
from amsam_ray.inference import cache_limit
from amsam_ray.inference.shared_entries import AT_ONCE, EntryForm, SharedEntries

logger = logging.getLogger(__name__)

Entry = dict[str, Tensor]
Compute = Callable[[list[int]], Iterable[Mapping[str, Tensor]]]

_VERSION = 1  # part of every key; raise it if the same inputs are prepared differently


def entry_key(kind: str, **depends_on: Any) -> str:
    """Return the name of an entry: the SHA-256, 64 hex digits, of its kind and of everything that its value depends on.

    Args:
        kind: for example ``features``.
        depends_on: plain values (text, numbers, lists, None).
    """
    text = json.dumps({"kind": kind, "version": _VERSION, **depends_on}, sort_keys=True)
    return sha256_hex(text)


class NoCache:
    """A cache that keeps nothing, for images that are used once."""

    def get(self, keys: Sequence[str], compute: Compute, batch: int = 1, form: EntryForm | None = None) -> list[Entry]:
        """Compute the entries, as ``FeatureCache.get``."""
        entries: list[Entry] = []
        for start in range(0, len(keys), batch):
            entries += [dict(entry) for entry in compute(list(range(len(keys)))[start : start + batch])]
        return entries


class ImageCache(NoCache):
    """A cache in memory of what several models need of one image; ``forget`` it before the next image."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def forget(self) -> None:
        """Remove all entries."""
        self._entries.clear()

    def get(self, keys: Sequence[str], compute: Compute, batch: int = 1, form: EntryForm | None = None) -> list[Entry]:
        """Return the entries, computed once, as ``FeatureCache.get``."""
        missing = [position for position, key in enumerate(keys) if key not in self._entries]
        for start in range(0, len(missing), batch):
            positions = missing[start : start + batch]
            for position, entry in zip(positions, compute(positions), strict=True):
                self._entries[keys[position]] = dict(entry)
        return [self._entries[key] for key in keys]


class FeatureCache:
    """A cache of tensors in a folder.

    Args:
        root: a folder of this node; created if missing.
        shared: the entries of other nodes; None: not shared.
        limit: largest size of the folder in bytes, see ``cache_limit``; 0: unlimited.
        owner: whose entries these are, which a limit of any process then leaves; empty: nobody's.

    Attributes:
        hits: number of entries read.
        computed: number of entries computed.
        downloaded: number of entries downloaded.
    """

    def __init__(self, root: Path, shared: SharedEntries | None = None, *, limit: int = 0, owner: str = ""):
        self.root = Path(root)
        self._shared, self._limit, self._owner = shared, limit, owner
        self._uploads: list[Future[None]] = []
        self.hits = 0
        self.computed = 0
        self.downloaded = 0
        self._warned = False

    def get(self, keys: Sequence[str], compute: Compute, batch: int = 1, form: EntryForm | None = None) -> list[Entry]:
        """Return the entries named ``keys`` in their order: read, downloaded or computed.

        Several threads and processes may ask for overlapping keys: each missing entry is computed by one of them,
        while the others compute other entries or wait. The lock of a process that dies is released.

        Args:
            keys: from ``entry_key``.
            compute: called with positions in ``keys``; yields their entries in that order, tensors on the CPU.
            batch: largest number of entries computed per call.
            form: what the entries have to be; None: they are not shared.
        """
        if self._owner:
            cache_limit.use(self.root, self._owner)
        computed, downloaded = self.computed, self.downloaded
        found: dict[int, Entry] = {}
        missing = []
        for position, key in enumerate(keys):
            entry = self._read(key)
            if entry is None:
                missing.append(position)
            else:
                found[position] = entry
        self.hits += len(found)
        new = bool(missing)
        while missing:
            offered = self._offered(keys, missing, form)
            if taken := self._take(keys, offered, AT_ONCE):
                self._download(keys, taken, form, found)
            elif taken := self._take(keys, missing, batch):
                self._compute(keys, taken, compute, found, form)
            else:  # other processes compute all missing entries; wait for the first
                with self._lock(keys[missing[0]]):
                    pass
            missing = [position for position in missing if not self._arrived(keys, position, found)]
        for upload in self._uploads:
            upload.result()
        self._uploads.clear()
        if new and self._shared is not None and form is not None:
            logger.info(
                "Prepared inputs %s: %d in use, %d downloaded, %d computed on this node; %s.",
                form.scope,
                len(keys),
                self.downloaded - downloaded,
                self.computed - computed,
                self._shared.measured(form),
            )
        if new and self._limit:
            cache_limit.keep_below(self.root, self._limit)
        return [found[position] for position in range(len(keys))]

    def _offered(self, keys: Sequence[str], missing: list[int], form: EntryForm | None) -> list[int]:
        if self._shared is None or form is None:
            return []
        offered = self._shared.offered(form, [keys[position] for position in missing])
        return [position for position in missing if keys[position] in offered]

    def _download(
        self, keys: Sequence[str], taken: dict[int, FileLock], form: EntryForm | None, found: dict[int, Entry]
    ) -> None:
        assert self._shared is not None and form is not None
        try:
            fetched = self._shared.fetch(form, [keys[position] for position in taken])
            for position in taken:
                if keys[position] in fetched:
                    self.downloaded += 1
                    found[position], content = fetched[keys[position]]
                    self._keep(keys[position], partial(_write_bytes, content))
        finally:
            for lock in taken.values():
                lock.release()

    def _take(self, keys: Sequence[str], missing: list[int], batch: int) -> dict[int, FileLock]:
        taken: dict[int, FileLock] = {}
        for position in missing:
            lock = self._lock(keys[position])
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            except OSError as error:  # without a lock another process may compute the same, which only costs time
                self._warn(error)
            if self._path(keys[position]).exists():  # written since it was looked up
                lock.release()
                continue
            taken[position] = lock
            if len(taken) == batch:
                break
        return taken

    def _compute(
        self,
        keys: Sequence[str],
        taken: dict[int, FileLock],
        compute: Compute,
        found: dict[int, Entry],
        form: EntryForm | None,
    ) -> None:
        started = time.perf_counter()
        try:
            for position, entry in zip(taken, compute(list(taken)), strict=True):
                found[position] = {name: tensor.contiguous() for name, tensor in entry.items()}
                self.computed += 1
                self._keep(keys[position], partial(save_file, found[position]))
            if self._shared is not None and form is not None:
                self._shared.computed(form, time.perf_counter() - started, len(taken))
                self._uploads += self._shared.add(form, {keys[position]: found[position] for position in taken})
        finally:
            for lock in taken.values():
                lock.release()

    def _arrived(self, keys: Sequence[str], position: int, found: dict[int, Entry]) -> bool:
        if position not in found:
            entry = self._read(keys[position])
            if entry is None:
                return False
            self.hits += 1
            found[position] = entry
        return True

    def _read(self, key: str) -> Entry | None:
        path = self._path(key)
        if not path.exists():
            return None
        try:
            entry = load_file(path)
            cache_limit.touch(path)
            return entry
        except FileNotFoundError:  # deleted since, for want of room
            return None
        except SafetensorError:  # truncated by a full disk; treat it as missing
            path.unlink(missing_ok=True)
            return None

    def _keep(self, key: str, write: Callable[[Path], object]) -> None:
        """Store an entry, if the disk takes it; ``write`` writes the file that it is given."""
        path = self._path(key)
        half = path.with_name(f"{key}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                write(half)
                half.replace(path)  # readers see a complete entry or none
            finally:
                half.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            self._warn(error)

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}.safetensors"

    def _lock(self, key: str) -> FileLock:
        # 4,096 locks for all entries, so that a folder of a million entries does not hold a million lock files
        folder = self.root / "locks"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{key[:3]}.lock")

    def _warn(self, error: Exception) -> None:
        """Report once that entries cannot be stored: on a full disk training goes on, only slower."""
        if not self._warned:
            self._warned = True
            logger.warning("Prepared inputs cannot be stored in %s (%s); free some space.", self.root, error)


def _write_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)

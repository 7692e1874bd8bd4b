"""A store of computed tensors on a node's disk, shared by all processes of the node.

What is frozen is computed once: a lane that finds an entry reads it, two that want the same entry at the same time
compute it once, and lanes that want the same hundred entries divide them among themselves.

An entry's name is a hash of everything that its value depends on, so nothing is ever out of date or invalidated;
removing the folder costs time and nothing else. Entries are safetensors files, mapped into memory when read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from amsam_ray.hashing import sha256_hex

Entry = dict[str, Tensor]
Compute = Callable[[list[int]], Iterable[Mapping[str, Tensor]]]

_VERSION = 1  # part of every key: raise it when the same inputs would be prepared differently


def entry_key(kind: str, **depends_on: Any) -> str:
    """The name of an entry: SHA-256, 64 hex digits, of its kind and of all that its value depends on.

    Args:
        kind: what it is, for instance ``features``.
        depends_on: plain values (text, numbers, lists, None).
    """
    told = json.dumps({"kind": kind, "version": _VERSION, **depends_on}, sort_keys=True)
    return sha256_hex(told)


class NoCache:
    """Computes every time: for images that are seen once."""

    def get(self, keys: Sequence[str], compute: Compute, batch: int = 1) -> list[Entry]:
        """As ``PreparedCache.get``."""
        entries: list[Entry] = []
        for start in range(0, len(keys), batch):
            entries += [dict(entry) for entry in compute(list(range(len(keys)))[start : start + batch])]
        return entries


class PreparedCache:
    """Entries under ``root``.

    Args:
        root: a folder of this node; made if absent.
    """

    def __init__(self, root: Path):
        self.root = Path(root)
        self.hits = 0
        self.computed = 0

    def get(self, keys: Sequence[str], compute: Compute, batch: int = 1) -> list[Entry]:
        """The entries called ``keys``, read or computed, in their order.

        Safe when several threads and processes want overlapping keys at once: each missing entry is computed by
        one of them while the others take what is left or wait for it. A process that dies while it computes
        leaves its lock to the next.

        Args:
            keys: from ``entry_key``.
            compute: called with positions in ``keys``; yields their entries in that order. Tensors on the CPU.
            batch: how many entries are computed per call at most.
        """
        found: dict[int, Entry] = {}
        missing = []
        for position, key in enumerate(keys):
            entry = self._read(key)
            if entry is None:
                missing.append(position)
            else:
                found[position] = entry
        self.hits += len(found)
        while missing:
            taken = self._take(keys, missing, batch)
            if taken:
                self._compute(keys, taken, compute, found)
            else:  # others compute all that is missing: wait for the first of them
                with self._lock(keys[missing[0]]):
                    pass
            missing = [position for position in missing if not self._arrived(keys, position, found)]
        return [found[position] for position in range(len(keys))]

    def _take(self, keys: Sequence[str], missing: list[int], batch: int) -> dict[int, FileLock]:
        taken: dict[int, FileLock] = {}
        for position in missing:
            lock = self._lock(keys[position])
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            if self._path(keys[position]).exists():  # it came while we were looking elsewhere
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
    ) -> None:
        try:
            for position, entry in zip(taken, compute(list(taken)), strict=True):
                found[position] = {name: tensor.contiguous() for name, tensor in entry.items()}
                self._write(keys[position], found[position])
                self.computed += 1
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
            return load_file(path)
        except SafetensorError:  # cut short by a full disk: as if it were not there
            path.unlink(missing_ok=True)
            return None

    def _write(self, key: str, entry: Entry) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f"{key}.{os.getpid()}.part")
        try:
            save_file(entry, half)
            half.replace(path)  # readers see all of an entry or nothing of it
        finally:
            half.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}.safetensors"

    def _lock(self, key: str) -> FileLock:
        # 4,096 locks for all entries, so that a folder of a million entries does not hold a million lock files
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{key[:3]}.lock")

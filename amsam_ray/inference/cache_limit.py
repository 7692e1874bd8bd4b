"""A size limit of a folder of entries: the least recently used ones go first, never those of a running sweep.

Every process that uses the folder names an owner, its sweep, and holds a lock on the owner's file in ``in_use``. The
file holds the time at which the owner began. An entry that was used since the first of the present owners began may be
needed again and stays. Entries' modification times are the times of their last use.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

_COARSE_S = 1.0  # times of files lag behind the clock by up to some milliseconds, on some disks by more
_GRACE_S = 3600.0
"""How long an owner counts as present after its last process ended: a lane that died is replaced."""

_held: dict[Path, IO[str]] = {}  # until this process ends
_told: set[Path] = set()


def use(root: Path, owner: str) -> None:
    """Protect what ``owner`` uses in the folder ``root`` from now on, until this process ends. Call it at every use.

    Args:
        root: the folder of entries; created if missing.
        owner: letters, digits, ``-`` and ``_``; an owner that continues keeps its earlier beginning.
    """
    path = root / "in_use" / owner
    if path in _held:
        touch(path)
        return
    # A full or read-only disk protects nothing, and nothing new is stored on it either.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
        fcntl.flock(file, fcntl.LOCK_SH)
        while os.fstat(file.fileno()).st_nlink == 0:  # it was forgotten in between
            file.close()
            file = path.open("a+")
            fcntl.flock(file, fcntl.LOCK_SH)
        if path.stat().st_size == 0:
            file.write(f"{time.time() - _COARSE_S:.3f}\n")
            file.flush()
        _held[path] = file


def touch(path: Path) -> None:
    """Note that an entry is used now."""
    with contextlib.suppress(OSError):
        os.utime(path)


def keep_below(root: Path, limit: int) -> int:
    """Delete the least recently used entries until the folder is not larger than ``limit`` bytes.

    Returns:
        Number of deleted entries. What a present owner uses stays, even if that exceeds the limit.
    """
    with contextlib.suppress(Timeout, OSError), FileLock(root / "limit.lock", timeout=0):
        entries = sorted(_entries(root))
        total = sum(size for _, size, _ in entries)
        if total <= limit:
            return 0
        began, deleted = _first_beginning(root), 0
        for used, size, path in entries:
            if total <= limit or used >= began:
                break
            path.unlink(missing_ok=True)
            total, deleted = total - size, deleted + 1
        if total > limit and root not in _told:
            _told.add(root)
            logger.warning(
                "Prepared inputs in %s take %.1f GiB, more than the limit: the running sweeps need them.",
                root,
                total / 2**30,
            )
        return deleted
    return 0  # another process is at it, or the disk refuses


def _entries(root: Path) -> list[tuple[float, int, Path]]:
    found = []
    for path in root.glob("??/*.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            info = path.stat()
            found.append((info.st_mtime, info.st_size, path))
    return found


def _first_beginning(root: Path) -> float:
    """Return when the first of the present owners began; now if there is none. Forget those that ended."""
    first = time.time()
    for path in (root / "in_use").glob("*"):
        with contextlib.suppress(OSError, ValueError), path.open() as file:
            began = float(file.readline())
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                first = min(first, began)
                touch(path)  # the end of the owner is later than this
                continue
            if time.time() - path.stat().st_mtime < _GRACE_S:
                first = min(first, began)
            else:
                path.unlink()
    return first

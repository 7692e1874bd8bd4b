"""Results that wait on this machine's disk while the storage is away, so that no trial fails for it."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from amsam_ray.storage.base import ExistsError, NotFoundError, Storage, StorageError, check_key
from amsam_ray.storage.local import LocalStorage

Replace = Callable[[Storage, str, bytes], bool]

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 20.0


class Spool:
    """Takes results at once, keeps them on disk, and brings them to the storage from a thread of its own.

    Several spools, in one process or in several, may share a folder: whoever finds a result brings it, and bringing
    one twice is harmless because objects are either put whole or created with the same bytes. What a killed process
    left behind is brought by the next spool on the same folder.

    Args:
        folder: where results wait; one per storage URI.
        storage: where they belong.
        replace: given the storage, a key that exists there and the waiting bytes; replaces what lies there if it is
            damaged and returns whether it did.
    """

    def __init__(self, folder: Path, storage: Storage, replace: Replace):
        self._storage, self._replace = storage, replace
        # Files that a record names lie in `put` and are brought before the records, which lie in `create`.
        self._put = LocalStorage(folder / "put")
        self._create = LocalStorage(folder / "create")
        self._rejected = LocalStorage(folder / "rejected")
        self._wake, self._closed = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self.last_fault: str | None = None
        self._thread = threading.Thread(target=self._bring_forever, name="amsam-spool", daemon=True)
        self._thread.start()
        if self.pending():
            self._wake.set()

    def put(self, key: str, data: bytes) -> None:
        """Write ``data`` to ``key`` soon; on return it is safe on this machine's disk."""
        self._put.put(key, data)
        self._wake.set()

    def create(self, key: str, data: bytes) -> None:
        """Write ``data`` to ``key`` soon, unless the key is taken then: what is there stays, ours is set aside."""
        self._create.put(key, data)
        self._wake.set()

    def upload(self, key: str, path: Path) -> None:
        """``put`` the content of the file ``path``, which may be deleted afterwards."""
        self._put.upload(key, path)
        self._wake.set()

    def pending(self) -> list[str]:
        """Keys that wait to be brought."""
        return [entry.key for box in (self._put, self._create) for entry in box.list("")]

    def flush(self, timeout: float = 0.0) -> list[str]:
        """Bring everything now, trying for at most ``timeout`` seconds, but once in any case.

        Returns:
            The keys that still wait; they stay on disk for a later spool on this folder.
        """
        deadline, pause = time.monotonic() + timeout, _FIRST_PAUSE_S
        while not self._bring_all() and time.monotonic() < deadline:
            time.sleep(min(pause * random.uniform(0.5, 1), max(0.0, deadline - time.monotonic())))
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        return self.pending()

    def close(self, timeout: float = 0.0) -> list[str]:
        """``flush``, then end the thread."""
        waiting = self.flush(timeout)
        self._closed.set()
        self._wake.set()
        self._thread.join(1.0)
        return waiting

    def _bring_forever(self) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            self._wake.wait()
            if self._closed.is_set():
                return
            self._wake.clear()
            if self._bring_all():
                pause = _FIRST_PAUSE_S
            else:
                self._closed.wait(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                self._wake.set()

    def _bring_all(self) -> bool:
        """Whether everything that waited at the start is now in the storage."""
        with self._lock:
            try:
                for entry in self._put.list(""):
                    self._bring_file(entry.key)
                for entry in self._create.list(""):
                    self._bring_record(entry.key)
            except (StorageError, OSError) as error:
                if str(error) != self.last_fault:
                    logger.warning("%s Results wait in %s.", error, self._put.root.parent)
                self.last_fault = str(error)
                return False
            if self.last_fault is not None:
                logger.warning("The storage is back; all results have been brought to it.")
            self.last_fault = None
            return True

    def _bring_file(self, key: str) -> None:
        with contextlib.suppress(NotFoundError, FileNotFoundError):  # another spool on this folder was faster
            self._storage.upload(key, self._put.root / check_key(key))
            self._put.delete(key)

    def _bring_record(self, key: str) -> None:
        try:
            data = self._create.get(key)
        except NotFoundError:
            return
        try:
            self._storage.create(key, data)
        except ExistsError:
            if self._replace(self._storage, key, data):
                self._create.delete(key)
                return
            logger.warning("%s is recorded already, by another attempt; ours is kept in %s.", key, self._rejected.root)
            self._rejected.put(key, data)
        self._create.delete(key)

"""Keep results on the local disk while the storage is unavailable, so that no trial fails because of it."""

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
from amsam_ray.storage.retry import FIRST_PAUSE_S, LONGEST_PAUSE_S

Replace = Callable[[Storage, str, bytes], bool]

logger = logging.getLogger(__name__)


class Spool:
    """Accept results at once, keep them on disk, and upload them to the storage in a background thread.

    Several spools, in one process or in several, may share a folder. Uploading a result twice is harmless, because
    objects are either put whole or created with the same bytes. Results of a killed process are uploaded by the next
    spool on the same folder.

    Args:
        folder: folder of the waiting results; one per storage URI.
        storage: destination of the results.
        replace: called with the storage, a key that exists there and the waiting bytes; replaces the stored object if
            it is damaged and returns True if it did.
    """

    def __init__(self, folder: Path, storage: Storage, replace: Replace):
        self._storage, self._replace = storage, replace
        # Files go to `put` and records to `create`; a record is uploaded after all files that it refers to.
        self._put = LocalStorage(folder / "put")
        self._create = LocalStorage(folder / "create")
        self._rejected = LocalStorage(folder / "rejected")
        self._wake, self._closed = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self.last_fault: str | None = None
        self._thread = threading.Thread(target=self._upload_forever, name="amsam-spool", daemon=True)
        self._thread.start()
        if self.pending():
            self._wake.set()

    def put(self, key: str, data: bytes) -> None:
        """Write ``data`` to ``key`` later; it is on the local disk when this returns."""
        self._put.put(key, data)
        self._wake.set()

    def create(self, key: str, data: bytes) -> None:
        """Write ``data`` to ``key`` later. If the key is taken by then, ``data`` is kept in the folder ``rejected``."""
        self._create.put(key, data)
        self._wake.set()

    def upload(self, key: str, path: Path) -> None:
        """``put`` the content of the file ``path``, which may be deleted when this returns."""
        self._put.upload(key, path)
        self._wake.set()

    def pending(self) -> list[str]:
        """Return the keys of all waiting results."""
        return [entry.key for box in (self._put, self._create) for entry in box.list("")]

    def flush(self, timeout: float = 0.0) -> list[str]:
        """Upload everything now: try at least once, and for at most ``timeout`` seconds.

        Returns:
            The keys that still wait. They stay on disk for a later spool on this folder.
        """
        deadline, pause = time.monotonic() + timeout, FIRST_PAUSE_S
        while not self._upload_all() and time.monotonic() < deadline:
            time.sleep(min(pause * random.uniform(0.5, 1), max(0.0, deadline - time.monotonic())))
            pause = min(2 * pause, LONGEST_PAUSE_S)
        return self.pending()

    def close(self, timeout: float = 0.0) -> list[str]:
        """``flush``, then end the thread. Returns as ``flush``."""
        waiting = self.flush(timeout)
        self._closed.set()
        self._wake.set()
        self._thread.join(1.0)
        return waiting

    def _upload_forever(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            self._wake.wait()
            if self._closed.is_set():
                return
            self._wake.clear()
            if self._upload_all():
                pause = FIRST_PAUSE_S
            else:
                self._closed.wait(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, LONGEST_PAUSE_S)
                self._wake.set()

    def _upload_all(self) -> bool:
        """Upload everything that waits; return False if the storage is unavailable."""
        with self._lock:
            try:
                for entry in self._put.list(""):
                    self._upload_file(entry.key)
                for entry in self._create.list(""):
                    self._upload_record(entry.key)
            except (StorageError, OSError) as error:
                if str(error) != self.last_fault:
                    logger.warning("%s Results wait in %s.", error, self._put.root.parent)
                self.last_fault = str(error)
                return False
            if self.last_fault is not None:
                logger.warning("The storage is available again; all results have been uploaded.")
            self.last_fault = None
            return True

    def _upload_file(self, key: str) -> None:
        with contextlib.suppress(NotFoundError, FileNotFoundError):  # another spool on this folder has uploaded it
            self._storage.upload(key, self._put.root / check_key(key))
            self._put.delete(key)

    def _upload_record(self, key: str) -> None:
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
            logger.warning(
                "%s was already recorded by another attempt; the second record is kept in %s.", key, self._rejected.root
            )
            self._rejected.put(key, data)
        self._create.delete(key)

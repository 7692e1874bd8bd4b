"""One driver per sweep: a lease in the sweep's folder, renewed while the driver runs."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from typing import Any

from amsam_ray.errors import InputError, Problem
from amsam_ray.storage.base import ConflictError, NotFoundError, Storage, StorageError

RENEW_EVERY_S = 5.0
STALE_AFTER_S = 60.0
WATCH_S = 3 * RENEW_EVERY_S  # a driver that runs renews its lease within this time
_LOOK_EVERY_S = 1.0
_LATEST = 1e11  # seconds since the epoch: the year 5138


def lease_key(sweep: str) -> str:
    """Return the storage key of a sweep's lease."""
    return f"sweeps/{sweep}/lease.json"


_IDENTITY = ("host", "boot", "pid", "process_started", "started")  # identifies a driver


class Lease:
    """Held from ``take`` to ``release``. A thread renews it and stores the sweep's status with it.

    A lease that was not renewed for ``STALE_AFTER_S`` seconds is free. So is the lease of a process on this machine
    that has ended, as after a driver was killed. The clocks of two machines may differ by hours, so a lease of another
    machine that looks old is watched for ``WATCH_S`` seconds before it is taken over.

    Args:
        storage: where the results are.
        sweep: the sweep's id.
        status: returns the sweep's status as plain values; called at every renewal.
        on_loss: called once, with the reason, if another driver takes the lease over, for instance while this
            machine sleeps.
    """

    def __init__(
        self, storage: Storage, sweep: str, status: Callable[[], dict[str, Any]], on_loss: Callable[[str], None]
    ):
        self._storage = storage
        self._key = lease_key(sweep)
        self._status = status
        self._on_loss = on_loss
        self._version: str | None = None
        self._abandoned: str | None = None  # version of a lease that was watched in vain
        self._started = time.time()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew_forever, name="amsam-lease", daemon=True)

    def check(self) -> None:
        """Raise InputError with the holder and the age of its last heartbeat if another driver holds the lease."""
        held = self._read()
        if held is None or _over(held) or self._version == self._abandoned:
            return
        age = time.time() - float(held.get("renewed", 0))
        if abs(age) > STALE_AFTER_S:
            if _here(held) or not self._renewed_while_watched():
                self._abandoned = self._version
                return
            what = f"this sweep is run by {_name(held)}; wait for it or stop it. {_clock(age)}"
        else:
            what = (
                f"this sweep is run by {_name(held)} (last heartbeat {max(0.0, age):.0f} s ago); wait for it, stop it, "
                f"or, if it no longer runs, retry in {max(1.0, STALE_AFTER_S - age):.0f} s"
            )
        raise InputError(Problem(self._key, what))

    def _read(self) -> dict[str, Any] | None:
        try:
            data, self._version = self._storage.get_versioned(self._key)
        except NotFoundError:
            data, self._version = None, None
        return _parsed(data)

    def _renewed_while_watched(self) -> bool:
        """Whether the lease is renewed within ``WATCH_S`` seconds, by this machine's clock alone."""
        before, over = self._version, time.monotonic() + WATCH_S
        while time.monotonic() < over:
            time.sleep(_LOOK_EVERY_S)
            self._read()
            if self._version != before:
                return True
        return False

    def take(self) -> None:
        """Take the lease. Raises InputError as ``check`` does."""
        self.check()
        try:
            self._write()
        except ConflictError:
            what = "another driver took the lease of this sweep at the same time; wait for it to finish"
            raise InputError(Problem(self._key, what)) from None
        self._thread.start()

    def release(self) -> None:
        """Release the lease so that the next driver does not have to wait."""
        self._over.set()
        self._thread.join(timeout=10)
        with contextlib.suppress(StorageError):
            self._write(released=True)

    def _renew_forever(self) -> None:
        while not self._over.wait(RENEW_EVERY_S):
            try:
                self._write()
            except ConflictError:
                self._lost()
                return
            except StorageError:
                continue  # unavailable for now; the lease remains valid until it is stale

    def _lost(self) -> None:
        with contextlib.suppress(StorageError):
            held = _parsed(self._storage.get(self._key))
            self._on_loss(f"another driver took over this sweep ({_name(held or {})})")
            return
        self._on_loss("another driver took over this sweep")

    def _write(self, released: bool = False) -> None:
        content = {
            "host": platform.node(),
            "user": _user(),
            "pid": os.getpid(),
            "process_started": _process_start(os.getpid()),
            "boot": _boot_id(),
            "started": self._started,
            "renewed": time.time(),
            "released": released,
            "status": self._status(),
        }
        data = json.dumps(content, sort_keys=True).encode()
        try:
            self._storage.replace(self._key, data, self._version)
        except ConflictError:
            # The stored lease may be our own: the response to an earlier write may have been lost.
            stored, self._version = self._storage.get_versioned(self._key)
            held = _parsed(stored) or {}
            if any(held.get(name) != content[name] for name in _IDENTITY):
                raise
            self._storage.replace(self._key, data, self._version)
        stored, self._version = self._storage.get_versioned(self._key)
        if stored != data:
            raise ConflictError(f"{self._key} was taken over by another driver")


def read_lease(storage: Storage, sweep: str) -> dict[str, Any] | None:
    """Return the lease as last written, None if the sweep never had one."""
    try:
        return _parsed(storage.get(lease_key(sweep)))
    except NotFoundError:
        return None


def stale(held: dict[str, Any]) -> bool:
    """Whether the lease's driver no longer runs, as far as one look and this machine's clock can tell."""
    return _over(held) or time.time() - float(held.get("renewed", 0)) > STALE_AFTER_S


def _over(held: dict[str, Any]) -> bool:
    """Whether the lease was released, or its driver was a process on this machine that has ended."""
    ended = _here(held) and _process_start(int(held.get("pid", 0))) != held.get("process_started")
    return bool(held.get("released")) or ended


def _here(held: dict[str, Any]) -> bool:
    return held.get("host") == platform.node() and held.get("boot") == _boot_id()


def _clock(age: float) -> str:
    direction = "behind" if age > 0 else "ahead of"
    return f"Its clock is about {abs(age) / 60:.0f} minutes {direction} this machine's: set the clocks"


def _name(held: dict[str, Any]) -> str:
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(held.get("started", 0))))
    return f"{held.get('user', '?')}@{held.get('host', '?')}, process {held.get('pid', '?')}, since {started}"


def _parsed(data: bytes | None) -> dict[str, Any] | None:
    try:
        content = json.loads(data) if data else None
    except ValueError:
        return None
    return content if isinstance(content, dict) and _well_formed(content) else None


def _well_formed(content: dict[str, Any]) -> bool:
    """Whether a lease holds what a driver writes; a damaged one is no lease."""
    texts = [content.get(name, "") for name in ("host", "user", "boot")]
    numbers = [content.get(name, 0) for name in ("renewed", "started", "pid")]
    return all(isinstance(text, str) for text in texts) and all(
        isinstance(number, int | float) and 0 <= number < _LATEST for number in numbers
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _process_start(pid: int) -> str | None:
    """Return when a process of this machine started, in clock ticks since boot, which distinguishes reused pids."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    # The state is the first field after the name, the start time the 20th. A zombie no longer runs.
    return None if fields[0] == "Z" else fields[19]


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""

"""The storage interface: named objects of bytes, in a local folder or an S3 bucket.

A *key* names one object, such as ``sweeps/demo-1a2b3c4d/records/x.json``. A *storage URI* names the root of all keys:
a folder or ``s3://bucket/prefix``. Every implementation passes
``tests.storage.conformance.StorageConformance``.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from amsam_ray.errors import AmsamError, InputError, Problem

_PART = re.compile(r"[A-Za-z0-9_=+@~][A-Za-z0-9_.=+@~-]*")
_MAX_PART, _MAX_KEY = 200, 900  # file systems allow 255 bytes per name (temporary names add to it), S3 1024 per key


class StorageError(AmsamError):
    """A storage operation failed; the message is one sentence with the remedy."""


class NotFoundError(StorageError):
    """The storage has no object with this key."""


class ExistsError(StorageError):
    """The key of a create-only write already has an object with other content."""


class ConflictError(StorageError):
    """An object changed before its conditional replacement; read it again and repeat the decision."""


class UnavailableError(StorageError):
    """The storage is unavailable, slow or throttling; the same request may succeed later."""


class Entry(NamedTuple):
    """One object in a listing.

    Attributes:
        key: key of the object.
        size: size in bytes.
        stamp: opaque text that changes whenever the object is written.
    """

    key: str
    size: int
    stamp: str


def check_key(key: str) -> str:
    """Return ``key`` if it is valid, and therefore below the root in every storage.

    A key consists of parts joined by ``/``. A part has at most 200 letters, digits and ``_ . = + @ ~ -``, and does
    not begin with ``.`` or ``-``; a key has at most 900 characters.

    Raises:
        InputError: the key is anything else, such as ``../x``, ``/x``, ``a//b``, a backslash or a control character.
    """
    parts = key.split("/")
    if len(key) > _MAX_KEY or not all(len(part) <= _MAX_PART and _PART.fullmatch(part) for part in parts):
        raise InputError(
            Problem(repr(key[:120]), "is not a valid key; use letters, digits and _ . = + @ ~ - between slashes")
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return ``prefix`` if it is valid: empty, or a key followed by a slash. Raises InputError otherwise."""
    if prefix:
        check_key(prefix.removesuffix("/"))
        if not prefix.endswith("/"):
            raise InputError(Problem(repr(prefix), "names a folder; end it with a slash"))
    return prefix


class Storage(ABC):
    """Named objects of bytes, each written atomically: a reader never sees a part of a write.

    Every method raises InputError for a key that ``check_key`` refuses, UnavailableError if trying again later may
    help, and StorageError for any other failure.

    Attributes:
        uri: the argument of ``open_storage`` in canonical form.
    """

    uri: str

    @property
    def atomic(self) -> bool:
        """True if the storage itself decides races between ``create`` and ``replace`` calls.

        If False (an S3 endpoint that ignores conditions), two simultaneous writers may both succeed. Who rewrites a
        shared object then reads it back and repeats until it has the intended content.
        """
        return True

    @abstractmethod
    def get(self, key: str) -> bytes:
        """Return the content of the object. Raises NotFoundError."""

    @abstractmethod
    def get_versioned(self, key: str) -> tuple[bytes, str]:
        """Return the content of the object and its version for ``replace``. Raises NotFoundError."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write the object, replacing an existing one."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> None:
        """Write the object if the key is free.

        Creating the same bytes again succeeds: a writer that lost the answer to its request cannot tell the two
        cases apart.

        Raises:
            ExistsError: the key holds other bytes; they are kept.
        """

    @abstractmethod
    def replace(self, key: str, data: bytes, version: str | None) -> None:
        """Write the object if it still has ``version``, or if ``version`` is None and there is no object.

        Raises:
            ConflictError: the object has another version. Almost always another writer changed it; if the answer to
                this write was lost, it may have been this one. Read it again and repeat the decision.
        """

    @abstractmethod
    def list(self, prefix: str) -> Iterator[Entry]:
        """List all objects below the folder ``prefix`` (``""`` or ``a/b/``), sorted by key."""

    @abstractmethod
    def folders(self, prefix: str) -> tuple[str, ...]:
        """Return the sorted names of the folders directly below ``prefix`` without listing their objects."""

    def folder_stamp(self, prefix: str) -> str | None:
        """Return a text that changes whenever an object directly below ``prefix`` is added, removed or written.

        An unchanged stamp saves listing the folder again. None if the storage has no stamp cheaper than a listing.
        """
        return None

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete the object, if there is one."""

    @abstractmethod
    def upload(self, key: str, path: Path) -> None:
        """``put`` the content of the file ``path``, in parts if it is large."""

    @abstractmethod
    def download(self, key: str, path: Path) -> None:
        """Write the object atomically to the file ``path``. Raises NotFoundError."""

    @abstractmethod
    def check(self) -> None:
        """Try every kind of access that a sweep needs. Raises StorageError with the remedy."""

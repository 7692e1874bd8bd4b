"""Where results live: one small interface, kept by a local directory and by any S3 bucket.

A *key* names one object, ``sweeps/demo-1a2b3c4d/records/x.json``; a *storage URI* names the root that keys are
relative to, a folder or ``s3://bucket/prefix``. Every implementation passes
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
    """The storage did not do what was asked, in one sentence with the remedy."""


class NotFoundError(StorageError):
    """No object has this key."""


class ExistsError(StorageError):
    """A create-only write met an object with other content."""


class ConflictError(StorageError):
    """A conditional replacement met an object that had changed meanwhile: read it again and decide anew."""


class UnavailableError(StorageError):
    """The storage is away, slow or throttling; the same request may succeed later."""


class Entry(NamedTuple):
    """One object in a listing.

    Attributes:
        key: the object's key.
        size: bytes.
        stamp: opaque text that changes whenever the object is written anew.
    """

    key: str
    size: int
    stamp: str


def check_key(key: str) -> str:
    """Return ``key`` if it stays below the root wherever it is used.

    A key is parts joined by ``/``. A part has letters, digits and ``_ . = + @ ~ -``, begins with none of
    ``.`` and ``-``, and has at most 200 characters; a key has at most 900.

    Raises:
        InputError: anything else, such as ``../x``, ``/x``, ``a//b``, a backslash or a control character.
    """
    parts = key.split("/")
    if len(key) > _MAX_KEY or not all(len(part) <= _MAX_PART and _PART.fullmatch(part) for part in parts):
        raise InputError(
            Problem(
                repr(key[:120]), "is not a name for a result; use letters, digits and _ . = + @ ~ - between slashes"
            )
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return ``prefix`` if it names a folder of keys: empty, or a key with a slash behind it."""
    if prefix:
        check_key(prefix.removesuffix("/"))
        if not prefix.endswith("/"):
            raise InputError(Problem(repr(prefix), "names a folder of results and must end with a slash"))
    return prefix


class Storage(ABC):
    """Named objects of bytes, each written whole or not at all.

    Every method raises InputError for a key that ``check_key`` refuses, UnavailableError where trying again later
    may help, and StorageError for any other fault. A reader never sees a part of a write.

    Attributes:
        uri: what ``open_storage`` was given, in canonical form.
    """

    uri: str

    @property
    def atomic(self) -> bool:
        """Whether ``create`` and ``replace`` are decided by the store itself.

        Where it is False (an S3 endpoint that ignores conditions) two writers at the same moment may both win:
        whoever rewrites a shared object reads it back afterwards and repeats until it holds what it should.
        """
        return True

    @abstractmethod
    def get(self, key: str) -> bytes:
        """The object's content. Raises NotFoundError."""

    @abstractmethod
    def get_versioned(self, key: str) -> tuple[bytes, str]:
        """The object's content and the version that ``replace`` compares. Raises NotFoundError."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write the object whole, over any earlier one."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> None:
        """Write the object if the key is free.

        Creating the same bytes again is no error: a writer whose answer got lost cannot tell the two apart.

        Raises:
            ExistsError: the key holds other bytes, which stay as they are.
        """

    @abstractmethod
    def replace(self, key: str, data: bytes, version: str | None) -> None:
        """Write the object if it is still the one of ``version``; None: if there is none yet.

        Raises:
            ConflictError: the object is no longer the one of ``version``. Nearly always somebody else has changed it;
                where the answer to our own write got lost, it was us. Read it again and decide anew.
        """

    @abstractmethod
    def list(self, prefix: str) -> Iterator[Entry]:
        """Every object below the folder ``prefix`` (``""`` or ``a/b/``), sorted by key."""

    @abstractmethod
    def folders(self, prefix: str) -> tuple[str, ...]:
        """Names of the folders directly below ``prefix``, sorted, without reading what is in them."""

    def folder_stamp(self, prefix: str) -> str | None:
        """What changes whenever an object directly below the folder ``prefix`` comes, goes or changes; None: not known.

        Tells a reader that a folder need not be listed again. Cheaper than a list, or not given at all.
        """
        return None

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object; no error if there is none."""

    @abstractmethod
    def upload(self, key: str, path: Path) -> None:
        """``put`` the content of the file ``path``, in parts where it is large."""

    @abstractmethod
    def download(self, key: str, path: Path) -> None:
        """Write the object to the file ``path``, which appears complete or not at all. Raises NotFoundError."""

    @abstractmethod
    def check(self) -> None:
        """Try every kind of access that a sweep needs. Raises StorageError with one sentence that names the remedy."""

"""SHA-256 of text, bytes and files: cache keys, fingerprints and reproducible orders."""

from __future__ import annotations

import hashlib
from pathlib import Path

from amsam_ray.errors import AmsamError


def sha256_digest(data: bytes | str) -> bytes:
    """Return the SHA-256 of bytes, or of a text in UTF-8, as 32 bytes."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).digest()


def sha256_hex(data: bytes | str) -> str:
    """Return the SHA-256 of bytes, or of a text in UTF-8, as 64 hex digits."""
    return sha256_digest(data).hex()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits, reading it in chunks.

    Raises:
        AmsamError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AmsamError(f"{path} cannot be read: {error.strerror}") from None

"""From a URI to a storage."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from amsam_ray.errors import InputError, Problem
from amsam_ray.storage.base import Storage, StorageError
from amsam_ray.storage.local import LocalStorage


def open_storage(uri: str | os.PathLike[str], *, patient: bool = True) -> Storage:
    """The storage at ``uri``; nothing is read or written yet.

    Args:
        uri: a folder (``~`` is expanded, ``file://`` is understood) or ``s3://bucket/prefix``. Credentials, region
            and endpoint of S3 come from the standard AWS variables and files (``AWS_ENDPOINT_URL_S3``, ...).
        patient: whether to ride out half a minute of trouble by trying again; a check wants its answer sooner.

    Raises:
        InputError: a URI of another kind, or one with a user name or password in it.
    """
    text = os.fspath(uri)
    scheme = urlsplit(text).scheme if "://" in text else ""
    if scheme == "s3":
        from amsam_ray.storage.s3 import S3Storage

        return S3Storage(text, patient=patient)
    if scheme not in ("", "file"):
        raise InputError(Problem(text, "is not a storage; give a folder or s3://bucket/prefix"))
    return LocalStorage(Path(text.removeprefix("file://")))


def check_storage(uri: str | os.PathLike[str]) -> list[Problem]:
    """What keeps a sweep from storing results at ``uri``, found by trying it; an empty list if nothing does.

    Writes one small object and deletes it again. A folder that does not exist yet is not made: its nearest existing
    parent must be writable.
    """
    try:
        open_storage(uri, patient=False).check()
    except InputError as error:
        return error.problems
    except StorageError as error:
        return [Problem("storage", str(error))]
    return []

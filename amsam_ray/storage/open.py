"""Open and check a storage by its URI."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from amsam_ray.config.datasets import path_fault
from amsam_ray.errors import InputError, Problem
from amsam_ray.storage.base import Storage, StorageError
from amsam_ray.storage.local import LocalStorage


def open_storage(uri: str | os.PathLike[str], *, patient: bool = True) -> Storage:
    """Return the storage at ``uri`` without accessing it.

    Args:
        uri: a folder (``~`` is expanded, ``file://`` is accepted) or ``s3://bucket/prefix``. Credentials, region
            and endpoint of S3 come from the standard AWS variables and files (``AWS_ENDPOINT_URL_S3``, ...).
        patient: retry failed requests for half a minute or more; False suits checks that need a quick answer.

    Raises:
        InputError: the URI is of another kind, or contains a user name or password.
    """
    text = os.fspath(uri)
    try:
        scheme = urlsplit(text).scheme if "://" in text else ""
    except ValueError as error:  # such as brackets in the place of the bucket
        raise InputError(Problem(text, f"is not a storage ({error}); give a folder or s3://bucket/prefix")) from None
    if scheme == "s3":
        from amsam_ray.storage.s3 import S3Storage

        return S3Storage(text, patient=patient)
    if scheme not in ("", "file"):
        raise InputError(Problem(text, "is not a storage; give a folder or s3://bucket/prefix"))
    return LocalStorage(Path(text.removeprefix("file://")))


def check_storage(uri: str | os.PathLike[str], where: str = "storage") -> list[Problem]:
    """Return what prevents a sweep from storing results at ``uri``; an empty list if nothing does.

    Writes one small object and deletes it again. A folder that does not exist is not created; its nearest existing
    parent must be writable.

    Args:
        uri: as for ``open_storage``.
        where: the key or option that the problems are reported under.
    """
    if fault := path_fault(os.fspath(uri)):
        return [Problem(where, fault)]
    try:
        open_storage(uri, patient=False).check()
    except InputError as error:
        return [Problem(where, str(problem)) for problem in error.problems]
    except StorageError as error:
        return [Problem(where, str(error))]
    return []

"""Storage in an S3 bucket, through boto3, at any endpoint that the standard AWS variables name."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from amsam_ray.errors import InputError, Problem
from amsam_ray.storage.base import (
    ConflictError,
    Entry,
    ExistsError,
    NotFoundError,
    Storage,
    UnavailableError,
    check_key,
    check_prefix,
)
from amsam_ray.storage.s3_client import make_client
from amsam_ray.storage.s3_conditions import KNOWN, ConditionalWrites, Endpoint, conditional_writes
from amsam_ray.storage.s3_errors import explain, is_refusal, status_of

T = TypeVar("T")

_PART_BYTES = 16 << 20
_DECISION_ATTEMPTS = 8  # conditional writes that may end undecided before an error is raised


class S3Storage(Storage):
    """One object per key under ``s3://bucket/prefix/``.

    botocore repeats failed requests with exponential backoff and full jitter. After a conditional write that ends in
    409, 412 or a server error the object is read again to see who won: the answer to a successful write may have been
    lost, and servers report the loser of a race in all three ways.

    Args:
        uri: ``s3://bucket`` or ``s3://bucket/prefix``.
        patient: retry failed requests for half a minute or more; if False, for a few seconds.

    Raises:
        InputError: the URI has no bucket, an invalid prefix, or credentials in it.
    """

    def __init__(self, uri: str, *, patient: bool = True):
        parts = urlsplit(uri)
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise InputError(
                Problem(
                    "s3 storage",
                    "give only s3://bucket/prefix; credentials and endpoint belong in the standard AWS variables",
                )
            )
        if not parts.netloc:
            raise InputError(Problem(uri, "names no bucket; write s3://bucket/prefix"))
        self.bucket = parts.netloc
        self._prefix = f"{check_key(parts.path.strip('/'))}/" if parts.path.strip("/") else ""
        self.uri = f"s3://{self.bucket}/{self._prefix}".rstrip("/")
        self._patient = patient

    @cached_property
    def _client(self) -> Any:
        with self._faults(""):
            return make_client(self.uri, patient=self._patient)

    @property
    def atomic(self) -> bool:
        return self.conditions.honoured

    def get(self, key: str) -> bytes:
        return self.get_versioned(key)[0]

    def get_versioned(self, key: str) -> tuple[bytes, str]:
        def read() -> tuple[bytes, str]:
            answer = self._client.get_object(Bucket=self.bucket, Key=self._name(key))
            return answer["Body"].read(), answer["ETag"]

        return self._read_again(key, read)

    def put(self, key: str, data: bytes) -> None:
        self._put(key, data)

    def create(self, key: str, data: bytes) -> None:
        name = self._name(key)
        if not self.conditions.create:
            if self._holds(key, data) is None:
                self._put(key, data)
        elif not self._decide(key, lambda: self._put_raw(name, data, IfNoneMatch="*"), None):
            self._holds(key, data)

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        name = self._name(key)
        if not self.conditions.honoured:
            if self._version(key) != version:
                raise ConflictError(f"{key} was changed by another writer; read it again.")
            self._put(key, data)
            return
        condition = (
            {"IfNoneMatch": "*"}
            if version is None
            else {"IfMatch": version if self.conditions.quoted else version.strip('"')}
        )
        if not self._decide(key, lambda: self._put_raw(name, data, **condition), version):
            raise ConflictError(f"{key} was changed by another writer; read it again.")

    def list(self, prefix: str) -> Iterator[Entry]:
        start = self._prefix + check_prefix(prefix)
        with self._faults(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start):
                for item in page.get("Contents", ()):
                    key = item["Key"][len(self._prefix) :]
                    if not key.endswith("/") and "/." not in f"/{key}":
                        yield Entry(key, item["Size"], item["ETag"])

    def folders(self, prefix: str) -> tuple[str, ...]:
        start = self._prefix + check_prefix(prefix)
        pages = self._client.get_paginator("list_objects_v2")
        with self._faults(prefix):
            found = [
                item["Prefix"][len(start) :].rstrip("/")
                for page in pages.paginate(Bucket=self.bucket, Prefix=start, Delimiter="/")
                for item in page.get("CommonPrefixes", ())
            ]
        return tuple(sorted(name for name in found if name and not name.startswith(".")))

    def delete(self, key: str) -> None:
        name = self._name(key)
        with self._faults(key):
            self._client.delete_object(Bucket=self.bucket, Key=name)

    def upload(self, key: str, path: Path) -> None:
        from boto3.s3.transfer import TransferConfig

        name = self._name(key)
        with self._faults(key):
            config = TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=4)
            self._client.upload_file(str(path), self.bucket, name, Config=config)

    def download(self, key: str, path: Path) -> None:
        name = self._name(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._faults(key):
            self._client.download_file(self.bucket, name, str(path))  # writes a temporary file and renames it

    def check(self) -> None:
        with self._faults(""):
            self._client.list_objects_v2(Bucket=self.bucket, Prefix=self._prefix, MaxKeys=1)
        KNOWN.pop(self._endpoint, None)
        self.conditions  # noqa: B018 - writes, reads and deletes a probe

    @property
    def conditions(self) -> ConditionalWrites:
        """The conditional writes that this endpoint honours; probed once per process and bucket."""
        with self._faults(""):
            return conditional_writes(self._client, self.bucket, self._prefix)

    @property
    def _endpoint(self) -> Endpoint:
        return self._client.meta.endpoint_url, self.bucket

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _put(self, key: str, data: bytes) -> None:
        name = self._name(key)
        with self._faults(key):
            self._put_raw(name, data)

    def _put_raw(self, name: str, data: bytes, **condition: str) -> Any:
        return self._client.put_object(Bucket=self.bucket, Key=name, Body=data, **condition)

    def _decide(self, key: str, write: Callable[[], Any], version: str | None) -> bool:
        """Perform the conditional ``write`` until it is decided.

        Returns:
            True if it took place, False if the object no longer has ``version`` (None: if it exists).
        """
        for attempt in range(_DECISION_ATTEMPTS):
            try:
                write()
                return True
            except Exception as error:
                if not is_refusal(error) and (status_of(error) or 0) < 500:
                    raise explain(error, self.uri, key) from error
            if self._version(key) != version:
                return False
            time.sleep(random.uniform(0, min(5.0, 0.1 * 2**attempt)))  # undecided: the object is unchanged
        raise UnavailableError(f"{self.uri} could not decide a conditional write of {key}; try again later.")

    def _holds(self, key: str, data: bytes) -> bool | None:
        """Return True if the key holds ``data`` and None if it is free. Raises ExistsError if it holds other bytes."""
        with suppress(NotFoundError):
            if self.get(key) != data:
                raise ExistsError(f"{key} already exists with other content and is never overwritten.")
            return True
        return None

    def _version(self, key: str) -> str | None:
        with suppress(NotFoundError):
            return self.get_versioned(key)[1]
        return None

    def _read_again(self, key: str, read: Callable[[], T]) -> T:
        """Repeat a read whose connection broke inside the body, which botocore does not do."""
        from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

        with self._faults(key):
            for attempt in range(5 if self._patient else 1):
                try:
                    return read()
                except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                    time.sleep(random.uniform(0, 0.2 * 2**attempt))
            return read()

    def _faults(self, key: str) -> _Faults:
        return _Faults(self.uri, key)


class _Faults:
    """A context that turns botocore's exceptions into those of the storage."""

    def __init__(self, uri: str, key: str):
        self._uri, self._key = uri, key

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            explained = explain(error, self._uri, self._key)
            if explained is not error:
                raise explained from error

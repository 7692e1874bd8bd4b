"""Results in an S3 bucket, through boto3, on any endpoint that the standard AWS variables name."""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
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
from amsam_ray.storage.s3_errors import explain, is_refusal, status_of

T = TypeVar("T")
logger = logging.getLogger(__name__)

_PART_BYTES = 16 << 20
_LOOK_AGAIN = 8  # conditional writes that end undecided before we give up


@dataclass(frozen=True)
class Conditions:
    """What an endpoint makes of conditional writes, found by trying.

    Attributes:
        create: a PUT with ``If-None-Match: *`` on an existing key is refused.
        replace: a PUT with a stale ``If-Match`` is refused and one with the current ETag is not.
        quoted: ``If-Match`` takes the ETag in the quotes it came in (Ceph before 17 wants it without).
    """

    create: bool
    replace: bool
    quoted: bool = True

    @property
    def honoured(self) -> bool:
        """Whether the endpoint can decide a race."""
        return self.create and self.replace


_probed: dict[tuple[str, str], Conditions] = {}
_probing = threading.Lock()


class S3Storage(Storage):
    """One object per key under ``s3://bucket/prefix/``.

    Requests are repeated by botocore with exponential backoff and full jitter. A conditional
    write that ends in 409, 412 or a server error is decided by looking at the object again, because an answer may
    have been lost after the write was done, and because servers report the loser of a race in all three ways.

    Args:
        uri: ``s3://bucket`` or ``s3://bucket/prefix``.
        patient: try for half a minute or more before giving up; otherwise for a few seconds.

    Raises:
        InputError: no bucket, a prefix that is no key, or credentials inside the URI.
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
        import boto3
        from botocore.config import Config

        basic = Config(
            # The standard mode spends from a quota per client, which an outage empties: after it nothing would be
            # tried again. The older mode has the same exponential backoff with full jitter and no memory.
            retries={"mode": "legacy", "total_max_attempts": 7 if self._patient else 2},
            connect_timeout=5,
            read_timeout=60 if self._patient else 10,
            max_pool_connections=32,
            tcp_keepalive=True,
            s3={"payload_signing_enabled": True},
        )
        with self._faults(""):
            session = boto3.session.Session()
            client = session.client("s3", config=basic)
            if ".amazonaws.com" in client.meta.endpoint_url:
                return client
            # Other servers rarely resolve bucket names as host names or understand trailing checksums.
            other = Config(
                s3={"payload_signing_enabled": True, "addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            return session.client("s3", config=basic.merge(other))

    @property
    def atomic(self) -> bool:
        return self.conditions.honoured

    def get(self, key: str) -> bytes:
        return self.get_versioned(key)[0]

    def get_versioned(self, key: str) -> tuple[bytes, str]:
        def read() -> tuple[bytes, str]:
            answer = self._client.get_object(Bucket=self.bucket, Key=self._name(key))
            return answer["Body"].read(), answer["ETag"]

        return self._insist(key, read)

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
                raise ConflictError(f"{key} was changed by someone else meanwhile.")
            self._put(key, data)
            return
        condition = (
            {"IfNoneMatch": "*"}
            if version is None
            else {"IfMatch": version if self.conditions.quoted else version.strip('"')}
        )
        if not self._decide(key, lambda: self._put_raw(name, data, **condition), version):
            raise ConflictError(f"{key} was changed by someone else meanwhile.")

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
            self._client.download_file(self.bucket, name, str(path))  # into a temporary file, then renamed

    def check(self) -> None:
        with self._faults(""):
            self._client.list_objects_v2(Bucket=self.bucket, Prefix=self._prefix, MaxKeys=1)
        _probed.pop(self._endpoint, None)
        self.conditions  # noqa: B018 - writes, reads and deletes a probe

    @property
    def _endpoint(self) -> tuple[str, str]:
        return self._client.meta.endpoint_url, self.bucket

    @property
    def conditions(self) -> Conditions:
        """What this endpoint makes of conditional writes; tried once per process and bucket."""
        with _probing:
            if self._endpoint not in _probed:
                with self._faults(""):
                    found = _probed[self._endpoint] = self._probe()
                if not found.honoured:
                    logger.warning(
                        "%s does not honour conditional writes: shared files are written, read back and written again "
                        "until they hold every result. No result is lost by this.",
                        self._endpoint[0],
                    )
            return _probed[self._endpoint]

    def _probe(self) -> Conditions:
        name, data = f"{self._prefix}.probe-{uuid.uuid4().hex}", b"probe"
        etag = self._put_raw(name, data)["ETag"]
        try:
            create = self._refuses(name, data, IfNoneMatch="*")
            if not self._refuses(name, data, IfMatch=f'"{"0" * 32}"'):
                return Conditions(create, replace=False)
            quoted = not self._refuses(name, data, IfMatch=etag)
            return Conditions(create, quoted or not self._refuses(name, data, IfMatch=etag.strip('"')), quoted)
        finally:
            self._client.delete_object(Bucket=self.bucket, Key=name)

    def _refuses(self, name: str, data: bytes, **condition: str) -> bool:
        try:
            self._put_raw(name, data, **condition)
        except Exception as error:
            if status_of(error) == 501:  # the header is not implemented: the request says so instead of ignoring it
                return False
            if not is_refusal(error):
                raise
            return True
        return False

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _put(self, key: str, data: bytes) -> None:
        name = self._name(key)
        with self._faults(key):
            self._put_raw(name, data)

    def _put_raw(self, name: str, data: bytes, **condition: str) -> Any:
        return self._client.put_object(Bucket=self.bucket, Key=name, Body=data, **condition)

    def _decide(self, key: str, write: Callable[[], Any], version: str | None) -> bool:
        """Whether the conditional ``write`` took place; False where the object is no longer the one of ``version``."""
        for attempt in range(_LOOK_AGAIN):
            try:
                write()
                return True
            except Exception as error:
                if not is_refusal(error) and (status_of(error) or 0) < 500:
                    raise explain(error, self.uri, key) from error
            if self._version(key) != version:
                return False
            time.sleep(random.uniform(0, min(5.0, 0.1 * 2**attempt)))  # undecided: nobody has won yet
        raise UnavailableError(f"{self.uri} could not settle a conditional write of {key}; it is tried again later.")

    def _holds(self, key: str, data: bytes) -> bool | None:
        """True if the key holds ``data``, None if it is free. Raises ExistsError for anything else."""
        with suppress(NotFoundError):
            if self.get(key) != data:
                raise ExistsError(f"{key} exists already with other content and is written only once.")
            return True
        return None

    def _version(self, key: str) -> str | None:
        with suppress(NotFoundError):
            return self.get_versioned(key)[1]
        return None

    def _insist(self, key: str, read: Callable[[], T]) -> T:
        """Read again where the connection broke inside the body, which botocore does not repeat."""
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
    """Turns botocore's exceptions into the storage's."""

    def __init__(self, uri: str, key: str):
        self._uri, self._key = uri, key

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            explained = explain(error, self._uri, self._key)
            if explained is not error:
                raise explained from error

"""Find out whether an S3 endpoint honours conditional writes. Servers differ, and some ignore the headers."""

from __future__ import annotations

import logging
import threading
import uuid
from dataclasses import dataclass
from typing import Any

from amsam_ray.storage.s3_errors import is_refusal, status_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConditionalWrites:
    """The conditional writes that an endpoint honours.

    Attributes:
        create: a PUT with ``If-None-Match: *`` on an existing key is refused.
        replace: a PUT with a stale ``If-Match`` is refused and one with the current ETag is not.
        quoted: ``If-Match`` takes the ETag with its quotes (Ceph before 17 wants it without).
    """

    create: bool
    replace: bool
    quoted: bool = True

    @property
    def honoured(self) -> bool:
        """True if the endpoint decides races between writers."""
        return self.create and self.replace


Endpoint = tuple[str, str]
"""URL of an endpoint, and a bucket."""

KNOWN: dict[Endpoint, ConditionalWrites] = {}
"""The endpoints that this process has probed."""

_probing = threading.Lock()


def conditional_writes(client: Any, bucket: str, prefix: str) -> ConditionalWrites:
    """Return what the endpoint of ``client`` honours; probes it once per process and bucket.

    Args:
        client: a boto3 client.
        bucket: where to write the probe.
        prefix: prefix of the probe's key: empty, or with a slash at its end.
    """
    endpoint = client.meta.endpoint_url, bucket
    with _probing:
        if endpoint not in KNOWN:
            found = KNOWN[endpoint] = _probe(client, bucket, f"{prefix}.probe-{uuid.uuid4().hex}")
            if not found.honoured:
                logger.warning(
                    "%s does not honour conditional writes. Shared files are therefore written, read back and written "
                    "again until they contain every result. No result is lost.",
                    endpoint[0],
                )
        return KNOWN[endpoint]


def _probe(client: Any, bucket: str, name: str) -> ConditionalWrites:
    def refuses(**condition: str) -> bool:
        try:
            client.put_object(Bucket=bucket, Key=name, Body=b"probe", **condition)
        except Exception as error:
            if status_of(error) == 501:  # the server says that it does not implement the header
                return False
            if not is_refusal(error):
                raise
            return True
        return False

    etag = client.put_object(Bucket=bucket, Key=name, Body=b"probe")["ETag"]
    try:
        create = refuses(IfNoneMatch="*")
        if not refuses(IfMatch=f'"{"0" * 32}"'):
            return ConditionalWrites(create, replace=False)
        quoted = not refuses(IfMatch=etag)
        return ConditionalWrites(create, quoted or not refuses(IfMatch=etag.strip('"')), quoted)
    finally:
        client.delete_object(Bucket=bucket, Key=name)

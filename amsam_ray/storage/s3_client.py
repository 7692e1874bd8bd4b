"""The boto3 client of an S3 storage, for any endpoint that the standard AWS variables name."""

from __future__ import annotations

from typing import Any

from amsam_ray.storage.base import StorageError


def make_client(uri: str, *, patient: bool) -> Any:
    """Return a boto3 client for S3.

    Args:
        uri: the storage, for messages.
        patient: True for seven attempts per request and long timeouts, False for two attempts and short ones.

    Raises:
        StorageError: the endpoint is not a URL.
        botocore.exceptions.BotoCoreError: the AWS configuration is unusable.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    basic = Config(
        # The standard mode pays for retries from a quota per client; an outage exhausts it, and then nothing is
        # retried any more. The legacy mode has the same exponential backoff with full jitter and no quota.
        retries={"mode": "legacy", "total_max_attempts": 7 if patient else 2},
        connect_timeout=5,
        read_timeout=60 if patient else 10,
        max_pool_connections=32,
        tcp_keepalive=True,
        s3={"payload_signing_enabled": True},
    )
    session = boto3.session.Session()
    try:
        client = session.client("s3", config=basic)
    except BotoCoreError:
        raise
    except ValueError:  # botocore's answer to a malformed endpoint
        raise StorageError(f"{uri}: the endpoint is not a URL; check AWS_ENDPOINT_URL_S3.") from None
    if ".amazonaws.com" in client.meta.endpoint_url:
        return client
    # Other servers rarely resolve bucket names as host names or understand trailing checksums.
    other = Config(
        s3={"payload_signing_enabled": True, "addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return session.client("s3", config=basic.merge(other))

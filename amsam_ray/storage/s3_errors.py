"""Translate the errors of boto3 and S3 servers into one sentence with the remedy."""

from __future__ import annotations

from typing import Any

from amsam_ray.errors import AmsamError
from amsam_ray.storage.base import NotFoundError, StorageError, UnavailableError

_MISSING = {"NoSuchKey", "404", "NotFound"}
_BUSY = {"SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "RequestLimitExceeded", "503", "429"}
_REFUSED = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409"}
_REGION = {
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "InvalidRegion",
    "301",
}

# Error code of S3 -> message. {uri} is the storage, {action} the refused operation.
_SENTENCES = {
    "NoSuchBucket": "{uri}: the bucket does not exist; create it or correct its name.",
    "AccessDenied": "{uri}: access denied for {action}; allow these credentials to list, read, write and delete.",
    "AllAccessDisabled": "{uri}: the account is disabled; ask its owner.",
    "SignatureDoesNotMatch": "{uri}: the secret key does not match the access key; check AWS_SECRET_ACCESS_KEY.",
    "InvalidAccessKeyId": "{uri}: the access key is unknown here; check AWS_ACCESS_KEY_ID and the endpoint.",
    "InvalidClientTokenId": "{uri}: the access key is unknown to this endpoint; check AWS_ACCESS_KEY_ID.",
    "ExpiredToken": "{uri}: the session token has expired; get new credentials.",
    "InvalidToken": "{uri}: the session token is not valid; get new credentials.",
    "RequestTimeTooSkewed": "{uri}: this machine's clock differs too much from the server's; set the clock.",
    "RequestExpired": "{uri}: this machine's clock differs too much from the server's; set the clock.",
    "InvalidBucketName": "{uri}: not a valid bucket name; correct it.",
    "QuotaExceeded": "{uri}: the quota is exhausted; free some space.",
    "EntityTooLarge": "{uri}: the object is too large for this endpoint; raise its limit or use another endpoint.",
    "403": "{uri}: access denied for {action}; check the credentials and their permissions.",
}


def code_of(error: BaseException) -> str:
    """Return the error code of S3; empty for errors without one."""
    return str(_response(error).get("Error", {}).get("Code", ""))


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of ``error``, None if it has none."""
    return _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")


def is_refusal(error: BaseException) -> bool:
    """Return True for a refused conditional write: 412, 409 during another write, or 404 after a deletion."""
    return code_of(error) in _REFUSED or status_of(error) in (409, 412)


def explain(error: Exception, uri: str, key: str) -> Exception:
    """Return the storage's error for one of boto3's; any other error is returned unchanged.

    The text never contains credentials or the server's answer, which may quote them.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    if isinstance(error, AmsamError):
        return error
    if isinstance(error, Boto3Error):  # s3transfer wraps the actual error
        inner = error.__cause__ or error.__context__
        if isinstance(inner, Exception):
            return explain(inner, uri, key)
        return UnavailableError(f"{uri}: the transfer of {key} failed; try again later.")
    if isinstance(error, ClientError):
        return _from_server(error, uri, key)
    if isinstance(error, BotoCoreError):
        return _from_client(error, uri)
    if isinstance(error, ConnectionError | TimeoutError):
        return UnavailableError(f"{uri}: the connection broke; try again later.")
    return error


def _from_server(error: Any, uri: str, key: str) -> StorageError:
    code, status = code_of(error), status_of(error) or 0
    action = f"{error.operation_name} of {key or 'the bucket'}"
    if code in _MISSING:
        return NotFoundError(f"{key} does not exist in {uri}.")
    if code in _BUSY or status in (429, 503):
        return UnavailableError(f"{uri}: the server asks to slow down ({code}); try again later.")
    if code in _REGION:
        headers = _response(error).get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = _response(error).get("Error", {}).get("Region") or headers.get("x-amz-bucket-region")
        hint = f"AWS_REGION={region}" if region else "AWS_REGION to the bucket's"
        return StorageError(f"{uri}: the bucket is in another region; set {hint}.")
    if code in _SENTENCES:
        return StorageError(_SENTENCES[code].format(uri=uri, action=action))
    if status >= 500 or code in ("RequestTimeout", "InternalError"):
        return UnavailableError(f"{uri}: the server failed ({code or status}) at {action}; try again later.")
    return StorageError(f"{uri}: the server refused {action} ({code or status}); check its configuration.")


def _from_client(error: Exception, uri: str) -> StorageError:
    from botocore import exceptions as boto

    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return StorageError(f"{uri}: the credentials are incomplete; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.")
    if isinstance(error, boto.ProfileNotFound):
        return StorageError(f"{uri}: no AWS configuration file has the profile of AWS_PROFILE; correct it.")
    if isinstance(error, boto.ParamValidationError):
        return StorageError(f"{uri}: not a valid bucket name; correct it.")
    if isinstance(error, boto.SSLError):
        return StorageError(f"{uri}: the endpoint's certificate is not trusted; set AWS_CA_BUNDLE or use http://.")
    if isinstance(error, boto.ConnectTimeoutError | boto.ReadTimeoutError):
        return UnavailableError(f"{uri}: the endpoint did not answer in time; check the network and the endpoint.")
    if isinstance(error, boto.EndpointConnectionError):
        endpoint = error.kwargs.get("endpoint_url", "").split("?")[0]
        return UnavailableError(f"{uri}: nothing answers at {endpoint}; check AWS_ENDPOINT_URL_S3 and the network.")
    if isinstance(error, boto.HTTPClientError):
        return UnavailableError(f"{uri}: the connection broke; try again later.")
    if isinstance(error, boto.TokenRetrievalError | boto.CredentialRetrievalError | boto.SSOError):
        return StorageError(f"{uri}: the credentials could not be renewed; sign in again.")
    return StorageError(f"{uri}: request failed with {type(error).__name__}; check the endpoint and the AWS variables.")


def _response(error: BaseException) -> dict[str, Any]:
    response = getattr(error, "response", None)
    return response if isinstance(response, dict) else {}

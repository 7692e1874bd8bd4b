"""Datasets in buckets: list them without downloading, and mirror them once per node.

Works with any S3-compatible endpoint through boto3 and the standard AWS variables (AWS_ENDPOINT_URL_S3,
AWS_ACCESS_KEY_ID, ...).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from amsam_ray.config.datasets import path_fault
from amsam_ray.data.patterns import SUFFIXES
from amsam_ray.data.schema import unsafe_path
from amsam_ray.data.tree import KeyTree
from amsam_ray.errors import AmsamError, InputError, Problem
from amsam_ray.hashing import sha256_hex

_LOG = logging.getLogger(__name__)
_MANIFEST = "mirror.json"
_KEPT = SUFFIXES | {".gif", ".txt", ".json"}  # images, masks, lists of names, COCO files; no archives and arrays
_WORKERS = 8


@dataclass(frozen=True)
class _Object:
    path: str
    size: int
    etag: str


def list_tree(root: str) -> KeyTree:
    """List the images below ``s3://bucket/prefix`` as a tree.

    Raises:
        InputError: the address is malformed, the bucket does not answer, or the prefix holds no image.
    """
    objects = _list(root)
    if not objects:
        raise InputError(Problem(root, "holds no images; check bucket and prefix"))
    return KeyTree(root, [item.path for item in objects])


def mirror_folder(root: str, mirror_dir: Path) -> Path:
    """Return the folder of the local copy of ``root``; one per endpoint and root."""
    name = sha256_hex(f"{os.environ.get('AWS_ENDPOINT_URL_S3', '')}\0{root}")[:16]
    return mirror_dir / name


@cache
def mirror(root: str, mirror_dir: Path) -> Path:
    """Copy a dataset from a bucket to this node and return the folder of the copy.

    All processes of a node share one copy: the first one makes it under a lock while the others wait. A file gets its
    name only after its size and, where the server states one, its checksum have been verified. A later process
    downloads only what has changed since. If the bucket does not answer, a complete copy is used unchanged, with a
    warning. Each process compares the copy with the bucket once, so the data do not change during a sweep.

    Args:
        root: ``s3://bucket/prefix``.
        mirror_dir: folder for the copies of this node.

    Returns:
        The folder that holds the dataset's files.

    Raises:
        InputError: the address is malformed, or the bucket does not answer and there is no complete copy.
        AmsamError: a download fails or differs from the listing.
    """
    folder = mirror_folder(root, mirror_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        have = _read_manifest(folder)
        try:
            objects = _list(root)
        except InputError:
            if have is None:
                raise
            _LOG.warning("%s does not answer; using the complete copy in %s", root, folder)
            return folder / "files"
        if not objects:
            raise InputError(Problem(root, "holds no images; check bucket and prefix"))
        if have != {item.path: [item.size, item.etag] for item in objects} or not _complete(folder, objects):
            _synchronise(root, folder, objects, have or {})
    return folder / "files"


def _synchronise(root: str, folder: Path, objects: list[_Object], have: dict[str, list[Any]]) -> None:
    """Download new and changed objects, delete other files, and write the manifest of the complete copy."""
    client, (bucket, prefix) = _client(), _address(root)
    (folder / _MANIFEST).unlink(missing_ok=True)  # incomplete from here on

    def fetch(item: _Object) -> None:
        target = folder / "files" / item.path
        same = have.get(item.path) == [item.size, item.etag]
        if not (same and target.is_file() and target.stat().st_size == item.size):
            _download(client, bucket, prefix + item.path, item, target)

    try:
        with ThreadPoolExecutor(_WORKERS) as pool:
            list(pool.map(fetch, objects))
    except OSError as error:
        raise AmsamError(
            f"the copy of {root} in {folder} cannot be written ({error.strerror}); free space or choose another folder"
        ) from None
    wanted = {item.path for item in objects}
    for path in sorted((folder / "files").rglob("*")):
        if path.is_file() and path.relative_to(folder / "files").as_posix() not in wanted:
            path.unlink()
    part = folder / f"{_MANIFEST}.part"
    part.write_text(json.dumps({item.path: [item.size, item.etag] for item in objects}), encoding="utf-8")
    part.replace(folder / _MANIFEST)


def _download(client: Any, bucket: str, key: str, item: _Object, target: Path) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    md5, size = hashlib.md5(usedforsecurity=False), 0
    try:
        answer = client.get_object(Bucket=bucket, Key=key)
        with part.open("wb") as file:
            for chunk in answer["Body"].iter_chunks(1 << 20):
                file.write(chunk)
                md5.update(chunk)
                size += len(chunk)
    except (ClientError, BotoCoreError) as error:
        raise AmsamError(f"s3://{bucket}/{key} cannot be downloaded: {error}") from None
    # The ETag is the MD5 of an object that was stored in one part and not encrypted with a key of the user's.
    plain = "-" not in item.etag and answer.get("ServerSideEncryption") in (None, "AES256")
    if size != item.size or (plain and len(item.etag) == 32 and md5.hexdigest() != item.etag):
        part.unlink()
        raise AmsamError(f"s3://{bucket}/{key} arrived damaged or changed during the download; run the command again")
    part.replace(target)


def _complete(folder: Path, objects: list[_Object]) -> bool:
    paths = ((folder / "files" / item.path, item.size) for item in objects)
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _read_manifest(folder: Path) -> dict[str, list[Any]] | None:
    try:
        data = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _list(root: str) -> list[_Object]:
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, prefix = _address(root)
    try:
        return sorted(_objects(_client(), bucket, prefix), key=lambda item: item.path)
    except (ClientError, BotoCoreError, ValueError, KeyError) as error:  # the last two: an answer that is no listing
        what = f"cannot be listed ({error}); check the address, AWS_ENDPOINT_URL_S3 and the credentials"
        raise InputError(Problem(root, what)) from None


def _objects(client: Any, bucket: str, prefix: str) -> Iterator[_Object]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", ()):
            path = entry["Key"][len(prefix) :]
            if PurePosixPath(path).suffix.lower() not in _KEPT:
                continue
            if fault := path_fault(path):
                raise InputError(Problem(f"s3://{bucket}/{entry['Key']}"[:300], f"the key is refused: it {fault}"))
            if entry["Size"] < 0:
                raise ValueError(f"{path} has {entry['Size']} bytes")
            if reason := unsafe_path(path):
                raise InputError(Problem(f"s3://{bucket}/{entry['Key']}", f"the key is refused: {reason}"))
            yield _Object(path, entry["Size"], entry["ETag"].strip('"'))


def _address(root: str) -> tuple[str, str]:
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    if not root.startswith("s3://") or not bucket:
        raise InputError(Problem(root, "is not of the form s3://bucket/prefix"))
    prefix = prefix.strip("/")
    return bucket, f"{prefix}/" if prefix else ""


def _client() -> Any:
    import boto3
    from botocore.config import Config

    retries = {"max_attempts": 5, "mode": "standard"}
    config = Config(retries=retries, connect_timeout=10, read_timeout=60, max_pool_connections=_WORKERS)
    session = boto3.session.Session()  # the default session keeps the first credentials it reads
    client = session.client("s3", config=config)
    if ".amazonaws.com" in client.meta.endpoint_url:
        return client
    # Other servers rarely resolve bucket names as host names.
    return session.client("s3", config=config.merge(Config(s3={"addressing_style": "path"})))

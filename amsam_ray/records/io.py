"""Write and read the records of trials."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pydantic import ValidationError

from amsam_ray.config.wording import describe
from amsam_ray.errors import InputError, Problem
from amsam_ray.hashing import sha256_hex
from amsam_ray.records.schema import SCHEMA_VERSION, Record
from amsam_ray.storage.base import Entry, NotFoundError, Storage, StorageError, UnavailableError
from amsam_ray.training.result import TrialResult

logger = logging.getLogger(__name__)

_SWEEP = re.compile(r"[a-z0-9][a-z0-9_-]{0,79}")
_MAX_BYTES = 32 << 20
_AT_ONCE = 512
_THREADS = 16


class Sink(Protocol):
    """A destination of results: a ``Storage``, or a ``Spool`` in front of one."""

    def put(self, key: str, data: bytes) -> None: ...
    def create(self, key: str, data: bytes) -> None: ...
    def upload(self, key: str, path: Path) -> None: ...


class ReadRecords(NamedTuple):
    """The records of one sweep or of all, sorted by key, and one problem for each file that is not a record."""

    records: list[Record]
    problems: list[Problem]


def replace_damaged(storage: Storage, key: str, data: bytes) -> bool:
    """Replace a damaged file by a record; the file is kept as ``sweeps/<sweep>/damaged/<trial>.<hash>.json``.

    Args:
        storage: the storage.
        key: key of an existing file.
        data: content of the record.

    Returns:
        True if the file was replaced, False if it is itself a record.
    """
    old = storage.get(key)
    if isinstance(parse_record(key, old), Record):
        return False
    _, sweep, _, name = key.split("/")
    kept = f"sweeps/{sweep}/damaged/{name.removesuffix('.json')}.{sha256_hex(old)[:8]}.json"
    storage.put(kept, old)
    storage.put(key, data)
    logger.warning("%s was not a record and has been replaced by one; the old file is kept as %s.", key, kept)
    return True


def write_trial(sink: Sink, record: Record, result: TrialResult) -> None:
    """Store all results of a trial: adapter file, overlays and curve, and last the record that refers to them.

    Raises:
        ExistsError: another record has that key.
    """
    if record.adapter and result.adapter:
        sink.upload(record.adapter, result.adapter)
    for reference, overlay in zip(record.overlays, result.overlays, strict=True):
        sink.upload(reference.key, overlay.path)
    if record.curve_file:
        sink.put(record.curve_file, _curve_csv(record))
    sink.create(record.key, record.to_bytes())


def read_records(storage: Storage, sweep: str | None = None) -> ReadRecords:
    """Read all records of one sweep or of all sweeps.

    Returns:
        The records sorted by key, and one problem for each other file under ``records/``: truncated, unrelated, of a
        newer schema, or a record under another key than its own. These files are not changed.
    """
    records: list[Record] = []
    problems: list[Problem] = []
    sweeps = [sweep] if sweep is not None else list_sweeps(storage)
    for _, item in load(storage, list_records(storage, sweeps)):
        if isinstance(item, Record):
            records.append(item)
        else:
            problems.append(item)
    return ReadRecords(records, problems)


def list_records(storage: Storage, sweeps: Iterable[str]) -> Iterator[Entry]:
    """List all files under ``records/`` of these sweeps, sorted by key within each sweep."""
    with _mapper(storage) as each:
        for entries in each(lambda name: list(storage.list(records_folder(name))), sweeps):
            yield from entries


def records_folder(sweep: str) -> str:
    """Return the prefix of the records of a sweep."""
    return f"sweeps/{sweep}/records/"


def list_sweeps(storage: Storage) -> list[str]:
    """Return the ids of all sweeps in the storage; folders without a valid sweep name are skipped."""
    return [name for name in storage.folders("sweeps/") if _SWEEP.fullmatch(name)]


def load(storage: Storage, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Record | Problem]]:
    """Read and validate files, several at a time, in the given order; files that no longer exist are skipped."""
    rest = iter(entries)
    with _mapper(storage) as each:
        while chunk := list(islice(rest, _AT_ONCE)):
            for entry, item in zip(chunk, each(lambda e: _load(storage, e), chunk), strict=True):
                if item is not None:
                    yield entry, item


def parse_record(key: str, data: bytes) -> Record | Problem:
    """Return the record in ``data``, or the problem of the file at ``key``."""
    if len(data) > _MAX_BYTES:
        return Problem(
            key, f"skipped, not a record (larger than {_MAX_BYTES >> 20} MiB); delete it if it is not needed"
        )
    try:
        record = Record.model_validate_json(data)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        if place == "schema_version" and fault["type"] == "literal_error":
            return Problem(key, f"skipped: its schema is not {SCHEMA_VERSION}; read it with a newer amsam-ray")
        reason = "not complete JSON" if fault["type"] == "json_invalid" else f"{place or 'file'} {describe(fault)}"
        return Problem(key, f"skipped, not a record ({reason}); delete it if it is not needed")
    if record.key != key:
        return Problem(key, f"skipped: the record of {record.key} does not belong here; delete it")
    return record


@contextlib.contextmanager
def _mapper(storage: Storage) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a ``map``: with threads for a bucket, to hide its latency; without for a disk, where they gain nothing."""
    if not storage.uri.startswith("s3:"):
        yield map
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        yield pool.map


def _load(storage: Storage, entry: Entry) -> Record | Problem | None:
    if not entry.key.endswith(".json"):
        return Problem(entry.key, "skipped, not a record (its name does not end in .json); delete it")
    try:
        return parse_record(entry.key, storage.get(entry.key))
    except NotFoundError:
        return None
    except InputError:
        return Problem(entry.key, "skipped, not a record (no trial has such a name); delete it")
    except UnavailableError:
        raise
    except StorageError as error:  # such as a link out of the root, or a file without read permission
        return Problem(entry.key, f"skipped: {error}")


def _curve_csv(record: Record) -> bytes:
    columns = list(dict.fromkeys(name for entry in record.curve for name in entry))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(record.curve)
    return text.getvalue().encode()

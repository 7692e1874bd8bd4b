"""Writing and reading the records of trials."""

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
from typing import Any, Protocol

from pydantic import ValidationError

from amsam_ray.errors import InputError, Problem
from amsam_ray.hashing import sha256_hex
from amsam_ray.records.schema import SCHEMA_VERSION, Record
from amsam_ray.storage.base import Entry, NotFoundError, Storage, StorageError, UnavailableError
from amsam_ray.training.result import TrialResult

logger = logging.getLogger(__name__)

_SWEEP = re.compile(r"[a-z0-9][a-z0-9_-]{0,79}")
_AT_ONCE = 512
_THREADS = 16


class Sink(Protocol):
    """What takes results: a ``Storage``, or a ``Spool`` in front of one."""

    def put(self, key: str, data: bytes) -> None: ...
    def create(self, key: str, data: bytes) -> None: ...
    def upload(self, key: str, path: Path) -> None: ...


def write_record(sink: Sink, record: Record) -> None:
    """Store ``record`` under its key, once. Raises ExistsError if another record has that key."""
    sink.create(record.key, record.to_bytes())


def replace_damaged(storage: Storage, key: str, data: bytes) -> bool:
    """Put a record where a file lies that is none; that file is kept as ``sweeps/<sweep>/damaged/<trial>.<hash>.json``.

    Returns:
        Whether it was done. It is not where the file is a record.
    """
    old = storage.get(key)
    if isinstance(parse_record(key, old), Record):
        return False
    _, sweep, _, name = key.split("/")
    kept = f"sweeps/{sweep}/damaged/{name.removesuffix('.json')}.{sha256_hex(old)[:8]}.json"
    storage.put(kept, old)
    storage.put(key, data)
    logger.warning("%s was no record; it is now, and the file that lay there is %s.", key, kept)
    return True


def write_trial(sink: Sink, record: Record, result: TrialResult) -> None:
    """Store everything that a trial leaves: its adapter, pictures and curve, and the record that names them, last."""
    if record.adapter and result.adapter:
        sink.upload(record.adapter, result.adapter)
    for reference, overlay in zip(record.overlays, result.overlays, strict=True):
        sink.upload(reference.key, overlay.path)
    if record.curve_file:
        sink.put(record.curve_file, _curve_csv(record))
    write_record(sink, record)


def read_records(storage: Storage, sweep: str | None = None) -> tuple[list[Record], list[Problem]]:
    """All records, of one sweep or of all.

    Returns:
        The records sorted by key, and one problem for each file under ``records/`` that is not one: half-written,
        foreign, of a newer schema, or lying where it does not belong. Those are left alone.
    """
    records, problems = [], []
    sweeps = [sweep] if sweep is not None else list_sweeps(storage)
    for _, item in load(storage, list_records(storage, sweeps)):
        if isinstance(item, Record):
            records.append(item)
        else:
            problems.append(item)
    return records, problems


def list_records(storage: Storage, sweeps: Iterable[str]) -> Iterator[Entry]:
    """Every file under ``records/`` of these sweeps, sorted by key within each."""
    with _mapper(storage) as each:
        for entries in each(lambda name: list(storage.list(records_folder(name))), sweeps):
            yield from entries


def records_folder(sweep: str) -> str:
    """The prefix of a sweep's records."""
    return f"sweeps/{sweep}/records/"


def list_sweeps(storage: Storage) -> list[str]:
    """Ids of the sweeps that left anything; folders with names that no sweep has are passed over."""
    return [name for name in storage.folders("sweeps/") if _SWEEP.fullmatch(name)]


def load(storage: Storage, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Record | Problem]]:
    """Read and check files, several at a time, in the order given; files deleted meanwhile are left out."""
    rest = iter(entries)
    with _mapper(storage) as each:
        while chunk := list(islice(rest, _AT_ONCE)):
            for entry, item in zip(chunk, each(lambda e: _load(storage, e), chunk), strict=True):
                if item is not None:
                    yield entry, item


def parse_record(key: str, data: bytes) -> Record | Problem:
    """The record in ``data``, or what is wrong with the file at ``key``."""
    try:
        record = Record.model_validate_json(data)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        if place == "schema_version" and fault["type"] == "literal_error":
            return Problem(key, f"skipped: not of schema {SCHEMA_VERSION}; a newer amsam-ray can read it")
        reason = "not complete JSON" if fault["type"] == "json_invalid" else f"{place or 'file'}: {fault['msg']}"
        return Problem(key, f"skipped, not a record ({reason}); delete it if nobody needs it")
    if record.key != key:
        return Problem(key, f"skipped: the record of {record.key} does not belong here; delete it")
    return record


@contextlib.contextmanager
def _mapper(storage: Storage) -> Iterator[Callable[..., Iterator[Any]]]:
    """A ``map`` with threads for a bucket, whose latency they hide; reading a disk costs the interpreter's own time."""
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
    except StorageError as error:  # a link that leads elsewhere, a file that may not be read
        return Problem(entry.key, f"skipped: {error}")


def _curve_csv(record: Record) -> bytes:
    columns = list(dict.fromkeys(name for entry in record.curve for name in entry))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(record.curve)
    return text.getvalue().encode()

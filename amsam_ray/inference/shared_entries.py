"""Prepared inputs that nodes share through a sweep's storage, in ``prepared/<scope>/<key>.safetensors``.

A node downloads an entry that is cheaper to download than to compute, and uploads what it computed. The storage is not
trusted: an entry is taken only if it has exactly the tensors, dtypes and shapes that the node would compute. Whatever
fails, the node computes.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from safetensors.torch import save
from torch import Tensor

from amsam_ray.errors import AmsamError
from amsam_ray.hashing import sha256_hex
from amsam_ray.models.tensor_file import load_tensors, read_header
from amsam_ray.storage.base import NotFoundError, Storage

logger = logging.getLogger(__name__)

FOLDER = "prepared"
AT_ONCE = 16
"""Entries downloaded in one call of ``SharedEntries.fetch``."""
_REFRESH_S = 10.0  # how long a listing counts as recent
_PAUSE_S = 60.0  # how long the storage is left alone after a failure
_UPLOAD_WORTH = 4.0  # an upload may take this many times as long as computing: several nodes save the latter
_HEADER_BYTES = 1 << 16
_DTYPES = ("F64", "BOOL")  # of boxes and flags, besides those of features
_SECONDS = "compute_s"
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class EntryForm:
    """What an entry has to be.

    Attributes:
        scope: the folder of all entries of this form: a word and 16 hex digits.
        tensors: dtype and shape by name.
    """

    scope: str
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]

    @classmethod
    def of(cls, kind: str, network: str, **tensors: tuple[torch.dtype, tuple[int, ...]]) -> EntryForm:
        """Return the form of the entries of one kind that one network computes.

        Args:
            kind: for example ``features``; letters.
            network: identifies the network and its settings.
            tensors: dtype and shape by name.
        """
        return cls(f"{kind}-{sha256_hex(network)[:16]}", tensors)

    @property
    def max_bytes(self) -> int:
        """The largest file that can hold such an entry."""
        return _HEADER_BYTES + sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.tensors.values())


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, seconds: float, count: int) -> None:
        self.total, self.count = self.total + seconds, self.count + count

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass
class _Scope:
    """What this process knows of the entries of one form; seconds are of one entry.

    Attributes:
        there: keys in the storage.
        listed: when they were listed, on the monotonic clock.
        download, compute, upload: measured by this process.
        stated: the latest time of computing that an uploader stated.
    """

    there: set[str] = field(default_factory=set)
    listed: float = -math.inf
    download: _Mean = field(default_factory=_Mean)
    compute: _Mean = field(default_factory=_Mean)
    upload: _Mean = field(default_factory=_Mean)
    stated: float | None = None

    @property
    def worthwhile(self) -> bool:
        compute = self.stated if self.compute.value is None else self.compute.value
        return self.download.value is None or compute is None or self.download.value <= compute

    @property
    def worth_uploading(self) -> bool:
        compute, upload = self.compute.value, self.upload.value
        return compute is None or upload is None or upload <= _UPLOAD_WORTH * compute


class SharedEntries:
    """The shared entries of a storage, as one process uses them.

    Args:
        storage: of the sweep; one that does not retry for long.

    Attributes:
        downloaded: number of entries downloaded.
        uploaded: number of entries uploaded.
    """

    def __init__(self, storage: Storage):
        self._storage = storage
        self._scopes: dict[str, _Scope] = {}
        self._refused: set[str] = set()  # keys whose content in the storage is not an entry
        self._paused_until = -math.inf
        self._told = False
        self._pool = ThreadPoolExecutor(AT_ONCE // 2, thread_name_prefix="amsam-prepared")
        self.downloaded = 0
        self.uploaded = 0

    def offered(self, form: EntryForm, keys: Iterable[str]) -> set[str]:
        """Return those of ``keys`` that the storage has, if downloading them is cheaper than computing.

        The first ones are downloaded in any case. From then on the measured seconds of a download count against
        those of this process's own computing, or, before it has computed any, against what the uploader needed.
        """
        scope = self._scopes.setdefault(form.scope, _Scope())
        if not scope.worthwhile or time.monotonic() < self._paused_until:
            return set()
        if time.monotonic() - scope.listed > _REFRESH_S:
            try:
                scope.there = self._list(form)
            except (AmsamError, OSError) as error:
                self._pause(error)
                return set()
            scope.listed = time.monotonic()
        return scope.there.intersection(keys) - self._refused

    def fetch(self, form: EntryForm, keys: list[str]) -> dict[str, tuple[dict[str, Tensor], bytes]]:
        """Download at most ``AT_ONCE`` entries at a time.

        Returns:
            Key -> tensors on the CPU and the content of the file; without those that could not be had.
        """
        scope, started = self._scopes.setdefault(form.scope, _Scope()), time.perf_counter()
        found = {}
        for key, result in zip(keys, self._pool.map(lambda key: self._get(form, key), keys), strict=True):
            if isinstance(result, bytes):
                entry = self._parse(form, key, result, scope)
                if entry is not None:
                    found[key] = entry, result
            elif isinstance(result, NotFoundError):  # deleted since it was listed
                scope.there.discard(key)
            else:
                self._pause(result)
        if found:
            scope.download.add(time.perf_counter() - started, len(found))
            self.downloaded += len(found)
        return found

    def computed(self, form: EntryForm, seconds: float, count: int) -> None:
        """Note how long this process took to compute ``count`` entries."""
        self._scopes.setdefault(form.scope, _Scope()).compute.add(seconds, count)

    def measured(self, form: EntryForm) -> str:
        """Return the seconds of one entry that decide whether it is downloaded or computed, in words for the log."""
        scope = self._scopes.setdefault(form.scope, _Scope())
        seconds = {
            "to download": scope.download.value,
            "to compute here": scope.compute.value,
            "to compute on the node that uploaded it": scope.stated if scope.compute.value is None else None,
        }
        known = [f"{value:.3g} s {what}" for what, value in seconds.items() if value is not None]
        return f"one takes {' and '.join(known)}" if known else "nothing is measured yet"

    def add(self, form: EntryForm, entries: Mapping[str, Mapping[str, Tensor]]) -> list[Future[None]]:
        """Start to upload entries that this process computed, by key. The futures raise nothing.

        After the first ones, nothing is uploaded that takes much longer to upload than to compute.
        """
        scope = self._scopes.setdefault(form.scope, _Scope())
        if not scope.worth_uploading:
            return []
        stated = {_SECONDS: f"{scope.compute.value:.4g}"} if scope.compute.value is not None else None
        return [self._pool.submit(self._put, form, key, dict(entry), stated) for key, entry in entries.items()]

    def _put(self, form: EntryForm, key: str, entry: dict[str, Tensor], stated: dict[str, str] | None) -> None:
        scope = self._scopes[form.scope]
        if time.monotonic() < self._paused_until or (key in scope.there and key not in self._refused):
            return
        started = time.perf_counter()
        try:
            self._storage.put(_path(form, key), save(entry, metadata=stated))
        except (AmsamError, OSError) as error:
            self._pause(error)
            return
        scope.upload.add(time.perf_counter() - started, 1)
        scope.there.add(key)
        self._refused.discard(key)
        self.uploaded += 1

    def _list(self, form: EntryForm) -> set[str]:
        folder = f"{FOLDER}/{form.scope}/"
        names = {
            entry.key.removeprefix(folder).removesuffix(".safetensors")
            for entry in self._storage.list(folder)
            if entry.key.endswith(".safetensors") and 0 < entry.size <= form.max_bytes
        }
        return {name for name in names if _KEY.fullmatch(name)}

    def _get(self, form: EntryForm, key: str) -> bytes | Exception:
        try:
            return self._storage.get(_path(form, key))
        except (AmsamError, OSError) as error:
            return error

    def _parse(self, form: EntryForm, key: str, content: bytes, scope: _Scope) -> dict[str, Tensor] | None:
        where = _path(form, key)
        try:
            if len(content) > form.max_bytes:
                raise AmsamError(f"{where} has {len(content)} bytes, more than an entry can have.")
            header = read_header(content, where, other_dtypes=_DTYPES)
            if header.shapes != {name: shape for name, (_, shape) in form.tensors.items()}:
                raise AmsamError(f"{where} has other tensors than an entry of this network.")
            entry = load_tensors(content, where)
            if any(entry[name].dtype != dtype for name, (dtype, _) in form.tensors.items()):
                raise AmsamError(f"{where} has tensors of another type than an entry of this network.")
        except AmsamError as error:
            self._refused.add(key)
            self._tell(f"{error} It is computed here, and replaced.")
            return None
        stated = _seconds(header.metadata.get(_SECONDS, ""))
        scope.stated = scope.stated if stated is None else stated
        return entry

    def _pause(self, error: Exception) -> None:
        self._paused_until = time.monotonic() + _PAUSE_S
        self._tell(f"{error} Prepared inputs are computed on this node instead of shared, until the storage answers.")

    def _tell(self, text: str) -> None:
        """Log a failure, once per process: it costs time and nothing else."""
        if not self._told:
            self._told = True
            logger.warning("%s: %s", self._storage.uri, text)


def _path(form: EntryForm, key: str) -> str:
    return f"{FOLDER}/{form.scope}/{key}.safetensors"


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None

"""Storage in a local folder, safe against crashes and against other processes on the same file system."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from amsam_ray.errors import with_remedy
from amsam_ray.hashing import sha256_hex
from amsam_ray.storage.base import (
    ConflictError,
    Entry,
    ExistsError,
    NotFoundError,
    Storage,
    StorageError,
    UnavailableError,
    check_key,
    check_prefix,
)

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
_TEMPORARY = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.EMFILE,
    errno.ENFILE,
}
_CLOCK_TICK_NS = 2 * 10**9  # resolution of FAT time stamps; other file systems are finer


class LocalStorage(Storage):
    """One file per object.

    A write goes to a hidden temporary file in the same folder, is synced to disk and then gets its name by ``rename``
    (``put``) or by ``link`` (``create``), which the kernel refuses if the name is taken. ``replace`` compares and
    renames under an advisory lock per key, in ``.locks`` of the root.

    Args:
        root: the folder; the first write creates it. Symbolic links below it that lead out of it are refused.
    """

    def __init__(self, root: Path):
        self.root = Path(os.path.abspath(root.expanduser()))
        self.uri = str(self.root)

    def get(self, key: str) -> bytes:
        with _faults(key):
            return self._path(key).read_bytes()

    def get_versioned(self, key: str) -> tuple[bytes, str]:
        data = self.get(key)
        return data, sha256_hex(data)

    def put(self, key: str, data: bytes) -> None:
        self._write(key, lambda file: file.write(data), os.replace)

    def create(self, key: str, data: bytes) -> None:
        try:
            self._write(key, lambda file: file.write(data), lambda new, path: self._link(key, new, path))
        except FileExistsError:
            if self.get(key) != data:
                raise ExistsError(f"{key} already exists with other content and is never overwritten.") from None

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        with self._lock(key):
            try:
                current: str | None = self.get_versioned(key)[1]
            except NotFoundError:
                current = None
            if current != version:
                raise ConflictError(f"{key} was changed by another writer; read it again.")
            self.put(key, data)

    def list(self, prefix: str) -> Iterator[Entry]:
        folder = self._folder(prefix)
        with _faults(prefix):
            return iter(sorted(_scan(folder, prefix)))  # by key, which is unique

    def folders(self, prefix: str) -> tuple[str, ...]:
        with _faults(prefix), contextlib.suppress(FileNotFoundError), os.scandir(self._folder(prefix)) as items:
            return tuple(sorted(item.name for item in items if item.is_dir() and not item.name.startswith(".")))
        return ()

    def folder_stamp(self, prefix: str) -> str | None:
        content = hashlib.blake2b(digest_size=16)
        try:
            folder = self._folder(prefix)
            newest = folder.stat().st_mtime_ns
            with os.scandir(folder) as items:
                for item in items:  # the order is stable while no file is added or removed
                    info = item.stat()
                    newest = max(newest, info.st_mtime_ns)
                    content.update(f"{item.name}/{_stamp(info)}/".encode())
        except OSError:
            return None
        # A write within the same tick of the file system's clock would not change the stamp.
        return content.hexdigest() if time.time_ns() - newest > _CLOCK_TICK_NS else None

    def delete(self, key: str) -> None:
        with _faults(key), contextlib.suppress(FileNotFoundError):
            self._path(key).unlink()

    def upload(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            self._write(key, lambda file: shutil.copyfileobj(source, file, 1 << 20), os.replace)

    def download(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with _faults(key), self._path(key).open("rb") as source, partial.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def check(self) -> None:
        place = self.root
        while not place.exists() and not place.is_symlink():
            place = place.parent
        if not place.is_dir():
            raise StorageError(f"{self.root} cannot store results: {place} is not a directory; choose another folder.")
        probe = place / f".amsam-ray-{uuid.uuid4().hex}"
        try:
            probe.write_bytes(b"probe")
        except OSError as error:
            raise StorageError(
                f"{self.root} is not writable ({error.strerror}); choose another folder or change its permissions."
            ) from None
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        path = self.root / check_key(key)
        # A link in a shared folder must not redirect a write to a place outside.
        if os.path.islink(path) or os.path.realpath(path.parent) != str(path.parent):
            root, real = os.path.realpath(self.root), os.path.realpath(path)
            if os.path.commonpath([root, real]) != root:
                raise StorageError(f"{key} leads out of {self.root} through a symbolic link; remove the link.")
        return path

    def _folder(self, prefix: str) -> Path:
        return self._path(f"{check_prefix(prefix)}x").parent

    def _write(self, key: str, fill: Callable[[BinaryIO], object], appear: Callable[[Path, Path], object]) -> None:
        """Let ``fill`` write a temporary file, sync it, and let ``appear(temporary, final)`` name it."""
        path = self._path(key)
        with _faults(key):
            _make_folder(path.parent)
            new = path.with_name(f".{uuid.uuid4().hex}.tmp")
            try:
                with new.open("xb") as file:
                    fill(file)
                    file.flush()
                    os.fsync(file.fileno())
                appear(new, path)
                _sync_folder(path.parent)
            finally:
                new.unlink(missing_ok=True)

    def _link(self, key: str, new: Path, path: Path) -> None:
        """Give ``new`` the name ``path``. Raises FileExistsError if the name is taken."""
        try:
            os.link(new, path)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            # FAT and some network shares have no hard links; the key's lock decides instead.
            with self._lock(key):
                if path.exists():
                    raise FileExistsError(errno.EEXIST, "exists", str(path)) from None
                os.replace(new, path)

    @contextlib.contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        folder = self.root / ".locks"
        with _faults(key):
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / sha256_hex(key)[:32]).open("ab")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _scan(folder: Path, prefix: str) -> Iterator[Entry]:
    try:
        items = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with items:
        for item in items:
            if item.name.startswith("."):
                continue
            if item.is_dir(follow_symlinks=False):
                yield from _scan(Path(item.path), f"{prefix}{item.name}/")
                continue
            try:
                info = item.stat()
            except FileNotFoundError:  # deleted since the folder was opened
                continue
            yield Entry(prefix + item.name, info.st_size, _stamp(info))


def _stamp(info: os.stat_result) -> str:
    return f"{info.st_ino:x}-{info.st_mtime_ns:x}-{info.st_size:x}"


@contextlib.contextmanager
def _faults(key: str) -> Iterator[None]:
    """Turn errors of the operating system into those of the storage."""
    try:
        yield
    except FileExistsError:
        raise
    except (FileNotFoundError, IsADirectoryError):
        raise NotFoundError(f"{key} does not exist.") from None
    except OSError as error:
        kind = UnavailableError if error.errno in _TEMPORARY else StorageError
        error.filename = error.filename or key
        raise kind(f"{with_remedy(error)}.") from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, "is a file where a folder is needed", str(folder)) from None


def _sync_folder(folder: Path) -> None:
    """Make a rename or a link in ``folder`` survive a power failure."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

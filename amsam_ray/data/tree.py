"""The files below a data root, a local folder or the keys of a bucket, through one small interface.

Nothing outside the root is read. Links are followed; one that leaves the root or leads back to itself is listed
as such and not as a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

Kind = Literal["file", "folder", "missing", "loop", "outside", "broken"]


@dataclass(frozen=True)
class TreeEntry:
    """One entry of a folder.

    Attributes:
        name: file or folder name, without its parent folder.
        kind: ``file`` or ``folder``; for unusable links ``loop`` (to itself or a folder above it), ``outside`` (out
            of the root) or ``broken`` (no target). ``missing`` is the kind of a path that does not exist.
    """

    name: str
    kind: Kind


class Tree(Protocol):
    """The part of a data root that the layout scan reads."""

    uri: str

    def kind(self, path: str) -> Kind:
        """Return the kind of ``path``, which is relative to the root."""

    def folder(self, path: str) -> list[TreeEntry]:
        """List a folder sorted by name, without hidden entries; empty if there is no such folder."""

    def read_text(self, path: str, limit: int) -> str:
        """Return the UTF-8 text of a file. Raises OSError if it cannot be read or has more than ``limit`` bytes."""

    def read_ends(self, path: str, size: int) -> bytes:
        """Return the first and the last ``size`` bytes of a file. Raises OSError if it cannot be read."""


class LocalTree:
    """A folder on this machine.

    Args:
        root: the data root, possibly a link itself.
    """

    def __init__(self, root: Path):
        self.uri = str(root)
        self.root = root.expanduser().resolve()

    def kind(self, path: str) -> Kind:
        return self._kind(self.root / path)

    def folder(self, path: str) -> list[TreeEntry]:
        if self.kind(path) != "folder":
            return []
        with os.scandir(self.root / path) as scanned:
            entries = sorted((e for e in scanned if not e.name.startswith(".")), key=lambda e: e.name)
        return [TreeEntry(e.name, self._entry_kind(e)) for e in entries]

    def _entry_kind(self, entry: os.DirEntry[str]) -> Kind:
        if entry.is_symlink():  # resolving a path is slow and only links need it
            return self._kind(Path(entry.path))
        return "folder" if entry.is_dir() else "file"

    def read_text(self, path: str, limit: int) -> str:
        if self.kind(path) != "file":
            raise FileNotFoundError(f"no file {path} below {self.uri}")
        return read_text(self.root / path, limit)

    def read_ends(self, path: str, size: int) -> bytes:
        if self.kind(path) != "file" or not (self.root / path).is_file():
            raise FileNotFoundError(f"no file {path} below {self.uri}")
        with (self.root / path).open("rb") as file:
            start = file.read(size)
            length = file.seek(0, os.SEEK_END)
            file.seek(max(len(start), length - size))
            return start + file.read(size)

    def _kind(self, path: Path) -> Kind:
        try:
            real = path.resolve(strict=True)
        except FileNotFoundError:
            return "broken" if path.is_symlink() else "missing"
        except (OSError, RuntimeError):  # ELOOP: OSError from Python 3.13 on, RuntimeError before
            return "loop"
        if not real.is_relative_to(self.root):
            return "outside"
        if path.is_symlink() and real in path.parent.resolve().joinpath("x").parents:
            return "loop"
        return "folder" if real.is_dir() else "file"


class KeyTree:
    """The keys of a bucket below a prefix.

    Args:
        uri: the root as the user wrote it.
        keys: all keys below the prefix, without the prefix.
    """

    def __init__(self, uri: str, keys: Iterable[str]):
        self.uri = uri
        self._folders: dict[str, dict[str, Kind]] = {"": {}}
        for key in keys:
            path = PurePosixPath(key)
            self._folders.setdefault(_text(path.parent), {})[path.name] = "file"
            for above in path.parents[:-1]:
                self._folders.setdefault(_text(above), {})
                self._folders.setdefault(_text(above.parent), {})[above.name] = "folder"

    def kind(self, path: str) -> Kind:
        clean = _text(PurePosixPath(path))
        if clean in self._folders:
            return "folder"
        parent = self._folders.get(_text(PurePosixPath(clean).parent), {})
        return parent.get(PurePosixPath(clean).name, "missing")

    def folder(self, path: str) -> list[TreeEntry]:
        entries = self._folders.get(_text(PurePosixPath(path)), {})
        return [TreeEntry(name, entries[name]) for name in sorted(entries) if not name.startswith(".")]

    def read_text(self, path: str, limit: int) -> str:
        raise OSError(f"{path} can be read once {self.uri} is mirrored")

    def read_ends(self, path: str, size: int) -> bytes:
        raise OSError(f"{path} can be read once {self.uri} is mirrored")


def read_text(path: Path, limit: int) -> str:
    """Return the UTF-8 text of a local file. Raises OSError if it cannot be read or has more than ``limit`` bytes."""
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(f"{path} is larger than {limit >> 20} MiB")
    return content.decode()


def _text(path: PurePosixPath) -> str:
    return "" if str(path) == "." else str(path)

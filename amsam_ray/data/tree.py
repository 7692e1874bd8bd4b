"""The files below a data root, whether a local folder or the keys of a bucket, seen through one small interface.

Nothing outside the root is ever reached: links are followed, and where one leaves the root or leads back
to itself the entry says so instead of being listed as a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

Kind = Literal["file", "folder", "missing", "loop", "outside", "broken"]


@dataclass(frozen=True)
class Entry:
    """One name in a folder.

    Attributes:
        name: without its folder.
        kind: ``file`` or ``folder``; for links that lead nowhere useful ``loop`` (to itself or a folder above
            it), ``outside`` (out of the root) or ``broken`` (to nothing); ``missing`` only for whole paths.
    """

    name: str
    kind: Kind


class Tree(Protocol):
    """What the layout scan needs of a data root."""

    uri: str

    def kind(self, path: str) -> Kind:
        """What lies at ``path``, relative to the root."""

    def folder(self, path: str) -> list[Entry]:
        """The entries of a folder, sorted by name, hidden ones left out; empty if there is no such folder."""

    def read_text(self, path: str) -> str:
        """The UTF-8 text of a file. Raises OSError if it cannot be read."""


class LocalTree:
    """A folder of this machine.

    Args:
        root: the data root; may itself be a link.
    """

    def __init__(self, root: Path):
        self.uri = str(root)
        self.root = root.expanduser().resolve()

    def kind(self, path: str) -> Kind:
        return self._kind(self.root / path)

    def folder(self, path: str) -> list[Entry]:
        if self.kind(path) != "folder":
            return []
        with os.scandir(self.root / path) as scanned:
            entries = sorted((e for e in scanned if not e.name.startswith(".")), key=lambda e: e.name)
        return [Entry(e.name, self._entry_kind(e)) for e in entries]

    def _entry_kind(self, entry: os.DirEntry[str]) -> Kind:
        if entry.is_symlink():  # only links are worth the cost of resolving a path
            return self._kind(Path(entry.path))
        return "folder" if entry.is_dir() else "file"

    def read_text(self, path: str) -> str:
        if self.kind(path) != "file":
            raise FileNotFoundError(f"no file {path} below {self.uri}")
        return (self.root / path).read_text(encoding="utf-8")

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
        keys: all keys below the prefix, the prefix removed.
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

    def folder(self, path: str) -> list[Entry]:
        entries = self._folders.get(_text(PurePosixPath(path)), {})
        return [Entry(name, entries[name]) for name in sorted(entries) if not name.startswith(".")]

    def read_text(self, path: str) -> str:
        raise OSError(f"{path} can be read once {self.uri} is mirrored")


def _text(path: PurePosixPath) -> str:
    return "" if str(path) == "." else str(path)

"""Small disks that tests fill or make read-only, in mounts that only the test sees."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

_CLONE_NEWNS = 0x00020000


def own_mounts(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a thread with mounts of its own; processes that it starts share them, and they end with it."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        def inside() -> None:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
                pytest.skip(f"mounting is not allowed here ({os.strerror(ctypes.get_errno())}); run as root")
            _mount("--make-rprivate", "/")
            test(*args, **kwargs)

        with ThreadPoolExecutor(1) as thread:
            thread.submit(inside).result()

    return run


class Disk:
    """A disk of a few KiB in memory, mounted at ``folder``, which is created."""

    def __init__(self, folder: Path, kib: int):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _mount("-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder))

    def fill(self) -> None:
        """Leave no room for another byte."""
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                return

    def free(self) -> None:
        """Undo ``fill``."""
        self._ballast.unlink()

    def read_only(self, value: bool) -> None:
        """Mount the disk again, read-only or writable."""
        _mount("-o", "remount,ro" if value else "remount,rw", str(self.folder))

    def close(self) -> None:
        """Unmount the disk and remove its folder, for one that is not below the test's own folder."""
        subprocess.run(["umount", "-l", str(self.folder)], check=True)
        self.folder.rmdir()

    @property
    def _ballast(self) -> Path:
        return self.folder / ".ballast"


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here ({done.stderr.strip()}); run as root")

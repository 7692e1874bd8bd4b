"""A process that outlives a driver, ends what is left of its Ray processes and removes its temporary folder.

Ray's own processes watch their parents, but a killed driver's agents and half-started workers stay for a minute or
longer. The watchdog reads from a pipe whose only write end the driver holds. The kernel closes it when the driver ends,
even by SIGKILL. Ray's processes are recognised by an entry of their environment, which only ``Watchdog.mark`` sets.

Run as a script it needs the standard library only, so that it starts at once and takes little memory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_MARK = "AMSAM_RAY_FOLDER"
_GRACE_S = 5.0  # for processes that end by themselves; Ray's workers take two to three seconds
_GIVE_UP_S = 30.0
_EVERY_S = 0.2


class Watchdog:
    """Guards the Ray processes of this driver from its construction to ``close``.

    Args:
        folder: the driver's temporary folder; it is removed at the end.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        # A session of its own, so that Ctrl-C in the driver's terminal does not end it.
        self._process = subprocess.Popen(  # noqa: S603  # this file
            [sys.executable, "-I", "-S", __file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    @contextlib.contextmanager
    def mark(self) -> Iterator[None]:
        """Mark every process that is started inside, and their children."""
        # Ray's agents write their titles over the start of their environment unless setproctitle is told not to.
        marks = {_MARK: str(self._folder), "SPT_NOENV": "1"}
        before = {name: os.environ.get(name) for name in marks}
        os.environ.update(marks)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def close(self) -> None:
        """End what is left and wait until it has ended."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def _marked(folder: str) -> list[int]:
    """Return the processes of this user that are marked with ``folder``."""
    entry, found = f"{_MARK}={folder}".encode(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if entry in file.read().split(b"\0"):
                    found.append(int(name))
    return found


def _wait_and_end(folder: str) -> None:
    sys.stdin.buffer.read()  # until the driver has ended or closes the pipe
    killing, over = time.monotonic() + _GRACE_S, time.monotonic() + _GIVE_UP_S
    while (left := _marked(folder)) and time.monotonic() < over:
        if time.monotonic() >= killing:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_EVERY_S)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _wait_and_end(sys.argv[1])

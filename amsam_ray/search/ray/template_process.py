"""The template of Ray's workers: a process that imports what workers need and then forks for every worker.

Ray starts a new Python for every worker, which imports Ray, Ray Train and torch: one to five seconds of a core for each
of a lane's processes. A fork of a process that has imported them takes a tenth of a second and shares their memory.

A fork copies the calling thread only, and nothing of a GPU. So this process starts no thread, uses no library that
does, and never loads CUDA's driver; it checks both before every fork. Ray's own library is loaded but not started.

Run as a script with the listening socket and the pipe of the driver as its standard input. It prints one line about
itself, for the driver's log.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter
from typing import Any

# Imported before the first workers of a sweep are forked: the lane and its mailbox.
_FIRST = (
    "numpy.random",
    "ray._private.workers",
    "ray._private.node",
    "ray._private.runtime_env.setup_hook",
    "ray.train.v2._internal.execution.controller",
    "ray.train.v2.api.data_parallel_trainer",
    "ray.tune",
    "amsam_ray.search.ray.lane",
)
_FIRST_WORKERS = 2
_NO_JOB = "ffffffff"
_PATIENCE_S = 10.0  # for the rest of a request
_LARGEST = 16 << 20  # bytes of a request: an environment and arguments have at most 2 MiB on Linux
_CRASHES = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV)


class _Refused(Exception):
    """This process must not fork. ``str(error)`` is the reason."""


def _check() -> None:
    """Raise _Refused if a fork of this process might not work."""
    threads = [_line(f"/proc/self/task/{thread}/comm") for thread in os.listdir("/proc/self/task")]
    if len(threads) > 1:
        raise _Refused(f"it runs {len(threads)} threads ({', '.join(threads)})")
    with open("/proc/self/maps") as file:
        if "libcuda.so" in file.read():
            raise _Refused("CUDA is loaded")


def _line(path: str) -> str:
    with open(path) as file:
        return file.readline().strip()


class _OwnClassIds:
    """Stands for Ray's ``ActorClassID`` during imports, which draw one for each class of actors that they define.

    Ray's own draw would seed its random numbers, and all forks would continue with the same ones.
    """

    def __init__(self, ordinary: Any):
        self._ordinary = ordinary

    def from_random(self) -> Any:
        """Return a new random id."""
        return self._ordinary(os.urandom(self._ordinary.size()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ordinary, name)


def _check_ids() -> None:
    """Raise _Refused if two forks draw the same random ids."""
    ray = importlib.import_module("ray")
    drawn = []
    for _ in range(2):
        end, start = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(start, ray.WorkerID.from_random().binary())
            os._exit(0)
        os.close(start)
        with open(end, "rb") as file:
            drawn.append(file.read())
        os.waitpid(pid, 0)
    if drawn[0] == drawn[1]:
        raise _Refused("Ray's random numbers have been used")


class _Template:
    """Serves requests for forks.

    Args:
        listener: the socket at which workers ask.
        driver: the read end of the driver's pipe.
    """

    def __init__(self, listener: socket.socket, driver: int):
        self._listener: socket.socket | None = listener
        self._ends = [driver]  # descriptors that become readable when the driver or the raylet has ended
        self._died, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._own = [self._died, wake]  # not of the forks
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake)
        self._forked = 0

    def serve(self, *, at_most: int | None = None, wait: bool = True) -> dict[str, Any] | None:
        """Fork for everyone who asks; returns in a fork its request, and in this process None.

        Args:
            at_most: forks of this process's life after which to return; None: until the driver or the raylet has ended.
            wait: whether to wait for requests.
        """
        while at_most is None or self._forked < at_most:
            watched: list[Any] = [*self._ends, self._died]
            if self._listener is not None:
                watched.append(self._listener)
            ready, _, _ = select.select(watched, [], [], None if wait else 0)
            if any(end in ready for end in self._ends):
                sys.exit()
            if self._died in ready:
                self._bury()
            elif self._listener is not None and self._listener in ready:
                request = self._accept()
                if request is not None:
                    return request
            else:
                return None
        return None

    def _bury(self) -> None:
        """Take note of forks that have ended. After a crash this process forks no more, in case that was the reason."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._died, 4096)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if os.WIFSIGNALED(ended[1]) and os.WTERMSIG(ended[1]) in _CRASHES and self._listener is not None:
                    self.refuse(f"a worker ended with {signal.Signals(os.WTERMSIG(ended[1])).name}")

    def refuse(self, reason: str) -> None:
        """Fork no more. The process stays, as its forks live no longer than it."""
        print(f"not used: {' '.join(reason.split())}; Ray starts its workers itself", flush=True)
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _accept(self) -> dict[str, Any] | None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(_PATIENCE_S)
                return self._answer(connection)
        except (OSError, ValueError, KeyError, TypeError):
            return None  # who asked has ended, or starts its worker without this process

    def _answer(self, connection: socket.socket) -> dict[str, Any] | None:
        """Fork for one request; returns in the fork the request, and here None."""
        if _user_of(connection) != os.getuid():
            return None
        length, streams, _, _ = socket.recv_fds(connection, 8, 3)
        try:
            request: dict[str, Any] = json.loads(_receive(connection, int.from_bytes(length, "big")))
            if len(self._ends) == 1:
                self._ends.append(os.pidfd_open(int(request["environment"]["RAY_RAYLET_PID"])))
            _check()
            if len(streams) != 3 or _has_left(connection):
                return None
            pid = os.fork()
            if pid == 0:
                self._leave(streams)
                return request
            self._forked += 1
            connection.sendall(str(pid).encode())
        finally:
            for stream in streams:
                os.close(stream)
        return None

    def _leave(self, streams: list[int]) -> None:
        """Close in a fork what is the template's, and use the worker's standard streams."""
        signal.set_wakeup_fd(-1)
        for descriptor in (*self._own, *self._ends[1:]):
            os.close(descriptor)
        if self._listener is not None:
            self._listener.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)


def _has_left(connection: socket.socket) -> bool:
    """Whether who asked has closed the connection, and starts its worker without this process."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def _user_of(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _receive(connection: socket.socket, length: int) -> bytes:
    if length > _LARGEST:
        raise ValueError("the request is too large")
    body = b""
    while len(body) < length:
        part = connection.recv(length - len(body))
        if not part:
            raise ConnectionError("the request ends early")
        body += part
    return body


def _become(request: dict[str, Any], paths: tuple[list[str], list[str]], imported: dict[str, str]) -> None:
    """Make this fork what a new Python with the request's arguments would be, and run its script.

    Args:
        request: see ``worker_shim``.
        paths: of ``sys.path``, what imports have put before the script's folder and what a new Python has after it.
        imported: environment variables that imports have set.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN if request["ignores_children"] else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    os.setpgid(0, 0)
    os.chdir(request["folder"])
    os.umask(request["umask"])
    resource.setrlimit(resource.RLIMIT_NOFILE, request["files"])
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(request["oom_score_adj"])
    os.environ.clear()
    os.environ.update({**imported, **request["environment"]})
    if request["variables"]:
        importlib.import_module("ray._private.utils").update_envs(request["variables"])
    # Ray has read its settings when it was imported; this reads them from the environment again.
    importlib.import_module("ray._raylet").Config.initialize("")
    gc.enable()
    importlib.import_module("numpy.random").seed()
    sys.argv = request["arguments"]
    sys.path[:] = [*paths[0], os.path.dirname(sys.argv[0]), *paths[1]]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _prepare_and_serve(template: _Template, modules: list[str]) -> dict[str, Any] | None:
    """Import what workers need and fork for those who ask; returns in a fork its request, and here never.

    Raises:
        _Refused: this process must not fork.
    """
    started = time.monotonic()
    actor = importlib.import_module("ray.actor")
    actor.ActorClassID = _OwnClassIds(actor.ActorClassID)  # type: ignore[attr-defined]
    for module in _FIRST:
        importlib.import_module(module)
    first = time.monotonic() - started
    gc.freeze()
    _check()
    _check_ids()
    for module in modules:
        request = template.serve(at_most=_FIRST_WORKERS, wait=False)
        if request is not None:
            return request
        importlib.import_module(module)
    gc.freeze()
    _check()
    _check_ids()
    print(f"ready for lanes after {first:.1f} s, for training after {time.monotonic() - started:.1f} s", flush=True)
    return template.serve()


def _main(settings: dict[str, Any]) -> None:
    new = list(sys.path) if sys.flags.safe_path else sys.path[1:]
    sys.path[:] = settings["path"]
    # Ray's library reads both when it is loaded and never again. A worker without a job takes tasks of any, and ends
    # when the process with this id has ended: this process, which ends with the raylet.
    os.environ.update({"RAY_JOB_ID": _NO_JOB, "RAY_RAYLET_PID": str(os.getpid())})
    before = dict(os.environ)
    gc.disable()
    template = _Template(socket.socket(fileno=settings["listener"]), 0)
    try:
        request = _prepare_and_serve(template, settings["modules"])
    except Exception as error:  # whatever a user's Ray or torch raises when it is imported
        template.refuse(str(error) if isinstance(error, _Refused) else f"{type(error).__name__}: {error}")
        request = template.serve()
    if request is not None:
        added = list((Counter(sys.path) - Counter(settings["path"])).elements())
        _become(request, (added, new), {name: os.environ[name] for name in os.environ.keys() - before.keys()})


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))

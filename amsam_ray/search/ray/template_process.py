"""The template of Ray's workers: a process that imports what workers need and then forks for every worker.

Ray starts a new Python for every worker, which imports Ray, Ray Train and torch: four to six seconds of a core, four
times for the first lane. A fork of a process that has imported them takes milliseconds, and shares their memory.

A fork copies the calling thread only, and nothing of a GPU. So this process starts no thread, uses no library that does,
and never initialises CUDA; it checks both before the first fork. Ray's own library is loaded but not started.

Run as a script with the listening socket and the pipe of the driver as its standard input. It prints one line about
itself, for the driver's log.
"""

from __future__ import annotations

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
        if os.fork() == 0:
            os.write(start, ray.WorkerID.from_random().binary())
            os._exit(0)
        os.close(start)
        with open(end, "rb") as file:
            drawn.append(file.read())
    if drawn[0] == drawn[1]:
        raise _Refused("Ray's random numbers have been used")


class _Template:
    """Serves requests for forks.

    Args:
        listener: the socket at which workers ask.
        driver: the read end of the driver's pipe.
    """

    def __init__(self, listener: socket.socket, driver: int):
        self._listener, self._driver = listener, driver
        self._raylet: int | None = None  # a descriptor that becomes readable when the raylet ends
        self._forked = 0

    def serve(self, *, at_most: int | None = None, wait: bool = True) -> dict[str, Any] | None:
        """Fork for everyone who asks; returns in this process None, and in a fork its request.

        Args:
            at_most: forks of this process's life after which to return; None: until the driver has ended.
            wait: whether to wait for requests.
        """
        while at_most is None or self._forked < at_most:
            ends = [self._driver] + ([] if self._raylet is None else [self._raylet])
            ready, _, _ = select.select([*ends, self._listener], [], [], None if wait else 0)
            if any(end in ready for end in ends):
                sys.exit()
            if self._listener not in ready:
                return None
            connection, _ = self._listener.accept()
            with connection:
                request = self._answer(connection)
                if request is not None:
                    return request
        return None

    def _answer(self, connection: socket.socket) -> dict[str, Any] | None:
        """Fork for one request; returns in the fork the request, and here None."""
        if _user_of(connection) != os.getuid():
            return None
        connection.settimeout(10.0)
        streams: list[int] = []
        try:
            length, streams, _, _ = socket.recv_fds(connection, 8, 3)
            body = _receive(connection, int.from_bytes(length, "big"))
            if len(streams) != 3:
                return None
            request: dict[str, Any] = json.loads(body)
            if self._raylet is None:
                self._raylet = os.pidfd_open(int(request["environment"]["RAY_RAYLET_PID"]))
            _check()
            pid = os.fork()
            if pid == 0:
                self._listener.close()
                os.close(self._raylet)
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                return request
            self._forked += 1
            connection.sendall(str(pid).encode())
        except (OSError, ValueError, KeyError):
            pass  # who asked has ended, or starts its worker without this process
        finally:
            for stream in streams:
                os.close(stream)
        return None


def _user_of(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _receive(connection: socket.socket, length: int) -> bytes:
    body = b""
    while len(body) < length:
        part = connection.recv(length - len(body))
        if not part:
            raise ConnectionError("the request ends early")
        body += part
    return body


def _become(request: dict[str, Any], base: list[str], imported: dict[str, str]) -> None:
    """Make this fork what a new Python with the request's arguments would be, and run its script.

    Args:
        request: see ``worker_shim``.
        base: ``sys.path`` of a new Python without its script's folder.
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
    # Ray has read its settings when it was imported; this reads them from the environment again.
    importlib.import_module("ray._raylet").Config.initialize("")
    if request["variables"]:
        importlib.import_module("ray._private.utils").update_envs(request["variables"])
    gc.enable()
    importlib.import_module("numpy.random").seed()
    sys.argv = request["arguments"]
    sys.path[:] = [os.path.dirname(sys.argv[0]), *base]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _main(settings: dict[str, Any]) -> None:
    started = time.monotonic()
    base = list(sys.path) if sys.flags.safe_path else sys.path[1:]
    # Ray's library reads both when it is loaded and never again. A worker without a job takes tasks of any, and ends
    # when the process with this id has ended: this process, which ends with the raylet.
    os.environ.update({"RAY_JOB_ID": _NO_JOB, "RAY_RAYLET_PID": str(os.getpid())})
    before = dict(os.environ)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a fork that ends leaves no zombie
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    gc.disable()
    template = _Template(socket.socket(fileno=settings["listener"]), 0)
    sys.path[:] = settings["path"]
    request = None
    actor = importlib.import_module("ray.actor")
    actor.ActorClassID = _OwnClassIds(actor.ActorClassID)  # type: ignore[attr-defined]
    for module in _FIRST:
        importlib.import_module(module)
    first = time.monotonic() - started
    gc.freeze()
    _check()
    _check_ids()
    for module in settings["modules"]:
        request = template.serve(at_most=_FIRST_WORKERS, wait=False)
        if request is not None:
            break
        importlib.import_module(module)
    else:
        gc.freeze()
        _check()
        _check_ids()
        print(f"ready after {first:.1f} and {time.monotonic() - started:.1f} s", flush=True)
        request = template.serve()
    if request is not None:
        imported = {n: v for n, v in os.environ.items() if before.get(n) != v}
        _become(request, base, imported)


if __name__ == "__main__":
    try:
        _main(json.loads(sys.argv[1]))
    except _Refused as error:
        print(f"not used: {error}", flush=True)

"""What Ray starts instead of its own script of that purpose, to start a worker: ask the template for a fork.

Run as a script by Ray's raylet, with the arguments of Ray's ``setup_worker.py``. If nothing answers at the template's
socket, or the worker needs what a fork cannot have, this becomes that script, as if there were no template. It needs
the standard library only, so that it takes little time.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys

SOCKET = "AMSAM_RAY_TEMPLATE"  # path of the template's socket
ORDINARY = "AMSAM_RAY_SETUP_WORKER"  # path of Ray's own script
_CONTEXT = "--serialized-runtime-env-context="
_LANGUAGE = "--language="
_PATIENCE_S = 45.0  # less than the minute in which a worker must have registered with its raylet
_OOM = "/proc/self/oom_score_adj"


def request_of(arguments: list[str]) -> dict[str, object] | None:
    """Return what the template needs to know to start this worker; None if the worker cannot be forked.

    Args:
        arguments: those of Ray's ``setup_worker.py``: the worker's script, its arguments, and its runtime environment.
    """
    context: dict[str, object] = {}
    language, rest = "PYTHON", []
    for argument in arguments:
        if argument.startswith(_CONTEXT):
            context = json.loads(argument.removeprefix(_CONTEXT) or "{}")
        elif argument.startswith(_LANGUAGE):
            language = argument.removeprefix(_LANGUAGE)
        else:
            rest.append(argument)
    variables = context.pop("env_vars", None) or {}
    own_python = context.pop("py_executable", None) in (None, sys.executable)
    if language != "PYTHON" or not own_python or any(context.values()) or not rest or not rest[0].endswith(".py"):
        return None
    with open(_OOM) as file:
        oom = file.read()
    return {
        "arguments": rest,
        "environment": dict(os.environ),
        "variables": variables,
        "folder": os.getcwd(),
        "umask": _umask(),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "oom_score_adj": oom,
        "ignores_children": signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN,
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    }


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def ask(path: str, request: dict[str, object]) -> int:
    """Return the id of the process that the template forked with this process's standard streams.

    Raises:
        OSError: nothing answers at ``path``, or the template ended or refused.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE_S)
        connection.connect(path)
        body = json.dumps(request).encode()
        socket.send_fds(connection, [len(body).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(body)
        answer = connection.recv(32)
    if not answer.isdigit():
        raise ConnectionError("the template forked no process")
    return int(answer)


def _main(arguments: list[str]) -> None:
    request = request_of(arguments)
    try:
        if request is not None:
            # The new process registers with the raylet by its own id, so this one need not stay.
            ask(os.environ[SOCKET], request)
            return
    except OSError:
        pass
    os.execv(sys.executable, [sys.executable, os.environ[ORDINARY], *arguments])  # noqa: S606


if __name__ == "__main__":
    _main(sys.argv[1:])

"""The template of Ray's workers: what a fork is, and when there is none."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from amsam_ray.search.ray import worker_shim
from amsam_ray.search.ray.cluster import make_folder
from amsam_ray.search.ray.template import WorkerTemplate
from tests.search.driving import until

# Written by a fork in place of Ray's worker: what it is, as far as a worker could tell.
WORKER = """
import gc, json, os, random, signal, sys, threading
import numpy, ray
import ray._raylet
json.dump({
    "pid": os.getpid(), "group": os.getpgid(0), "folder": os.getcwd(), "argv": sys.argv, "path": sys.path,
    "main": sys.modules["__main__"].__file__, "threads": len(os.listdir("/proc/self/task")), "gc": gc.isenabled(),
    "marker": os.environ.get("MARKER"), "variable": os.environ.get("VARIABLE"),
    "attempts": ray._raylet.Config.raylet_client_num_connect_attempts(),
    "ids": [ray.WorkerID.from_random().hex(), random.random(), float(numpy.random.random())],
    "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    "children": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL, "umask": os.umask(0),
    "open": sorted(os.readlink(f"/proc/self/fd/{n}").split(":")[0] for n in os.listdir("/proc/self/fd")[3:-1]),
}, sys.stdout)
sys.stdout.flush()
if sys.argv[2] == "wait":
    signal.pause()
if sys.argv[2] == "crash":
    os.abort()
"""


class Node:
    """A template with what asks it for forks, and a process in place of the raylet."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.script = folder / "worker.py"
        self.script.write_text(WORKER)
        (folder / "ordinary.py").write_text("import sys; print('ordinary', *sys.argv[1:])")
        self.raylet = subprocess.Popen(["sleep", "600"])
        self.template = WorkerTemplate(folder, ())

    def start(self, then: str = "end", **context: Any) -> subprocess.Popen[str]:
        """Start a worker as the raylet does, which ends, waits or crashes."""
        environment = {
            **os.environ,
            worker_shim.SOCKET: str(self.folder / "template"),
            worker_shim.ORDINARY: str(self.folder / "ordinary.py"),
            "RAY_RAYLET_PID": str(self.raylet.pid),
            "MARKER": "of this worker",
            "RAY_raylet_client_num_connect_attempts": "77",
        }
        arguments = [str(self.script), "--of=ray", then, "--language=PYTHON"]
        arguments.append(f"--serialized-runtime-env-context={json.dumps(context)}")
        command = [sys.executable, worker_shim.__file__, *arguments]
        return subprocess.Popen(
            command, env=environment, cwd=self.folder, stdout=subprocess.PIPE, text=True, umask=0o027
        )

    def run(self, **context: Any) -> dict[str, Any]:
        """Return what a forked worker finds."""
        with self.start(**context) as process:
            found: dict[str, Any] = json.loads(process.communicate(timeout=60)[0])
        assert process.returncode == 0
        return found

    def close(self) -> None:
        self.template.close()
        self.raylet.kill()
        self.raylet.wait()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    node = Node(make_folder())
    yield node
    node.close()


def test_a_fork_is_what_a_new_python_would_be(node: Node) -> None:
    found = node.run(env_vars={"VARIABLE": "of the runtime environment"})
    assert found["pid"] == found["group"] != os.getpid()
    assert found["folder"] == str(node.folder) and found["umask"] == 0o027
    assert found["argv"] == [str(node.script), "--of=ray", "end"]
    assert found["main"] == str(node.script) and str(node.folder) in found["path"][:2]
    assert found["marker"] == "of this worker" and found["variable"] == "of the runtime environment"
    assert found["attempts"] == 77, "Ray's settings are those of the template"
    assert found["threads"] == 1 and found["gc"] and found["children"] and found["blocked"] == []
    assert "socket" not in found["open"], "the template's socket is open in a worker"


def test_two_forks_draw_different_random_numbers(node: Node) -> None:
    first, second = node.run(), node.run()
    assert all(one != other for one, other in zip(first["ids"], second["ids"], strict=True))


def test_a_worker_in_another_python_is_started_by_ray(node: Node) -> None:
    printed, _ = node.start(py_executable="/usr/bin/other").communicate(timeout=60)
    assert printed.startswith(f"ordinary {node.script} --of=ray end --language=PYTHON")


def test_nonsense_at_the_socket_forks_nothing(node: Node) -> None:
    for words in (b"", b"x", (1 << 40).to_bytes(8, "big"), (4).to_bytes(8, "big") + b"null"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(node.folder / "template"))
            connection.sendall(words)
    assert node.run()["threads"] == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("mode", "error"), [(0o700, PermissionError), (0o755, ConnectionError)])
def test_another_user_gets_no_fork(node: Node, mode: int, error: type[Exception]) -> None:
    """The driver's folder is private, and the template asks the kernel who asks."""
    (node.folder / "template").chmod(0o777)
    node.folder.chmod(mode)
    request = worker_shim.request_of([str(node.script), "--of=ray", "end"])
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(65534)
            worker_shim.ask(str(node.folder / "template"), request or {})
        except error:
            os._exit(42)
        finally:
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    node.folder.chmod(0o700)
    assert os.waitstatus_to_exitcode(status) == 42


def test_a_template_forks_no_more_after_a_crash_and_ends_with_the_raylet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    node = Node(make_folder())
    try:
        waiting = node.start("wait")
        assert waiting.wait(60) == 0, "the process that asked has ended, and its fork runs"
        with node.start("crash") as crashed:
            crashed.communicate(timeout=60)
        until(lambda: "not used: a worker ended with SIGABRT" in caplog.text, 30)
        assert node.start().communicate(timeout=60)[0].startswith("ordinary")
        assert waiting.stdout is not None and node.template._process.poll() is None
        node.raylet.kill()
        assert node.template._process.wait(30) == 0
        until(lambda: "ended with status 0" in caplog.text, 30)
        # Ray's worker ends with the template. This one has no Ray, so this test ends it.
        os.kill(json.JSONDecoder().raw_decode(os.read(waiting.stdout.fileno(), 1 << 16).decode())[0]["pid"], SIGKILL)
    finally:
        node.close()


def test_a_template_ends_when_its_driver_is_killed() -> None:
    code = (
        "from amsam_ray.search.ray.cluster import make_folder\n"
        "from amsam_ray.search.ray.template import WorkerTemplate\n"
        "template = WorkerTemplate(make_folder(), ())\n"
        "print(template._process.pid, flush=True)\n"
        "template._process.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        pid = int(driver.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        driver.kill()
    until(lambda: not Path(f"/proc/{pid}").exists(), 60)

"""A Ray cluster on this machine for tests, with its own ports, folder and token, and its dashboard on the loopback.

Its nodes listen on this machine's address: Ray does not let a node that others join use the loopback interface.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import requests
from ray.util import get_node_ip_address

from tests.s3.moto import free_port

ROOT = Path(__file__).parents[2]
_TRIES = 3


@dataclass
class RayHead:
    """A head node that runs, and worker nodes that tests add.

    Attributes:
        folder: short path that holds Ray's files.
        address: ``host:port`` of the head.
        url: of the dashboard, which is the job server.
        token: Ray's authentication token.
        environment: of the nodes' processes, and of commands that use the cluster.
    """

    folder: Path
    address: str
    url: str
    token: str
    environment: dict[str, str]
    _nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_node(self, *arguments: str, variables: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a node that lives until ``stop_node`` or the end of the test."""
        with (self.folder / f"node-{len(self._nodes)}.log").open("wb") as log:
            node = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
                + ["--disable-usage-stats", f"--object-store-memory={128 << 20}"]
                + [f"--{name}-port={free_port()}" for name in _PORTS]
                + list(arguments),
                env={**self.environment, **(variables or {})},
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        self._nodes.append(node)
        return node

    def join(self, *arguments: str, variables: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a worker node and wait until it is alive."""
        for _ in range(_TRIES):
            alive = self.states().count("ALIVE")
            node = self.start_node(f"--address={self.address}", *arguments, variables=variables)
            while node.poll() is None:
                if self.states().count("ALIVE") > alive:
                    return node
                time.sleep(0.5)
        raise RuntimeError(f"no node joins:\n{self.logs()}")

    def logs(self) -> str:
        """Return the end of what every `ray start` printed."""
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob("node-*.log")))

    def stop_node(self, node: subprocess.Popen[bytes]) -> None:
        """End a node and wait until its processes have ended."""
        # `ray start --block` ends the processes of its own node; `ray stop` would end those of every Ray here.
        with contextlib.suppress(ProcessLookupError):
            node.send_signal(signal.SIGTERM)
        try:
            node.wait(20)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()

    def states(self) -> list[str]:
        """Return the state of every node that ever joined, ``ALIVE`` or ``DEAD``."""
        answer = requests.get(f"{self.url}/api/v0/nodes", headers=self.headers, timeout=30).json()
        return [node["state"] for node in answer["data"]["result"]["result"]]

    @property
    def headers(self) -> dict[str, str]:
        """What a request to the dashboard needs."""
        return {"Authorization": f"Bearer {self.token}"}

    def close(self) -> None:
        """End all nodes, the head last."""
        for node in reversed(self._nodes):
            self.stop_node(node)
        for pid in processes_below(self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


_PORTS = ("node-manager", "object-manager", "dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export")


@contextlib.contextmanager
def ray_head(cpus: float = 2, variables: Mapping[str, str] | None = None) -> Iterator[RayHead]:
    """Start a head node with a dashboard and a job server."""
    token = secrets.token_hex(16)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_enable_metrics_collection": "0",
        **(variables or {}),
    }
    for attempt in range(_TRIES):
        port, dashboard = free_port(), free_port()
        # Ray's folder holds sockets, and the kernel allows 107 characters for their paths.
        with tempfile.TemporaryDirectory(prefix="rh-", dir="/tmp", ignore_cleanup_errors=True) as folder:
            address, url = f"{get_node_ip_address()}:{port}", f"http://127.0.0.1:{dashboard}"
            head = RayHead(Path(folder), address, url, token, environment)
            try:
                node = head.start_node(
                    "--head",
                    f"--port={port}",
                    f"--temp-dir={folder}/ray",
                    f"--num-cpus={cpus:g}",
                    "--include-dashboard=true",
                    "--dashboard-host=127.0.0.1",
                    f"--dashboard-port={dashboard}",
                    f"--ray-client-server-port={free_port()}",
                )
                if _is_up(head, node):
                    yield head
                    return
                assert attempt < _TRIES - 1, f"Ray's head does not start:\n{head.logs()}"
            finally:
                head.close()


def _is_up(head: RayHead, node: subprocess.Popen[bytes]) -> bool:
    """Wait until the job server answers and the head is alive; False if `ray start` gave up first."""
    # Ray gives a node 30 s to start, which a busy machine may miss.
    while node.poll() is None:
        with contextlib.suppress(requests.RequestException, KeyError, ValueError):
            ready = requests.get(f"{head.url}/api/jobs/", headers=head.headers, timeout=5).status_code == 200
            if ready and "ALIVE" in head.states():
                return True
        time.sleep(0.3)
    return False


def processes_below(folder: Path) -> list[int]:
    """Return the processes whose command line names ``folder``."""
    found = []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if path.name.isdigit() and str(folder).encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found

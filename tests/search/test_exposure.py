"""What a sweep on one machine opens to others: the sockets of its processes, and secrets of its environment."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from amsam_ray.storage.open import open_storage
from tests.s3.moto import S3Server
from tests.search.driving import Driver, ray_processes
from tests.search.spaces import space

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
LISTENS = "0A"


def test_a_sweep_binds_and_calls_loopback_only_and_writes_no_secret(
    aws: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = f"marker-{uuid.uuid4().hex}"
    monkeypatch.setenv("FOO_TOKEN", token)
    secrets = [token.encode(), os.environ["AWS_SECRET_ACCESS_KEY"].encode()]
    resources = {"lanes": 1, "workers_per_lane": 2, "cpus_per_lane": 2}  # a process group is set up
    driver = Driver(
        tmp_path, space(trials=8, resources=resources), {"seconds": 1.0}, storage=f"s3://{aws.bucket}/{token[-8:]}"
    )
    bound: set[str] = set()
    called: set[str] = set()
    found: list[str] = []
    files, modes = 0, set()
    with driver.start() as process:
        while process.poll() is None:
            pids = {process.pid, *(pid for pids in ray_processes(process.pid).values() for pid in pids)}
            for state, local, remote in tcp_sockets(pids):
                (bound if state == LISTENS else called).add(local if state == LISTENS else remote)
            found += [f"/proc/{pid}/cmdline" for pid in pids if holds(Path(f"/proc/{pid}/cmdline"), secrets)]
            for folder in (*Path("/tmp").glob(f"amsam-{process.pid}-*"), tmp_path):
                seen, names = search(folder, secrets)
                modes |= {folder.stat().st_mode & 0o777} if folder != tmp_path and folder.exists() else set()
                files, found = max(files, seen), found + names
            with contextlib.suppress(TimeoutError, Exception):
                process.wait(1)
    assert process.returncode == 0, driver.terminal()
    assert files > 30 and len(bound) >= 1 and called, "nothing was looked at"
    assert modes == {0o700}, "others can enter the folder of Ray's logs and sockets"
    assert all(map(is_loopback, bound)), bound
    assert all(map(is_loopback, called)), called
    storage = open_storage(driver.storage)
    stored = [entry.key for entry in storage.list("")]
    assert len(stored) > 8
    found += [key for key in stored if any(secret in storage.get(key) for secret in secrets)]
    found += search(tmp_path, secrets)[1]
    assert found == []
    assert not list(Path("/tmp").glob(f"amsam-{process.pid}-*"))


def tcp_sockets(pids: set[int]) -> Iterator[tuple[str, str, str]]:
    """Yield state, local and remote address of the processes' TCP and UDP sockets."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                # A UDP socket has no state of its own for listening.
                unconnected = table.startswith("udp") and int(fields[2].replace(":", ""), 16) == 0
                yield LISTENS if unconnected else fields[3], address(fields[1]), address(fields[2])


def address(text: str) -> str:
    """Return the address in ``0100007F:1F90``, whose words of 32 bits are in the machine's byte order."""
    raw = bytes.fromhex(text.partition(":")[0])
    turned = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    return socket.inet_ntop(socket.AF_INET if len(turned) == 4 else socket.AF_INET6, turned)


def is_loopback(text: str) -> bool:
    found = ipaddress.ip_address(text)
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def search(folder: Path, secrets: list[bytes]) -> tuple[int, list[str]]:
    """Return how many files there are below ``folder``, and the names of those that hold a secret."""
    paths = [Path(place) / name for place, _, names in os.walk(folder) for name in names]
    files = [path for path in paths if path.is_file()]
    return len(files), [str(path) for path in files if holds(path, secrets)]


def holds(path: Path, secrets: list[bytes]) -> bool:
    try:
        data = path.read_bytes()
    except OSError:  # it was removed
        return False
    return any(secret in data for secret in secrets)

"""Ceph's RADOS gateway on loopback, from Debian's packages: a second, stricter S3 server for `make test-s3`.

The packages are downloaded with apt-get (73 MB, as root) and unpacked into a cache folder. Nothing is installed on the
system. One monitor, one object store and one gateway use about 150 MB.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.debian import cache_dir, unpacked
from tests.s3.moto import S3Server, free_port, wait_for

PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-mgr", "ceph-common")
ACCESS_KEY, SECRET_KEY = "testkey", "testsecret123"

_CONF = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon_port}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr2 = false
ms bind port min = {low_port}
ms bind port max = {high_port}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = {data}/keyring
run dir = {data}/run
admin socket = {data}/run/$name.asok
pid file = {data}/run/$name.pid
log file = {data}/log/$name.log
mon cluster log file = {data}/log/cluster.log
crash dir = {data}/run
plugin dir = {lib}
erasure code dir = {lib}/ceph/erasure-code
osd class dir = {lib}/rados-classes
osd class load list = *
osd class default list = *
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
mon max pg per osd = 1000
[mon.a]
mon data = {data}/mon
[osd.0]
osd data = {data}/osd
osd objectstore = memstore
memstore device bytes = 2147483648
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {data}/rgw
rgw thread pool size = 32
"""


def unpacked_ceph() -> Path:
    """Return the folder that Ceph's packages are unpacked into."""
    return unpacked(PACKAGES, cache_dir("ceph"))


@contextmanager
def ceph_rgw(data: Path) -> Iterator[S3Server]:
    """A cluster of one in the empty folder ``data``, ready to serve, with an empty bucket."""
    cluster = _Cluster(unpacked_ceph(), data)
    try:
        cluster.start()
        server = S3Server(f"http://127.0.0.1:{cluster.port}", ACCESS_KEY, SECRET_KEY)
        server.client().create_bucket(Bucket=server.bucket)
        yield server
    finally:
        cluster.stop()


class _Cluster:
    def __init__(self, root: Path, data: Path):
        self.port = free_port()
        self._data, self._mon_port = data, free_port()
        self._processes: list[subprocess.Popen] = []
        lib = root / "usr/lib/x86_64-linux-gnu"
        python = [root / "usr/lib/python3/dist-packages", *(root / "usr/lib").glob("python3.*/dist-packages")]
        self._env = {
            **os.environ,
            "PATH": f"{root / 'usr/bin'}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": f"{lib}:{root / 'usr/lib/ceph'}:{lib / 'ceph'}:{root / 'lib/x86_64-linux-gnu'}",
            "PYTHONPATH": ":".join(map(str, python)),
            "CEPH_CONF": str(data / "ceph.conf"),
        }
        for folder in ("mon", "osd", "rgw", "run", "log"):
            (data / folder).mkdir(parents=True)
        low = 20000 + os.getpid() % 200 * 50
        conf = {"fsid": uuid.uuid4(), "data": data, "lib": lib, "port": self.port, "mon_port": self._mon_port}
        (data / "ceph.conf").write_text(_CONF.format(**conf, low_port=low, high_port=low + 49))

    def start(self) -> None:
        data, keyring = self._data, str(self._data / "keyring")
        everything = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"]
        self._run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *everything)
        osd = ["--cap", "mon", "allow profile osd", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"]
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "osd.0", *osd)
        rgw = ["--cap", "mon", "allow rwx", "--cap", "osd", "allow rwx"]
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "client.rgw", *rgw)
        conf = (data / "ceph.conf").read_text()
        fsid = conf.split("fsid = ")[1].split()[0]
        address = f"[v1:127.0.0.1:{self._mon_port}]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, str(data / "monmap"))
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(data / "monmap"), "--keyring", keyring)
        wait_for(self._mon_port, self._serve("ceph-mon", "-i", "a", "-f"))
        identity = str(uuid.uuid4())
        self._run("ceph", "osd", "new", identity, "0", tries=6)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)
        self._serve("ceph-osd", "-i", "0", "-f")
        self._until_up()
        user = ["--uid=t", "--display-name=t", f"--access-key={ACCESS_KEY}", f"--secret={SECRET_KEY}"]
        self._run("radosgw-admin", "user", "create", *user, tries=3)
        wait_for(self.port, self._serve("radosgw", "-n", "client.rgw", "-f"), seconds=90)

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _until_up(self) -> None:
        deadline = time.monotonic() + 60
        while "1 up" not in self._run("ceph", "osd", "stat", tries=6):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the object store does not come up; see {self._data / 'log'}")
            time.sleep(0.5)

    def _serve(self, *command: str) -> subprocess.Popen:
        with (self._data / "log" / f"{command[0]}.out").open("wb") as log:
            process = subprocess.Popen(command, env=self._env, stdout=log, stderr=log, start_new_session=True)
        self._processes.append(process)
        return process

    def _run(self, *command: str, tries: int = 1) -> str:
        for attempt in range(tries):
            try:
                done = subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=30, check=True)
                return done.stdout
            except subprocess.SubprocessError as error:
                if attempt == tries - 1:
                    output = getattr(error, "stderr", "") or ""
                    raise RuntimeError(f"{command[0]} failed: {str(output)[-500:]}") from error
                time.sleep(1)
        raise AssertionError("tries is at least 1")

"""Machines made of Linux namespaces: each has its address on a bridge, its processes, its home, /tmp and SSH server.

Ray cannot tell them from real ones, and `ray stop`, which ends every Ray process that it sees, sees those of its
machine only. Nothing leaves the bridge: the machines have no route to any other network. Needs root, and OpenSSH's
server and rsync from Debian's packages.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.debian import cache_dir, unpacked

ROOT = Path(__file__).parents[2]
USER = "ubuntu"
HOME = Path("/home") / USER
NETWORK = "172.31.0"  # the first subnet of moto's VPC
OUTSIDE = f"{NETWORK}.1"  # of the bridge: what the tests' own servers listen on
_PACKAGES = ("openssh-server", "openssh-client", "rsync")
_SSH = ("-oBatchMode=yes", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oLogLevel=ERROR")

_NAMESPACES = ("--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation=private")

_SSHD = f"""
Port 22
HostKey {HOME}/.ssh/host_key
AuthorizedKeysFile {HOME}/.ssh/authorized_keys
PasswordAuthentication no
PermitRootLogin prohibit-password
UsePAM no
PidFile none
"""

# The first process of a machine. $1: its name, $2: its files on the host, $3: the packages, then what stays visible.
_BOOT = r"""
set -e
hostname "$1"; files=$2; packages=$3; shift 3
mount -t tmpfs tmpfs /run; mkdir /run/sshd /run/kept
n=0; for kept in "$@"; do n=$((n+1)); mkdir /run/kept/$n; mount --rbind "$kept" /run/kept/$n; done
for name in passwd hosts resolv.conf; do mount --bind "$files/$name" "$(realpath /etc/$name)"; done
mount -t overlay overlay -o lowerdir="$packages/usr":/usr /usr
mkdir /run/files; mount --bind "$files" /run/files; mount -t tmpfs tmpfs /home; mkdir /home/ubuntu
mount --bind /run/files/home /home/ubuntu
mount -t tmpfs -o size=1g tmpfs /dev/shm
mount -t tmpfs -o size=2g,mode=1777 tmpfs /tmp
n=0; for kept in "$@"; do n=$((n+1)); mkdir -p "$kept"; mount --rbind /run/kept/$n "$kept"; done
cd /; exec /usr/sbin/sshd -D -e -f /home/ubuntu/.ssh/sshd_config
"""


def missing() -> str | None:
    """Return why this machine can have no such machines; None if it can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    for tool in ("ip", "tc", "unshare", "nsenter"):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    try:
        unpacked(_PACKAGES, cache_dir("ssh"))
    except (RuntimeError, subprocess.CalledProcessError) as error:
        return f"needs Debian's {', '.join(_PACKAGES)}: {error}"
    return None


@dataclass
class Machine:
    """One machine, with the user ``ubuntu``, who is root there.

    Attributes:
        ip: its address.
        name: its host name.
        home: the user's home, as the host sees it.
        key: the private key that opens it.
        process: everything that runs on it ends with this process.
    """

    ip: str
    name: str
    home: Path
    key: Path
    process: subprocess.Popen[bytes]

    def start(self, command: str, log: Path | None = None) -> subprocess.Popen[str]:
        """Start a command through SSH, in the user's environment, and return SSH's process."""
        command = f"source ~/.bashrc; cd {shlex.quote(str(ROOT))}; {command}"
        ssh = ["ssh", *_SSH, "-i", str(self.key), f"{USER}@{self.ip}", command]
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(log.open("a")) if log else subprocess.PIPE
            return subprocess.Popen(ssh, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, text=True)

    def run(self, command: str, timeout: float = 120) -> str:
        """Run a command and return what it prints; fails unless it succeeds."""
        process = self.start(command)
        try:
            output, _ = process.communicate(timeout=timeout)
        finally:
            process.kill()
        assert process.returncode == 0, f"{command}: status {process.returncode}\n{output}"
        return output

    def count(self, pattern: str) -> int:
        """Return how many processes have a command line that matches a regular expression."""
        lines = self.run("ps -eo args").splitlines()
        return sum(re.search(pattern, line) is not None for line in lines)

    def slow_down(self, rate: str) -> None:
        """Limit what reaches the machine to ``rate``, as tc states it: ``1mbit`` is 125 kB a second."""
        shaping = ["tc", "qdisc", "add", "dev", _link(self.name), "root", "tbf", "rate", rate]
        subprocess.run([*shaping, "burst", "32kbit", "latency", "1s"], check=True)

    def power_off(self) -> None:
        """Vanish from the network, without a word to anyone, and end all processes."""
        subprocess.run(["ip", "link", "delete", _link(self.name)], check=False, capture_output=True)
        self.process.kill()
        self.process.wait()


@dataclass
class Lab:
    """A bridge with machines.

    Attributes:
        laptop: where the user types commands.
        machines: address -> machine, the laptop's excepted.
    """

    laptop: Machine
    machines: dict[str, Machine]


@contextlib.contextmanager
def network() -> Iterator[str]:
    """Yield the name of a bridge, whose address ``OUTSIDE`` this process can listen on."""
    with contextlib.ExitStack() as stack:
        # The addresses are always the same: other tests with such machines wait.
        lock = stack.enter_context((Path(tempfile.gettempdir()) / "amsam-ray-machines.lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        routes = subprocess.run(["ip", "route", "show", f"{NETWORK}.0/24"], capture_output=True, text=True, check=True)
        assert not routes.stdout.strip(), f"this machine uses {NETWORK}.0/24 itself"
        bridge = f"amsam{os.getpid()}"
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(subprocess.run, ["ip", "link", "delete", bridge], check=False)
        _ip("address", "add", f"{OUTSIDE}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        yield bridge


@contextlib.contextmanager
def lab(folder: Path, bridge: str, hosts: Sequence[int], environment: Mapping[str, str]) -> Iterator[Lab]:
    """Yield machines that can be reached by SSH, and a laptop; all of them end with the context.

    Args:
        folder: for their files.
        bridge: what they are connected to.
        hosts: last numbers of their addresses.
        environment: variables that their users have.
    """
    with contextlib.ExitStack() as stack:
        key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        laptop, *machines = (
            stack.enter_context(_machine(folder / f"m{host}", host, key, bridge, environment)) for host in (2, *hosts)
        )
        for machine in (laptop, *machines):
            _await_ssh(machine)
        yield Lab(laptop, {machine.ip: machine for machine in machines})


@contextlib.contextmanager
def _machine(folder: Path, host: int, key: Path, bridge: str, environment: Mapping[str, str]) -> Iterator[Machine]:
    name, ip = f"amsam-{os.getpid()}-{host}", f"{NETWORK}.{host}"
    home = _write_files(folder, ip, name, key, environment)
    with contextlib.ExitStack() as stack:
        _ip("netns", "add", name)
        stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=False)
        _ip("link", "add", _link(name), "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", _link(name), "master", bridge, "up")
        _ip("-n", name, "address", "add", f"{ip}/24", "dev", "eth0")
        for up in ("lo", "eth0"):
            _ip("-n", name, "link", "set", up, "up")
        _ip("-n", name, "route", "add", "default", "dev", "eth0")  # Ray looks for its address by way of one
        boot = ["bash", "-c", _BOOT, "boot", name, str(folder), str(unpacked(_PACKAGES, cache_dir("ssh"))), *_kept()]
        process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{name}", "unshare", *_NAMESPACES, *boot],
            stdin=subprocess.DEVNULL,
            stdout=stack.enter_context((folder / "sshd.log").open("w")),
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"]},
        )
        machine = Machine(ip, name, home, key, process)
        stack.callback(machine.power_off)
        yield machine


def _write_files(folder: Path, ip: str, name: str, key: Path, environment: Mapping[str, str]) -> Path:
    home = folder / "home"
    ssh = home / ".ssh"
    ssh.mkdir(parents=True)
    for private in (home, ssh):
        private.chmod(0o700)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh / "host_key"], check=True)
    (ssh / "sshd_config").write_text(_SSHD)
    shutil.copy(key, ssh / "id_ed25519")
    shutil.copy(f"{key}.pub", ssh / "authorized_keys")
    (home / ".bashrc").write_text("".join(f"export {k}={shlex.quote(v)}\n" for k, v in environment.items()))
    # Where the cluster files install the package; here it is installed already.
    (home / "amsam-ray-env").symlink_to(sys.prefix)
    users = [line for line in Path("/etc/passwd").read_text().splitlines() if line.split(":")[0] not in (USER, "sshd")]
    users.insert(0, f"{USER}:x:0:0::{HOME}:/bin/bash")  # before root, so that OpenSSH takes this home for user 0
    users.append("sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin")
    (folder / "passwd").write_text("\n".join(users) + "\n")
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{ip} {name}\n")
    (folder / "resolv.conf").write_text("options timeout:1 attempts:1\n")  # no server: a lookup fails at once
    return home


def _kept() -> list[str]:
    """Folders of the host that hold the tests and their Python, where a machine's own /tmp or /home would hide them."""
    needed = {str(ROOT), sys.prefix, sys.base_prefix}
    return sorted(path for path in needed if path.startswith(("/tmp/", "/home/")))


def _link(name: str) -> str:
    _, pid, host = name.split("-")
    return f"am{pid}x{host}"[:15]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _await_ssh(machine: Machine) -> None:
    for _ in range(200):
        assert machine.process.poll() is None, (machine.home.parent / "sshd.log").read_text()
        with contextlib.closing(socket.socket()) as probe:
            probe.settimeout(1)
            if probe.connect_ex((machine.ip, 22)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"no SSH server answers at {machine.ip}")

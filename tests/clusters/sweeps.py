"""A small sweep on a cluster of test machines, as its user runs and watches it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from amsam_ray.records.io import read_records
from amsam_ray.storage.open import open_storage
from tests.clusters.machines import HOME, OUTSIDE, ROOT, Lab, Machine, lab, network
from tests.s3.moto import S3Server, moto_server

TRIALS = 6
SPACE: dict[str, Any] = {
    "name": "cluster",
    "datasets": [{"name": "procedural", "options": {"family": "lesion", "train": 8, "test": 4}}],
    "shots": [4],
    "methods": ["blo_sam"],
    "backbone": {"arch": "nano"},
    "detector": {"weights": "none"},
    "train": {"epochs": 4, "batch_size": 2},
    "search": {
        "trials": TRIALS,
        "sampler": "random",
        "scheduler": "none",
        "retries": 0,  # a machine that vanishes costs no attempt
        "space": {"lr": {"loguniform": [1e-3, 1e-2]}},
    },
    "finals": {"top_k": 1, "seeds": 1},
}


def offline(config: dict[str, Any]) -> dict[str, Any]:
    """Return a cluster file's content without the commands that download: what they install is there."""
    kept = [line for line in config["setup_commands"] if not ("/uv " in line or "weights fetch" in line)]
    assert len(kept) == 2
    return {**config, "setup_commands": kept}


@dataclass
class Cluster:
    """A cluster file in use on the laptop.

    Attributes:
        lab: the machines.
        file: name of the cluster file in the laptop's home.
        head: address of the head.
        server: the bucket of the results.
        folder: for logs.
    """

    lab: Lab
    file: str
    head: str
    server: S3Server
    folder: Path

    @classmethod
    def from_file(cls, lab: Lab, config: dict[str, Any], head: str, server: S3Server, folder: Path) -> Cluster:
        """Write the cluster file and a token into the laptop's home."""
        (lab.laptop.home / "cluster.yaml").write_text(yaml.safe_dump(config))
        lab.laptop.run("ray get-auth-token --generate")
        return cls(lab, str(HOME / "cluster.yaml"), head, server, folder)

    @property
    def storage(self) -> str:
        return f"s3://{self.server.bucket}/lab"

    def up(self) -> float:
        """Start the cluster and return the seconds that it took."""
        started = time.monotonic()
        self._log(self.lab.laptop.run(f"ray up --yes --no-config-cache {self.file}", timeout=240))
        return time.monotonic() - started

    def down(self) -> None:
        """Stop the cluster."""
        self._log(self.lab.laptop.run(f"ray down --yes {self.file}"))

    def tune(self, resources: dict[str, Any]) -> subprocess.Popen[str]:
        """Copy the space file to the head and start the sweep there."""
        (self.lab.laptop.home / "space.yaml").write_text(yaml.safe_dump({**SPACE, "resources": resources}))
        self.lab.laptop.run(f"ray rsync-up {self.file} {HOME}/space.yaml {HOME}/space.yaml")
        command = f"amsam-ray tune --space {HOME}/space.yaml --storage {self.storage} --address auto"
        return self.lab.laptop.start(f"ray exec {self.file} '{command}'", log=self.folder / "tune.log")

    def recorded(self) -> int:
        """Return the number of recorded trials."""
        return sum("/records/" in entry.key for entry in open_storage(self.storage).list("sweeps/"))

    def assert_complete(self) -> None:
        """Assert that every trial has exactly one record, of a first attempt that completed."""
        records, problems = read_records(open_storage(self.storage))
        assert not problems
        assert max(Counter(record.trial for record in records).values()) == 1
        roles = Counter(record.role for record in records)
        # The chosen configuration may be the published setting, which has a final in any case.
        assert roles["search"] == TRIALS and roles["final"] in (1, 2)
        assert {(record.status, record.attempt) for record in records} == {("completed", 1)}

    def lanes(self) -> list[str]:
        """Return the address of the machine of every training worker."""
        return self._running("^ray::RayTrainWorker")

    def nodes(self) -> list[str]:
        """Return the address of every machine that Ray runs on."""
        return self._running("/raylet/raylet ")

    def _running(self, pattern: str) -> list[str]:
        machines = [machine for machine in self.lab.machines.values() if machine.process.poll() is None]
        return sorted(machine.ip for machine in machines for _ in range(machine.count(pattern)))

    def machine(self, ip: str) -> Machine:
        return self.lab.machines[ip]

    def _log(self, text: str) -> None:
        with (self.folder / "ray.log").open("a") as file:
            file.write(text)


def until(condition: Callable[[], object], what: str, seconds: float = 240) -> float:
    """Wait for ``condition`` and return how long it took; fails after ``seconds``."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"{what}: not within {seconds:g} s"
        time.sleep(1)
    return time.monotonic() - started


def ray_processes(machine: Machine) -> int:
    """Return how many processes of Ray run on a machine."""
    return machine.count("/raylet/raylet |/gcs_server |^ray::")


@contextmanager
def bed(
    folder: Path, hosts: Sequence[int], variables: Mapping[str, str] | None = None, module: str = "moto.server"
) -> Iterator[tuple[Lab, S3Server]]:
    """Yield machines and a server of S3, and of the rest of AWS, that they can reach and have credentials for.

    Args:
        folder: for files and logs.
        hosts: last numbers of the machines' addresses.
        variables: settings of the server.
        module: the server, moto's or one that extends it.
    """
    path = f"{sys.prefix}/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    with network() as bridge, moto_server(OUTSIDE, variables, module) as server:
        environment = {
            **server.env,
            "AWS_ENDPOINT_URL": server.endpoint,
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "RAY_worker_niceness": "0",  # the machines share the cores of this one, with whatever else runs on it
        }
        with lab(folder, bridge, hosts, environment) as machines:
            yield machines, server

"""Real sweeps for tests: ``amsam-ray tune`` in a separate process with a fake trial, to be watched and killed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from amsam_ray.config.space import SpaceFile
from amsam_ray.config.space_file import sweep_id
from amsam_ray.records.io import read_records
from amsam_ray.records.schema import Record
from amsam_ray.search.trials import derived_seed
from amsam_ray.storage.open import open_storage

ROOT = Path(__file__).parents[2]
FAKE = "tests.search.fakes:train"
PATIENCE = 550.0


@dataclass
class Driver:
    """One sweep in a folder, and its runs.

    Attributes:
        folder: holds everything: space file, results, caches, logs.
        space: what is searched.
        fake: settings of the fake trial, see ``tests.search.fakes``.
        more: further arguments of ``amsam-ray tune``.
        storage: URI of the results, where that is not the folder's ``results``.
        variables: further environment variables of the runs.
    """

    folder: Path
    space: SpaceFile
    fake: dict[str, Any] = field(default_factory=dict)
    more: Sequence[str] = ()
    storage: str = ""
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        data = self.space.model_dump(mode="json", by_alias=True)
        # As a user would write it; the stored form of a distribution is different.
        data["search"]["space"] = {key: _written(d) for key, d in data["search"]["space"].items()}
        self.storage = self.storage or str(self.results)
        (self.folder / "space.yaml").write_text(yaml.safe_dump(data))

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def log(self) -> Path:
        return self.folder / "fake.log"

    @property
    def environment(self) -> dict[str, str]:
        fake = json.dumps({"log": str(self.log), **self.fake})
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "AMSAM_CACHE_DIR": str(self.folder / "cache"),
            "AMSAM_FAKE": fake,
            "OMP_NUM_THREADS": "1",
            **self.variables,
        }

    @contextlib.contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Start a run in the background; it is killed at the end if it is still running."""
        command = [sys.executable, "-m", "amsam_ray.cli.main", "tune", "--space", str(self.folder / "space.yaml")]
        command += ["--storage", self.storage, "--trial-function", FAKE, *self.more, *arguments]
        with (self.folder / "terminal").open("a") as terminal:
            process = subprocess.Popen(
                command, env=self.environment, cwd=self.folder, stdout=terminal, stderr=terminal, text=True
            )
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()

    def run(self, *arguments: str, timeout: float = PATIENCE) -> int:
        """Run to the end and return the exit status."""
        with self.start(*arguments) as process:
            return process.wait(timeout)

    def records(self) -> list[Record]:
        """Return all records; assert that every file among them is one."""
        records, problems = read_records(open_storage(self.storage))
        assert not problems
        return records

    def recorded(self) -> int:
        """Return the number of records without reading them."""
        return len(list(self.results.glob("sweeps/*/records/*.json")))

    def starts(self) -> list[dict[str, Any]]:
        """Return every start of a fake trial: pid, node, time and seed."""
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def terminal(self) -> str:
        """Return everything that the runs printed."""
        return (self.folder / "terminal").read_text()

    def logs(self) -> str:
        """Return the text of all log files."""
        return "".join(path.read_text(errors="replace") for path in (self.folder / "cache" / "logs").glob("*.log"))

    def leaderboard(self) -> list[str]:
        """Return the rows of all datasets without the columns that are times."""
        import csv

        with (self.results / "leaderboards" / "all.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert rows
        return [json.dumps({k: v for k, v in row.items() if k not in ("seconds", "gpu_seconds")}) for row in rows]

    def seed(self, cell: str, number: int) -> str:
        """Return the seed of a search trial, by which the faults of the fake trial are selected."""
        return str(derived_seed(self.space.search.seed, cell, number, "trial"))

    def assert_complete(self) -> list[Record]:
        """Assert that every trial has exactly one record and that there is one sweep; return the records."""
        records = self.records()
        assert max(Counter(record.trial for record in records).values()) == 1
        assert {record.sweep for record in records} == {sweep_id(self.space)}
        return records


def _written(distribution: dict[str, Any]) -> Any:
    kind, when = distribution["kind"], distribution["when"]
    if kind == "constant":
        return distribution["choices"][0]
    values = distribution["choices"] if kind == "choice" else [distribution["low"], distribution["high"]]
    return {kind: values, **({"when": when} if when else {})}


def until(condition: Callable[[], object], timeout: float = PATIENCE) -> None:
    """Wait for ``condition``; fails after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for too long"
        time.sleep(0.05)


def ray_processes(of: int) -> dict[str, list[int]]:
    """Return Ray's processes below the process ``of`` by title (``ray::RayTrainWorker`` ...)."""
    table: dict[int, tuple[int, str]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                table[int(path.name)] = (parent, (path / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
    found: dict[str, list[int]] = {}
    for pid, (_, line) in table.items():
        ancestor = pid
        while ancestor in table and ancestor != of:
            ancestor = table[ancestor][0]
        if ancestor == of and line:
            found.setdefault(line.split()[0].rpartition("/")[2], []).append(pid)
    return found


def processes_with(entry: str) -> dict[int, str]:
    """Return the command lines of the running processes whose environment has ``entry``, ``NAME=VALUE``."""
    found = {}
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if path.name.isdigit() and entry.encode() in (path / "environ").read_bytes().split(b"\0"):
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found

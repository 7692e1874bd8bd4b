"""A sweep on a job server: submit, detach, attach, watch, stop, continue. Real Ray, job server and drivers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import amsam_ray
from tests.search.driving import FAKE, Driver, until
from tests.search.ray_head import ROOT, RayHead, ray_head
from tests.search.spaces import space

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
SLOW, FAST = "4", "0.1"  # seconds of a trial
TRIALS = 24  # search trials


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def head(folder: Path) -> Iterator[RayHead]:
    fake = json.dumps({"pace": str(folder / "pace"), "log": str(folder / "fake.log")})
    with ray_head(variables={"AMSAM_FAKE": fake, "AMSAM_CACHE_DIR": str(folder / "cache")}) as started:
        yield started


class Laptop:
    """``amsam-ray`` on a machine that has the token, the space file and nothing else of the cluster."""

    def __init__(self, head: RayHead, folder: Path, name: str, trials: int = TRIALS):
        self.url = head.url
        self.driver = Driver(folder / name, space(name=name, trials=trials))
        self.secret = f"secret-{uuid.uuid4().hex}"
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": head.token,
            "RAY_ADDRESS": "192.0.2.200:1",  # another cluster, which must not be asked
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AMSAM_CACHE_DIR": str(folder / name / "laptop"),
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "amsam_ray.cli.main", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*arguments), env=self.environment, cwd=self.driver.folder, capture_output=True, text=True
        )

    def tune_arguments(self) -> list[str]:
        arguments = ["tune", "--space", "space.yaml", "--address", self.url, "--paths-on-nodes"]
        return [*arguments, "--storage", str(self.driver.results), "--trial-function", FAKE]

    @contextlib.contextmanager
    def tune(self) -> Iterator[subprocess.Popen[str]]:
        """Start ``tune`` in the background."""
        process = subprocess.Popen(
            self.command(*self.tune_arguments()),
            env=self.environment,
            cwd=self.driver.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def jobs(self) -> list[dict]:
        shown = self.run("status", "--address", self.url, "--format", "json")
        assert shown.returncode == 0, shown.stderr
        return [job for job in json.loads(shown.stdout) if job["sweep"].startswith(self.driver.space.name)]


def test_detach_attach_stop_and_continue(head: RayHead, folder: Path) -> None:
    laptop = Laptop(head, folder, "patient")
    log, pace = folder / "fake.log", folder / "pace"
    pace.write_text(SLOW)
    with laptop.tune() as process:
        until(lambda: laptop.driver.recorded() >= 1)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0]
        assert process.returncode == 130
    assert "is submitted" in said and f"stop --address {head.url}" in said and "Detached" in said
    recorded = laptop.driver.recorded()
    until(lambda: laptop.driver.recorded() > recorded)  # it runs on

    with laptop.tune() as process:
        begun = [process.stdout.readline() for _ in range(2)] if process.stdout else []
        assert "already runs this sweep" in begun[0]
        (job,) = laptop.jobs()
        assert (job["state"], job["storage"]) == ("RUNNING", str(laptop.driver.results))
        shown = laptop.run("status", "--address", head.url).stdout
        assert job["id"] in shown and "running" in shown and "trials" in shown
        stopped = laptop.run("stop", "--address", head.url, laptop.driver.space.name)
        assert stopped.returncode == 0, stopped.stderr
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 130 and "interrupted: finishing running trials" in said
    assert len(log.read_text().splitlines()) == laptop.driver.recorded() < TRIALS, "a running trial was not finished"

    pace.write_text(FAST)
    with laptop.tune() as process:
        said = process.communicate(timeout=240)[0]
        assert process.returncode == 0, said
    found = re.search(r"(\d+) of (\d+) trials are recorded", said)
    assert "is submitted" in said and found is not None and found[1] == found[2]
    assert len(laptop.driver.assert_complete()) == int(found[2]) > TRIALS
    assert [job["state"] for job in laptop.jobs()] == ["FAILED", "SUCCEEDED"]


def test_forced_stop_keeps_records_and_nothing_tells_a_secret(head: RayHead, folder: Path) -> None:
    laptop = Laptop(head, folder, "hasty")
    (folder / "pace").write_text(SLOW)
    with laptop.tune() as process:
        until(lambda: laptop.driver.recorded() >= 2)
        forced = laptop.run("stop", "--address", head.url, "--force")
        assert forced.returncode == 0, forced.stderr
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "Records are kept" in said
    (job,) = laptop.jobs()
    assert job["state"] == "STOPPED"
    recorded = laptop.driver.recorded()
    laptop.driver.assert_complete()
    assert 2 <= recorded < TRIALS
    again = laptop.run("stop", "--address", head.url)
    assert again.returncode == 2 and "runs no sweep" in again.stderr

    listed = requests.get(f"{head.url}/api/jobs/", headers=head.headers, timeout=30)
    assert job["id"] in listed.text
    for secret in (laptop.secret, head.token):
        assert secret not in listed.text
        assert not [path for path in (head.folder / "ray").rglob("*") if path.is_file() and holds(path, secret)]


def test_wrong_and_missing_tokens_are_refused_with_the_remedy(head: RayHead, folder: Path) -> None:
    laptop = Laptop(head, folder, "stranger")
    laptop.environment["HOME"] = str(folder)  # without a token of its own
    for token, what in (("0" * 32, "refuses this machine's token"), (None, "requires a token")):
        if token is None:
            laptop.environment = {k: v for k, v in laptop.environment.items() if not k.startswith("RAY_AUTH")}
        else:
            laptop.environment["RAY_AUTH_TOKEN"] = token
        refused = laptop.run("status", "--address", head.url)
        assert refused.returncode == 2
        assert what in refused.stderr and "copy ~/.ray/auth_token from the head" in refused.stderr


def test_other_version_on_the_head_is_refused(head: RayHead, folder: Path) -> None:
    laptop = Laptop(head, folder, "newer")
    code = "import amsam_ray; amsam_ray.__version__ = '9.9.9'; from amsam_ray.cli.main import main; main()"
    laptop.command = lambda *arguments: [sys.executable, "-c", code, *arguments]  # type: ignore[method-assign]
    refused = laptop.run(*laptop.tune_arguments())
    assert refused.returncode == 2
    assert f"has amsam-ray {amsam_ray.__version__}" in refused.stdout and "install the same version" in refused.stdout
    assert laptop.driver.recorded() == 0


def holds(path: Path, secret: str) -> bool:
    with contextlib.suppress(OSError):
        return secret.encode() in path.read_bytes()
    return False

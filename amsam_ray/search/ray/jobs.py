"""A cluster's job server (Ray Jobs): submit a sweep, follow its output, list and stop jobs."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from amsam_ray.errors import AmsamError, InputError, Problem
from amsam_ray.search.ray.cluster import prepare_environment
from amsam_ray.search.submission import Submission, interruption

_OFTEN_S = 60.0
_LOOK_EVERY_S = (0.5, 5.0)  # in the first minute, and later
_KEEP_TRYING_S = 24 * 3600.0  # to reach a server again, as after a laptop was closed
_STOP_WAIT_S = 20  # between SIGTERM and SIGKILL; a driver that stops releases its lease
_BEGINS = re.compile(r"^Running entrypoint for job .*\n", re.MULTILINE)
_TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class UnreachableError(InputError):
    """The job server does not answer; it may later."""


@dataclass(frozen=True)
class Job:
    """A job of this package on a cluster.

    Attributes:
        id: its submission id.
        kind, sweep, storage: as in its Submission.
        state: ``PENDING``, ``RUNNING``, ``SUCCEEDED``, ``FAILED`` or ``STOPPED``.
        message: what Ray says about the state.
        started, ended: seconds since the epoch; None while unknown.
        exit_status: of the command; None while it runs, or if it did not start.
    """

    id: str
    kind: str
    sweep: str
    storage: str
    state: str
    message: str
    started: float | None
    ended: float | None
    exit_status: int | None

    @property
    def over(self) -> bool:
        """Whether the job has ended."""
        return self.state in _ENDED


class Jobs:
    """The jobs of this package on one cluster.

    Args:
        url: of the cluster's dashboard.

    Raises:
        UnreachableError: no job server answers there.
        InputError: it refuses this machine's token, or ``url`` holds a password, which messages would print.
    """

    def __init__(self, url: str):
        prepare_environment()
        from ray.job_submission import JobSubmissionClient

        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        if "@" in urlsplit(url).netloc:
            what = "holds a user name or a password; remove them, and set RAY_AUTH_TOKEN if the cluster needs a token"
            raise InputError(Problem("--address", what))
        self._url = url
        with _faults(url), _given_address_only():
            self._client: Any = JobSubmissionClient(url)

    def all(self) -> list[Job]:
        """Return all jobs of this package, the newest last."""
        with _faults(self._url):
            listed = [_job(details) for details in self._client.list_jobs()]
        return sorted((job for job in listed if job is not None), key=lambda job: job.started or 0.0)

    def running(self, submission: Submission) -> Job | None:
        """Return the job that already runs this sweep on this storage, None if there is none."""
        same = (job for job in self.all() if not job.over and _base(job.id) == submission.base and job.kind == "tune")
        return next(same, None)

    def submit(self, submission: Submission) -> Job:
        """Submit a command. Another client may have submitted the same sweep meanwhile; its job is then returned."""
        used = [int(job.id.rpartition("-")[2]) for job in self.all() if _base(job.id) == submission.base]
        job_id = f"{submission.base}-{max(used, default=0) + 1}"
        # `ray job stop` sends SIGTERM, which ends a sweep as Ctrl-C twice does.
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_WAIT_S)}
        with tempfile.TemporaryDirectory(prefix="amsam-job-") as folder:
            for name, content in submission.files.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            try:
                with _faults(self._url):
                    self._client.submit_job(
                        entrypoint=shlex.join(submission.entrypoint(job_id)),
                        submission_id=job_id,
                        runtime_env={"working_dir": folder, "env_vars": variables},
                        metadata=submission.metadata,
                    )
            except AmsamError:
                if (other := self.running(submission)) is None:
                    raise
                return other
        return self.get(job_id)

    def get(self, job: str) -> Job:
        """Return the present state of a job."""
        with _faults(self._url):
            found = _job(self._client.get_job_info(job))
        assert found is not None
        return found

    def follow(
        self,
        job: str,
        write: Callable[[str], None],
        *,
        last_lines: int | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Job:
        """Hand the job's output to ``write`` as it appears, until the job has ended, and return its last state.

        Args:
            job: its id.
            write: receives text.
            last_lines: of the output so far, hand on only that many lines; None: all.
            interrupted: asked before every look at the job.

        Raises:
            KeyboardInterrupt: ``interrupted`` is true.
        """
        begun, silent_since, shown = time.monotonic(), None, 0
        while True:
            if interrupted():
                raise KeyboardInterrupt
            now = time.monotonic()
            try:
                state, text = self.get(job), self.output(job)
            except UnreachableError:
                # A tunnel that is being rebuilt, or a laptop that was asleep.
                if silent_since is None:
                    silent_since = now
                    write(f"{self._url} does not answer; trying again. The job runs on, and Ctrl-C detaches.\n")
                if now - silent_since > _KEEP_TRYING_S:
                    raise
                time.sleep(_LOOK_EVERY_S[1])
                continue
            silent_since = None
            if last_lines is not None:
                shown, last_lines = len("".join(text.splitlines(keepends=True)[:-last_lines])), None
            if len(text) > shown:
                write(text[shown:])
                shown = len(text)
            if state.over:
                return state
            time.sleep(_LOOK_EVERY_S[now - begun > _OFTEN_S])

    def output(self, job: str) -> str:
        """Return what the job's command has printed so far."""
        with _faults(self._url):
            text: str = self._client.get_job_logs(job)
        begin = _BEGINS.search(text)
        return text[begin.end() :] if begin else ""

    def interrupt(self, job: Job) -> None:
        """Send the job what one Ctrl-C sends, by a short job of its own on the head.

        Raises:
            AmsamError: the signal could not be sent, and the job still runs.
        """
        printed: list[str] = []
        helper = self.follow(self.submit(interruption(job.id)).id, printed.append)
        if helper.state != "SUCCEEDED" and not self.get(job.id).over:
            why = " ".join("".join(printed).split()) or helper.message
            raise AmsamError(f"{job.id} was not interrupted ({why}); use --force to end it at once.")

    def kill(self, job: Job) -> None:
        """End the job's process at once: SIGTERM, and SIGKILL after 20 s. Returns when it has ended."""
        with _faults(self._url):
            self._client.stop_job(job.id)
        while not self.get(job.id).over:
            time.sleep(_LOOK_EVERY_S[0])


def _job(details: Any) -> Job | None:
    metadata = details.metadata or {}
    if not details.submission_id or "amsam_kind" not in metadata:
        return None
    return Job(
        id=details.submission_id,
        kind=metadata["amsam_kind"],
        sweep=metadata.get("amsam_sweep", ""),
        storage=metadata.get("amsam_storage", ""),
        state=str(getattr(details.status, "value", details.status)),
        message=details.message or "",
        started=None if details.start_time is None else details.start_time / 1000,
        ended=None if details.end_time is None else details.end_time / 1000,
        exit_status=details.driver_exit_code,
    )


@contextlib.contextmanager
def _given_address_only() -> Iterator[None]:
    """Hide the variables that Ray's client prefers to the address that it is given."""
    hidden = {name: os.environ.pop(name) for name in _ADDRESS_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _base(job: str) -> str:
    return job.rpartition("-")[0]


@contextlib.contextmanager
def _faults(url: str) -> Iterator[None]:
    """Convert what the client raises to an InputError with the remedy."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        wrong = "401" not in str(error) and "required" not in str(error)
        what = "refuses this machine's token" if wrong else "requires a token, and this machine sends none"
        remedy = (
            "copy ~/.ray/auth_token from the head to this machine, or set RAY_AUTH_TOKEN, and set RAY_AUTH_MODE=token"
        )
        raise InputError(Problem("--address", f"{url} {what}; {remedy}")) from None
    except (ConnectionError, requests.RequestException, ValueError) as error:
        first = " ".join(str(error).split())[:200] or type(error).__name__
        what = f"no job server answers at {url} ({first})"
        remedy = (
            "give the URL of the cluster's dashboard; `ray dashboard FILE` opens a tunnel to one that `ray up` started"
        )
        raise UnreachableError(Problem("--address", f"{what}; {remedy}")) from None
    except RuntimeError as error:
        if "ray[default]" in str(error):
            raise AmsamError("Ray's job client is not installed; run `pip install 'ray[default]'`.") from None
        raise AmsamError(f"The job server at {url} refused: {' '.join(str(error).split())[:500]}") from None

"""Commands that run on a cluster through its job server: submit, follow, detach, list and stop."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from amsam_ray.errors import InputError, Problem, printable

if TYPE_CHECKING:
    from pathlib import Path

    from amsam_ray.config.space import SpaceFile
    from amsam_ray.search.options import RunOptions
    from amsam_ray.search.ray.jobs import Job, Jobs

_LINES = 20  # of earlier output that re-attaching shows
_INTERRUPTED = 130


def tune_remotely(
    url: str, space_path: str | Path, space: SpaceFile, storage: str, options: RunOptions, *, on_nodes: bool, plan: bool
) -> int:
    """Submit a sweep, or attach to the job that already runs it, and follow it; return the exit status.

    Args:
        url: of the cluster's dashboard.
        space_path, space, storage, options: as for ``submission_of``.
        on_nodes: whether absolute paths are those of the nodes.
        plan: ``--dry-run``.

    Raises:
        InputError: something names a path of this machine, or the job server cannot be used.
    """
    from amsam_ray.search.checks import check_space_alone
    from amsam_ray.search.submission import submission_of

    if problems := check_space_alone(space):
        raise InputError(problems)
    submission = submission_of(space_path, space, storage, options, paths_on_nodes=on_nodes, dry_run=plan)
    jobs = _connect(url)
    job = None if plan else jobs.running(submission)
    attached = job is not None
    if job is None:
        job = jobs.submit(submission)
    click.echo(f"Job {job.id} {'already runs this sweep' if attached else 'is submitted'}; results in {storage}")
    if not plan:
        click.echo(_how_to(url, job.id))
    return _follow(jobs, url, job, last_lines=_LINES if attached else None, detach=not plan)


def run_remotely(url: str, name: str, arguments: list[str], files: dict[str, bytes]) -> int:
    """Run a short command of this package on a cluster's head and return its exit status.

    Args:
        url: of the cluster's dashboard.
        name: of the command.
        arguments: of ``amsam-ray``.
        files: path in the job's folder -> content.
    """
    from amsam_ray.search.submission import command

    jobs = _connect(url)
    return _follow(jobs, url, jobs.submit(command(name, arguments, files)), last_lines=None, detach=False)


def _connect(url: str) -> Jobs:
    from amsam_ray.search.ray.jobs import Jobs

    return Jobs(url)


def _how_to(url: str, job: str) -> str:
    return (
        "Ctrl-C detaches, and the sweep runs on; the same command attaches again. "
        f"To stop it: amsam-ray stop --address {url} {job}"
    )


def _follow(jobs: Jobs, url: str, job: Job, *, last_lines: int | None, detach: bool) -> int:
    try:
        with _interrupts() as interrupted:
            ended = jobs.follow(job.id, _write, last_lines=last_lines, interrupted=interrupted.is_set)
    except KeyboardInterrupt:
        if detach:
            click.echo(f"\nDetached from {job.id}, which runs on. {_how_to(url, job.id)}")
        else:
            jobs.kill(job)
            click.echo(f"\nStopped {job.id}.")
        return _INTERRUPTED
    if ended.state == "SUCCEEDED":
        return 0
    if ended.state == "STOPPED":
        click.echo(f"{job.id} was stopped. Records are kept; the same command continues the sweep.", err=True)
        return _INTERRUPTED
    if ended.exit_status is None:  # it did not start
        click.echo(f"error: {job.id} failed: {printable(ended.message)}", err=True)
        return 1
    return ended.exit_status


@contextlib.contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets. It also raises KeyboardInterrupt, which is lost inside a finaliser."""
    pressed = threading.Event()

    def note(number: int, frame: object) -> None:
        pressed.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _write(text: str) -> None:
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def show_jobs(url: str, form: str) -> None:
    """Print the jobs of this package on a cluster, with the last line of those that run."""
    jobs = _connect(url)
    listed = [job for job in jobs.all() if job.kind == "tune"]
    states = [{**asdict(job), "progress": _last_line(jobs, job)} for job in listed]
    if form == "json":
        click.echo(json.dumps(states, indent=2))
        return
    if not states:
        click.echo(f"{url} has run no sweep; submit one with `amsam-ray tune --space FILE --address {url}`")
    for state in states:
        click.echo(_line(state))


def _last_line(jobs: Jobs, job: Job) -> str:
    lines = [] if job.over else jobs.output(job.id).strip().splitlines()
    return printable(lines[-1]) if lines else ""


def _line(job: dict[str, Any]) -> str:
    begun = "" if job["started"] is None else time.strftime("since %Y-%m-%d %H:%M", time.localtime(job["started"]))
    if job["ended"] is not None:
        begun = time.strftime("ended %Y-%m-%d %H:%M", time.localtime(job["ended"]))
    state = job["state"].lower()
    if state == "failed":
        interrupted = job["exit_status"] == _INTERRUPTED
        state = "interrupted" if interrupted else f"failed with exit status {job['exit_status']}"
    line = printable(f"{job['id']}: {state}, {begun}; results in {job['storage']}")
    return f"{line}\n  {job['progress']}" if job["progress"] else line


def find_running(jobs: Jobs, url: str, name: str | None) -> Job:
    """Return the running job called ``name``: its id, or the id or name of its sweep; None: the only one.

    Raises:
        InputError: there is no such job, or there are several.
    """
    running = [job for job in jobs.all() if not job.over and job.kind == "tune"]
    if name is not None:
        running = [job for job in running if name in (job.id, job.sweep, job.sweep.rpartition("-")[0])]
    if len(running) == 1:
        return running[0]
    if not running:
        what = f"{url} runs no sweep{f' {name}' if name else ''}; `amsam-ray status --address {url}` lists its jobs"
        raise InputError(Problem("--address", what))
    names = ", ".join(job.id for job in running)
    raise InputError(Problem("--address", f"{url} runs several sweeps; name one of {names}"))

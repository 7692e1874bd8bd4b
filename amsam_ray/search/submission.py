"""What a sweep takes with it to a cluster's job server, and which of its paths the nodes cannot see. Uses no Ray."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import amsam_ray
from amsam_ray.config.datasets import path_fault
from amsam_ray.config.space import SpaceFile
from amsam_ray.config.space_file import sweep_id
from amsam_ray.data.definition import get_definition
from amsam_ray.errors import InputError, Problem
from amsam_ray.hashing import sha256_hex
from amsam_ray.search.options import TRIAL_FUNCTION, RunOptions
from amsam_ray.storage.open import open_storage

ENTRY = "amsam_job.py"
"""The script that starts a job on the cluster's head; it is a copy of ``cli/job_entry.py``."""

_ENTRY_SOURCE = Path(amsam_ray.__file__).parent / "cli" / "job_entry.py"
_MAX_FILE = 1 << 20  # a definition or a list of names
_URI = "give s3://bucket/prefix"
_SHARED = "or the absolute path of a folder that every node has, with --paths-on-nodes"


@dataclass(frozen=True)
class Submission:
    """A command of this package that runs on a cluster's head.

    Attributes:
        sweep: the sweep's id by its space file; for a command other than ``tune``, the command's name.
        storage: URI of the results.
        arguments: of ``amsam-ray`` on the head.
        files: path relative to the job's folder -> content.
        kind: the command.
    """

    sweep: str
    storage: str
    arguments: tuple[str, ...]
    files: Mapping[str, bytes]
    kind: str = "tune"

    @property
    def base(self) -> str:
        """The job's id without its last part, a number; equal for equal sweeps on equal storages."""
        return f"amsam-{self.sweep}-{sha256_hex(self.storage)[:6]}"

    @property
    def metadata(self) -> dict[str, str]:
        """What the cluster's list of jobs says about it. Everybody who may use the cluster can read it."""
        return {
            "amsam_kind": self.kind,
            "amsam_sweep": self.sweep,
            "amsam_storage": self.storage,
            "amsam_arguments": json.dumps(self.arguments),
        }

    def entrypoint(self, job: str) -> list[str]:
        """Return the command line of the job with this id on the head."""
        # Not sys.executable: the cluster's interpreter has another path.
        if self.kind == "interrupt":
            return ["python3", ENTRY, "interrupt", *self.arguments]
        return ["python3", ENTRY, "run", job, amsam_ray.__version__, *self.arguments]


def is_dashboard(address: str | None) -> bool:
    """Whether an ``--address`` is the URL of a cluster's dashboard, which is also its job server."""
    return address is not None and address.startswith(("http://", "https://"))


def submission_of(
    space_path: str | Path, space: SpaceFile, storage: str, options: RunOptions, *, paths_on_nodes: bool, dry_run: bool
) -> Submission:
    """Return what runs ``space`` on a cluster.

    Args:
        space_path: the space file, which travels with the job, as do the dataset definitions and the lists of names
            that it refers to by a path below the present folder.
        space: its content.
        storage: URI of the results.
        options: of the run; ``address`` is ignored.
        paths_on_nodes: whether absolute paths are those of the nodes.
        dry_run: print the plan only.

    Raises:
        InputError: paths of this machine, which the nodes cannot see; all of them.
    """
    files = travelling(space_path, space, storage, paths_on_nodes=paths_on_nodes)
    arguments = ["tune", "--space", "space.yaml", "--storage", storage, "--address", "auto", *_given(options)]
    kind = "dry-run" if dry_run else "tune"
    arguments += ["--dry-run"] if dry_run else []
    return Submission(sweep_id(space), storage, tuple(arguments), files, kind)


def travelling(space_path: str | Path, space: SpaceFile, storage: str, *, paths_on_nodes: bool) -> dict[str, bytes]:
    """Return the files that go with a space file, by their paths in the job's folder.

    Args:
        space_path, space, storage, paths_on_nodes: as for ``submission_of``.

    Raises:
        InputError: paths of this machine, which the nodes cannot see; all of them.
    """
    problems = list(_unseen(space, storage, paths_on_nodes))
    files = {"space.yaml": Path(space_path).read_bytes(), ENTRY: _ENTRY_SOURCE.read_bytes()}
    for where, path in _referred(space):
        if (content := _carried(path)) is None:
            what = f"{path} does not travel with the sweep; put a file of at most 1 MiB below the present folder"
            problems.append(Problem(where, f"{what} and give its relative path"))
        else:
            files[str(PurePosixPath(path))] = content
    if problems:
        raise InputError(problems)
    return files


def interruption(job: str) -> Submission:
    """Return what sends the job with this id one Ctrl-C."""
    return Submission("interrupt", "", (job,), {ENTRY: _ENTRY_SOURCE.read_bytes()}, kind="interrupt")


def command(name: str, arguments: Sequence[str], files: Mapping[str, bytes]) -> Submission:
    """Return what runs ``amsam-ray`` with ``arguments`` on the head, beside ``files``."""
    return Submission(name, "", tuple(arguments), {**files, ENTRY: _ENTRY_SOURCE.read_bytes()}, kind=name)


def _given(options: RunOptions) -> Iterator[str]:
    """Yield the options of ``tune`` that differ from their defaults."""
    if options.extend:
        yield "--extend"
    if options.fresh:
        yield "--fresh"
    budget = options.budget
    for name, value in (
        ("--time-budget", budget.seconds),
        ("--max-trials", budget.trials),
        ("--max-gpu-hours", budget.gpu_hours),
    ):
        if value is not None:
            yield from (name, f"{value:.12g}")
    if options.trial_function != TRIAL_FUNCTION:
        yield from ("--trial-function", options.trial_function)


def _unseen(space: SpaceFile, storage: str, paths_on_nodes: bool) -> Iterator[Problem]:
    """Yield a problem for every path that may be one of this machine only."""
    where = "storage" if storage == space.storage else "--storage"
    if fault := path_fault(storage):
        yield Problem(where, fault)
    else:
        try:
            open_storage(storage)  # refuses user names and passwords, which would be listed with the job
        except InputError as error:
            yield from (Problem(where, str(problem)) for problem in error.problems)
    named = [(where, storage.removeprefix("file://"))]
    named += [(f"datasets[{i}].root", dataset.root) for i, dataset in enumerate(space.datasets) if dataset.root]
    if space.backbone.checkpoint:
        named.append(("backbone.checkpoint", space.backbone.checkpoint))
    if "/" in space.detector.weights or "\\" in space.detector.weights:
        named.append(("detector.weights", space.detector.weights))
    for key, path in named:
        if path.startswith("s3://") or (paths_on_nodes and path.startswith("/")):
            continue
        is_file = key.endswith(("checkpoint", "weights"))
        yours = "give the absolute path that it has on every node" if is_file else _URI
        remedy = f"{yours} and add --paths-on-nodes" if is_file else f"{yours}, {_SHARED}"
        yield Problem(
            key, f"{path} is a path of this machine ({platform.node()}), which the cluster's nodes cannot see; {remedy}"
        )


def _referred(space: SpaceFile) -> Iterator[tuple[str, str]]:
    """Yield the definitions and lists of names that the space file refers to by a local path, with their keys."""
    for index, dataset in enumerate(space.datasets):
        if dataset.name.endswith((".yaml", ".yml")):
            yield f"datasets[{index}].name", dataset.name
        try:
            rules = get_definition(dataset.name).options
        except InputError:
            continue  # the head reports it
        for name, value in dataset.options.items():
            # A list is searched below the data root first, and on the machine of the process only then.
            if name in rules and rules[name].type == "split" and isinstance(value, str) and Path(value).is_file():
                yield f"datasets[{index}].options.{name}", value


def _carried(path: str) -> bytes | None:
    """Return the content of a small file below the present folder, None if it is something else."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or path.startswith("~"):
        return None
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_FILE + 1)
    except OSError:
        return None
    return content if len(content) <= _MAX_FILE else None

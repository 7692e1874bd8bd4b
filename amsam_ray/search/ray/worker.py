"""The training workers of a lane: they run trial after trial in one process until the lane closes."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import math
import os
import platform
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import amsam_ray
from amsam_ray.data.images import ImageError
from amsam_ray.device import hardware
from amsam_ray.errors import AmsamError, InputError, with_remedy
from amsam_ray.inference.node_cache import NodeCacheSettings, use_settings
from amsam_ray.paths import cache_dir
from amsam_ray.search.recorder import Recorder
from amsam_ray.search.trials import ErrorSource, TrialOutcome, TrialSpec
from amsam_ray.storage.base import UnavailableError

if TYPE_CHECKING:
    from amsam_ray.training.population import Population

UPLOAD_S = 120.0  # how long a closing lane retries to upload what waits on its node
_HEARTBEAT_S = 1.0
_PULSE_S = 2.0
_FULL = os.strerror(errno.ENOSPC)  # libraries put this text into errors of their own
_BUSY = 0.1  # share of a core; a process that is stuck waiting uses less


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of a lane's workers, equal for all lanes of a sweep.

    Attributes:
        sweep: the sweep's id.
        storage: URI of the results.
        trial_function: ``module:function`` with the signature of ``amsam_ray.training.trial.train_trial``.
        gpus: number of GPUs that one trial uses, all workers together.
        work_dir: temporary folder for the files of a trial.
        share: whether prepared inputs are shared through the storage.
        prepared_bytes: largest size of a node's prepared inputs; 0: unlimited.
        population: 1: the lane trains one by one; otherwise it takes several trials, and with ``auto`` it measures and
            reports how many of a cell to train together.
        version: of this package in the driver.
    """

    sweep: str
    storage: str
    trial_function: str
    gpus: float
    work_dir: Path
    share: bool = False
    prepared_bytes: int = 0
    population: int | Literal["auto"] = 1
    version: str = amsam_ray.__version__


class Abandoned(BaseException):
    """Raised inside a trial to leave it. Not an Exception, so that no handler in the training code catches it."""


class LaneMustRestart(RuntimeError):
    """The process cannot run another trial."""


def serve(config: dict[str, Any]) -> None:
    """The training function of a lane's ``TorchTrainer``: take trials from the mailbox until it closes.

    Args:
        config: ``mailbox``, a handle of the lane's mailbox actor, ``settings``, a WorkerSettings, and ``cpus``, the
            cores of this worker.
    """
    import ray
    from ray import train

    mailbox, settings = config["mailbox"], config["settings"]
    check_version(settings)
    _use_device(config["cpus"])
    rank = train.get_context().get_world_rank()
    worker = _Worker(mailbox, settings, rank, train.get_context().get_world_size())
    # The mailbox dies with its lane, and the workers then end.
    with contextlib.suppress(ray.exceptions.RayActorError):
        group = ray.util.get_current_placement_group()
        node = ray.get_runtime_context().get_node_id()
        ray.get(mailbox.register.remote(rank, group.id.hex() if group else "", node))
        if settings.population == 1:
            _one_by_one(mailbox, worker)
        else:
            _Together(mailbox, worker, config["cpus"], measure=settings.population == "auto").run()
        worker.close()


def _one_by_one(mailbox: Any, worker: _Worker) -> None:
    import ray

    ticket, outcome = 0, None
    while (taken := ray.get(mailbox.take.remote(ticket, outcome))) is not None:
        ticket, trial = taken
        outcome = None
        with contextlib.suppress(Abandoned):
            outcome = worker.run(ticket, trial)


class _Together:
    """Runs all trials that the mailbox has, as members of a population. A trial that ends reports by itself.

    Args:
        mailbox, worker: of the lane.
        cpus: cores of this worker.
        measure: whether to measure how many trials of a cell to train together, at the first step in the cell.
    """

    def __init__(self, mailbox: Any, worker: _Worker, cpus: float, *, measure: bool):
        from amsam_ray.training.population import Population
        from amsam_ray.training.stacked import JointSteps

        self._mailbox, self._worker, self._cpus, self._measure = mailbox, worker, cpus, measure
        self._steps = JointSteps()
        self._ticket, self._cell = 0, ""  # of the newest trial; all that run are of its cell
        self._measured: set[str] = set()
        self._last_heartbeat = time.monotonic()
        self._population = worker.population = Population[Any, Any](self._take_steps)

    def run(self) -> None:
        """Take trials until the mailbox closes, and wait until all have ended. Raises what a member raised."""
        import ray

        members: list[Future[None]] = []
        closed = False
        while not closed:
            taking = self._mailbox.take.remote(self._ticket)
            taken = False
            while not taken:
                taken = bool(ray.wait([taking], timeout=_HEARTBEAT_S)[0])
                members = _still_running(members)
            if (found := ray.get(taking)) is None:
                closed = True
            else:
                self._ticket, trial = found
                self._cell = trial.cell
                members.append(self._population.start(partial(self._run_trial, self._ticket, trial)))
        wait(members)
        _still_running(members)

    def _run_trial(self, ticket: int, trial: TrialSpec) -> None:
        import ray

        _use_device(self._cpus)
        outcome = self._worker.run(ticket, trial)
        if outcome is not None:
            ray.get(self._mailbox.finish.remote(ticket, outcome))

    def _take_steps(self, steps: Sequence[Any]) -> Sequence[Any]:
        if steps:
            self._send_heartbeat()
            if self._measure and self._cell not in self._measured:
                self._measured.add(self._cell)
                self._report_size(*steps[0])
        return self._steps(steps)

    def _send_heartbeat(self) -> None:
        """Send a heartbeat, at most one a second: without it, a lane would look hung in a long epoch of many trials."""
        now = time.monotonic()
        if now - self._last_heartbeat >= _HEARTBEAT_S:
            self._last_heartbeat = now
            self._mailbox.heartbeat.remote(self._ticket)

    def _report_size(self, trainer: Any, draw: Any) -> None:
        import ray

        from amsam_ray.training.population_size import choose_size

        size, seconds = choose_size(trainer, draw, self._send_heartbeat)
        if seconds:
            step_ms = {count: 1000 * second for count, second in seconds.items()}
            ray.get(self._mailbox.size.remote(self._ticket, size, step_ms))


def _still_running(members: Sequence[Future[None]]) -> list[Future[None]]:
    """Return the members that run. Raises what a member raised, unless its trial was abandoned."""
    for member in members:
        if member.done() and (error := member.exception()) is not None and not isinstance(error, Abandoned):
            raise error
    return [member for member in members if not member.done()]


def check_version(settings: WorkerSettings) -> None:
    """Raise LaneMustRestart if this node has another version of the package than the driver."""
    if settings.version != amsam_ray.__version__:
        raise LaneMustRestart(
            f"node {platform.node()} has amsam-ray {amsam_ray.__version__} and the driver {settings.version}; install "
            "the driver's version there"
        )


def _use_device(cpus: float) -> None:
    """Use this worker's cores and GPU. The current GPU is a property of the thread."""
    import torch

    torch.set_num_threads(max(1, math.ceil(cpus - 0.5)))
    if torch.cuda.is_available():
        from ray.train.torch import get_device

        if (device := get_device()).type == "cuda":
            torch.cuda.set_device(device)


def load_trial_function(path: str) -> Callable[..., Any]:
    """Return the function at ``module:name``. Raises AmsamError if there is none."""
    module, _, name = path.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise AmsamError(f"{path} cannot be imported ({error}); use module:function") from error
    return function


class _Worker:
    """Runs and records trials in one process of a lane.

    Attributes:
        population: of the trials that the process runs; None: it runs one at a time.
    """

    def __init__(self, mailbox: Any, settings: WorkerSettings, rank: int, world: int):
        self._mailbox = mailbox
        self._settings = settings
        self._rank, self._world = rank, world
        self.population: Population[Any, Any] | None = None
        self._function = load_trial_function(settings.trial_function)
        self._recorder = Recorder(settings.storage, settings.sweep, settings.gpus)
        self._recorder.check_shared()
        shared = settings.storage if settings.share else ""
        use_settings(NodeCacheSettings(settings.sweep, shared, settings.prepared_bytes))

    def run(self, ticket: int, trial: TrialSpec) -> TrialOutcome | None:
        """Run one trial. Rank 0 records it and returns the outcome, the others return None."""
        # A lane may have died between writing the record and reporting it. Every rank checks, so that none trains
        # alone.
        outcome = self._recorder.recorded(trial)
        if outcome is None:
            started, share = time.time(), self._measure_share()
            monitor = _TrialMonitor(self._mailbox, ticket, trial, self._rank)
            try:
                self._settings.work_dir.mkdir(parents=True, exist_ok=True)
                with (
                    _Pulse(self._mailbox, ticket, monitor, self._has_turn()),
                    tempfile.TemporaryDirectory(dir=self._settings.work_dir) as folder,
                ):
                    result = self._function(
                        trial.config,
                        cache_dir=cache_dir(),
                        work_dir=Path(folder),
                        rungs=trial.rungs,
                        report=monitor.rung,
                        on_epoch=monitor.epoch,
                    )
                    if self._rank == 0:
                        outcome = self._recorder.write(trial, result, monitor.rung_scores, started, hardware(), share())
            except Exception as error:
                outcome = self._outcome_of(error, trial)
        return outcome if self._rank == 0 else None

    def _measure_share(self) -> Callable[[], float]:
        """Return a function that returns the share of the lane that this thread's trial has used since this call."""
        return (lambda: 1.0) if self.population is None else self.population.measure_share()

    def _has_turn(self) -> Callable[[], bool]:
        """Return a function that states whether this thread's trial runs, and does not wait for others."""
        if self.population is None:
            return lambda: True
        return partial(self.population.is_running, threading.get_ident())

    def close(self) -> None:
        """Upload what waits on this node's disk before the lane ends: the driver may be on another node."""
        if self._recorder.waiting():
            self._mailbox.start_upload.remote()
            self._recorder.close(UPLOAD_S)

    def _outcome_of(self, error: Exception, trial: TrialSpec) -> TrialOutcome:
        """Return the outcome of a trial that raised. Raises LaneMustRestart if this process can run no other."""
        reason = _reason(error)
        if self._world > 1 or _poisoned(error):
            # Other ranks may wait for this one in a collective operation, or the CUDA context is lost.
            raise LaneMustRestart(reason) from error
        source: ErrorSource = "trial"
        if isinstance(error, ImageError):
            source = "data"
        elif isinstance(error, InputError):
            source = "input"
        elif _refused_by_node(error):
            source = "node"
        _free_memory()
        formatted = "".join(traceback.format_exception(error))
        return TrialOutcome(trial.trial_id, "error", reason=reason, source=source, traceback=formatted)


class _TrialMonitor:
    """The callbacks of a trial: a heartbeat after every epoch, and ASHA's decision at a rung.

    Every rank asks for the decision itself and gets the same, so no collective operation is needed to agree.
    """

    def __init__(self, mailbox: Any, ticket: int, trial: TrialSpec, rank: int):
        self._mailbox, self._ticket, self._rank = mailbox, ticket, rank
        self._last_heartbeat = time.monotonic()
        self.rung_scores: dict[int, float] = {}
        self.in_epochs = False

    def epoch(self, epoch: int, epochs: int) -> None:
        """Send a heartbeat after epoch ``epoch`` of ``epochs``, at most one a second."""
        import ray

        self.in_epochs = epoch < epochs
        now = time.monotonic()
        if now - self._last_heartbeat >= _HEARTBEAT_S:
            self._last_heartbeat = now
            if not ray.get(self._mailbox.heartbeat.remote(self._ticket)):
                raise Abandoned

    def rung(self, epoch: int, score: float) -> bool:
        """Return whether the trial stops at the rung ``epoch`` with ``score``, its best so far."""
        import ray

        self.rung_scores[epoch] = score
        decision = ray.get(self._mailbox.rung.remote(self._ticket, epoch, score if self._rank == 0 else None))
        if decision == "abandon":
            raise Abandoned
        return bool(decision == "stop")


class _Pulse:
    """Sends heartbeats while inputs are prepared and a test split is scored, when no epoch does.

    In these phases a process that computes counts as alive; between the first and the last epoch only the epochs
    count. A process whose interpreter lock is held sends no heartbeat either.

    Args:
        mailbox, ticket, monitor: of the trial.
        has_turn: whether the trial runs; the process may be busy with others while one waits for its turn.
    """

    def __init__(self, mailbox: Any, ticket: int, monitor: _TrialMonitor, has_turn: Callable[[], bool] = lambda: True):
        self._mailbox, self._ticket, self._monitor, self._has_turn = mailbox, ticket, monitor, has_turn
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="amsam-pulse", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._over.set()

    def _run(self) -> None:
        used = time.process_time()
        while not self._over.wait(_PULSE_S):
            before, used = used, time.process_time()
            if not self._monitor.in_epochs and self._has_turn() and used - before > _BUSY * _PULSE_S:
                self._mailbox.heartbeat.remote(self._ticket)


def _reason(error: Exception) -> str:
    """Return an exception in one line: its type, where it was raised, and its message."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = " ".join((with_remedy(error) if isinstance(error, OSError) else str(error)).split())
    if _FULL in text and not isinstance(error, OSError | AmsamError):
        text += "; free some space"
    kind = "out of memory" if _out_of_memory(error) else type(error).__name__
    return f"{kind}{where}: {text}"[:500] if text else f"{kind}{where}"


def _refused_by_node(error: Exception) -> bool:
    """Whether a full or read-only disk caused the error."""
    refused = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return refused or isinstance(error, UnavailableError) or _FULL in str(error)


def _out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError)


def _poisoned(error: Exception) -> bool:
    """Whether the CUDA context is lost (an illegal access, an ECC error), so that nothing can run in this process."""
    import torch

    return isinstance(error, torch.AcceleratorError) and not _out_of_memory(error)


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

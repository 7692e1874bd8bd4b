"""What runs in a lane's training workers: trial after trial in one warm process, until the lane closes."""

from __future__ import annotations

import contextlib
import gc
import importlib
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amsam_ray.data.images import ImageError
from amsam_ray.errors import AmsamError, InputError
from amsam_ray.paths import cache_dir
from amsam_ray.search.assignment import Assignment, Blame, Outcome
from amsam_ray.search.recording import Recorder

BRING_S = 120.0  # how long a closing lane tries to bring what waits on its node
_BEAT_EVERY_S = 1.0
_PULSE_EVERY_S = 2.0
_BUSY = 0.1  # of a core; a process that waits for something that never comes uses less


@dataclass(frozen=True)
class WorkerSettings:
    """What a lane's workers need to know, the same for all lanes of a sweep.

    Attributes:
        sweep: the sweep's id.
        storage: URI of the results.
        trial_function: ``module:function`` with the signature of ``amsam_ray.training.trial.train_trial``.
        gpus: GPUs that one trial holds, all workers together.
        work_dir: throw-away, for what a trial writes.
    """

    sweep: str
    storage: str
    trial_function: str
    gpus: float
    work_dir: Path


class Abandoned(BaseException):
    """Raised inside a trial to leave it; not an Exception, so that no handler in the training mistakes it for one."""


class LaneMustRestart(RuntimeError):
    """The process is not fit for another trial."""


def serve(config: dict[str, Any]) -> None:
    """The training function of a lane's ``TorchTrainer``: take trials from the mailbox until it closes.

    Args:
        config: ``mailbox``, a handle of the lane's mailbox actor, ``settings``, a WorkerSettings, and ``cpus``, the
            cores of this worker.
    """
    import ray
    from ray import train

    _use_device(config["cpus"])
    mailbox, settings = config["mailbox"], config["settings"]
    rank = train.get_context().get_world_rank()
    worker = _Worker(mailbox, settings, rank, train.get_context().get_world_size())
    # The mailbox dies with its lane; its workers then have nobody to work for.
    with contextlib.suppress(ray.exceptions.RayActorError):
        group = ray.util.get_current_placement_group()
        ray.get(mailbox.arrive.remote(rank, group.id.hex() if group else ""))
        ticket, outcome = 0, None
        while (taken := ray.get(mailbox.take.remote(ticket, outcome))) is not None:
            ticket, assignment = taken
            outcome = None
            with contextlib.suppress(Abandoned):
                outcome = worker.run(ticket, assignment)
        worker.close()


def _use_device(cpus: float) -> None:
    """Compute with this worker's cores, and on its GPU: which one is current is a property of the thread."""
    import torch
    from ray.train.torch import get_device

    torch.set_num_threads(max(1, round(cpus)))
    if torch.cuda.is_available() and (device := get_device()).type == "cuda":
        torch.cuda.set_device(device)


def load_trial_function(path: str) -> Callable[..., Any]:
    """The function at ``module:name``. Raises AmsamError if there is none."""
    module, _, name = path.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise AmsamError(f"{path} is no function that a lane can import ({error}); give module:function.") from error
    return function


class _Worker:
    def __init__(self, mailbox: Any, settings: WorkerSettings, rank: int, world: int):
        self._mailbox = mailbox
        self._settings = settings
        self._rank, self._world = rank, world
        self._function = load_trial_function(settings.trial_function)
        self._recorder = Recorder(settings.storage, settings.sweep, settings.gpus)
        self._recorder.check_shared()

    def run(self, ticket: int, assignment: Assignment) -> Outcome | None:
        """Run one trial. Rank 0 records it and returns the outcome, the others return None."""
        # A lane may have died after the record was written and before the driver was told. Every rank looks, so that
        # none trains alone.
        outcome = self._recorder.recorded(assignment)
        if outcome is None:
            try:
                outcome = self._train(ticket, assignment)
            except Exception as error:
                reason = _reason(error)
                if self._world > 1 or _poisoned(error):
                    # The other ranks may wait for this one in a collective operation; or CUDA is gone for good.
                    raise LaneMustRestart(reason) from error
                blame: Blame = "trial"
                if isinstance(error, ImageError):
                    blame = "data"
                elif isinstance(error, InputError):
                    blame = "input"
                trace = traceback.format_exc()
                outcome = Outcome(assignment.trial_id, "error", reason=reason, blame=blame, trace=trace)
                _free_memory()
        return outcome if self._rank == 0 else None

    def close(self) -> None:
        """Bring what waits on this node's disk while there is somebody to bring it: the driver may be on another."""
        if self._recorder.waiting():
            self._mailbox.bring.remote()
            self._recorder.close(BRING_S)

    def _train(self, ticket: int, assignment: Assignment) -> Outcome | None:
        started = time.time()
        report = _Reporter(self._mailbox, ticket, assignment, self._rank)
        pulse = _Pulse(self._mailbox, ticket, report)
        self._settings.work_dir.mkdir(parents=True, exist_ok=True)
        with pulse, tempfile.TemporaryDirectory(dir=self._settings.work_dir) as work_dir:
            result = self._function(
                assignment.config,
                cache_dir=cache_dir(),
                work_dir=Path(work_dir),
                rungs=tuple(range(1, assignment.config.train.epochs + 1)),
                report=report,
            )
            if self._rank != 0:
                return None
            from amsam_ray.device import hardware

            return self._recorder.write(assignment, result, report.rung_scores, started, hardware())


class _Reporter:
    """What a trial calls after every epoch: a sign of life each time, the ladder's decision at a rung.

    Every rank asks for the decision itself and gets the same, so no collective operation is needed to agree.
    """

    def __init__(self, mailbox: Any, ticket: int, assignment: Assignment, rank: int):
        self._mailbox, self._ticket, self._rank = mailbox, ticket, rank
        self._rungs = frozenset(assignment.rungs)
        self._beaten = time.monotonic()
        self._last_epoch = assignment.config.train.epochs
        self.rung_scores: dict[int, float] = {}
        self.in_epochs = False

    def __call__(self, epoch: int, score: float) -> bool:
        import ray

        self.in_epochs = epoch < self._last_epoch
        if epoch in self._rungs:
            self.rung_scores[epoch] = score
            told = score if self._rank == 0 else None
            decision = ray.get(self._mailbox.rung.remote(self._ticket, epoch, told))
            if decision == "abandon":
                raise Abandoned
            return bool(decision == "stop")
        now = time.monotonic()
        if now - self._beaten >= _BEAT_EVERY_S:
            self._beaten = now
            if not ray.get(self._mailbox.beat.remote(self._ticket)):
                raise Abandoned
        return False


class _Pulse:
    """Signs of life while inputs are prepared and a test split is scored, which no epoch's report interrupts.

    There, a process that computes counts as alive; between the first and the last epoch only the reports do. A thread
    that the interpreter never lets run, because something holds its lock, gives no sign either.
    """

    def __init__(self, mailbox: Any, ticket: int, report: _Reporter):
        self._mailbox, self._ticket, self._report = mailbox, ticket, report
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="amsam-pulse", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._over.set()

    def _beat(self) -> None:
        used = time.process_time()
        while not self._over.wait(_PULSE_EVERY_S):
            before, used = used, time.process_time()
            if not self._report.in_epochs and used - before > _BUSY * _PULSE_EVERY_S:
                self._mailbox.beat.remote(self._ticket)


def _reason(error: Exception) -> str:
    """One line: what was raised, where, and what it said."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    kind = "out of memory" if _out_of_memory(error) else type(error).__name__
    return f"{kind}{where}: {text}"[:500] if text else f"{kind}{where}"


def _out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError)


def _poisoned(error: Exception) -> bool:
    """Whether the CUDA context is lost (an illegal access, an ECC fault): nothing will run in this process again."""
    import torch

    return isinstance(error, torch.AcceleratorError) and not _out_of_memory(error)


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

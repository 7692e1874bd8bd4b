"""A lane: one long-lived Ray Train run that trains trial after trial.

Ray documents one Ray Train run per Tune trial, which starts a controller and a worker group, with all their imports,
for each trial. A lane starts them once. To Tune it is one long trial: a class trainable whose ``setup`` starts the
Train run in a thread and whose ``step`` waits for the next event of the search trial that the lane runs. One Tune
trial per search trial, with Tune's own actor reuse, takes 23 ms of the driver each, most of it for creating and ending
Tune trials, and three answers of the driver before a trial starts; a lane needs one.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import train, tune

from amsam_ray.search.lane_size import LaneSize
from amsam_ray.search.observers import LaneStage
from amsam_ray.search.ray.mailbox import LaneUpdate, Mailbox
from amsam_ray.search.ray.trainer import make_trainer
from amsam_ray.search.ray.worker import UPLOAD_S, LaneMustRestart, WorkerSettings, serve

_CLOSE_S = 5.0
_WAIT_S = 1.0  # of one call to the mailbox; the death of the Train run is noticed within this time


@dataclass(frozen=True)
class LaneSettings:
    """How every lane of a sweep is built.

    Attributes:
        worker: what the training workers need to know.
        size: the lane's workers and their resources.
        timeout_s: a trial without a heartbeat for this long is given up.
        start_timeout_s: a lane whose workers are not up within this time is given up.
        run_dir: temporary folder for the files of Ray Train.
    """

    worker: WorkerSettings
    size: LaneSize
    timeout_s: float
    start_timeout_s: float
    run_dir: Path


class LaneError(RuntimeError):
    """A lane cannot continue. ``str(error)`` is the reason.

    Args:
        reason: one sentence.
        stage: how far the lane had come.
    """

    def __init__(self, reason: str, stage: LaneStage = "running"):
        super().__init__(reason, stage)
        self.reason = reason
        self.stage = stage

    def __str__(self) -> str:
        return self.reason


class Lane(tune.Trainable):
    """Search trials, through one Train run, one at a time or as a population.

    The Tune config holds ``lane``, the LaneSettings. A result holds ``event``, the mailbox's next LaneEvent or None for
    a heartbeat, ``mailbox``, the actor's name, through which the driver sends trials and ASHA's decisions; it is empty
    until the workers are up, and ``node``, the id of the node of this process.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._settings: LaneSettings = config["lane"]
        self._node = ray.get_runtime_context().get_node_id()
        self._name = f"amsam-mailbox-{uuid.uuid4().hex[:12]}"
        # On the lane's own node, so that the lane and its mailbox die together.
        self._mailbox: Any = (
            ray.remote(Mailbox)
            .options(
                name=self._name,
                num_cpus=0,
                max_concurrency=1000,
                label_selector={"ray.io/node-id": self._node},
            )
            .remote(self._settings.size.workers)
        )
        self._end_of_run: str | None = None
        self._run = threading.Thread(target=self._train, name="lane-train-run", daemon=True)
        self._run.start()
        self._started = time.monotonic()
        self._up = False

    def step(self) -> dict[str, Any]:
        update: LaneUpdate = ray.get(self._mailbox.next_update.remote(_WAIT_S))
        self._up = self._up or update.ready
        if update.event is None:
            self._check(update)
        return {"event": update.event, "mailbox": self._name if self._up else "", "node": self._node}

    def _check(self, update: LaneUpdate) -> None:
        """Raise LaneError if no event can arrive any more."""
        if not self._run.is_alive():
            raise LaneError(self._end_of_run or "the lane's Train run ended", "running" if self._up else "start")
        if not self._up and time.monotonic() - self._started > self._settings.start_timeout_s:
            raise LaneError("the cluster had no room for the lane's workers", "room")
        if self._up and update.silent_s > self._settings.timeout_s:
            raise LaneError(f"hung: no heartbeat for {self._settings.timeout_s:g} s")

    def _train(self) -> None:
        settings, size = self._settings, self._settings.size
        trainer = make_trainer(
            serve,
            folder=settings.run_dir,
            train_loop_config={"mailbox": self._mailbox, "settings": settings.worker, "cpus": size.cpus},
            scaling_config=train.ScalingConfig(
                num_workers=size.workers,
                use_gpu=size.gpus > 0,
                placement_strategy="STRICT_PACK",
                resources_per_worker=size.bundle,
            ),
            run_config=train.RunConfig(
                name=self._name,
                storage_path=str(settings.run_dir / "train"),
                # The dispatcher replaces a lane that dies and reassigns its trial, so that one place counts retries.
                failure_config=train.FailureConfig(max_failures=0),
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            self._end_of_run = _why(error)

    def cleanup(self) -> None:
        # The run ends by itself once its workers see the closed mailbox; hanging workers die with this process.
        with contextlib.suppress(ray.exceptions.RayActorError):
            ray.get(self._mailbox.close.remote())
            self._run.join(timeout=_CLOSE_S)
            if ray.get(self._mailbox.is_uploading.remote()):
                self._run.join(timeout=UPLOAD_S)


def _why(error: BaseException) -> str:
    """Return what ended a Train run, in one line."""
    failures = list((getattr(error, "worker_failures", None) or {}).values())
    chains = [list(_causes(failure)) for failure in failures]
    for cause in (cause for chain in chains for cause in chain):
        if isinstance(cause, LaneMustRestart):
            return str(cause)
    if any(isinstance(cause, ray.exceptions.RayActorError) for chain in chains for cause in chain):
        return "the lane's training worker died"
    shown = failures[0] if failures else error
    return " ".join(f"{type(shown).__name__}: {shown}".split())[:500]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and its causes, under any of the attributes in which Ray keeps them."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = getattr(found, "health_check_failure", None) or getattr(found, "cause", None) or found.__cause__

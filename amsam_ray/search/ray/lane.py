"""A lane: one long-lived Ray Train run that trains trial after trial.

Ray documents one Ray Train run per Tune trial, which starts a controller and a worker group, with all their imports,
for each. A lane starts them once. To Tune it is one long trial: a class trainable whose ``setup`` starts the Train run
in a thread, and whose ``step`` waits for the next event of whichever search trial it was dealt. One Tune trial per
search trial, with Tune's own actor reuse, costs the driver 23 ms each, most of it for making and ending Tune trials,
and its lane three answers of the driver before it begins; this way it is one.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray import train, tune
from ray.train.torch import TorchTrainer

from amsam_ray.search.ray.mailbox import Mailbox, News
from amsam_ray.search.ray.worker import BRING_S, LaneMustRestart, WorkerSettings, serve

_CLOSE_S = 5.0
_WAIT_S = 1.0  # how long one question to the mailbox may wait; a death of the Train run is seen this soon


@dataclass(frozen=True)
class LaneSettings:
    """How every lane of a sweep is built.

    Attributes:
        worker: what the training workers need to know.
        workers: data-parallel training workers of one lane.
        cpus, gpus: of each worker; gpus may be a fraction.
        timeout_s: a trial that gives no sign of life for so long is given up.
        start_timeout_s: a lane whose workers are not up by then gives up.
        run_dir: a throw-away folder for what Ray Train writes.
    """

    worker: WorkerSettings
    workers: int
    cpus: float
    gpus: float
    timeout_s: float
    start_timeout_s: float
    run_dir: Path


Stage = Literal["running", "start", "room"]


class LaneError(RuntimeError):
    """A lane that is of no more use. ``str(error)`` is the reason.

    Args:
        reason: one sentence.
        stage: ``running``: it was up; ``start``: it did not come up; ``room``: the cluster had no room for it.
    """

    def __init__(self, reason: str, stage: Stage = "running"):
        super().__init__(reason, stage)
        self.reason = reason
        self.stage = stage

    def __str__(self) -> str:
        return self.reason


class _Trainer(TorchTrainer):
    """Without the process that would clean up after a dead controller: the driver does (see ``groups``)."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # of Ray Train V2
        return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]


class Lane(tune.Trainable):
    """Search trials, one at a time, through one Train run.

    The Tune config holds ``lane``, the LaneSettings. A result holds ``event``, the mailbox's next Event or None for a
    sign of life, and ``mailbox``, the actor's name, through which the driver deals trials and sends the ladder's
    decisions; it is empty until the workers are up.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._settings: LaneSettings = config["lane"]
        self._name = f"amsam-mailbox-{uuid.uuid4().hex[:12]}"
        # On the lane's own node: a lane and its mailbox live and die together.
        self._mailbox: Any = (
            ray.remote(Mailbox)
            .options(
                name=self._name,
                num_cpus=0,
                max_concurrency=1000,
                label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
            )
            .remote(self._settings.workers)
        )
        self._end_of_run: str | None = None
        self._run = threading.Thread(target=self._train, name="lane-train-run", daemon=True)
        self._run.start()
        self._started = time.monotonic()
        self._up = False

    def step(self) -> dict[str, Any]:
        news: News = ray.get(self._mailbox.news.remote(_WAIT_S))
        self._up = self._up or news.ready
        if news.event is None:
            self._check(news)
        return {"event": news.event, "mailbox": self._name if self._up else ""}

    def _check(self, news: News) -> None:
        """Raise LaneError if waiting on is in vain."""
        if not self._run.is_alive():
            raise LaneError(self._end_of_run or "the lane's Train run ended", "running" if self._up else "start")
        if not self._up and time.monotonic() - self._started > self._settings.start_timeout_s:
            raise LaneError("the cluster had no room for the lane's workers", "room")
        if self._up and news.silent_s > self._settings.timeout_s:
            raise LaneError(f"hung: no sign of life for {self._settings.timeout_s:g} s")

    def _train(self) -> None:
        settings = self._settings
        trainer = _Trainer(
            serve,
            train_loop_config={"mailbox": self._mailbox, "settings": settings.worker, "cpus": settings.cpus},
            scaling_config=train.ScalingConfig(
                num_workers=settings.workers,
                use_gpu=settings.gpus > 0,
                placement_strategy="STRICT_PACK",
                resources_per_worker={"CPU": settings.cpus} | ({"GPU": settings.gpus} if settings.gpus else {}),
            ),
            run_config=train.RunConfig(
                name=self._name,
                storage_path=str(settings.run_dir / "train"),
                # A lane that dies is replaced by Tune, which also gives its trial to another: one place counts retries.
                failure_config=train.FailureConfig(max_failures=0),
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            self._end_of_run = _why(error)

    def cleanup(self) -> None:
        # The run ends by itself once its workers have seen the closed mailbox; what hangs dies with this process.
        with contextlib.suppress(ray.exceptions.RayActorError):
            ray.get(self._mailbox.close.remote())
            self._run.join(timeout=_CLOSE_S)
            if ray.get(self._mailbox.bringing.remote()):
                self._run.join(timeout=BRING_S)


def _why(error: BaseException) -> str:
    """What ended a Train run, in one line."""
    failures = list((getattr(error, "worker_failures", None) or {}).values())
    chains = [list(_causes(failure)) for failure in failures]
    for cause in (cause for chain in chains for cause in chain):
        if isinstance(cause, LaneMustRestart):
            return str(cause)
    if any(isinstance(cause, ray.exceptions.RayActorError) for chain in chains for cause in chain):
        return "the lane's training worker died"
    if isinstance(error, ray.exceptions.RayActorError):
        return "the lane's Train controller died"
    told = failures[0] if failures else error
    return " ".join(f"{type(told).__name__}: {told}".split())[:500]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what it came from, by any of the names under which Ray keeps that."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = getattr(found, "health_check_failure", None) or getattr(found, "cause", None) or found.__cause__

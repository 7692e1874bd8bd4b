"""A lane: one long-lived Ray Train run that trains trial after trial.

Ray documents one Ray Train run per Tune trial, which starts a controller and a worker group, with all their imports,
for each. A lane starts them once. It is a Tune class trainable with actor reuse: ``setup`` starts the Train run in a
thread, ``reset_config`` posts the next trial to the run's mailbox, ``step`` waits for the trial's next event.
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
from ray.train.torch import TorchTrainer

from amsam_ray.search.assignment import Assignment
from amsam_ray.search.mailbox import Event, Mailbox, News
from amsam_ray.search.worker import LaneMustRestart, WorkerSettings, serve

_WAIT_S = 1.0  # how long one question to the mailbox may wait; a death of the Train run is seen this soon


@dataclass(frozen=True)
class LaneSettings:
    """How every lane of a sweep is built.

    Attributes:
        worker: what the training workers need to know.
        workers: data-parallel training workers of one lane.
        cpus, gpus: of each worker; gpus may be a fraction.
        timeout_s: a trial that gives no sign of life for so long is given up.
        start_timeout_s: a lane whose workers are not up by then gives its trial back.
        run_dir: a throw-away folder for what Ray Train writes.
    """

    worker: WorkerSettings
    workers: int
    cpus: float
    gpus: float
    timeout_s: float
    start_timeout_s: float
    run_dir: Path


class LaneError(RuntimeError):
    """A lane that is of no more use. ``str(error)`` is the reason.

    Args:
        reason: one sentence.
        blame: as in Outcome.
    """

    def __init__(self, reason: str, blame: str = "lane"):
        super().__init__(reason, blame)
        self.reason = reason
        self.blame = blame

    def __str__(self) -> str:
        return self.reason


class Lane(tune.Trainable):
    """One trial at a time through one Train run.

    The Tune config holds ``assignment`` (an Assignment) and ``lane`` (the LaneSettings); or, in place of a trial,
    ``hold_s``: seconds to stay warm until there is one. A result is either a rung
    (``cell``, ``trial``, ``epoch``, ``score``, ``ticket`` and ``mailbox``, the actor's name, by which the scheduler
    sends its decision) or the end (``done`` and ``outcome``).
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
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._hold_s: float | None = config.get("hold_s")
        if self._hold_s is None:
            self._assignment: Assignment = config["assignment"]
            self._ticket: int | None = None

    def step(self) -> dict[str, Any]:
        if self._hold_s is not None:
            time.sleep(self._hold_s)
            return {"done": True}
        while True:
            news = self._news()
            if news.event is not None:
                return self._result(news.event)
            self._up = self._up or news.ready
            self._check(news)

    def _news(self) -> News:
        if self._ticket is None:
            self._ticket, news = ray.get(self._mailbox.post.remote(self._assignment, _WAIT_S))
        else:
            news = ray.get(self._mailbox.news.remote(self._ticket, _WAIT_S))
        return news

    def _check(self, news: News) -> None:
        """Raise LaneError if waiting on is in vain."""
        if not self._run.is_alive():
            raise LaneError(self._end_of_run or "the lane's Train run ended", "lane" if self._up else "start")
        if not self._up and time.monotonic() - self._started > self._settings.start_timeout_s:
            raise LaneError("the cluster had no room for the lane's workers", "room")
        if self._up and news.silent_s > self._settings.timeout_s:
            raise LaneError(f"hung: no sign of life for {self._settings.timeout_s:g} s")

    def _result(self, event: Event) -> dict[str, Any]:
        base = {"trial": self._assignment.trial_id, "cell": self._assignment.cell}
        if event.kind == "rung":
            where = {"ticket": event.ticket, "mailbox": self._name}
            return {**base, **where, "epoch": event.epoch, "score": event.score, "done": False}
        return {**base, "outcome": event.outcome, "done": True}

    def _train(self) -> None:
        settings = self._settings
        trainer = TorchTrainer(
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
        self._run.join(timeout=5)


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

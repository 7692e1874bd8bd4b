"""One ASHA ladder per cell in one Tune scheduler: scores of different cells cannot be compared."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from amsam_ray.search.assignment import Outcome
from amsam_ray.search.cells import Cell
from amsam_ray.search.unsaved import NotSaved


class Ladder:
    """Ray's asynchronous successive halving (Li et al. 2018, arXiv 1810.05934) for one cell.

    Args:
        cell: whose trials climb it.
        epochs: its rungs.
    """

    def __init__(self, cell: Cell, epochs: tuple[int, ...]):
        reduction = cell.source.search.scheduler.reduction
        # Ray's ladder has rungs at 1, r, r^2, ...; ours are epochs, rounded, so each stands for its place there.
        self._steps = {epoch: reduction**index for index, epoch in enumerate(epochs)}
        self._asha: Any = AsyncHyperBandScheduler(
            time_attr="step",
            metric="score",
            mode="max" if cell.maximise else "min",
            grace_period=1,
            max_t=math.ceil(reduction ** len(epochs)),
            reduction_factor=reduction,
            stop_last_trials=False,
        )

    def stops(self, trial: str, epoch: int, score: float) -> bool:
        """Whether ``trial`` ends at this rung. A trial that is run again is not judged against itself."""
        stub = SimpleNamespace(trial_id=trial)
        self._asha.on_trial_add(None, stub)
        decision = self._asha.on_trial_result(None, stub, {"step": self._steps[epoch], "score": score})
        self._asha.on_trial_remove(None, stub)
        return bool(decision == TrialScheduler.STOP)

    def remember(self, outcome: Outcome) -> None:
        """Put the rung scores of an earlier run's trial on the ladder."""
        for epoch, score in outcome.rung_scores.items():
            if epoch in self._steps:
                self.stops(outcome.trial_id, epoch, score)


class CellLadders(NotSaved, FIFOScheduler):
    """The Tune scheduler of a sweep: trials run in the order they are dealt, each is judged by its cell's ladder.

    The decision goes to the lane's mailbox, not back to Tune: a trial that is pruned ends itself and is recorded before
    Tune counts it as over, exactly as one that completes.

    Args:
        ladders: by cell id.
    """

    def __init__(self, ladders: dict[str, Ladder]):
        super().__init__()
        self._ladders = ladders
        self._errors: dict[str, BaseException] = {}
        self._mailboxes: dict[str, Any] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "epoch" in result:
            stop = self._ladders[result["cell"]].stops(result["trial"], result["epoch"], result["score"])
            # A mailbox that died takes its lane along, and with it the trial that asked.
            with contextlib.suppress(ValueError, ray.exceptions.RayActorError):
                self._mailbox(result["mailbox"]).decide.remote(result["ticket"], result["epoch"], stop)
        return str(TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        path = Path(trial.pickled_error_file or "")
        if path.is_file():
            self._errors[trial.trial_id] = ray.cloudpickle.loads(path.read_bytes())

    def error_of(self, tune_trial: str) -> BaseException | None:
        """What ended a Tune trial, once; Tune tells its searcher only that something did."""
        return self._errors.pop(tune_trial, None)

    def _mailbox(self, name: str) -> Any:
        if name not in self._mailboxes:
            self._mailboxes[name] = ray.get_actor(name)
        return self._mailboxes[name]

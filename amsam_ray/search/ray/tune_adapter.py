"""The desk, as Tune's search algorithm and scheduler: to Tune a trial is a lane, and a result one of its events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from amsam_ray.search.assignment import Assignment
from amsam_ray.search.dispatcher import Desk
from amsam_ray.search.ray.lane import LaneError, LaneSettings, Stage
from amsam_ray.search.ray.not_pickled import NotSaved


class MailboxSender:
    """Sends to a mailbox by its name; one that died takes its lane along, and with it whom the message was for."""

    def __init__(self, name: str):
        try:
            self._actor: Any = ray.get_actor(name)
        except ValueError:
            self._actor = None

    def post(self, assignment: Assignment) -> None:
        """As Mailbox.post."""
        if self._actor is not None:
            self._actor.post.remote(assignment)

    def decide(self, ticket: int, epoch: int, stop: bool) -> None:
        """As Mailbox.decide."""
        if self._actor is not None:
            self._actor.decide.remote(ticket, epoch, stop)


class LaneSearcher(NotSaved, Searcher):
    """Asks for as many lanes as there is room and work for.

    Tune's own retries are off: a lane that died is gone and a new one comes, so that retries of trials are counted in
    one place and a trial may go on in another lane.

    Args:
        desk: deals the trials.
        settings: how a lane is built.
    """

    def __init__(self, desk: Desk, settings: LaneSettings):
        super().__init__()
        self._desk = desk
        self._settings = settings
        self.errors: dict[str, BaseException] = {}

    def suggest(self, trial_id: str) -> Any:
        if self._desk.open(trial_id):
            return {"lane": self._settings}
        return Searcher.FINISHED if self._desk.finished else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Events go through the scheduler, which is asked first and may end the lane."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error:
            self._desk.closed(trial_id, *_why(self.errors.pop(trial_id, None)))
        else:
            self._desk.closed(trial_id)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class LaneScheduler(NotSaved, FIFOScheduler):
    """Hands the lanes' events to the desk.

    The decision on a rung goes to the lane's mailbox, not back to Tune: a trial that is pruned ends itself and is
    recorded before it counts as over, exactly as one that completes.

    Args:
        desk: takes the events.
        errors: lane -> what ended it; Tune tells its searcher only that something did.
    """

    def __init__(self, desk: Desk, errors: dict[str, BaseException]):
        super().__init__()
        self._desk = desk
        self._errors = errors

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        keep = self._desk.hear(trial.trial_id, result["mailbox"], result["event"])
        return str(TrialScheduler.CONTINUE if keep else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        path = Path(trial.pickled_error_file or "")
        if path.is_file():
            self._errors[trial.trial_id] = ray.cloudpickle.loads(path.read_bytes())


def _why(error: BaseException | None) -> tuple[str, Stage]:
    """What ended a lane, in one line, and how far it had come."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, LaneError):
        cause = getattr(cause, "cause", None) or cause.__cause__
    if isinstance(cause, LaneError):
        return cause.reason, cause.stage
    if isinstance(error, ray.exceptions.RayActorError):
        if "creation task" in str(error):  # it raised in Lane.setup or could not even be imported
            return str(error).strip().splitlines()[-1][:500], "start"
        return "the lane's process or node died", "running"
    if error is not None:
        return " ".join(f"{type(error).__name__}: {error}".split())[:500], "running"
    return "the lane died", "running"

"""The adapter between the sweep's dispatcher and Ray Tune: to Tune, a trial is a lane and a result one of its events.

Import only after ``cluster.prepare_environment``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from amsam_ray.search.budget import StopConditions
from amsam_ray.search.dispatcher import Dispatcher
from amsam_ray.search.lane_size import LANE_CPUS
from amsam_ray.search.observers import LaneStage, Observer
from amsam_ray.search.ray.capacity import Capacity
from amsam_ray.search.ray.lane import Lane, LaneError, LaneSettings
from amsam_ray.search.ray.lane_nodes import LaneNodes
from amsam_ray.search.ray.placement_groups import LanePlacementGroups
from amsam_ray.search.ray.worker import WorkerSettings
from amsam_ray.search.state import SweepState
from amsam_ray.search.trials import TrialOutcome, TrialSpec

# A lane imports torch and more when it starts, which takes minutes on a busy machine with many lanes.
_START_TIMEOUT_S = 300.0
_NAME = "lanes"


def run_lanes(
    state: SweepState,
    *,
    conditions: StopConditions,
    capacity: Capacity,
    worker: WorkerSettings,
    timeout_s: float,
    population: Callable[[TrialSpec], int] | None,
    observers: Sequence[Observer],
    scratch: Path,
) -> None:
    """Run trials in lanes until every cell has all its records or no further trial may start.

    Args:
        state: answers which trial is next.
        conditions: budgets, interrupts and errors that end the run.
        capacity: how many lanes there may be, and their size.
        worker: settings of the lanes' workers.
        timeout_s: a trial without a heartbeat for this long is given up.
        population: see ``Dispatcher``.
        observers: receive the sweep's events.
        scratch: temporary folder for files of Ray Tune and Ray Train.
    """
    # Tune would pass these on through the command lines of Ray's workers, which every user can read, and Ray's logs.
    class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    dispatcher = Dispatcher(
        state,
        capacity=capacity.lanes,
        may_start=conditions.may_start,
        observers=[conditions, LaneMonitor(conditions, capacity), *observers],
        connect=MailboxSender,
        placement_groups=LanePlacementGroups(capacity.size),
        population=population,
    )
    settings = LaneSettings(
        worker=worker,
        size=capacity.size,
        timeout_s=timeout_s,
        start_timeout_s=_START_TIMEOUT_S,
        run_dir=scratch,
    )
    searcher = LaneSearcher(dispatcher, settings)
    # The workers hold the resources, through the placement group of the lane's Train run.
    trainable = tune.with_resources(Lane, tune.PlacementGroupFactory([{"CPU": LANE_CPUS}]))
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=LaneScheduler(dispatcher, searcher.errors, searcher.nodes),
            num_samples=-1,
            reuse_actors=False,
            trial_name_creator=_short_name,
            trial_dirname_creator=_short_name,
        ),
        run_config=tune.RunConfig(
            name=_NAME,
            storage_path=str(scratch / "tune"),
            stop=_Stopper(conditions),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, checkpoint_frequency=0),
        ),
    ).fit()


class LaneMonitor(Observer):
    """Aborts a sweep whose lanes do not start, and reduces the lanes when others use the cluster.

    Args:
        conditions: aborted when lanes fail to start repeatedly.
        capacity: informed when a trial starts or ends, and when the cluster had no room for a lane.
    """

    def __init__(self, conditions: StopConditions, capacity: Capacity):
        self._conditions, self._capacity = conditions, capacity
        self._running = self._failed_starts = 0

    def lanes_busy(self, lanes: int) -> None:
        """Note how many lanes run trials."""
        self._running = lanes

    def trial_started(self, trial: TrialSpec) -> None:
        """Let the other lanes start soon."""
        self._capacity.trial_started()

    def trial_ended(self, trial: TrialSpec, attempt: TrialOutcome, recorded: TrialOutcome | None) -> None:
        """Reset the count of failed starts: a lane that completes trials has started. Let the other lanes start."""
        self._capacity.trial_ended()
        if attempt.status != "error":
            self._failed_starts = 0

    def lane_lost(self, reason: str, stage: LaneStage) -> None:
        """Count a lane that failed to start, or reduce the capacity if there was no room for it."""
        if stage == "room":
            self._capacity.no_room(self._running)
        if stage in ("room", "node"):
            return
        self._failed_starts += 1
        if self._failed_starts > 2 + self._capacity.wanted:
            self._conditions.abort(f"lanes do not start: {reason}")


class MailboxSender:
    """Sends to a mailbox by its name. Messages to a mailbox that has died with its lane are dropped."""

    def __init__(self, name: str):
        try:
            self._actor: Any = ray.get_actor(name)
        except ValueError:
            self._actor = None

    def post(self, ticket: int, trial: TrialSpec) -> None:
        """Send the next trial."""
        if self._actor is not None:
            self._actor.post.remote(ticket, trial)

    def decide(self, ticket: int, epoch: int, stop: bool) -> None:
        """Send ASHA's decision at a rung."""
        if self._actor is not None:
            self._actor.decide.remote(ticket, epoch, stop)


class _NotPickled:
    """Pickles as a bare object: Tune's snapshots stay empty, because a sweep continues from its records."""

    def __reduce__(self) -> tuple[Any, ...]:
        return object, ()


class _Stopper(_NotPickled, tune.Stopper):
    def __init__(self, conditions: StopConditions):
        self._conditions = conditions

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._conditions.stop_now


class LaneSearcher(_NotPickled, Searcher):
    """Requests lanes as long as there is capacity and work.

    Tune's own retries are disabled: a lane that died is replaced by a new one, so that retries of trials are counted
    in one place and a trial may continue in another lane.

    Args:
        dispatcher: assigns the trials.
        settings: how a lane is built.
    """

    def __init__(self, dispatcher: Dispatcher, settings: LaneSettings):
        super().__init__()
        self._dispatcher = dispatcher
        self._settings = settings
        self.errors: dict[str, BaseException] = {}
        self.nodes = LaneNodes()

    def suggest(self, trial_id: str) -> Any:
        if self._dispatcher.open_lane(trial_id):
            return {"lane": self._settings}
        return Searcher.FINISHED if self._dispatcher.finished else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: events go through the scheduler, which Tune asks first and which may end the lane."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if not error:
            self.nodes.forget(trial_id)
            self._dispatcher.lane_closed(trial_id)
            return
        cause = self.errors.pop(trial_id, None)
        if self.nodes.lost(trial_id, cause):
            self._dispatcher.lane_closed(trial_id, "the lane's node was lost", "node")
        else:
            self._dispatcher.lane_closed(trial_id, *_cause(cause))

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class LaneScheduler(_NotPickled, FIFOScheduler):
    """Hands the lanes' events to the dispatcher.

    The decision at a rung goes to the lane's mailbox, not back to Tune: a pruned trial ends by itself and is recorded
    before it counts as ended, exactly like a completed one.

    Args:
        dispatcher: receives the events.
        errors: lane -> the exception that ended it; Tune passes its searcher only a flag.
        nodes: the nodes of the lanes.
    """

    def __init__(self, dispatcher: Dispatcher, errors: dict[str, BaseException], nodes: LaneNodes):
        super().__init__()
        self._dispatcher = dispatcher
        self._errors = errors
        self._nodes = nodes

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        self._nodes.seen(trial.trial_id, result["node"])
        if result["event"] is not None and result["event"].node:
            self._nodes.seen(trial.trial_id, result["event"].node)
        keep = self._dispatcher.handle(trial.trial_id, result["mailbox"], result["event"])
        return str(TrialScheduler.CONTINUE if keep else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        path = Path(trial.pickled_error_file or "")
        if path.is_file():
            self._errors[trial.trial_id] = ray.cloudpickle.loads(path.read_bytes())


def _cause(error: BaseException | None) -> tuple[str, LaneStage]:
    """Return what ended a lane, in one line, and how far it had come."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, LaneError):
        cause = getattr(cause, "cause", None) or cause.__cause__
    if isinstance(cause, LaneError):
        return cause.reason, cause.stage
    if isinstance(error, ray.exceptions.RayActorError):
        if isinstance(error, ray.exceptions.ActorDiedError) and error.actor_init_failed:
            return f"a lane cannot be set up: {_exception_line(str(error))}"[:500], "start"
        return "the lane's process died", "running"
    if error is not None:
        return " ".join(f"{type(error).__name__}: {error}".split())[:500], "running"
    return "the lane died", "running"


def _exception_line(text: str) -> str:
    """Return the line of a formatted traceback that names the exception: the last unindented one after a frame."""
    lines = text.strip().splitlines()
    after_frames = [line for before, line in pairwise(lines) if before[:1].isspace() and not line[:1].isspace()]
    named = [line for line in after_frames if line.strip()]
    return named[-1] if named else lines[-1] if lines else "unknown reason"


def _short_name(trial: Any) -> str:
    return str(trial.trial_id)

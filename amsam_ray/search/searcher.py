"""The dealer, as Tune's search algorithm."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import ray
from ray.tune.search import Searcher

from amsam_ray.search.assignment import Assignment, Outcome
from amsam_ray.search.dealer import Dealer
from amsam_ray.search.lane import LaneError, LaneSettings
from amsam_ray.search.unsaved import NotSaved

_LEAST_HOLD_S, _MOST_HOLD_S = 0.3, 30.0


class Watcher(Protocol):
    """Is told of every trial that begins, is put back or is recorded."""

    def began(self, assignment: Assignment) -> None:
        """A lane got this trial."""

    def ended(self, assignment: Assignment, attempt: Outcome, recorded: Outcome | None) -> None:
        """An attempt ended; ``recorded`` is None where the trial will be tried again."""


class CellSearcher(NotSaved, Searcher):
    """Deals trials to as many lanes as there is room for, and takes in what came of them.

    Tune's own retries are off: a Tune trial is one attempt, so that retries are counted in one place and a trial may
    go on in another lane.

    Args:
        dealer: which trial is next.
        settings: how a lane is built.
        lanes: how many lanes there may be now.
        may_start: whether another trial may begin (budgets, an interrupt).
        error_of: what ended a Tune trial that failed.
        watchers: told of all that happens.
    """

    def __init__(
        self,
        dealer: Dealer,
        settings: LaneSettings,
        *,
        lanes: Callable[[], int],
        may_start: Callable[[], bool],
        error_of: Callable[[str], BaseException | None],
        watchers: Sequence[Watcher],
    ):
        super().__init__()
        self._dealer = dealer
        self._settings = settings
        self._lanes = lanes
        self._may_start = may_start
        self._error_of = error_of
        self._watchers = list(watchers)
        self._running: dict[str, Assignment] = {}
        self._holding: set[str] = set()
        self._most = 0
        self._durations: deque[float] = deque(maxlen=50)

    def suggest(self, trial_id: str) -> Any:
        if not self._may_start():
            return None if self._running else Searcher.FINISHED
        if len(self._running) + len(self._holding) >= self._lanes():
            return None
        assignment = self._dealer.next_assignment()
        if assignment is None:
            return Searcher.FINISHED if self._dealer.finished else self._hold(trial_id)
        self._running[trial_id] = assignment
        self._most = max(self._most, len(self._running))
        for watcher in self._watchers:
            watcher.began(assignment)
        return {"assignment": assignment, "lane": self._settings}

    def _hold(self, trial_id: str) -> dict[str, Any] | None:
        """Something to do for a lane that has to wait: finals begin when the last search trial of their cell is over.

        Tune stops actors that it has no trial for, and a lane takes many seconds to start again.
        """
        if len(self._running) + len(self._holding) >= self._most:
            return None  # no lane is idle
        self._holding.add(trial_id)
        usual = statistics.median(self._durations) if self._durations else 0.0
        return {"hold_s": min(max(_LEAST_HOLD_S, usual / 10), _MOST_HOLD_S), "lane": self._settings}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Rungs are the scheduler's business."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._holding.discard(trial_id)
        assignment = self._running.pop(trial_id, None)
        if assignment is None:
            return
        outcome = (result or {}).get("outcome")
        if outcome is None:
            outcome = _from_error(assignment, self._error_of(trial_id))
        recorded = self._dealer.settle(assignment, outcome)
        if recorded is not None:
            self._durations.append(recorded.seconds)
        for watcher in self._watchers:
            watcher.ended(assignment, outcome, recorded)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


def _from_error(assignment: Assignment, error: BaseException | None) -> Outcome:
    reason, blame = "the lane died", "lane"
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, LaneError):
        cause = getattr(cause, "cause", None) or cause.__cause__
    if isinstance(cause, LaneError):
        reason, blame = cause.reason, cause.blame
    elif isinstance(error, ray.exceptions.RayActorError):
        if "creation task" in str(error):  # it raised in Lane.setup or could not even be imported
            reason, blame = str(error).strip().splitlines()[-1][:500], "start"
        else:
            reason = "the lane's process or node died"
    elif error is not None:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    return Outcome(assignment.trial_id, "error", reason=reason, blame=blame)  # type: ignore[arg-type]

"""A summary of a sweep's state, as the live view, the lease and ``amsam-ray status`` show it."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from amsam_ray.search.budget import StopConditions
from amsam_ray.search.cell_state import CellState
from amsam_ray.search.observers import LaneStage, Observer
from amsam_ray.search.state import flat_note
from amsam_ray.search.trials import TrialOutcome, TrialSpec

_WINDOW = 50  # number of recent trials over which the speed is measured


@dataclass
class CellRow:
    """The status of one cell.

    Attributes:
        planned: number of trials, finals included.
        completed, pruned, failed: recorded trials by status, finals included.
        best: the best score on the selection images; None before the first.
        metric, maximise: the metric of ``best`` and its direction.
        finals: number of recorded finals.
        flat_after: number of search trials that differed by no more than noise, after which the search ended; None if
            it did not end early.
    """

    cell: str
    planned: int
    metric: str
    maximise: bool
    completed: int = 0
    pruned: int = 0
    failed: int = 0
    running: int = 0
    finals: int = 0
    best: float | None = None
    flat_after: int | None = None

    @property
    def done(self) -> int:
        """Number of recorded trials."""
        return self.completed + self.pruned + self.failed


@dataclass(frozen=True)
class Snapshot:
    """The state of a sweep at one moment.

    Attributes:
        rows: one per cell.
        lanes: how many lanes there may be now; ``wanted_lanes`` is the target.
        busy: number of lanes that run trials.
        trials_per_hour, eta_s: at the present speed; None before it is known.
        gpu_hours: of this run.
        retried: number of attempts that left no record and were retried.
        message: the latest notable event, for instance why a trial failed.
        closing: why no further trial starts, None while trials start.
        stopping: whether running trials are stopped as well.
    """

    rows: list[CellRow]
    lanes: int
    wanted_lanes: int
    busy: int
    elapsed_s: float
    trials_per_hour: float | None
    eta_s: float | None
    gpu_hours: float
    retried: int
    message: str
    closing: str | None
    stopping: bool = False

    @property
    def done(self) -> int:
        """Number of recorded trials of all cells."""
        return sum(row.done for row in self.rows)

    @property
    def planned(self) -> int:
        """Number of trials of all cells."""
        return sum(row.planned for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


class StatusObserver(Observer):
    """Keeps the status of a sweep; ``snapshot`` may be called from any thread.

    Args:
        cells: the sweep's cells.
        conditions: whether trials may start, and the GPU hours.
        started: ``time.monotonic`` when the run started.

    Attributes:
        lanes_now: returns how many lanes there may be now; replaced once the cluster is known.
        wanted_lanes: the target number of lanes; 0 while Ray starts.
    """

    def __init__(self, cells: Sequence[CellState], conditions: StopConditions, started: float | None = None):
        self.lanes_now: Callable[[], int] = lambda: 0
        self.wanted_lanes = 0
        self._conditions = conditions
        self._started = time.monotonic() if started is None else started
        self._message = ""
        self._busy = self._retried = 0
        self._lock = threading.Lock()
        self._finished: deque[float] = deque(maxlen=_WINDOW)
        self._rows: dict[str, CellRow] = {}
        self._cells: dict[str, CellState] = {}
        self.reset(cells)

    def reset(self, cells: Sequence[CellState]) -> None:
        """Start over from what the cells' records say."""
        with self._lock:
            self._cells = {state.cell.id: state for state in cells}
            self._rows = {}
            for state in cells:
                cell = state.cell
                self._rows[cell.id] = CellRow(cell.id, state.planned, cell.metric, cell.maximise)
                self._refresh(state)

    def note(self, message: str) -> None:
        """Show ``message`` until the next notable event."""
        self._message = message

    def trial_started(self, trial: TrialSpec) -> None:
        """Count a running trial."""
        with self._lock:
            self._rows[trial.cell].running += 1

    def trial_ended(self, trial: TrialSpec, attempt: TrialOutcome, recorded: TrialOutcome | None) -> None:
        """Count an attempt that ended."""
        with self._lock:
            row = self._rows[trial.cell]
            row.running -= 1
            if recorded is None:
                if attempt.source in ("trial", "lane"):
                    self._retried += 1
                    self._message = f"{trial.trial_id} is retried: {attempt.reason}"
                elif attempt.source == "data":
                    self._message = f"{trial.cell} is deferred until its images can be read: {attempt.reason}"
                return
            self._finished.append(time.monotonic())
            if recorded.status == "failed":
                self._message = f"{trial.trial_id} failed: {recorded.reason}"
            state = self._cells[trial.cell]
            if state.flat_after is not None and row.flat_after is None:
                self._message = f"{trial.cell}: {flat_note(state.flat_after)}"
            self._refresh(state)

    def lanes_busy(self, lanes: int) -> None:
        """Note how many lanes run trials."""
        self._busy = lanes

    def lane_lost(self, reason: str, stage: LaneStage) -> None:
        """Note why a lane was lost."""
        self._message = f"a lane was lost and is replaced: {reason}"

    def snapshot(self) -> Snapshot:
        """Return the present status."""
        with self._lock:
            rows = [CellRow(**vars(row)) for row in self._rows.values()]
            speed = self._speed()
            left = sum(row.planned - row.done for row in rows)
            lanes = self.lanes_now()
            return Snapshot(
                rows=rows,
                lanes=lanes,
                wanted_lanes=self.wanted_lanes and max(self.wanted_lanes, lanes),  # 0: no Ray yet
                busy=self._busy,
                elapsed_s=time.monotonic() - self._started,
                trials_per_hour=None if speed is None else 3600 * speed,
                eta_s=None if not speed else left / speed,
                gpu_hours=self._conditions.gpu_hours,
                retried=self._retried,
                message=self._message,
                closing=self._conditions.stop_reason,
                stopping=self._conditions.stop_now,
            )

    def _speed(self) -> float | None:
        """Trials per second over the latest trials."""
        if len(self._finished) < 2:
            return None
        return (len(self._finished) - 1) / max(1e-9, time.monotonic() - self._finished[0])

    def _refresh(self, state: CellState) -> None:
        row = self._rows[state.cell.id]
        row.best = None if state.best is None else state.best.score
        counted = Counter(outcome.status for outcome in state.counted)
        row.completed, row.pruned, row.failed = counted["completed"], counted["pruned"], counted["failed"]
        row.finals = len(state.counted) - min(len(state.searched), state.size)
        row.planned, row.flat_after = state.planned, state.flat_after

"""The state of a sweep at a glance: what the live view, the lease and ``amsam-ray status`` show."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from amsam_ray.search.assignment import Assignment, Outcome
from amsam_ray.search.progress import CellProgress
from amsam_ray.search.stop_conditions import Gate

_WINDOW = 50  # trials over which the present speed is measured


@dataclass
class CellRow:
    """One cell's line.

    Attributes:
        planned: trials it is to have, finals included.
        completed, pruned, failed: recorded trials by how they ended, finals included.
        best: the best score on the selection images; None before the first.
        metric, maximise: what ``best`` is.
        finals: finals recorded.
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

    @property
    def done(self) -> int:
        """Recorded trials."""
        return self.completed + self.pruned + self.failed


@dataclass(frozen=True)
class Snapshot:
    """The state of a sweep at one moment.

    Attributes:
        rows: one per cell.
        lanes: how many there may be now; ``wanted_lanes`` is how many there are to be.
        busy: how many hold a trial.
        trials_per_hour, eta_s: at the present speed; None before there is one.
        gpu_hours: of this run.
        retried: attempts that came to nothing and were run again.
        message: the last thing worth saying, for instance why a trial failed.
        closing: why no further trial begins, None while they do.
        stopping: whether what runs is not even finished.
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
        """Recorded trials of all cells."""
        return sum(row.done for row in self.rows)

    @property
    def planned(self) -> int:
        """Trials of all cells."""
        return sum(row.planned for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass
class Board:
    """Gathers what happens; ``snapshot`` may be called from any thread.

    Args:
        cells: whose progress is shown.
        gate: asked at every snapshot, like ``lanes_now``.
        started: ``time.monotonic`` when the run began.
        wanted_lanes: how many there are to be; 0 while Ray starts.
    """

    cells: list[CellProgress]
    gate: Gate
    started: float = field(default_factory=time.monotonic)
    lanes_now: Callable[[], int] = lambda: 0
    wanted_lanes: int = 0
    message: str = ""
    retried: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _finished: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _rows: dict[str, CellRow] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for progress in self.cells:
            cell = progress.cell
            row = CellRow(cell.id, progress.planned, cell.metric, cell.maximise)
            self._rows[cell.id] = row
            for outcome in (*progress.searched.values(), *progress.finals.values()):
                _count(row, outcome)
            self._refresh(progress)

    def began(self, assignment: Assignment) -> None:
        """A lane got a trial."""
        with self._lock:
            self._rows[assignment.cell].running += 1

    def ended(self, assignment: Assignment, attempt: Outcome, recorded: Outcome | None) -> None:
        """An attempt at a trial ended."""
        with self._lock:
            row = self._rows[assignment.cell]
            row.running -= 1
            if recorded is None:
                if attempt.blame in ("trial", "lane"):
                    self.retried += 1
                    self.message = f"{assignment.trial_id} is tried again: {attempt.reason}"
                elif attempt.blame == "data":
                    self.message = f"{assignment.cell} is put off until its images can be read: {attempt.reason}"
                return
            _count(row, recorded)
            self._finished.append(time.monotonic())
            if recorded.status == "failed":
                self.message = f"{assignment.trial_id} failed: {recorded.reason}"
            self._refresh(next(p for p in self.cells if p.cell.id == assignment.cell))

    def lost(self, reason: str, stage: str) -> None:
        """A lane without a trial is gone."""
        self.message = f"a lane was lost and another one comes: {reason}"

    def snapshot(self) -> Snapshot:
        """The state now."""
        with self._lock:
            rows = [CellRow(**vars(row)) for row in self._rows.values()]
            speed = self._speed()
            left = sum(row.planned - row.done for row in rows)
            return Snapshot(
                rows=rows,
                lanes=self.lanes_now(),
                wanted_lanes=self.wanted_lanes,
                busy=sum(row.running for row in rows),
                elapsed_s=time.monotonic() - self.started,
                trials_per_hour=None if speed is None else 3600 * speed,
                eta_s=None if not speed else left / speed,
                gpu_hours=self.gate.gpu_hours,
                retried=self.retried,
                message=self.message,
                closing=self.gate.why_closed,
                stopping=self.gate.stop_now,
            )

    def _speed(self) -> float | None:
        """Trials per second over the last ones."""
        if len(self._finished) < 2:
            return None
        return (len(self._finished) - 1) / max(1e-9, time.monotonic() - self._finished[0])

    def _refresh(self, progress: CellProgress) -> None:
        row = self._rows[progress.cell.id]
        best = progress.best
        row.best = None if best is None else best.score
        row.finals = len(progress.finals)
        row.planned = progress.planned


def _count(row: CellRow, outcome: Outcome) -> None:
    if outcome.status in ("completed", "pruned", "failed"):
        setattr(row, outcome.status, getattr(row, outcome.status) + 1)

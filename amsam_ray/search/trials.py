"""The messages between the driver and its lanes: a trial to run, and what a lane reports about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from amsam_ray.config.trial import TrialConfig
from amsam_ray.hashing import sha256_digest

ErrorSource = Literal["trial", "input", "data", "node", "lane", "lost", "stop"]
OutcomeStatus = Literal["completed", "pruned", "failed", "error"]


@dataclass(frozen=True)
class TrialSpec:
    """One trial, ready to run.

    Attributes:
        trial_id: ``<cell>.t<NNNN>``, for a final ``<cell>.t<NNNN>.f<S>``.
        cell: id of its cell.
        number: NNNN, the trial's number within its cell.
        config: everything that the trial depends on.
        rungs: epochs at which ASHA decides whether the trial continues; empty for a final.
        searched: names of the hyperparameters that the search varies in this cell.
        attempt: 1, plus the number of earlier attempts that raised or whose lane died.
        lost: number of earlier tries that ended with their node, or with a lane that had other trials; they are no
            attempts.
        published: whether the configuration is the method's published setting, cut to what is searched.
        choice: of a final: 1 for the configuration that the search chose, 2, 3, ... for the runners-up, 0 for the
            published setting if it is there for comparison alone; None for a search trial.
        flat_after: of a final: number of search trials after which its cell was found flat; None if it was not.
    """

    trial_id: str
    cell: str
    number: int
    config: TrialConfig
    rungs: tuple[int, ...] = ()
    searched: tuple[str, ...] = ()
    attempt: int = 1
    lost: int = 0
    published: bool = False
    choice: int | None = None
    flat_after: int | None = None

    @property
    def is_final(self) -> bool:
        """Whether this retrains a chosen configuration to score it on the test split."""
        return self.config.role == "final"

    @property
    def is_first_try(self) -> bool:
        """Whether no earlier try of it began."""
        return self.attempt == 1 and self.lost == 0


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial, or one attempt at it, ended.

    Attributes:
        trial_id: the trial's id.
        status: ``completed``, ``pruned`` and ``failed`` are recorded in storage; ``error`` is an attempt that left no
            record.
        score: the objective's value on the selection images, None if there is none.
        rung_scores: epoch -> best score so far, for ASHA and the sampler.
        params: the searched hyperparameters as recorded.
        image_scores: name -> objective of each selection image, of a cross-fitted trial.
        best_epoch: the epoch that the trial's score belongs to.
        seconds: wall time of the attempt.
        reason: why it failed, one sentence.
        diverged: whether it failed because its loss became NaN or Inf.
        source: the cause of an ``error``: the ``trial`` raised, refused its ``input`` (and would again), could not
            read its cell's ``data``, its ``node`` refused to store something (a full disk), its ``lane`` died, its node
            or a lane with other trials was ``lost``, or the sweep was asked to ``stop``. The last two and errors
            of the data do not count as attempts.
        traceback: of an ``error``, for the log.
    """

    trial_id: str
    status: OutcomeStatus
    score: float | None = None
    rung_scores: dict[int, float] = field(default_factory=dict)
    params: dict[str, object] = field(default_factory=dict)
    image_scores: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    seconds: float = 0.0
    reason: str | None = None
    diverged: bool = False
    source: ErrorSource = "trial"
    traceback: str = ""


@dataclass(frozen=True)
class LaneEvent:
    """An event that a lane reports to the driver.

    Attributes:
        kind: ``ready``: all workers are up; ``rung``: the trial reached an epoch at which ASHA decides; ``end``: the
            trial is over; ``size``: the lane has measured how many trials of the trial's cell to train together.
        ticket: number of the trial within its lane, 0 for ``ready``.
        placement_group, node: of ``ready``: ids (hex) of the placement group and of the node in which the workers run.
        epoch, score: of a rung; the score is the best so far.
        outcome: of an end.
        size, step_ms: of a size: that number, 1 for one by one, and milliseconds per trial of one step, for each number
            that was measured.
    """

    kind: Literal["ready", "rung", "end", "size"]
    ticket: int = 0
    placement_group: str = ""
    node: str = ""
    epoch: int = 0
    score: float = float("nan")
    outcome: TrialOutcome | None = None
    size: int = 1
    step_ms: Mapping[int, float] = field(default_factory=dict)


def trial_id(cell: str, number: int, seed_index: int | None = None) -> str:
    """Return the id of a search trial, or of the final of that trial with the ``seed_index``-th seed."""
    name = f"{cell}.t{number:04d}"
    return name if seed_index is None else f"{name}.f{seed_index}"


def derived_seed(*parts: object) -> int:
    """Return a seed in [0, 2^31) that depends on ``parts`` alone, equal on every machine and in every process."""
    digest = sha256_digest("\0".join(str(part) for part in parts))
    return int.from_bytes(digest[:4], "big") >> 1

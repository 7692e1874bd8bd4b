"""What travels between the sweep's driver and its lanes: a trial to run, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from amsam_ray.config.trial import TrialConfig
from amsam_ray.hashing import sha256_digest

Blame = Literal["trial", "input", "data", "lane", "stop"]
Status = Literal["completed", "pruned", "failed", "error"]


@dataclass(frozen=True)
class Assignment:
    """One trial, ready to run.

    Attributes:
        trial_id: ``<cell>.t<NNNN>``, for a final ``<cell>.t<NNNN>.f<S>``.
        cell: id of its cell.
        number: NNNN, the trial's place in its cell.
        config: all that the trial depends on.
        rungs: epochs at which the cell's ladder decides whether it goes on; empty for a final.
        searched: names of the hyperparameters that the search varies in this cell.
        attempt: 1 for the first try, counted up whenever a lane died or the trial raised.
    """

    trial_id: str
    cell: str
    number: int
    config: TrialConfig
    rungs: tuple[int, ...] = ()
    searched: tuple[str, ...] = ()
    attempt: int = 1

    @property
    def final(self) -> bool:
        """Whether this retrains a chosen configuration to score it on the test split."""
        return self.config.role == "final"


@dataclass(frozen=True)
class Outcome:
    """How a trial, or one attempt at it, ended.

    Attributes:
        trial_id: whose.
        status: ``completed``, ``pruned`` and ``failed`` are recorded in storage; ``error`` says that this attempt
            came to nothing and left no record.
        score: the objective's value on the selection images, None where there is none.
        rung_scores: epoch -> best score so far, for the ladder and the sampler.
        params: the trial's hyperparameters as recorded.
        seconds: wall time of the attempt.
        reason: why it failed, one sentence.
        blame: whose fault an ``error`` is: the ``trial`` raised, refused its ``input`` (which it would again), could
            not read its cell's ``data``, or its ``lane`` died under it; or the sweep was made to ``stop``. The data's
            and the sweep's are not counted as attempts.
        trace: the traceback of an ``error``, for the log.
    """

    trial_id: str
    status: Status
    score: float | None = None
    rung_scores: dict[int, float] = field(default_factory=dict)
    params: dict[str, object] = field(default_factory=dict)
    seconds: float = 0.0
    reason: str | None = None
    blame: Blame = "trial"
    trace: str = ""


def trial_id(cell: str, number: int, seed_index: int | None = None) -> str:
    """The id of a search trial, or of the final of that trial with the ``seed_index``-th fresh seed."""
    name = f"{cell}.t{number:04d}"
    return name if seed_index is None else f"{name}.f{seed_index}"


def derived_seed(*parts: object) -> int:
    """A seed in [0, 2^31) that depends on nothing but ``parts``: equal on every machine and in every process."""
    digest = sha256_digest("\0".join(str(part) for part in parts))
    return int.from_bytes(digest[:4], "big") >> 1

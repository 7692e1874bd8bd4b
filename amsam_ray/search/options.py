"""Options of one run of a sweep."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from amsam_ray.search.budget import Budget

TRIAL_FUNCTION = "amsam_ray.training.trial:train_trial"


@dataclass(frozen=True)
class RunOptions:
    """Options of one run of a sweep.

    Attributes:
        address: of a running Ray cluster; None: this machine.
        extend: continue the newest sweep of this name although the space file has changed.
        fresh: begin a new sweep; deletes nothing.
        budget: limits of this run.
        trial_function: ``module:function`` with the signature of ``amsam_ray.training.trial.train_trial``.
        started: when the command began, in seconds since the epoch; for the log.
    """

    address: str | None = None
    extend: bool = False
    fresh: bool = False
    budget: Budget = field(default_factory=Budget)
    trial_function: str = TRIAL_FUNCTION
    started: float = field(default_factory=time.time, compare=False, repr=False)

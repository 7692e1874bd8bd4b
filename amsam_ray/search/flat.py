"""Whether the trials of a cell differ from each other by more than the noise of the images that judge them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from amsam_ray.search.finals import advantage
from amsam_ray.search.trials import TrialOutcome

STANDARD_ERRORS = 2.0
"""Two configurations differ if their mean difference exceeds this many of its standard errors, about p = .05."""


def is_flat(outcomes: Iterable[TrialOutcome], *, maximise: bool, errors: float = STANDARD_ERRORS) -> bool:
    """Return whether no two trials differ by more than noise.

    Every pair is compared over the shots that judged both, as ``advantage`` does. A trial that fewer than two shots of
    another one judged, such as a diverged one, does differ: nothing shows that it does not.

    Args:
        outcomes: search trials, at least two.
        maximise: whether a larger objective is better.
        errors: standard errors of a mean difference that count as noise.
    """
    compared = [advantage(first, second, maximise=maximise) for first, second in combinations(outcomes, 2)]
    return bool(compared) and all(one is not None and abs(one[0]) <= errors * one[1] for one in compared)

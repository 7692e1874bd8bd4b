"""What a sweep would have done with the trials of the selection benchmark: two replays of its records.

``search.stop_when_flat``: how many trials it saves, and what test Dice that costs. ``search.prior``: how many trials it
takes until the choice is good, with and without the best configurations of another cell as first points. The order in
which a sweep tries configurations is the published setting, then known ones, then the others in every possible order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from amsam_ray.search.flat import is_flat
from amsam_ray.search.sharing import divide
from amsam_ray.search.trials import TrialOutcome
from tests.benchmarks.selection_format import points, table
from tests.benchmarks.selection_rules import CellRecords
from tests.benchmarks.selection_trials import PUBLISHED, RECIPE

STANDARD_ERRORS = (1.0, 2.0, 3.0)
WITHIN = 0.01
"""Test Dice by which a choice may be below that among all configurations and count as good."""
PRIOR_POINTS = 3
SWEEPS, SWEEP_SEED = 400, 0
Order = tuple[int, ...]


class Replay:
    """One cell whose configurations are tried in some order; the best score so far is chosen after every trial."""

    def __init__(self, records: CellRecords):
        self.cell, self.count = records.cell, records.count
        self.scores, self._tests = records.scores("crossfit4"), records.means("refit")
        published = records.test(PUBLISHED, "d2")  # as the finals of the published setting train
        assert published is not None
        self._tests[PUBLISHED] = published[0].mean()
        self._outcomes = [
            TrialOutcome("", "completed", image_scores=records.shots(number)) for number in range(self.count)
        ]
        self._known: dict[tuple[frozenset[int], float], bool] = {}

    def chosen(self, tried: Sequence[int]) -> float:
        """Test Dice of the choice among the configurations tried so far."""
        return float(self._tests[max(tried, key=lambda number: self.scores[number])])

    def flat(self, tried: Sequence[int], errors: float) -> bool:
        """Whether the configurations tried so far differ by no more than noise."""
        key = frozenset(tried), errors
        if key not in self._known:
            outcomes = (self._outcomes[number] for number in tried)
            self._known[key] = is_flat(outcomes, maximise=True, errors=errors)
        return self._known[key]

    def orders(self, known: Iterable[int]) -> list[Order]:
        """All orders that begin with the published setting and the configurations ``known``."""
        lead = tuple(dict.fromkeys((PUBLISHED, *known)))
        return [(*lead, *rest) for rest in permutations(n for n in range(self.count) if n not in lead)]

    def best(self, known: Iterable[int]) -> list[int]:
        """The configurations of the best scores, best first, without the published setting and ``known``."""
        left = [number for number in range(self.count) if number not in (PUBLISHED, *known)]
        return sorted(left, key=lambda number: -self.scores[number])[:PRIOR_POINTS]

    def until_good(self, order: Order) -> int:
        """Number of trials until the choice is within ``WITHIN`` of that among all configurations."""
        enough = self.chosen(order) - WITHIN
        return next(n for n in range(1, self.count + 1) if self.chosen(order[:n]) >= enough)


def replays(finished: Iterable[CellRecords]) -> dict[str, Any]:
    """Return the figures of both replays, per method and number of shots, of the cells that were searched."""
    groups: dict[tuple[str, int], list[Replay]] = {}
    for records in finished:
        if records.count > 2:
            groups.setdefault((records.cell.method, records.cell.shots), []).append(Replay(records))
    stops, priors = [], []
    for (method, shots), cells in sorted(groups.items()):
        for name, known in (("", ()), (", first point", (RECIPE,))):
            head = {"method": method, "shots": shots, "known": f"published{name}"}
            tries = range(3, cells[0].count - 1)
            stops += [head | _stop(cells, known, n, errors) for errors in STANDARD_ERRORS for n in tries]
            priors += [head | row for row in _priors(cells, known)]
    return {"stop_when_flat": stops, "prior": priors}


def _stop(cells: list[Replay], known: Order, after: int, errors: float) -> dict[str, Any]:
    """Replay cells that end after ``after`` trials if these are flat."""
    stopped: list[bool] = []
    lost: list[float] = []
    elsewhere: list[float] = []
    for cell in cells:
        for order in cell.orders(known):
            loss = cell.chosen(order) - cell.chosen(order[:after])
            flat = cell.flat(order[:after], errors)
            stopped.append(flat)
            (lost if flat else elsewhere).append(loss)
    with_it, without = _equal_trials(cells, known, after, errors)
    return {
        "after": after,
        "errors": errors,
        "stopped": np.mean(stopped),
        "saved": np.mean(stopped) * (1 - after / cells[0].count),
        "lost": sum(lost) / len(stopped),
        "lost_in_stopped": np.mean(lost) if lost else None,
        "lost_in_others": np.mean(elsewhere) if elsewhere else None,
        "equal_trials": with_it - without,
    }


def _equal_trials(cells: list[Replay], known: Order, after: int, errors: float) -> tuple[float, float]:
    """Mean test Dice of sweeps over all cells whose flat cells give their trials to the others, and of sweeps without.

    Every cell has one trial more than ``after`` of its own, so that the trials of the others are not exhausted.
    """
    random, own = np.random.default_rng(SWEEP_SEED), after + 1
    orders = [cell.orders(known) for cell in cells]
    given, plain = [], []
    for _ in range(SWEEPS):
        drawn = [choices[random.integers(len(choices))] for choices in orders]
        flat = [cell.flat(order[:after], errors) for cell, order in zip(cells, drawn, strict=True)]
        rooms = [0 if stops else cell.count - own for cell, stops in zip(cells, flat, strict=True)]
        shares = divide(sum(flat) * (own - after), rooms)
        sizes = [after if stops else own + share for stops, share in zip(flat, shares, strict=True)]
        given += [cell.chosen(order[:size]) for cell, order, size in zip(cells, drawn, sizes, strict=True)]
        plain += [cell.chosen(order[:own]) for cell, order in zip(cells, drawn, strict=True)]
    return float(np.mean(given)), float(np.mean(plain))


def _priors(cells: list[Replay], known: Order) -> list[dict[str, Any]]:
    """Replay cells that begin with the best configurations of another cell of their method."""
    pairs = [(cell, other) for cell in cells for other in cells if other is not cell]
    sources = {
        "another dataset": [(c, o) for c, o in pairs if o.cell.dataset != c.cell.dataset],
        "photos, for others": [(c, o) for c, o in pairs if o.cell.dataset == "photos" != c.cell.dataset],
        "draw 0, for others": [(c, o) for c, o in pairs if o.cell.dataset == c.cell.dataset and o.cell.draw == 0],
    }
    found = []
    for source, members in sources.items():
        if not members:
            continue
        plain = np.array([_course(cell, known) for cell, _ in members])
        given = np.array([_course(cell, (*known, *other.best(known))) for cell, other in members])
        changes = (given - plain).mean(axis=0)
        worse = np.mean(given[:, -1] > plain[:, -1])
        found.append(
            {
                "source": source,
                "pairs": len(members),
                "until_good": {"without": plain[:, -1].mean(), "with": given[:, -1].mean(), "worse": worse},
                "test": {str(n): changes[n - 1] for n in range(2, cells[0].count)},
            }
        )
    return found


def _course(cell: Replay, known: Iterable[int]) -> list[float]:
    """Mean test Dice of the choice after each number of trials, and the mean number of trials until it is good."""
    orders = cell.orders(known)
    course = [float(np.mean([cell.chosen(order[:n]) for order in orders])) for n in range(1, cell.count + 1)]
    return [*course, float(np.mean([cell.until_good(order) for order in orders]))]


def replay_tables(found: dict[str, Any]) -> list[str]:
    """Return the tables of both replays. Dice in points."""
    stops = [
        [
            f"{row['method']}, K = {row['shots']}",
            row["known"],
            str(row["after"]),
            f"{row['errors']:g}",
            f"{100 * row['stopped']:.0f} %",
            f"{100 * row['saved']:.0f} %",
            *[points(row[name]) for name in ("lost", "lost_in_stopped", "lost_in_others", "equal_trials")],
        ]
        for row in found["stop_when_flat"]
    ]
    heads = ["stop_when_flat", "tried first", "after", "s.e.", "cells ended", "trials saved", "test lost"]
    heads += ["lost per ended cell", "the others would lose", "at equal trials"]
    counts = list(found["prior"][0]["test"]) if found["prior"] else []
    priors = [
        [
            f"{row['method']}, K = {row['shots']}",
            row["known"],
            row["source"],
            str(row["pairs"]),
            f"{row['until_good']['without']:.2f}",
            f"{row['until_good']['with']:.2f}",
            f"{100 * row['until_good']['worse']:.0f} %",
            *[points(row["test"].get(count)) for count in counts],
        ]
        for row in found["prior"]
    ]
    titles = ["prior", "tried first", "from", "pairs of cells", "trials until good", "with the prior", "later in"]
    return [table(heads, stops), table([*titles, *[f"test after {count}" for count in counts]], priors)]

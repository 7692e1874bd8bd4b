"""Which trial runs next: fair over cells, again after a fault, finals when a cell is searched."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from amsam_ray.config.space import SpaceFile
from amsam_ray.search.assignment import Assignment, Blame, Outcome
from amsam_ray.search.cells import make_cells
from amsam_ray.search.progress import CellProgress, Remembered, ladder_epochs
from amsam_ray.search.trial_queue import Dealer
from tests.search.spaces import space


class Book:
    """Stands for the storage: what was given up as failed, why the sweep was stopped."""

    def __init__(self) -> None:
        self.failed: list[Outcome] = []
        self.stopped: list[str] = []

    def give_up(self, assignment: Assignment, outcome: Outcome) -> Outcome:
        self.failed.append(outcome)
        return outcome


def deal(source: SpaceFile, book: Book | None = None, past: dict[str, list[Remembered]] | None = None) -> Dealer:
    book = book or Book()
    cells = [CellProgress(c, ladder_epochs(source), (past or {}).get(c.id, ())) for c in make_cells(source)]
    return Dealer(cells, source.search.retries, book.give_up, book.stopped.append)


def completed(assignment: Assignment, score: float | None = None) -> Outcome:
    params = assignment.config.params.as_dict()
    return Outcome(
        assignment.trial_id,
        "completed",
        score=params["lr"] if score is None else score,
        params={key: params[key] for key in assignment.searched},
    )


def error(assignment: Assignment, blame: Blame = "lane") -> Outcome:
    return Outcome(assignment.trial_id, "error", reason="it broke", blame=blame)


def run_all(dealer: Dealer, lanes: int = 3) -> list[Assignment]:
    """Run as a set of lanes would, first in first out; returns what ran in order."""
    ran: list[Assignment] = []
    busy: list[Assignment] = []
    while True:
        while len(busy) < lanes and (assignment := dealer.next_assignment()):
            busy.append(assignment)
        if not busy:
            return ran
        ran.append(busy.pop(0))
        dealer.settle(ran[-1], completed(ran[-1]))


def test_cells_take_turns_and_few_shots_come_first() -> None:
    dealer = deal(space(datasets=2, shots=(8, 4)))
    ids = [dealer.next_assignment().cell for _ in range(8)]  # type: ignore[union-attr]
    assert ids == ["lesions.k4.am_sam", "polyps.k4.am_sam", "lesions.k8.am_sam", "polyps.k8.am_sam"] * 2


def test_every_trial_runs_once_and_then_the_finals_of_the_best() -> None:
    dealer = deal(space(datasets=2, finals={"top_k": 2, "seeds": 3}))
    ran = run_all(dealer)
    assert dealer.finished
    assert max(Counter(a.trial_id for a in ran).values()) == 1
    for progress in dealer.cells:
        own = [a for a in ran if a.cell == progress.cell.id]
        assert [a.final for a in own] == [False] * 6 + [True] * 6
        best = sorted(progress.searched, key=lambda n: progress.searched[n].score or 0, reverse=True)[:2]
        assert {a.number for a in own if a.final} == set(best)
        assert len({a.config.seed for a in own if a.final}) == 3
        assert {a.config.params for a in own if a.final} <= {a.config.params for a in own if not a.final}


def test_a_method_with_nothing_to_search_has_one_trial_and_one_final() -> None:
    ran = run_all(deal(space(methods=("sam",), space={})))
    assert [a.trial_id for a in ran] == ["lesions.k4.sam.t0000", "lesions.k4.sam.t0000.f0"]


def test_finals_wait_for_trials_that_still_run() -> None:
    dealer = deal(space(trials=2))
    first, second = dealer.next_assignment(), dealer.next_assignment()
    assert first and second
    dealer.settle(first, completed(first))
    assert dealer.next_assignment() is None and not dealer.finished
    dealer.settle(second, completed(second))
    final = dealer.next_assignment()
    assert final and final.final


def test_a_smaller_score_is_the_better_one_where_the_metric_says_so() -> None:
    dealer = deal(space(trials=3))
    progress = dealer.cells[0]
    object.__setattr__(progress.cell, "maximise", False)
    while not progress.search_done and (a := dealer.next_assignment()):
        dealer.settle(a, completed(a, score=float(a.number)))
    assert progress.chosen(2) == [0, 1]


@pytest.mark.parametrize("blame", ["trial", "lane"])
def test_a_trial_is_tried_again_up_to_the_limit_and_then_recorded_as_failed(blame: Blame) -> None:
    book = Book()
    dealer = deal(space(trials=1, retries=2), book)
    attempts = []
    for _ in range(3):
        assignment = dealer.next_assignment()
        assert assignment
        attempts.append(assignment.attempt)
        dealer.settle(assignment, error(assignment, blame))
    assert attempts == [1, 2, 3]
    assert [(o.status, o.reason) for o in book.failed] == [("failed", "it broke (3 attempts)")]
    assert dealer.next_assignment() is None and dealer.finished


def test_an_attempt_that_was_stopped_from_outside_is_not_counted() -> None:
    book = Book()
    dealer = deal(space(trials=1, retries=0), book)
    for _ in range(5):
        assignment = dealer.next_assignment()
        assert assignment and assignment.attempt == 1
        assert dealer.settle(assignment, error(assignment, "stop")) is None
    assert not book.failed


def test_input_that_no_trial_can_be_given_stops_the_sweep() -> None:
    book = Book()
    dealer = deal(space(), book)
    assignment = dealer.next_assignment()
    assert assignment
    assert dealer.settle(assignment, error(assignment, "input")) is None
    assert book.stopped and "it broke" in book.stopped[0] and not book.failed


def test_input_that_one_trial_refuses_fails_that_trial_at_once() -> None:
    book = Book()
    dealer = deal(space(), book)
    good, bad = dealer.next_assignment(), dealer.next_assignment()
    assert good and bad
    dealer.settle(good, completed(good))
    recorded = dealer.settle(bad, error(bad, "input"))
    assert recorded and recorded.status == "failed" and not book.stopped


def test_a_retried_trial_keeps_its_configuration() -> None:
    dealer = deal(space())
    first = dealer.next_assignment()
    assert first
    dealer.settle(first, error(first))
    again = dealer.next_assignment()
    assert again == replace(first, attempt=2)


def test_continuing_runs_only_what_is_missing() -> None:
    source = space(datasets=2, trials=5)
    whole = run_all(deal(source))
    # Any half of the trials may have been recorded when the driver died.
    kept = [a for i, a in enumerate(whole) if i % 2]
    past: dict[str, list[Remembered]] = {}
    for a in kept:
        seed = int(a.trial_id.rpartition(".f")[2]) if a.final else None
        past.setdefault(a.cell, []).append(Remembered(a.number, seed, completed(a)))
    rest = run_all(deal(source, past=past))
    assert {a.trial_id for a in rest}.isdisjoint(a.trial_id for a in kept)
    by_id = {a.trial_id: a for a in whole}
    assert {a.trial_id for a in [*rest, *kept]} == set(by_id)
    assert all(a.config == by_id[a.trial_id].config for a in rest)


def test_a_record_of_another_configuration_keeps_its_number() -> None:
    source = space(trials=2)
    cell = make_cells(source)[0].id
    old = Remembered(0, None, Outcome(f"{cell}.t0000", "completed", score=9.0), counts=False)
    ran = [a for a in run_all(deal(source, past={cell: [old]})) if not a.final]
    assert [a.number for a in ran] == [1, 2]


def test_a_cell_whose_trials_all_failed_is_finished_without_finals() -> None:
    dealer = deal(space(trials=2, retries=0))
    while (assignment := dealer.next_assignment()) is not None:
        dealer.settle(assignment, error(assignment))
    assert dealer.finished and dealer.cells[0].best is None and dealer.cells[0].planned == 2


def test_rungs_grow_by_the_reduction_and_stay_below_the_last_epoch() -> None:
    asha = {"name": "asha", "grace_epochs": 5, "reduction": 3}
    assert ladder_epochs(space(epochs=100, scheduler=asha)) == (5, 15, 45)
    assert ladder_epochs(space(epochs=45, scheduler=asha)) == (5, 15)
    assert ladder_epochs(space(epochs=5, scheduler=asha)) == ()
    assert ladder_epochs(space(epochs=100, scheduler="none")) == ()
    assert ladder_epochs(space(epochs=20, scheduler={**asha, "reduction": 1.5})) == (5, 8, 11, 17)


def test_a_cell_whose_images_cannot_be_read_is_put_off_and_costs_no_attempt() -> None:
    book = Book()
    dealer = deal(space(datasets=2, trials=2, retries=0), book)
    first = dealer.next_assignment()
    assert first and dealer.settle(first, error(first, "data")) is None
    ran = run_all(dealer)
    assert {a.cell for a in ran} == {"polyps.k4.am_sam"} and len(ran) == 2 + 2
    assert dealer.finished and dealer.left == 0 and dealer.put_off == {first.cell: "it broke"}
    assert not book.failed and not book.stopped and not dealer.cell(first.cell).finished

"""The state of a sweep: turns of cells, retries, finals, continuing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from amsam_ray.config.space import SpaceFile
from amsam_ray.search.cell_state import CellState, RecordedTrial, rung_epochs
from amsam_ray.search.cells import make_cells
from amsam_ray.search.finals import best_trials
from amsam_ray.search.state import SweepState
from amsam_ray.search.trials import ErrorSource, TrialOutcome, TrialSpec
from amsam_ray.storage.base import UnavailableError
from tests.search.spaces import space

CELL = "lesions.k4.am_sam"


class FailureLog:
    """Collects recorded failures and the reasons for which the sweep was aborted."""

    def __init__(self) -> None:
        self.failed: list[TrialOutcome] = []
        self.aborted: list[str] = []

    def record_failure(self, trial: TrialSpec, outcome: TrialOutcome) -> TrialOutcome:
        self.failed.append(outcome)
        return outcome


def make_state(
    source: SpaceFile, log: FailureLog | None = None, past: dict[str, list[RecordedTrial]] | None = None
) -> SweepState:
    log = log or FailureLog()
    cells = [CellState(c, (past or {}).get(c.id, ())) for c in make_cells(source)]
    return SweepState(cells, source.search.retries, log.record_failure, log.aborted.append)


def completed(trial: TrialSpec, score: float | None = None) -> TrialOutcome:
    params = trial.config.params.as_dict()
    return TrialOutcome(
        trial.trial_id,
        "completed",
        score=params["lr"] if score is None else score,
        params={key: params[key] for key in trial.searched},
    )


def error(trial: TrialSpec, source: ErrorSource = "lane") -> TrialOutcome:
    return TrialOutcome(trial.trial_id, "error", reason="it broke", source=source)


def run_all(state: SweepState, lanes: int = 3) -> list[TrialSpec]:
    """Run as a set of lanes would, first in first out; returns what ran in order."""
    ran: list[TrialSpec] = []
    busy: list[TrialSpec] = []
    while True:
        while len(busy) < lanes and (trial := state.next_trial()):
            busy.append(trial)
        if not busy:
            return ran
        ran.append(busy.pop(0))
        state.settle(ran[-1], completed(ran[-1]))


def test_cells_take_turns_with_few_shots_first() -> None:
    state = make_state(space(datasets=2, shots=(8, 4)))
    ids = [state.next_trial().cell for _ in range(8)]  # type: ignore[union-attr]
    assert ids == ["lesions.k4.am_sam", "polyps.k4.am_sam", "lesions.k8.am_sam", "polyps.k8.am_sam"] * 2


def test_every_trial_runs_once_before_the_finals_of_the_best() -> None:
    state = make_state(space(datasets=2, finals={"top_k": 2, "seeds": 3}))
    ran = run_all(state)
    assert state.finished
    assert max(Counter(a.trial_id for a in ran).values()) == 1
    for progress in state.cells:
        own = [a for a in ran if a.cell == progress.cell.id]
        best = sorted(progress.searched, key=lambda n: progress.searched[n].score or 0, reverse=True)[:2]
        expected = [(n, best.index(n) + 1) for n in best] + ([] if 0 in best else [(0, 0)])
        assert [a.is_final for a in own] == [False] * 6 + [True] * (3 * len(expected))
        assert [(a.number, a.choice) for a in own if a.is_final][::3] == expected
        assert all(a.published == (a.number == 0) for a in own)
        assert len({a.config.seed for a in own if a.is_final}) == 3
        assert {a.config.params for a in own if a.is_final} <= {a.config.params for a in own if not a.is_final}


def test_method_without_searched_keys_has_one_trial_and_one_final() -> None:
    ran = run_all(make_state(space(methods=("sam",), space={})))
    assert [a.trial_id for a in ran] == ["lesions.k4.sam.t0000", "lesions.k4.sam.t0000.f0"]


def test_finals_wait_for_running_trials() -> None:
    state = make_state(space(trials=2))
    first, second = state.next_trial(), state.next_trial()
    assert first and second
    state.settle(first, completed(first))
    assert state.next_trial() is None and not state.finished
    state.settle(second, completed(second))
    final = state.next_trial()
    assert final and final.is_final


def test_minimised_metric_prefers_smaller_scores() -> None:
    state = make_state(space(trials=3))
    progress = state.cells[0]
    object.__setattr__(progress.cell, "maximise", False)
    while not progress.search_done and (a := state.next_trial()):
        state.settle(a, completed(a, score=float(a.number)))
    assert best_trials(progress.searched, 2, maximise=False) == [0, 1]


@pytest.mark.parametrize("source", ["trial", "lane"])
def test_trial_is_retried_up_to_the_limit_and_then_recorded_as_failed(source: ErrorSource) -> None:
    log = FailureLog()
    state = make_state(space(trials=1, retries=2), log)
    attempts = []
    for _ in range(3):
        trial = state.next_trial()
        assert trial
        attempts.append(trial.attempt)
        state.settle(trial, error(trial, source))
    assert attempts == [1, 2, 3]
    assert [(o.status, o.reason) for o in log.failed] == [("failed", "it broke (3 attempts)")]
    assert state.next_trial() is None and state.finished


def test_lost_node_costs_no_attempt() -> None:
    log = FailureLog()
    state = make_state(space(trials=1, retries=0), log)
    first = state.next_trial()
    assert first
    state.settle(first, error(first, "lost"))
    again = state.next_trial()
    assert again == replace(first, lost=1) and again.attempt == 1 and not log.failed


def test_trial_that_loses_node_after_node_fails_in_the_end() -> None:
    log = FailureLog()
    state = make_state(space(trials=1, retries=1), log)
    tries = []
    while trial := state.next_trial():
        tries.append((trial.attempt, trial.lost))
        state.settle(trial, error(trial, "lost"))
    assert tries == [(1, lost) for lost in range(9)] + [(2, 8)]
    assert [outcome.status for outcome in log.failed] == ["failed"]


def test_stopped_attempt_does_not_count() -> None:
    log = FailureLog()
    state = make_state(space(trials=1, retries=0), log)
    for _ in range(5):
        trial = state.next_trial()
        assert trial and trial.attempt == 1
        assert state.settle(trial, error(trial, "stop")) is None
    assert not log.failed


def test_input_that_every_trial_refuses_aborts_the_sweep() -> None:
    log = FailureLog()
    state = make_state(space(), log)
    trial = state.next_trial()
    assert trial
    assert state.settle(trial, error(trial, "input")) is None
    assert log.aborted and "it broke" in log.aborted[0] and not log.failed


def test_input_that_one_trial_refuses_fails_it_without_retry() -> None:
    log = FailureLog()
    state = make_state(space(), log)
    good, bad = state.next_trial(), state.next_trial()
    assert good and bad
    state.settle(good, completed(good))
    recorded = state.settle(bad, error(bad, "input"))
    assert recorded and recorded.status == "failed" and not log.aborted


def test_full_disk_of_a_node_aborts_the_sweep_after_the_retries_and_records_nothing() -> None:
    log = FailureLog()
    state = make_state(space(trials=1, retries=1), log)
    for _ in range(2):
        trial = state.next_trial()
        assert trial and not log.aborted
        assert state.settle(trial, error(trial, "node")) is None
    assert log.aborted == [f"{CELL}.t0000 cannot be run: it broke (2 attempts)"] and not log.failed


def test_failure_that_cannot_be_recorded_aborts_the_sweep() -> None:
    log = FailureLog()

    def refuse(trial: TrialSpec, outcome: TrialOutcome) -> TrialOutcome:
        raise UnavailableError("/results: No space left on device; free some space.")

    state = SweepState([CellState(c, ()) for c in make_cells(space(trials=1))], 0, refuse, log.aborted.append)
    trial = state.next_trial()
    assert trial and state.settle(trial, error(trial, "trial")) is None
    assert log.aborted[0].endswith("cannot be recorded: /results: No space left on device; free some space")
    assert state.next_trial(), "the trial is lost"


def test_retried_trial_keeps_its_configuration() -> None:
    state = make_state(space())
    first = state.next_trial()
    assert first
    state.settle(first, error(first))
    again = state.next_trial()
    assert again == replace(first, attempt=2)


def test_continued_sweep_runs_only_missing_trials() -> None:
    source = space(datasets=2, trials=5)
    whole = run_all(make_state(source))
    # Any half of the trials may have been recorded when the driver died.
    kept = [a for i, a in enumerate(whole) if i % 2]
    past: dict[str, list[RecordedTrial]] = {}
    for a in kept:
        seed = int(a.trial_id.rpartition(".f")[2]) if a.is_final else None
        past.setdefault(a.cell, []).append(RecordedTrial(a.number, seed, completed(a)))
    rest = run_all(make_state(source, past=past))
    assert {a.trial_id for a in rest}.isdisjoint(a.trial_id for a in kept)
    by_id = {a.trial_id: a for a in whole}
    assert {a.trial_id for a in [*rest, *kept]} == set(by_id)
    assert all(a.config == by_id[a.trial_id].config for a in rest)


def test_record_of_another_configuration_keeps_its_number() -> None:
    source = space(trials=2)
    cell = make_cells(source)[0].id
    old = RecordedTrial(0, None, TrialOutcome(f"{cell}.t0000", "completed", score=9.0), counts=False)
    ran = [a for a in run_all(make_state(source, past={cell: [old]})) if not a.is_final]
    assert [a.number for a in ran] == [1, 2]


def test_cell_with_only_failures_finishes_without_finals() -> None:
    state = make_state(space(trials=2, retries=0))
    while (trial := state.next_trial()) is not None:
        state.settle(trial, error(trial))
    assert state.finished and state.cells[0].best is None and state.cells[0].planned == 2


def test_rungs_grow_by_the_reduction_below_the_last_epoch() -> None:
    asha = {"name": "asha", "grace_epochs": 5, "reduction": 3}
    assert rung_epochs(space(epochs=100, scheduler=asha)) == (5, 15, 45)
    assert rung_epochs(space(epochs=45, scheduler=asha)) == (5, 15)
    assert rung_epochs(space(epochs=5, scheduler=asha)) == ()
    assert rung_epochs(space(epochs=100, scheduler="none")) == ()
    assert rung_epochs(space(epochs=20, scheduler={**asha, "reduction": 1.5})) == (5, 8, 11, 17)


def test_cell_with_unreadable_images_is_deferred_without_an_attempt() -> None:
    log = FailureLog()
    state = make_state(space(datasets=2, trials=2, retries=0), log)
    first = state.next_trial()
    assert first and state.settle(first, error(first, "data")) is None
    ran = run_all(state)
    assert {a.cell for a in ran} == {"polyps.k4.am_sam"} and len(ran) == 2 + 2
    assert state.finished and state.remaining == 0 and state.deferred == {first.cell: "it broke"}
    assert not log.failed and not log.aborted and not state.cells[0].finished


def test_finals_of_a_configuration_that_is_no_longer_chosen_are_not_counted() -> None:
    first = space(trials=2, finals={"top_k": 1, "seeds": 2})
    ran = run_all(make_state(first))
    past: dict[str, list[RecordedTrial]] = {}
    for trial in ran:
        seed = int(trial.trial_id.rpartition(".f")[2]) if trial.is_final else None
        past.setdefault(trial.cell, []).append(RecordedTrial(trial.number, seed, completed(trial)))
    for trials in (3, 1):  # the extended sweep finds a better configuration; the shortened one has a trial too many
        source = space(trials=trials, finals={"top_k": 1, "seeds": 2})
        state = make_state(source, past=past)
        while (again := state.next_trial()) is not None:
            state.settle(again, completed(again, score=9.0))
        (cell,) = state.cells
        assert state.finished and cell.done == cell.planned and state.remaining == 0

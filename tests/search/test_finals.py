"""Finals: which configurations get them, against the published setting, and how they train."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amsam_ray.config.datasets import SelectionConfig
from amsam_ray.search.cell_state import CellState, RecordedTrial, rung_epochs
from amsam_ray.search.cells import Cell, make_cells
from amsam_ray.search.finals import advantage, choose, final_trials, published_trial
from amsam_ray.search.recorder import Recorder
from amsam_ray.search.resume import SweepRecords, restore_cells
from amsam_ray.search.trials import TrialOutcome, TrialSpec, trial_id
from amsam_ray.storage.base import Storage
from amsam_ray.storage.open import open_storage
from amsam_ray.training.result import TrialResult
from tests.search.spaces import LR, one_cell, space
from tests.search.test_state import completed, make_state, run_all

CROSSFIT = {"mode": "crossfit", "folds": 2}
PUBLISHED: dict[str, object] = {"lr": 5e-3, "lambda": 0.8}
OTHER = {"lr": 1e-3, "lambda": 0.6}
THIRD = {"lr": 2e-3, "lambda": 0.7}


def crossfit_cell(**more: Any) -> Cell:
    return one_cell(**{"selection": CROSSFIT, **more})


def end(number: int, params: Mapping[str, object], scores: list[float], **more: Any) -> TrialOutcome:
    """A search trial whose shots scored ``scores``."""
    outcome = TrialOutcome(
        trial_id("c", number),
        "completed",
        score=sum(scores) / len(scores),
        params=dict(params),
        image_scores={f"shot{i}": score for i, score in enumerate(scores)},
        best_epoch=7,
    )
    return replace(outcome, **more)


def chosen(cell: Cell, *ends: TrialOutcome) -> list[tuple[int, int, bool]]:
    return [(c.number, c.rank, c.published) for c in choose(cell, dict(enumerate(ends)))]


BASE = end(0, PUBLISHED, [0.5, 0.6, 0.5, 0.6])
# Better by 0.1 on average, with a standard error of 0.122.
NOISY = end(1, OTHER, [0.9, 0.5, 0.7, 0.5])


@pytest.mark.parametrize(
    ("margin", "expected"),
    [(0, [(1, 1, False), (0, 0, True)]), (1, [(0, 1, True)]), (0.8, [(1, 1, False), (0, 0, True)])],
)
def test_margin_decides_between_the_best_and_the_published_setting(margin: float, expected: list[Any]) -> None:
    mean, error = advantage(NOISY, BASE, maximise=True) or (0, 0)
    assert 0.8 < mean / error < 1
    assert chosen(crossfit_cell(margin=margin), BASE, NOISY) == expected


def test_equal_configuration_does_not_replace_the_published_setting() -> None:
    # The search ranks the later trial first only if it is better; here it is better by rounding alone.
    same = end(1, OTHER, [0.5, 0.6, 0.5, 0.6], score=0.56)
    assert chosen(crossfit_cell(margin=0), BASE, same) == [(0, 1, True)]


def test_runner_up_keeps_its_place_behind_the_published_setting() -> None:
    third = end(2, THIRD, [0.4, 0.4, 0.4, 0.4])
    cell = crossfit_cell(finals={"top_k": 2, "seeds": 1}, margin=1)
    assert chosen(cell, BASE, NOISY, third) == [(0, 1, True), (1, 2, False)]
    clear = end(1, OTHER, [0.9, 0.9, 0.9, 0.9])
    assert chosen(cell, BASE, clear, third) == [(1, 1, False), (0, 2, True)]
    better = end(2, THIRD, [0.8, 0.8, 0.8, 0.8])
    assert chosen(cell, BASE, clear, better) == [(1, 1, False), (2, 2, False), (0, 0, True)]


@pytest.mark.parametrize(
    "published",
    [
        replace(BASE, status="pruned"),
        replace(BASE, status="failed", score=None, image_scores={}),
    ],
)
def test_published_setting_that_did_not_complete_still_gets_finals(published: TrialOutcome) -> None:
    assert chosen(crossfit_cell(), published, NOISY) == [(1, 1, False), (0, 0, True)]


def test_without_the_published_trial_the_best_is_chosen() -> None:
    cell = crossfit_cell()
    elsewhere = end(0, THIRD, [0.1, 0.1, 0.1, 0.1])
    assert published_trial(cell, {0: elsewhere, 1: NOISY}) is None
    assert chosen(cell, elsewhere, NOISY) == [(1, 1, False)]


def test_without_completed_trials_there_are_no_finals() -> None:
    assert chosen(crossfit_cell(), replace(BASE, status="failed", score=None)) == []


def test_margin_needs_scores_of_single_shots() -> None:
    # D2 and held-out images select as in the papers: the best score wins.
    cell = one_cell(margin=5)
    assert chosen(cell, replace(BASE, image_scores={}), replace(NOISY, image_scores={})) == [
        (1, 1, False),
        (0, 0, True),
    ]


def test_smaller_is_better_for_minimised_objectives() -> None:
    cell = crossfit_cell(objective="mae", margin=1)
    assert not cell.maximise
    base, lower = end(0, PUBLISHED, [0.2, 0.3, 0.2, 0.3]), end(1, OTHER, [0.1, 0.19, 0.1, 0.2])
    higher = end(1, OTHER, [0.3, 0.39, 0.3, 0.4])
    assert chosen(cell, base, lower) == [(1, 1, False), (0, 0, True)]
    assert chosen(cell, base, higher) == [(0, 1, True)]
    mean, _ = advantage(lower, base, maximise=False) or (0, 0)
    assert mean == pytest.approx(0.1025)


def test_advantage_is_the_paired_mean_with_its_standard_error() -> None:
    first, second = end(1, OTHER, [0.9, 0.7, 0.6]), end(0, PUBLISHED, [0.5, 0.6, 0.5])
    mean, error = advantage(first, second, maximise=True) or (0, 0)
    assert mean == pytest.approx(0.2) and error == pytest.approx(0.1)  # gains 0.4, 0.1, 0.1
    assert advantage(second, first, maximise=True) == (pytest.approx(-0.2), pytest.approx(0.1))


def test_advantage_uses_only_shots_that_judged_both() -> None:
    first = end(1, OTHER, [0.9, 0.7, 0.6])
    two = replace(first, image_scores={"shot0": 0.5, "shot1": 0.5, "other": 9.0})
    assert advantage(first, two, maximise=True) == (pytest.approx(0.3), pytest.approx(0.1))
    one = replace(first, image_scores={"shot0": 0.5})
    assert advantage(first, one, maximise=True) is None


def test_final_of_a_crossfitted_configuration_stops_at_the_best_epoch() -> None:
    cell = crossfit_cell(margin=0)
    ours, published = final_trials(cell, {0: BASE, 1: NOISY})[0::2]
    assert (ours.number, ours.choice, ours.published) == (1, 1, False)
    assert ours.config.stop_epoch == NOISY.best_epoch == 7
    assert ours.config.selection == SelectionConfig(mode="crossfit", folds=2)
    # The published setting follows the papers: trained on D1 and D2, its epoch chosen on D2.
    assert (published.number, published.choice, published.published) == (0, 0, True)
    assert published.config.stop_epoch == 0 and published.config.selection == SelectionConfig()


def test_published_setting_that_is_chosen_follows_the_papers() -> None:
    finals = final_trials(crossfit_cell(margin=1), {0: BASE, 1: NOISY})
    assert [(f.choice, f.published, f.config.stop_epoch) for f in finals] == [(1, True, 0)] * 2
    assert {f.config.selection.mode for f in finals} == {"d2"}


def test_finals_of_one_seed_differ_only_in_the_configuration() -> None:
    ours, _, published, _ = final_trials(crossfit_cell(margin=0), {0: BASE, 1: NOISY})
    assert ours.config.seed == published.config.seed
    assert ours.trial_id.endswith("t0001.f0") and published.trial_id.endswith("t0000.f0")


def test_rungs_count_the_epochs_of_all_folds() -> None:
    asha = {"name": "asha", "grace_epochs": 20, "reduction": 2}
    assert rung_epochs(space(epochs=20, scheduler=asha)) == ()
    four = {"mode": "crossfit", "folds": 4}
    assert rung_epochs(space(epochs=20, scheduler=asha, shots=(8,), selection=four)) == (20, 40)


def test_method_without_training_searches_nothing() -> None:
    source = space(methods=("sam", "am_sam"), space={"lr": LR, "prompt": {"choice": ["box", "fused"]}})
    cell, other = make_cells(source)
    assert tuple(other.space) == ("lr", "prompt")
    assert not cell.space and cell.published is None and (cell.trials, cell.final_seeds) == (1, 1)
    finals = final_trials(cell, {0: end(0, {}, [0.5, 0.5])})
    assert [(f.number, f.choice, f.published) for f in finals] == [(0, 1, False)]


# Continuing


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path / "cache"))
    return open_storage(tmp_path / "results")


def crossfit_result(trial: TrialSpec) -> TrialResult:
    lr = trial.config.params.lr
    images = [] if trial.is_final else [{"name": f"s{i}", "dice": 0.5 + 10 * lr + i / 100} for i in range(4)]
    val = {} if trial.is_final else {"dice": 0.5 + 10 * lr}
    best = trial.config.stop_epoch or 3 + trial.number
    return TrialResult("completed", val=val, val_images=images, best_epoch=best, epochs_run=20)


def run_recorded(cells: list[CellState], recorder: Recorder, most: int = 1000) -> list[str]:
    """Run and record at most ``most`` trials, one after the other."""
    ran: list[str] = []
    (state,) = cells
    while len(ran) < most and (trial := state.next_trial()) is not None:
        state.settle(trial, recorder.write(trial, crossfit_result(trial), {}, time.time(), {}))
        ran.append(trial.trial_id)
    return ran


@pytest.mark.parametrize("stop_after", [0, 1, 3, 4, 5, 6, 7])
def test_continued_crossfit_sweep_runs_nothing_twice(storage: Storage, stop_after: int) -> None:
    source = space(trials=4, selection=CROSSFIT)
    recorder = Recorder(storage.uri, "tiny-00000000")
    records = SweepRecords(storage, "tiny-00000000")

    def restored() -> list[CellState]:
        records.refresh()
        return restore_cells(make_cells(source), records.records)

    before = run_recorded(restored(), recorder, stop_after)
    after = run_recorded(restored(), recorder)
    recorder.close(0)
    # Four search trials, two finals of the chosen configuration and two of the published setting.
    assert len(set(before + after)) == len(before + after) == 4 + 2 + 2
    (state,) = restored()
    assert state.finished and state.next_trial() is None and len(state.finals) == 4
    finals = [record for record in records.records if record.role == "final"]
    stops = {(record.published, record.choice, record.config.get("stop_epoch", 0)) for record in finals}
    best = state.best
    assert best is not None and stops == {(False, 1, best.best_epoch), (True, 0, 0)}


# Extended sweeps


def test_extended_sweep_tries_the_published_setting_again() -> None:
    source = space(trials=3)
    cell = make_cells(source)[0].id
    old = RecordedTrial(0, None, TrialOutcome(f"{cell}.t0000", "completed", score=9.0, params=PUBLISHED), counts=False)
    ran = run_all(make_state(source, past={cell: [old]}))
    search = [trial for trial in ran if not trial.is_final]
    assert [trial.number for trial in search] == [1, 2, 3]
    assert [trial.published for trial in search] == [True, False, False]
    assert search[0].config.params.as_dict()["lr"] == PUBLISHED["lr"]
    assert any(trial.is_final and trial.published and trial.number == 1 for trial in ran)


def test_published_setting_is_tried_again_only_once() -> None:
    source = space(trials=3, first=[THIRD])
    cell = make_cells(source)[0].id
    old = RecordedTrial(0, None, TrialOutcome(f"{cell}.t0000", "completed", score=9.0, params=PUBLISHED), counts=False)
    first = make_state(source, past={cell: [old]})
    again = first.next_trial()
    assert again and again.published and again.number == 1
    # The driver dies after this trial. The point that number 1 displaced follows.
    past = [old, RecordedTrial(1, None, completed(again))]
    rest = [trial for trial in run_all(make_state(source, past={cell: past})) if not trial.is_final]
    assert [trial.number for trial in rest] == [2, 3] and not any(trial.published for trial in rest)
    assert {key: rest[0].config.params.as_dict()[key] for key in THIRD} == THIRD


def test_extended_grid_tries_every_point() -> None:
    grid = {"lr": {"choice": [1e-3, 5e-3, 1e-2]}}
    source = space(trials=50, sampler="grid", space=grid)
    cell = make_cells(source)[0].id
    old = [
        RecordedTrial(n, None, TrialOutcome(f"{cell}.t{n:04d}", "completed", score=9.0), counts=False) for n in (0, 2)
    ]
    ran = [trial for trial in run_all(make_state(source, past={cell: old})) if not trial.is_final]
    assert sorted(trial.config.params.lr for trial in ran) == [1e-3, 5e-3, 1e-2]

"""TensorBoard curves and the Optuna journal, written from records."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from amsam_ray.records.schema import Record, record_key
from amsam_ray.search.cell_state import CellState
from amsam_ray.search.cells import Cell, make_cells
from amsam_ray.search.dashboards import CURVES, JOURNAL, DashboardWriter, dashboard_dir
from amsam_ray.search.trials import TrialOutcome, TrialSpec
from amsam_ray.storage.base import Storage
from amsam_ray.storage.open import open_storage
from amsam_ray.training.result import TrialResult
from tests.records.synthetic import ENVIRONMENT, START, write_record
from tests.search.spaces import LR, space
from tests.search.test_state import completed

SWEEP = "tiny-00000000"


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path / "cache"))
    return open_storage(tmp_path / "results")


def make_cell(**more: Any) -> Cell:
    return make_cells(space(trials=5, **more))[0]


def recorded(storage: Storage, trial: TrialSpec, result: TrialResult, rungs: dict[int, float] | None = None) -> Record:
    """Store the record of a trial."""
    made = Record.build(
        trial=trial.trial_id,
        sweep=SWEEP,
        config=trial.config,
        result=result,
        environment=ENVIRONMENT,
        started=START,
        finished=START + 20,
        searched=trial.searched,
        rung_scores=rungs,
    )
    write_record(storage, made)
    return made


def trials(cell: Cell, count: int) -> list[TrialSpec]:
    state = CellState(cell)
    return [trial for _ in range(count) if (trial := state.next_trial())]


def write(storage: Storage, cell: Cell, ended: Sequence[TrialSpec]) -> DashboardWriter:
    """Report trials to a writer and close it."""
    writer = DashboardWriter(storage, SWEEP, [CellState(cell)])
    for trial in ended:
        writer.trial_ended(trial, completed(trial), completed(trial))
    writer.close()
    return writer


def study(storage: Storage, cell: Cell) -> optuna.Study:
    journal = JournalStorage(JournalFileBackend(str(dashboard_dir(storage, SWEEP) / JOURNAL)))
    return optuna.load_study(study_name=cell.id, storage=journal)


CURVE: list[dict[str, float]] = [
    {"epoch": 1.0, "loss": 0.9, "val_dice": 0.4},
    {"epoch": 2.0, "loss": 0.5, "val_dice": math.nan},
]


def test_journal_holds_every_search_trial(storage: Storage) -> None:
    cell = make_cell()
    ended = trials(cell, 3)
    recorded(storage, ended[0], TrialResult("completed", val={"dice": 0.6}, epochs_run=20), {5: 0.4})
    recorded(storage, ended[1], TrialResult("pruned", val={"dice": 0.2}, epochs_run=5), {5: 0.2})
    recorded(storage, ended[2], TrialResult("failed", reason="out of memory"))
    write(storage, cell, ended)
    first, second, third = study(storage, cell).trials
    assert (first.state, first.value, first.intermediate_values) == (TrialState.COMPLETE, 0.6, {5: 0.4})
    assert first.params == {"lr": 5e-3, "lambda": 0.8} and first.user_attrs["trial"] == ended[0].trial_id
    assert (first.datetime_complete - first.datetime_start).total_seconds() == 20  # type: ignore[operator]
    assert second.state == TrialState.PRUNED and third.state == TrialState.FAIL
    assert third.user_attrs["reason"] == "out of memory"


def test_value_outside_the_space_is_an_attribute(storage: Storage) -> None:
    # Optuna has no parameter for a published choice that the space does not list.
    cell = make_cell(space={"rank": {"choice": [2, 8]}, "lr": LR})
    (trial,) = trials(cell, 1)
    recorded(storage, trial, TrialResult("completed", val={"dice": 0.6}))
    write(storage, cell, [trial])
    (stored,) = study(storage, cell).trials
    assert stored.params == {"lr": 5e-3} and stored.user_attrs["rank"] == 4 and stored.value == 0.6


def test_curves_of_every_trial_with_their_times(storage: Storage) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    cell = make_cell()
    (trial,) = trials(cell, 1)
    recorded(storage, trial, TrialResult("completed", val={"dice": 0.6}, curve=CURVE, epochs_run=2))
    write(storage, cell, [trial])
    events = accumulator.EventAccumulator(str(dashboard_dir(storage, SWEEP) / CURVES / trial.trial_id)).Reload()
    assert [(e.step, pytest.approx(e.value)) for e in events.Scalars("loss")] == [(1, 0.9), (2, 0.5)]
    assert [e.step for e in events.Scalars("val_dice")] == [1], "a missing score is no point"
    assert [e.wall_time for e in events.Scalars("loss")] == [START + 10, START + 20]


def test_finals_have_curves_and_no_place_in_the_journal(storage: Storage) -> None:
    cell = make_cell()
    (search,) = trials(cell, 1)
    state = CellState(make_cells(space(trials=1))[0])
    first = state.next_trial()
    assert first and first.trial_id == search.trial_id
    state.settle(first, completed(first))
    final = state.next_trial()
    assert final and final.is_final
    recorded(storage, final, TrialResult("completed", val={"dice": 0.6}, curve=CURVE, epochs_run=2))
    write(storage, cell, [final])
    assert not study(storage, cell).trials
    assert (dashboard_dir(storage, SWEEP) / CURVES / final.trial_id).is_dir()


def test_earlier_trials_are_written_at_once_and_once(storage: Storage) -> None:
    cell = make_cell()
    (trial,) = trials(cell, 1)
    made = recorded(storage, trial, TrialResult("completed", val={"dice": 0.6}, curve=CURVE, epochs_run=2))
    for _ in range(2):
        state = CellState(cell)
        state.searched[0] = TrialOutcome(made.trial, "completed", score=0.6)
        DashboardWriter(storage, SWEEP, [state]).close()
    assert len(study(storage, cell).trials) == 1
    assert len(list((dashboard_dir(storage, SWEEP) / CURVES / trial.trial_id).iterdir())) == 1


def test_attempt_without_a_record_is_not_written(storage: Storage) -> None:
    cell = make_cell()
    (trial,) = trials(cell, 1)
    writer = DashboardWriter(storage, SWEEP, [CellState(cell)])
    writer.trial_ended(trial, TrialOutcome(trial.trial_id, "error"), None)
    writer.close()
    assert not study(storage, cell).trials


def test_broken_records_do_not_stop_the_writer(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    cell = make_cell()
    damaged, missing, good = trials(cell, 3)
    (foreign,) = trials(make_cells(space(datasets=2))[1], 1)  # of a cell that this sweep does not have
    storage.put(record_key(SWEEP, damaged.trial_id), b'{"schema_version": 1, "trial"')
    recorded(storage, foreign, TrialResult("completed", val={"dice": 0.6}))
    recorded(storage, good, TrialResult("completed", val={"dice": 0.7}))
    with caplog.at_level(logging.WARNING):
        write(storage, cell, [damaged, missing, foreign, good])
    assert [trial.value for trial in study(storage, cell).trials] == [0.7]
    warned = [record.getMessage() for record in caplog.records if "No dashboard data" in record.getMessage()]
    assert [any(trial.trial_id in text for text in warned) for trial in (missing, foreign)] == [True, True]

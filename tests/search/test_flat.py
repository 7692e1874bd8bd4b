"""Cells whose trials do not differ: their search ends, and the others get the trials that they do without."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from amsam_ray.cli.main import cli
from amsam_ray.config.space import SpaceFile
from amsam_ray.config.space_checks import check_space
from amsam_ray.config.space_file import parse_space
from amsam_ray.records.io import read_records
from amsam_ray.records.schema import Record
from amsam_ray.search.budget import Budget, StopConditions
from amsam_ray.search.cell_state import RecordedTrial
from amsam_ray.search.cells import make_cells
from amsam_ray.search.flat import is_flat
from amsam_ray.search.recorder import Recorder
from amsam_ray.search.resume import SweepRecords, restore_cells
from amsam_ray.search.sharing import divide
from amsam_ray.search.state import SweepState
from amsam_ray.search.status import StatusObserver
from amsam_ray.search.trials import TrialOutcome, TrialSpec
from amsam_ray.storage.open import open_storage
from amsam_ray.training.result import TrialResult
from tests.search.in_process import sweep_in_process
from tests.search.spaces import space
from tests.search.test_state import FailureLog, make_state

CROSSFIT = {"mode": "crossfit", "folds": 2}
FLAT = "lesions.k4.am_sam"
NAMES = ("a", "b", "c", "d")


def flat_space(**more: Any) -> SpaceFile:
    given = {"datasets": 3, "trials": 6, "startup_trials": 3, "selection": CROSSFIT, "stop_when_flat": True}
    return space(**{**given, **more})


def scores(trial: TrialSpec) -> list[float]:
    """Scores of the shots: equal but for noise in the first dataset, apart by the learning rate in the others."""
    if trial.cell == FLAT:
        return [0.5 + 0.01 * (-1) ** ((trial.number ^ 1) // 2**place) for place in range(4)]
    return [0.5 + trial.config.params.lr + place / 100 for place in range(4)]


def result(trial: TrialSpec) -> TrialResult:
    found = scores(trial)
    images = [] if trial.is_final else [{"name": n, "dice": s} for n, s in zip(NAMES, found, strict=True)]
    made = TrialResult("completed", val={"dice": sum(found) / 4}, val_images=images, best_epoch=4, epochs_run=20)
    return (
        replace(made, val={}, test={"dice": 0.5}, test_images=[{"name": "t", "dice": 0.5}]) if trial.is_final else made
    )


def ended(trial: TrialSpec) -> TrialOutcome:
    made, params = result(trial), trial.config.params.as_dict()
    images = {str(row["name"]): float(row["dice"]) for row in made.val_images}
    return TrialOutcome(
        trial.trial_id,
        "completed",
        score=made.val.get("dice"),
        params={key: params[key] for key in trial.searched},
        image_scores=images,
        best_epoch=4,
    )


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
        state.settle(ran[-1], ended(ran[-1]))


# What is flat


def judged(*values: float) -> TrialOutcome:
    return TrialOutcome("c", "completed", image_scores=dict(zip(NAMES, values, strict=False)))


BASE = judged(0.5, 0.6, 0.5, 0.6)
# 0.1 better on average with a standard error of 0.122, and 0.1 better on every image.
NOISY, BETTER = judged(0.9, 0.5, 0.7, 0.5), judged(0.6, 0.7, 0.6, 0.7)


@pytest.mark.parametrize(
    ("outcomes", "flat"),
    [
        ([BASE, NOISY], True),
        ([BASE, BASE], True),
        ([BASE, BETTER], False),
        ([BETTER, BASE], False),
        ([BASE, NOISY, BETTER], False),
        ([BASE, replace(BASE, status="pruned", image_scores={"a": 0.5, "b": 0.7})], True),
        ([BASE, replace(BASE, image_scores={"a": 0.5})], False),  # one image shows no noise
        ([BASE, NOISY, TrialOutcome("c", "failed", diverged=True)], False),
        ([BASE], False),
    ],
)
@pytest.mark.parametrize("maximise", [True, False])
def test_flat_is_that_no_two_trials_differ_by_more_than_noise(
    outcomes: list[TrialOutcome], flat: bool, maximise: bool
) -> None:
    assert is_flat(outcomes, maximise=maximise) is flat


def test_noise_is_two_standard_errors_of_the_paired_difference() -> None:
    assert is_flat([BASE, NOISY], maximise=True, errors=0.82) and not is_flat([BASE, NOISY], maximise=True, errors=0.8)
    almost = judged(0.5 + 0.11, 0.6 + 0.05, 0.5 + 0.05, 0.6 + 0.01)  # mean 0.055, standard error 0.0206
    assert is_flat([BASE, almost], maximise=True, errors=2.7) and not is_flat([BASE, almost], maximise=True)


# Who gets the trials


@pytest.mark.parametrize(
    ("amount", "rooms", "shares"),
    [
        (6, [100, 100], [3, 3]),
        (7, [100, 100], [3, 4]),
        (7, [2, 100], [2, 5]),
        (7, [100, 2, 0], [5, 2, 0]),
        (9, [1, 1], [1, 1]),
        (0, [5], [0]),
        (4, [], []),
    ],
)
def test_trials_are_divided_equally_as_far_as_there_is_room(amount: int, rooms: list[int], shares: list[int]) -> None:
    assert divide(amount, rooms) == shares


@pytest.mark.parametrize("lanes", [1, 3])
def test_flat_cell_ends_and_the_others_get_its_trials(lanes: int) -> None:
    state = make_state(flat_space())
    ran = run_all(state, lanes)
    flat, *others = state.cells
    searched = Counter(trial.cell for trial in ran if not trial.is_final)
    assert state.finished and sum(searched.values()) == 3 * 6
    assert flat.flat_after == 3 and [other.flat_after for other in others] == [None, None]
    # With one lane a cell decides before its fourth trial starts; with three, one more may have started.
    assert searched[FLAT] == 3 if lanes == 1 else searched[FLAT] in (3, 4)
    freed = 6 - searched[FLAT]
    assert sorted(searched[other.cell.id] - 6 for other in others) == [freed // 2, freed - freed // 2]
    # Every cell retrains its choice and, if it is another one, the published setting, once its search is over.
    for each in state.cells:
        own = [trial for trial in ran if trial.cell == each.cell.id]
        assert sorted(trial.is_final for trial in own) == [trial.is_final for trial in own]
        finals = [trial for trial in own if trial.is_final]
        assert {trial.choice for trial in finals if trial.published} <= {0, 1} and any(t.published for t in finals)
        best = max((each.searched[n].score or 0, -n) for n in each.searched)
        assert {-best[1], 0} == {trial.number for trial in finals}
        assert {trial.flat_after for trial in finals} == {each.flat_after}


def test_without_the_key_no_cell_ends_early() -> None:
    state = make_state(flat_space(stop_when_flat=False))
    searched = Counter(trial.cell for trial in run_all(state) if not trial.is_final)
    assert set(searched.values()) == {6} and all(each.flat_after is None for each in state.cells)


def test_cells_that_are_all_flat_do_without_their_trials() -> None:
    state = make_state(flat_space(datasets=1))
    assert [trial.is_final for trial in run_all(state, 1)] == [False] * 3 + [True] * 4
    assert state.finished and state.remaining == 0


def test_finals_wait_until_no_cell_can_give_trials() -> None:
    state = make_state(flat_space(datasets=2, trials=4))
    flat, other = state.cells
    held = [trial for _ in range(6) if (trial := state.next_trial())]
    for trial in held:
        if trial.cell == other.cell.id:
            state.settle(trial, ended(trial))
    last = [trial for trial in (state.next_trial(), state.next_trial()) if trial]
    assert {trial.cell for trial in last} == {flat.cell.id, other.cell.id}
    for trial in last:
        if trial.cell == other.cell.id:
            state.settle(trial, ended(trial))
    assert len(other.searched) == other.size == 4 and other.waits and not other.search_done
    assert state.next_trial() is None and not state.finished
    for trial in held:
        if trial.cell == flat.cell.id:
            state.settle(trial, ended(trial))
    # A fourth trial of the flat cell was running when it was found flat: none is left to give.
    assert flat.flat_after == 3 and (flat.size, flat.freed, other.size) == (4, 0, 4)
    final = state.next_trial()
    assert final and final.is_final and final.cell == other.cell.id


def test_deferred_cell_holds_nobody_up() -> None:
    state = make_state(flat_space(datasets=2))
    first = state.next_trial()
    assert first and first.cell == FLAT
    state.settle(first, TrialOutcome(first.trial_id, "error", reason="ImageError", source="data"))
    searched = Counter((trial.cell, trial.is_final) for trial in run_all(state))
    assert searched == {("polyps.k4.am_sam", False): 6, ("polyps.k4.am_sam", True): 4}
    assert state.finished


def test_grid_takes_no_more_trials_than_it_has_points() -> None:
    grid = {"lr": {"choice": [1e-3, 2e-3, 4e-3, 6e-3, 8e-3]}}  # and the published 5e-3
    state = make_state(flat_space(datasets=2, trials=5, sampler="grid", space=grid))
    searched = Counter(trial.cell for trial in run_all(state, 1) if not trial.is_final)
    assert searched == {FLAT: 3, "polyps.k4.am_sam": 6}


def test_decision_takes_the_first_numbers_and_waits_for_them() -> None:
    source = flat_space(datasets=1)
    (cell,) = make_cells(source)
    fresh = SweepState(restore_cells([cell], []), 0, FailureLog().record_failure, print)
    trials = [trial for _ in range(5) if (trial := fresh.next_trial())]
    late = [RecordedTrial(t.number, None, ended(t)) for t in trials if t.number != 1]
    state = make_state(source, past={cell.id: late})
    (again,) = state.cells
    assert not again.decided and len(again.searched) == 4
    missing = state.next_trial()
    assert missing and missing.number == 1
    # This trial is better than the others on every image.
    state.settle(missing, replace(ended(missing), image_scores=dict.fromkeys(NAMES, 0.9)))
    assert again.decided and again.flat_after is None


# Continuing, and what is shown


def drive(state: SweepState, recorder: Recorder, most: int = 1000) -> list[str]:
    """Run and record at most ``most`` trials, one after the other."""
    ran: list[str] = []
    while len(ran) < most and (trial := state.next_trial()) is not None:
        state.settle(trial, recorder.write(trial, result(trial), {}, time.time(), {}))
        ran.append(trial.trial_id)
    return ran


@pytest.mark.parametrize("stop_after", [2, 6, 7, 9, 16, 20])
def test_continued_sweep_decides_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int) -> None:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path / "cache"))
    source, log = flat_space(datasets=3), FailureLog()

    def sweep(folder: str) -> tuple[SweepRecords, Recorder, Any]:
        storage = open_storage(tmp_path / folder)
        records = SweepRecords(storage, "tiny-00000000")

        def restored() -> SweepState:
            records.refresh()
            states = restore_cells(make_cells(source), records.records)
            return SweepState(states, 0, log.record_failure, log.aborted.append)

        return records, Recorder(storage.uri, "tiny-00000000"), restored

    _, recorder, whole = sweep("whole")
    expected = drive(whole(), recorder)
    recorder.close(0)
    records, recorder, parts = sweep("parts")
    before = drive(parts(), recorder, stop_after)
    after = drive(parts(), recorder)
    recorder.close(0)
    assert sorted(before + after) == sorted(expected) and len(set(expected)) == len(expected)
    state = parts()
    assert state.finished and not log.failed and not log.aborted
    assert [each.flat_after for each in state.cells] == [3, None, None]
    stated = {(record.cell, record.flat_after) for record in records.records if record.role == "final"}
    assert stated == {(each.cell.id, each.flat_after) for each in state.cells}
    assert all(record.flat_after is None for record in records.records if record.role == "search")


def test_status_tells_that_a_cell_is_flat(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "amsam_ray")
    state = make_state(flat_space(datasets=2))
    status = StatusObserver(state.cells, StopConditions(Budget()))
    while not state.cells[0].flat_after:
        trial = state.next_trial()
        assert trial
        status.trial_started(trial)
        status.trial_ended(trial, ended(trial), state.settle(trial, ended(trial)))
    shown = status.snapshot()
    note = f"{FLAT}: no two of the first 3 trials differ by more than noise; the others go to cells that do"
    assert [row.flat_after for row in shown.rows] == [3, None]
    assert shown.message == note and note in caplog.messages
    # Three trials and the finals of at most two configurations.
    assert shown.rows[0].planned == 3 + 4


LOW = {"lr": 1e-6, "lr_prompt": 1e-6, "calibration": "off"}


@pytest.mark.timeout(300)
def test_real_sweep_ends_the_cell_that_learns_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path / "cache"))
    source = parse_space(
        {
            "name": "real",
            "datasets": [
                {"name": "procedural", "options": {"family": "lesion", "train": 8, "test": 2, "size": 64}},
            ],
            "shots": [4],
            "methods": [{"name": "am_sam", "label": "still", "params": LOW}, {"name": "am_sam"}],
            "detector": {"weights": "nano"},
            "selection": CROSSFIT,
            "train": {"epochs": 2, "batch_size": 4, "hypergradient": "first_order"},
            "search": {
                "trials": 4,
                "startup_trials": 2,
                "stop_when_flat": True,
                "sampler": "random",
                "scheduler": "none",
                "space": {"lr": {"loguniform": [1e-2, 1e-1]}, "weight_decay": {"uniform": [0.0, 0.1]}},
            },
            "finals": {"top_k": 1, "seeds": 1},
            "resources": {"lanes": 1},
        }
    )
    outcome = sweep_in_process(source, tmp_path, tmp_path / "cache")
    assert outcome.finished
    records, problems = read_records(open_storage(str(tmp_path / "results")))
    assert problems == []
    still, moving = (sorted_search(records, label) for label in ("still", "am_sam"))
    assert differing(still[:2]) == 0 and len(still) == 2
    flat = differing(moving[:2]) == 0
    assert len(moving) == (2 if flat else 4 + 2)
    rows = {row["method"]: row for row in outcome.leaderboard if row["source"] == "run"}
    assert rows["still"]["flat_after"] == 2 and rows["still"]["trials"] == 2
    assert rows["am_sam"].get("flat_after") == (2 if flat else None)
    storage = ["--storage", str(tmp_path / "results")]
    shown = CliRunner().invoke(cli, ["show", rows["still"]["trial"], *storage])
    assert "ended early: the first 2 trials differed by no more than noise" in shown.output
    shown = CliRunner().invoke(cli, ["status", *storage])
    assert "finished" in shown.output and ", flat" in next(n for n in shown.output.splitlines() if ".still" in n)
    shown = CliRunner().invoke(cli, ["leaderboard", "--no-paper", *storage, "--format", "md"])
    assert "flat after 2" in next(line for line in shown.output.splitlines() if "still" in line)


def sorted_search(records: list[Record], label: str) -> list[Record]:
    found = [record for record in records if record.label == label and record.role == "search"]
    return sorted(found, key=lambda record: record.number)


def differing(records: list[Record]) -> int:
    """Number of pairs whose mean difference over the shots exceeds two standard errors."""
    dice = [np.array([row["dice"] for row in record.val_images], dtype=float) for record in records]
    gains = [first - second for first, second in combinations(dice, 2)]
    return sum(abs(gain.mean()) > 2 * gain.std(ddof=1) / np.sqrt(len(gain)) for gain in gains)


# Bad input


@pytest.mark.parametrize(
    ("selection", "search", "path", "words"),
    [
        ({"mode": "d2"}, {}, ("search", "stop_when_flat"), "needs scores of single shots that train nothing; set"),
        (CROSSFIT, {"trials": 3}, ("search", "stop_when_flat"), "startup_trials (3) trials of a cell, and cells have"),
        (CROSSFIT, {"startup_trials": 1}, ("search", "startup_trials"), "which is 1; use at least 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    selection: dict[str, Any], search: dict[str, Any], path: tuple[str, str], words: str
) -> None:
    data = flat_space().model_dump(mode="json", by_alias=True)
    data["selection"] = selection
    data["search"] |= search
    (finding,) = check_space(SpaceFile.model_validate(data))
    assert finding.path == path and words in finding.message and finding.code == "stop-when-flat"


def test_default_leaves_the_stored_space_as_it_was() -> None:
    assert "stop_when_flat" not in space().model_dump()["search"]
    assert flat_space().model_dump()["search"]["stop_when_flat"] is True

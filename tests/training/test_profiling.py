"""The profile of a trial: its phases, and that it leaves the trial as it is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from amsam_ray.config.datasets import SelectionConfig
from amsam_ray.config.trial import TrialConfig
from amsam_ray.data.dataset import Dataset
from amsam_ray.errors import AmsamError
from amsam_ray.inference import inputs
from amsam_ray.training import loop, setup
from amsam_ray.training.profiling import Spans, TrialProfile, profile_trial
from amsam_ray.training.result import TrialResult
from amsam_ray.training.trial import train_trial
from tests.training.toys import random_nano, small_trial


def profile(folder: Path, config: TrialConfig, **given: Any) -> TrialProfile:
    work = folder / "work"
    work.mkdir()
    return profile_trial(config, cache_dir=folder / "cache", work_dir=work, **{"record": lambda result: None, **given})


def test_a_second_counts_for_the_innermost_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    spans = Spans(torch.device("cpu"))
    with spans("prepare"):
        with spans("encoder"), spans("decode"):
            pass
        spans.timed("decode", lambda: None)()
    assert spans.seconds == {"prepare": 3.0, "prepare/encoder": 2.0, "prepare/decode": 2.0}


def test_phases_of_a_trial(tmp_path: Path) -> None:
    recorded: list[TrialResult] = []
    owners = (setup, setup.TrialSetup, loop, inputs, inputs.Preparer, Dataset)
    before = [dict(vars(owner)) for owner in owners]
    config = small_trial(random_nano(tmp_path), "blo_sam")
    found = profile(tmp_path, config, record=recorded.append)
    assert recorded == [found.result]
    parts = {"load/decode", "prepare/decode", "prepare/encoder", "train/upper", "train/lower", "train/score"}
    phases = {*found.phases, "load/decode"}  # shots are drawn once per process
    assert parts | {"load", "prepare", "train", "select", "adapter file", "record"} == phases
    assert 0.9 * found.seconds < sum(found.phases.values()) <= found.seconds
    assert found.step is not None and found.step.host_reads == 1 and found.step.steps_per_epoch == 2
    assert not (tmp_path / "cache" / "prepared").exists() and (tmp_path / "work" / "adapter.safetensors").is_file()
    assert [dict(vars(owner)) for owner in owners] == before  # nothing stays replaced
    plain = train_trial(config, cache_dir=tmp_path / "plain", work_dir=tmp_path / "plain")
    assert found.result.curve == plain.curve and found.result.val == plain.val


def test_crossfit_ends_after_the_given_epoch(tmp_path: Path) -> None:
    config = small_trial(
        random_nano(tmp_path), "am_sam", selection=SelectionConfig(mode="crossfit", folds=2), train={"epochs": 3}
    )
    found = profile(tmp_path, config, epochs=4)
    assert found.result.status == "pruned" and found.result.epochs_run == 4
    assert "train/report" in found.phases and "prepare/encoder" in found.phases


def test_a_method_without_training_has_no_step(tmp_path: Path) -> None:
    found = profile(tmp_path, small_trial(random_nano(tmp_path), "sam"))
    assert found.step is None and "adapter file" not in found.phases and "train/lower" not in found.phases


def test_a_diverged_trial_is_refused(tmp_path: Path) -> None:
    config = small_trial(random_nano(tmp_path), "blo_sam", params={"lr": 1e6})
    with pytest.raises(AmsamError, match="the trial diverged at epoch 1; choose another cell"):
        profile(tmp_path, config)

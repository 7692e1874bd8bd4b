"""Records: what is in them, what never is, and that they are the same bytes every time."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from amsam_ray.records.environment import describe_environment
from amsam_ray.records.io import parse_record, read_records, replace_damaged, write_trial
from amsam_ray.records.schema import Record, without_secrets
from amsam_ray.storage.base import ExistsError
from amsam_ray.storage.open import open_storage
from amsam_ray.training.result import TrialResult
from tests.records.synthetic import config, record, sweep_records, write_record


def test_round_trip(tmp_path: Path) -> None:
    for made, _ in sweep_records(tmp_path, "demo-00000000", ["lesion"], [4], ["am_sam"], 8, 2, 5, 6):
        assert parse_record(made.key, made.to_bytes()) == made
        assert Record.model_validate_json(made.to_bytes()).to_bytes() == made.to_bytes()


def test_all_results_of_a_trial_are_stored(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "results")
    results = list(sweep_records(tmp_path, "demo-00000000", ["lesion"], [4], ["am_sam"], 3, 1, 5, 6))
    for made, result in results:
        write_trial(storage, made, result)
    final, result = results[-1]
    assert final.adapter and result.adapter and storage.get(final.adapter) == result.adapter.read_bytes()
    assert [o.rank for o in final.overlays] == ["best", "median", "worst"]
    assert all(storage.get(o.key).startswith(b"\x89PNG") for o in final.overlays)
    header, *lines = storage.get(final.curve_file or "").decode().splitlines()
    assert header == "epoch,loss,lr,val_dice" and len(lines) == 5
    assert read_records(storage) == ([made for made, _ in sorted(results, key=lambda pair: pair[0].key)], [])


def test_fingerprint_and_parameters_are_those_of_the_configuration() -> None:
    trial = config(**{"alpha": 0.25, "lambda": 0.5})  # type: ignore[arg-type]  # a keyword of Python's
    made = record(trial, 12, 3)
    assert made.config_sha256 == trial.fingerprint()
    assert (made.params["alpha"], made.params["lambda"]) == (0.25, 0.5)
    assert (made.trial, made.number, made.final_seed) == ("lesion.k4.am_sam.t0012.f3", 12, 3)
    assert made.gpu_seconds == made.seconds * 0.5
    assert made.primary == "dice"


def test_scores_that_are_not_finite_become_none() -> None:
    result = TrialResult("completed", val={"dice": math.nan}, curve=[{"epoch": 1, "loss": math.inf}])
    made = record(config(), result=result)
    assert made.score is None
    assert json.loads(made.to_bytes())["curve"] == [{"epoch": 1, "loss": None}]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("s3://key:secret@bucket/x", "s3://bucket/x"),
        ("https://user:pw@host/a?X-Amz-Signature=abc&t=1 failed", "https://host/a failed"),
        ("plain text with a ? and an @", "plain text with a ? and an @"),
    ],
)
def test_no_credentials_in_texts(text: str, clean: str) -> None:
    assert without_secrets({"a": [text]}) == {"a": [clean]}


def test_no_credentials_in_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "environment-secret")
    trial = config("isic2018")
    dataset = trial.dataset.model_copy(update={"root": "https://me:hunter2@host/data?signature=abc"})
    result = TrialResult("failed", reason="cannot read https://me:hunter2@host/data?signature=abc")
    trial = trial.model_copy(update={"dataset": dataset})
    data = record(trial, result=result).model_copy(update={"environment": describe_environment({})}).to_bytes()
    assert b"host/data" in data
    assert not [
        word for word in (b"hunter2", b"signature", b"environment-secret", os.uname().nodename.encode()) if word in data
    ]


def test_environment_names_the_commit() -> None:
    environment = describe_environment({"cpu": "x"})
    assert environment.commit is None or len(environment.commit) == 40
    assert (environment.commit is None) == (environment.dirty is None)
    assert environment.packages["numpy"] and environment.hardware == {"cpu": "x"}


def test_ids_must_agree() -> None:
    made = record(config())
    with pytest.raises(ValidationError, match="belong together"):
        Record.model_validate({**made.model_dump(), "shots": 8})
    with pytest.raises(ValidationError, match="dataset"):
        Record.model_validate({**made.model_dump(), "dataset": "../../etc"})
    with pytest.raises(ValueError, match="trial id"):
        Record.build(
            trial="nonsense",
            sweep="s",
            config=config(),
            result=TrialResult("completed"),
            environment=made.environment,
            started=0,
            finished=1,
        )


def test_written_once(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    write_record(storage, record(config(), score=0.5))
    write_record(storage, record(config(), score=0.5))
    with pytest.raises(ExistsError):
        write_record(storage, record(config(), score=0.6))
    assert [r.score for r in read_records(storage)[0]] == [0.5]


def test_files_that_are_not_records_are_reported_and_skipped(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    good = record(config(), 1)
    write_record(storage, good)
    folder = tmp_path / "sweeps" / "demo-00000000" / "records"
    whole = record(config(), 2)
    (folder / "lesion.k4.am_sam.t0002.json").write_bytes(whole.to_bytes()[:300])
    (folder / "lesion.k4.am_sam.t0003.json").write_bytes(whole.to_bytes())
    newer = json.loads(record(config(), 4).to_bytes()) | {"schema_version": 2}
    (folder / "lesion.k4.am_sam.t0004.json").write_text(json.dumps(newer))
    (folder / "notes.txt").write_text("mine")
    (folder / "empty.json").write_text("")
    (folder / "other.json").write_text('{"some": "json"}')
    (folder / "bytes.json").write_bytes(b"\xff\xfe")
    (folder / "odd name.json").write_text("{}")
    (tmp_path / "sweeps" / "my own folder" / "records").mkdir(parents=True)
    records, problems = read_records(storage)
    assert records == [good]
    told = {p.where.rsplit("/", 1)[1]: p.what for p in problems}
    assert len(told) == 8
    assert "not complete JSON" in told["lesion.k4.am_sam.t0002.json"]
    assert "does not belong here" in told["lesion.k4.am_sam.t0003.json"]
    assert "newer amsam-ray" in told["lesion.k4.am_sam.t0004.json"]
    assert ".json" in told["notes.txt"]
    assert "trial is missing" in told["other.json"]


def test_reason_is_kept() -> None:
    result = replace(TrialResult("failed"), reason="diverged at epoch 7")
    assert record(config(), result=result).reason == "diverged at epoch 7"


def test_an_unreadable_file_is_reported_and_skipped(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "results")
    made = record(config())
    write_record(storage, made)
    (tmp_path / "results" / made.key).with_name("link.json").symlink_to("/etc/hostname")
    records, (problem,) = read_records(storage)
    assert records == [made] and "leads out of" in problem.what


def test_a_record_replaces_damaged_files_only(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    made = record(config())
    storage.put(made.key, b"{half")
    assert replace_damaged(storage, made.key, made.to_bytes())
    assert storage.get(made.key) == made.to_bytes()
    (kept,) = storage.list(f"sweeps/{made.sweep}/damaged/")
    assert storage.get(kept.key) == b"{half"
    assert not replace_damaged(storage, made.key, b"another")
    assert storage.get(made.key) == made.to_bytes() and read_records(storage) == ([made], [])

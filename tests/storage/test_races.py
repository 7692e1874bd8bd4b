"""Sweeps that finish at the same moment on one storage lose no row of the shared leaderboards."""

from __future__ import annotations

import csv
import io
import multiprocessing
import uuid
from pathlib import Path

import pytest

from amsam_ray.records.leaderboard import update_leaderboards
from amsam_ray.storage.open import open_storage
from amsam_ray.storage.s3_conditions import KNOWN, ConditionalWrites
from tests.records.synthetic import config, record, write_record
from tests.s3.moto import S3Server

_CONTEXT = multiprocessing.get_context("spawn")


def test_two_sweeps_finishing_together_fifty_times(tmp_path: Path) -> None:
    finish_together(str(tmp_path / "results"), tmp_path / "index", rounds=50)


def test_two_sweeps_finishing_together_in_a_bucket(aws: S3Server, tmp_path: Path) -> None:
    finish_together(f"s3://{aws.bucket}/{uuid.uuid4().hex}", tmp_path / "index", rounds=8)


def test_an_endpoint_without_conditional_writes_loses_no_row(
    aws: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"s3://{aws.bucket}/{uuid.uuid4().hex}"
    finish_together(uri, tmp_path / "index", rounds=4, honoured=False)


def finish_together(uri: str, index_dir: Path, rounds: int, honoured: bool = True) -> None:
    """Let two processes finish a sweep at the same moment, ``rounds`` times, and assert that no row is missing."""
    barrier, results = _CONTEXT.Barrier(2), _CONTEXT.SimpleQueue()
    arguments = (uri, index_dir, rounds, honoured, barrier, results)
    sweeps = [_CONTEXT.Process(target=_sweep, args=(number, *arguments)) for number in range(2)]
    for process in sweeps:
        process.start()
    for process in sweeps:
        process.join(400)
        assert process.exitcode == 0
    missing = results.get() + results.get()
    assert missing == []


def _sweep(number: int, uri: str, index_dir: Path, rounds: int, honoured: bool, barrier, results) -> None:
    """Finish ``rounds`` sweeps at the same moment as the other process; note rows that are missing afterwards."""
    storage, missing = open_storage(uri), []
    if not honoured:  # as if the endpoint ignored conditions
        KNOWN[storage._endpoint] = ConditionalWrites(create=False, replace=False)  # type: ignore[attr-defined]
    for turn in range(rounds):
        made = record(
            config("lesion", shots=2 * turn + 2, method=("am_sam", "blo_sam")[number]),
            turn,
            sweep=f"s{number}-{turn % 5}",
        )
        barrier.wait(60)
        write_record(storage, made)
        update_leaderboards(storage, index_dir=index_dir)
        barrier.wait(60)
        expected = 2 * (turn + 1)
        for name in ("lesion", "all"):
            found = len(list(csv.reader(io.StringIO(storage.get(f"leaderboards/{name}.csv").decode())))) - 1
            if found != expected:
                missing.append(f"round {turn}, {name}: {found} rows of {expected}")
    results.put(missing)

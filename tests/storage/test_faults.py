"""A sweep's results through a network that fails in every way: all arrive, byte-identical, and no trial fails."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path

import pytest

from amsam_ray.records.io import read_records, replace_damaged, write_trial
from amsam_ray.records.leaderboard import update_leaderboards
from amsam_ray.storage.open import check_storage, open_storage
from amsam_ray.storage.spool import Spool
from tests.conftest import use
from tests.records.synthetic import sweep_records
from tests.s3.fault_proxy import FAULTS, FaultProxy, fault_proxy
from tests.s3.moto import S3Server


@pytest.fixture
def proxy(moto: S3Server, monkeypatch: pytest.MonkeyPatch):
    use(moto, monkeypatch)
    with fault_proxy(moto.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        yield proxy


def test_results_arrive_through_faults_and_an_outage(moto: S3Server, proxy: FaultProxy, tmp_path: Path) -> None:
    _sweep_through(moto, proxy, tmp_path, outage=3)


@pytest.mark.faults
def test_results_arrive_through_an_outage_of_a_minute(moto: S3Server, proxy: FaultProxy, tmp_path: Path) -> None:
    _sweep_through(moto, proxy, tmp_path, outage=60)


def _sweep_through(moto: S3Server, proxy: FaultProxy, tmp_path: Path, outage: float) -> None:
    uri = f"s3://{moto.bucket}/{uuid.uuid4().hex}"
    proxy.chances = dict.fromkeys(FAULTS, 0.05)
    trials = list(sweep_records(tmp_path, "demo-00000000", ["lesion"], [4], ["am_sam", "blo_sam"], 7, 1, 5, 8))
    # Two lanes of one node write to the node's spool folder.
    lanes = [Spool(tmp_path / "spool", open_storage(uri, patient=False), replace_damaged) for _ in range(2)]
    longest = 0.0
    for number, (made, result) in enumerate(trials):
        if number == len(trials) // 2:
            proxy.away = True
            threading.Timer(outage, lambda: setattr(proxy, "away", False)).start()
        before = time.monotonic()
        write_trial(lanes[number % 2], made, result)
        longest = max(longest, time.monotonic() - before)
        time.sleep(0.02)
    assert longest < 2, "a trial waited for the storage"
    assert [lane.close(timeout=outage + 60) for lane in lanes] == [[], []]

    direct = moto.client()
    prefix = uri.removeprefix(f"s3://{moto.bucket}/")
    for made, result in trials:
        stored = direct.get_object(Bucket=moto.bucket, Key=f"{prefix}/{made.key}")["Body"].read()
        assert stored == made.to_bytes()
        if made.adapter and result.adapter:
            direct.head_object(Bucket=moto.bucket, Key=f"{prefix}/{made.adapter}")
    assert set(FAULTS) | {"away", "passed"} <= set(proxy.happened), proxy.happened
    assert not list((tmp_path / "spool" / "rejected").rglob("*.json"))
    # Readers survive the same faults.
    storage = open_storage(uri)
    assert update_leaderboards(storage, index_dir=tmp_path / "index").problems == []
    assert len(read_records(storage)[0]) == len(trials)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [("error", "the server failed"), ("throttle", "asks to slow down"), ("reset", "the connection broke")],
)
def test_a_failing_endpoint_is_reported_before_a_sweep(
    moto: S3Server, proxy: FaultProxy, fault: str, sentence: str
) -> None:
    proxy.chances = {fault: 1.0}
    (problem,) = check_storage(f"s3://{moto.bucket}/x")
    assert sentence in problem.what


@pytest.mark.parametrize("fault", FAULTS)
def test_storage_survives_each_fault(moto: S3Server, proxy: FaultProxy, fault: str) -> None:
    """Many requests fail in one way; with retries and reading again, the result is still correct."""
    storage = open_storage(f"s3://{moto.bucket}/{uuid.uuid4().hex}")
    proxy.chances = {fault: 0.4}
    storage.create("a/b", b"one" * 1000)
    storage.create("a/b", b"one" * 1000)
    data, version = storage.get_versioned("a/b")
    assert data == b"one" * 1000
    storage.put("a/c", b"two")
    assert [e.key for e in storage.list("a/")] == ["a/b", "a/c"]
    storage.delete("a/c")
    assert proxy.happened[fault] > 0
    assert storage.get("a/b") == data and version

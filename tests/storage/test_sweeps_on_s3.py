"""Whole sweeps on real Ray that store results in a bucket: through faults, and on each kind of server."""

from __future__ import annotations

import os
import subprocess
import uuid
from pathlib import Path

import pytest

from amsam_ray.config.space_file import load_space, sweep_id
from amsam_ray.records.io import read_records
from amsam_ray.storage.open import open_storage
from tests.conftest import use
from tests.s3.ceph import ceph_rgw
from tests.s3.fault_proxy import FAULTS, fault_proxy
from tests.s3.moto import S3Server
from tests.search.driving import Driver, until
from tests.search.spaces import space

pytestmark = pytest.mark.timeout(1200)
TRIALS, SEEDS = 12, 2


@pytest.mark.faults
def test_a_sweep_through_faults_and_an_outage_of_a_minute(
    moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With errors, throttling and resets, and a minute without a server while trials finish, no trial fails."""
    use(moto, monkeypatch)
    uri = f"s3://{moto.bucket}/{uuid.uuid4().hex}"
    with fault_proxy(moto.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        driver = _driver(tmp_path, uri, seconds=4.0)
        with driver.start() as process:
            until(lambda: len(driver.starts()) >= 3)
            proxy.chances = dict.fromkeys(FAULTS, 0.08)
            proxy.away = True
            begun = len(driver.starts())
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                proxy.away = False
            assert process.poll() is None, driver.terminal()
            assert len(driver.starts()) > begun, "nothing went on while the storage was away"
            assert process.wait(900) == 0, driver.terminal()
        assert {"away", "passed", "error", "throttle", "reset"} <= set(proxy.happened), proxy.happened
    use(moto, monkeypatch)
    _assert_complete(uri, driver)


@pytest.mark.faults
def test_a_sweep_on_moto(moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(moto, monkeypatch)
    _sweep(f"s3://{moto.bucket}/{uuid.uuid4().hex}", tmp_path)


@pytest.mark.ceph
def test_a_sweep_on_ceph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ceph_rgw(tmp_path / "ceph") as server:
        use(server, monkeypatch)
        _sweep(f"s3://{server.bucket}/lab", tmp_path)


def _driver(tmp_path: Path, uri: str, seconds: float) -> Driver:
    return Driver(
        tmp_path / "sweep", space(trials=TRIALS, finals={"top_k": 1, "seeds": SEEDS}), {"seconds": seconds}, storage=uri
    )


def _sweep(uri: str, tmp_path: Path) -> None:
    driver = _driver(tmp_path, uri, seconds=0.05)
    assert driver.run(timeout=900) == 0, driver.terminal()
    _assert_complete(uri, driver)


def _assert_complete(uri: str, driver: Driver) -> None:
    """Every trial is recorded, completed and byte for byte what its lane wrote; nothing waits or holds a secret."""
    storage = open_storage(uri)
    records, problems = read_records(storage)
    assert problems == []
    finals = [record for record in records if record.role == "final"]
    assert len(records) - len(finals) == TRIALS
    configurations = {record.number for record in finals}  # the chosen one and the published setting
    assert 0 in configurations and 1 <= len(configurations) <= 2 and len(finals) == SEEDS * len(configurations)
    assert {r.status for r in records} == {"completed"} and {r.attempt for r in records} == {1}
    for record in records:
        data = storage.get(record.key)
        assert data == record.to_bytes()
    # What is stored beside them runs the same sweep again.
    (driver.folder / "stored.yaml").write_bytes(storage.get(f"sweeps/{records[0].sweep}/space.yaml"))
    assert sweep_id(load_space(driver.folder / "stored.yaml")) == records[0].sweep
    assert len(storage.get("leaderboards/lesions.csv").splitlines()) == 2
    spool = driver.folder / "cache" / "spool"
    assert not [p for p in spool.rglob("*") if p.is_file() and "rejected" in p.parts]
    assert not list(spool.rglob("*.json"))
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    written = b"".join(storage.get(e.key) for e in storage.list("")) + (driver.terminal() + driver.logs()).encode()
    assert secret not in written

"""The conformance class, races and faults on Ceph's gateway, whose conditional writes differ from moto's."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from amsam_ray.storage.open import check_storage
from amsam_ray.storage.s3 import S3Storage
from tests.conftest import use
from tests.s3.ceph import ceph_rgw
from tests.s3.moto import S3Server
from tests.storage.conformance import StorageConformance
from tests.storage.test_races import finish_together

pytestmark = [pytest.mark.ceph, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory):
    with ceph_rgw(tmp_path_factory.mktemp("ceph")) as server:
        yield server


@pytest.fixture(autouse=True)
def environment(ceph: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(ceph, monkeypatch)


class TestCeph(StorageConformance):
    @pytest.fixture
    def uri(self, ceph: S3Server) -> str:
        return f"s3://{ceph.bucket}/{uuid.uuid4().hex}/prefix"


def test_conditional_writes_are_probed(ceph: S3Server) -> None:
    assert S3Storage(f"s3://{ceph.bucket}/x").conditions.honoured


def test_sweeps_finishing_together(ceph: S3Server, tmp_path: Path) -> None:
    finish_together(f"s3://{ceph.bucket}/{uuid.uuid4().hex}", tmp_path / "index", rounds=50)


def test_wrong_credentials(ceph: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "AWS_SECRET_ACCESS_KEY" in check_storage(f"s3://{ceph.bucket}/x")[0].what
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert "AWS_ACCESS_KEY_ID" in check_storage(f"s3://{ceph.bucket}/x")[0].what

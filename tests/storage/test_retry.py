"""Retries of whole operations, against a real server behind a proxy that injects faults."""

from __future__ import annotations

import threading
import time
import uuid

import pytest

from amsam_ray.records.leaderboard import update_leaderboards
from amsam_ray.storage.base import UnavailableError
from amsam_ray.storage.open import open_storage
from amsam_ray.storage.retry import until_available
from tests.conftest import use
from tests.records.synthetic import config, record
from tests.s3.fault_proxy import fault_proxy
from tests.s3.moto import S3Server


def test_leaderboards_are_written_once_the_storage_is_available_again(
    moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(moto, monkeypatch)
    with fault_proxy(moto.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        storage = open_storage(f"s3://{moto.bucket}/{uuid.uuid4().hex}", patient=False)
        made = record(config(), final=0, images=[0.5, 0.7])
        storage.create(made.key, made.to_bytes())
        proxy.away = True
        calls = 0

        def update() -> None:
            nonlocal calls
            calls += 1
            update_leaderboards(storage, [made.dataset])

        threading.Timer(3.0, lambda: setattr(proxy, "away", False)).start()
        until_available(update, time.monotonic() + 60)
        assert calls > 1
        assert storage.get(f"leaderboards/{made.dataset}.csv")


def test_the_error_is_raised_after_the_deadline(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(moto, monkeypatch)
    with fault_proxy(moto.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        storage = open_storage(f"s3://{moto.bucket}/{uuid.uuid4().hex}", patient=False)
        proxy.away = True
        began = time.monotonic()
        said: list[str] = []
        with pytest.raises(UnavailableError):
            until_available(lambda: storage.get("a"), began + 2, said.append)
        assert "Retrying for another" in said[0]
        assert time.monotonic() - began >= 2

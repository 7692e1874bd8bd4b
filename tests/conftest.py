"""Storages that the tests of results run on."""

from __future__ import annotations

import pytest

from tests.s3.moto import S3Server, moto_server


@pytest.fixture(scope="session")
def moto():
    """One moto_server for the whole session."""
    with moto_server() as server:
        yield server


@pytest.fixture
def aws(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The environment of a user of the session's moto_server."""
    use(moto, monkeypatch)
    return moto


def use(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the standard AWS variables at ``server``."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)

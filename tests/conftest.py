"""Storages that the tests of results run on, and the table of what the fuzzed readers did, from all processes."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import pytest

from tests.fuzz import harness
from tests.s3.moto import S3Server, moto_server

_FUZZ = "fuzz"


@pytest.fixture(autouse=True)
def _log_level() -> None:
    """Restore the log level of the package, which a command lowers that another test has run in this process."""
    logging.getLogger("amsam_ray").setLevel(logging.NOTSET)


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the sweeps on Ray, which take minutes a file, so that no process ends with them alone."""
    items.sort(key=lambda item: "tests/search/" not in item.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In one of several processes, hand over what the readers did."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_FUZZ] = {reader: asdict(tally) for reader, tally in harness.TALLIES.items()}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what one of several processes handed over; a process that crashed did not."""
    harness.add(getattr(node, "workeroutput", {}).get(_FUZZ, {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one line per reader."""
    if harness.TALLIES:
        terminalreporter.section("fuzz")
        for line in harness.summary():
            terminalreporter.write_line(line)

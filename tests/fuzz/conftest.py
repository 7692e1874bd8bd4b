"""Print what the readers did with the inputs after the tests, and keep the user's caches out of them."""

from __future__ import annotations

import pytest

from tests.fuzz import harness


@pytest.fixture(autouse=True, scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory):
    """A cache folder of the session's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMSAM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one line per reader."""
    if harness.TALLIES:
        terminalreporter.section("fuzz")
        for line in harness.summary():
            terminalreporter.write_line(line)

"""Keep the user's caches out of what the readers do."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory):
    """A cache folder of the session's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMSAM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield

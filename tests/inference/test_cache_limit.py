"""The size limit of a node's prepared inputs: the least recently used go, those of a running sweep stay."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from amsam_ray.inference import cache_limit
from amsam_ray.inference.feature_cache import FeatureCache, entry_key

KEYS = [entry_key("test", number=number) for number in range(12)]
SIZE = 40_000  # of one entry, about


def fill(root: Path, keys: Iterable[str], *, limit: int = 0, owner: str = "", age: float = 0.0) -> None:
    """Store entries as a process does, used ``age`` seconds ago."""
    keys = list(keys)
    cache = FeatureCache(root, limit=limit, owner=owner)
    cache.get(keys, lambda positions: ({"features": torch.zeros(10_000)} for _ in positions))
    for key in keys if age else ():
        os.utime(root / key[:2] / f"{key}.safetensors", (time.time() - age,) * 2)


def present(root: Path) -> set[int]:
    return {number for number, key in enumerate(KEYS) if (root / key[:2] / f"{key}.safetensors").exists()}


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    for number in range(6):
        fill(tmp_path, [KEYS[number]], age=1000 - number)
    fill(tmp_path, [KEYS[0]])  # reads it: now the latest
    assert cache_limit.keep_below(tmp_path, 3 * SIZE + SIZE // 2) == 3
    assert present(tmp_path) == {0, 4, 5}
    assert cache_limit.keep_below(tmp_path, 3 * SIZE + SIZE // 2) == 0


def test_storing_keeps_the_folder_below_its_limit(tmp_path: Path) -> None:
    fill(tmp_path, KEYS[:4], age=500)
    fill(tmp_path, KEYS[4:6], limit=3 * SIZE + SIZE // 2, owner="sweep-1")
    assert len(present(tmp_path)) == 3 and {4, 5} <= present(tmp_path)


def test_what_a_running_sweep_used_stays_even_above_the_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, KEYS[:3], age=500)
    fill(tmp_path, KEYS[3:9], owner="sweep-2")
    fill(tmp_path, KEYS[9:], limit=SIZE, owner="sweep-2")
    fill(tmp_path, KEYS[9:11], limit=SIZE, owner="sweep-2")
    assert present(tmp_path) == set(range(3, 12))
    cache_limit.keep_below(tmp_path, SIZE)
    assert [message for message in caplog.messages if "more than the limit" in message] == caplog.messages
    assert len(caplog.messages) == 1


def _hold(root: str, keys: list[str], ready: str, leave: str) -> None:
    fill(Path(root), keys, owner="other-sweep")
    Path(ready).touch()
    while not Path(leave).exists():
        time.sleep(0.02)


def test_another_process_s_entries_stay_while_it_runs_and_for_a_while_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, ready, leave = tmp_path / "cache", tmp_path / "ready", tmp_path / "leave"
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=_hold, args=(str(root), KEYS[:4], str(ready), str(leave)))
    process.start()
    try:
        while not ready.exists():
            assert process.is_alive()
            time.sleep(0.02)
        fill(root, KEYS[4:8], age=500)
        assert cache_limit.keep_below(root, 0) == 4 and present(root) == {0, 1, 2, 3}
    finally:
        leave.touch()
        process.join(60)
    assert cache_limit.keep_below(root, 0) == 0 and present(root) == {0, 1, 2, 3}  # a lane may be replaced
    monkeypatch.setattr(cache_limit, "_GRACE_S", 0.0)
    assert cache_limit.keep_below(root, 0) == 4 and present(root) == set()
    assert not list((root / "in_use").iterdir())


def test_an_owner_that_continues_keeps_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "in_use").mkdir()
    (tmp_path / "in_use" / "sweep-3").write_text(f"{time.time() - 900:.3f}\n")
    fill(tmp_path, KEYS[:2], age=800)  # by a lane that has died since
    fill(tmp_path, KEYS[2:4], age=1000)
    fill(tmp_path, KEYS[4:5], limit=1, owner="sweep-3")
    assert present(tmp_path) == {0, 1, 4}


def test_a_damaged_file_of_an_owner_is_ignored(tmp_path: Path) -> None:
    fill(tmp_path, KEYS[:2], age=100)
    (tmp_path / "in_use").mkdir()
    (tmp_path / "in_use" / "broken").write_bytes(b"\xff\xfe")
    assert cache_limit.keep_below(tmp_path, 0) == 2

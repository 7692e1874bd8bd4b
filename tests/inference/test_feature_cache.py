"""The node's cache: every entry is computed once, by one process, and written completely or not at all."""

import multiprocessing
import time
from pathlib import Path

import pytest
import torch

from amsam_ray.inference.feature_cache import FeatureCache, NoCache, entry_key
from tests.disks import Disk, own_mounts

KEYS = [entry_key("test", number=number) for number in range(24)]


def _entry(position):
    return {"features": torch.full((2, 3), float(position))}


class Computing:
    """Computes entries and records the positions of each call."""

    def __init__(self):
        self.calls = []

    def __call__(self, positions):
        self.calls.append(positions)
        return map(_entry, positions)


def test_the_second_use_reads(tmp_path):
    compute = Computing()
    first = FeatureCache(tmp_path).get(KEYS[:5], compute, batch=2)
    again = FeatureCache(tmp_path).get(KEYS[:5], lambda positions: pytest.fail("computed twice"))
    assert sorted(position for call in compute.calls for position in call) == [0, 1, 2, 3, 4]
    assert max(map(len, compute.calls)) == 2
    for entries in (first, again):
        assert [float(entry["features"][0, 0]) for entry in entries] == [0, 1, 2, 3, 4]


def test_only_what_is_missing_is_computed(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.get(KEYS[:3], lambda positions: map(_entry, positions))
    compute = Computing()
    cache.get(KEYS[:5], compute, batch=8)
    assert compute.calls == [[3, 4]]


def test_the_same_key_twice_is_one_entry(tmp_path):
    compute = Computing()
    FeatureCache(tmp_path).get([KEYS[0]] * 3, compute, batch=8)
    assert compute.calls == [[0]]


def test_dtypes_and_shapes_survive(tmp_path):
    entry = {"features": torch.randn(3, 2).T.to(torch.bfloat16), "found": torch.tensor(True)}
    FeatureCache(tmp_path).get(KEYS[:1], lambda positions: [entry])
    (read,) = FeatureCache(tmp_path).get(KEYS[:1], lambda positions: pytest.fail("computed twice"))
    assert all(read[name].dtype == value.dtype and torch.equal(read[name], value) for name, value in entry.items())


def test_a_truncated_file_is_computed_again(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.get(KEYS[:1], lambda positions: map(_entry, positions))
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    (entry,) = FeatureCache(tmp_path).get(KEYS[:1], lambda positions: map(_entry, positions))
    assert torch.equal(entry["features"], _entry(0)["features"])


def test_a_failure_writes_nothing_and_releases_its_locks(tmp_path):
    cache = FeatureCache(tmp_path)

    def fail(positions):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        cache.get(KEYS[:2], fail)
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("*.part"))
    assert len(cache.get(KEYS[:2], lambda positions: map(_entry, positions))) == 2


@own_mounts
def test_on_a_full_or_read_only_disk_entries_are_computed_and_not_kept(tmp_path, caplog):
    disk = Disk(tmp_path / "cache", 256)
    cache = FeatureCache(disk.folder)
    cache.get(KEYS[:2], Computing())
    disk.fill()
    for folder in (disk.folder, disk.folder / "new"):
        full, compute = FeatureCache(folder), Computing()
        for _ in range(2):
            assert [float(entry["features"][0, 0]) for entry in full.get(KEYS[2:5], compute, batch=2)] == [0, 1, 2]
        assert full.computed == 6
    disk.free()
    disk.read_only(True)
    cache.get(KEYS[2:5], compute)
    assert [
        float(entry["features"][0, 0]) for entry in cache.get(KEYS[:2], lambda positions: pytest.fail("computed"))
    ] == [0, 1]
    assert len(caplog.messages) == 3 and all("free some space" in message for message in caplog.messages)


def test_keys_depend_on_all_arguments():
    keys = {entry_key("features", image=image, size=size) for image in "ab" for size in (1, 2)}
    assert len(keys | {entry_key("box", image="a", size=1)}) == 5


def test_no_cache_computes_in_batches():
    compute = Computing()
    entries = NoCache().get(KEYS[:5], compute, batch=2)
    assert compute.calls == [[0, 1], [2, 3], [4]] and len(entries) == 5


def _want_all(folder: str, log: str) -> None:
    def compute(positions):
        for position in positions:
            time.sleep(0.02)
            with Path(log).open("a") as file:
                file.write(f"{position}\n")
            yield _entry(position)

    entries = FeatureCache(Path(folder)).get(KEYS, compute, batch=3)
    assert [float(entry["features"][0, 0]) for entry in entries] == list(range(len(KEYS)))


def _die_computing(folder: str) -> None:
    def compute(positions):
        Path(folder, "started").touch()
        time.sleep(600)
        return map(_entry, positions)

    FeatureCache(Path(folder)).get(KEYS[:2], compute, batch=2)


def test_processes_that_need_the_same_entries_compute_each_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    workers = [spawn.Process(target=_want_all, args=(str(tmp_path / "cache"), str(log))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(240)
        assert worker.exitcode == 0
    assert sorted(map(int, log.read_text().split())) == list(range(len(KEYS)))


def test_the_work_of_a_killed_process_is_taken_over(tmp_path):
    worker = multiprocessing.get_context("spawn").Process(target=_die_computing, args=(str(tmp_path),))
    worker.start()
    deadline = time.monotonic() + 240
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (tmp_path / "started").exists()
    worker.kill()
    worker.join(10)
    entries = FeatureCache(tmp_path).get(KEYS[:2], lambda positions: map(_entry, positions))
    assert len(entries) == 2

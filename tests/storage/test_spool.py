"""The spool: waiting results are safe, arrive in order and unchanged, and no record is overwritten."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from amsam_ray.errors import InputError
from amsam_ray.records.io import read_records, replace_damaged, write_trial
from amsam_ray.storage.base import UnavailableError
from amsam_ray.storage.local import LocalStorage
from amsam_ray.storage.spool import Spool
from tests.records.synthetic import config, record, sweep_records


class FlakyStorage(LocalStorage):
    """A directory that can be switched off, as a network share can."""

    away = False

    def _write(self, key, fill, appear):
        if self.away:
            raise UnavailableError("the share is away.")
        super()._write(key, fill, appear)


@pytest.fixture
def storage(tmp_path: Path) -> FlakyStorage:
    return FlakyStorage(tmp_path / "results")


def test_the_background_thread_uploads_everything(storage: FlakyStorage, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", storage, replace_damaged)
    trials = list(_sweep(tmp_path))
    for made, result in trials:
        write_trial(spool, made, result)
    _wait(lambda: not spool.pending())
    assert [r.to_bytes() for r in read_records(storage)[0]] == [
        m.to_bytes() for m, _ in sorted(trials, key=lambda t: t[0].key)
    ]
    assert spool.close() == []


def test_results_wait_during_an_outage(storage: FlakyStorage, tmp_path: Path) -> None:
    storage.away = True
    spool = Spool(tmp_path / "spool", storage, replace_damaged)
    trials = list(_sweep(tmp_path))
    for made, result in trials:
        write_trial(spool, made, result)
    assert len(spool.pending()) > len(trials)
    assert spool.flush(0.1) and spool.last_fault == "the share is away."
    storage.away = False
    assert spool.close(timeout=10) == []
    assert len(read_records(storage)[0]) == len(trials)
    assert all(storage.get(m.adapter) for m, _ in trials if m.adapter)


def test_results_of_a_killed_process_are_uploaded_by_the_next(storage: FlakyStorage, tmp_path: Path) -> None:
    storage.away = True
    made = record(config())
    dead = Spool(tmp_path / "spool", storage, replace_damaged)
    dead.create(made.key, made.to_bytes())
    assert dead.close() == [made.key]
    storage.away = False
    alive = Spool(tmp_path / "spool", storage, replace_damaged)
    _wait(lambda: not alive.pending())
    assert storage.get(made.key) == made.to_bytes()
    alive.close()


def test_the_first_record_stays_and_the_second_is_kept_aside(storage: FlakyStorage, tmp_path: Path) -> None:
    first, second = record(config(), score=0.5), record(config(), score=0.6)
    storage.create(first.key, first.to_bytes())
    spool = Spool(tmp_path / "spool", storage, replace_damaged)
    spool.create(second.key, second.to_bytes())
    assert spool.close(timeout=5) == []
    assert storage.get(first.key) == first.to_bytes()
    assert (tmp_path / "spool" / "rejected" / second.key).read_bytes() == second.to_bytes()


def test_bad_keys_are_refused_at_once(storage: FlakyStorage, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", storage, replace_damaged)
    with pytest.raises(InputError):
        spool.put("../x", b"")
    spool.close()


def _sweep(work_dir: Path):
    return sweep_records(work_dir, "demo-00000000", ["lesion"], [4], ["am_sam"], 4, 2, 3, 5)


def _wait(done, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.02)

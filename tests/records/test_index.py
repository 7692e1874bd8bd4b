"""The index: reads each record once, forgets what is gone, survives damage, is shared by processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from amsam_ray.errors import AmsamError
from amsam_ray.records.index import Index
from amsam_ray.records.io import read_records
from amsam_ray.records.summary import CellSummary, RecordSummary, cell_summaries
from amsam_ray.storage.base import Entry
from amsam_ray.storage.local import LocalStorage
from tests.records.synthetic import Folder, config, record, write_record, write_sweep


class CountingStorage(LocalStorage):
    """A directory that notes what is read."""

    def __init__(self, root: Path):
        super().__init__(root)
        self.read: list[str] = []
        self.listed: list[str] = []

    def list(self, prefix: str) -> Iterator[Entry]:
        self.listed.append(prefix)
        return super().list(prefix)

    def age(self, sweep: str) -> None:
        """Let nothing have happened to a sweep's records for at least an hour."""
        folder = self.root / "sweeps" / sweep / "records"
        for path in (*folder.iterdir(), folder):
            then = min(path.stat().st_mtime, time.time() - 3600)
            os.utime(path, (then, then))

    def get(self, key: str) -> bytes:
        self.read.append(key)
        return super().get(key)


@pytest.fixture
def storage(tmp_path: Path) -> CountingStorage:
    return CountingStorage(tmp_path / "results")


@pytest.fixture
def index(storage: CountingStorage, tmp_path: Path):
    with contextlib.closing(Index(storage, tmp_path / "index")) as index:
        yield index


def test_only_new_records_are_read(storage: CountingStorage, index: Index, tmp_path: Path) -> None:
    for number in range(5):
        write_record(storage, record(config(), number))
    storage.read.clear()
    assert index.update() == []
    assert len(storage.read) == 5
    storage.read.clear()
    index.update()
    assert storage.read == []
    new = record(config(), 5)
    write_record(storage, new)
    with contextlib.closing(Index(storage, tmp_path / "index")) as again:
        again.update()
        assert storage.read == [new.key]
        assert [cell.trials for cell in again.cells()] == [6]


def test_deleted_records_are_forgotten(storage: CountingStorage, index: Index) -> None:
    for number in range(3):
        write_record(storage, record(config(), number))
    index.update()
    storage.delete(record(config(), 1).key)
    index.update()
    assert [cell.trials for cell in index.cells()] == [2]


def test_a_repaired_file_is_read_again(storage: CountingStorage, index: Index) -> None:
    made = record(config())
    storage.put(made.key, made.to_bytes()[:100])
    assert [p.where for p in index.update()] == [made.key]
    assert [p.where for p in index.update()] == [made.key]
    storage.put(made.key, made.to_bytes())
    assert index.update() == []
    assert [cell.trials for cell in index.cells()] == [1]


def test_an_unchanged_folder_is_not_listed_again(storage: CountingStorage, index: Index) -> None:
    first, second = record(config(), 0), record(config(), 1)
    for sweep in ("old-00000000", "new-00000000"):
        write_record(storage, first.model_copy(update={"sweep": sweep}))
        storage.age(sweep)
    index.update()
    storage.listed.clear()
    index.update()
    assert storage.listed == []
    write_record(storage, second.model_copy(update={"sweep": "new-00000000"}))
    index.update()
    assert storage.listed == ["sweeps/new-00000000/records/"]
    assert {cell.sweep: cell.trials for cell in index.cells()} == {"old-00000000": 1, "new-00000000": 2}
    shutil.rmtree(storage.root / "sweeps" / "old-00000000")
    index.update()
    assert {cell.sweep for cell in index.cells()} == {"new-00000000"}


def test_a_recently_changed_folder_is_listed_again(storage: CountingStorage, index: Index) -> None:
    write_record(storage, record(config()))
    index.update()
    storage.listed.clear()
    index.update()
    assert storage.listed, "another record may have come within the same tick of the clock"


def test_a_record_that_changes_in_a_settled_folder_is_read_again(storage: CountingStorage, index: Index) -> None:
    made = record(config())
    write_record(storage, made)
    storage.age(made.sweep)
    assert index.update() == []
    path = storage.root / made.key
    path.write_bytes(made.to_bytes()[:100])  # in place: the folder's own time stays
    assert [p.where for p in index.update()] == [made.key]
    storage.age(made.sweep)
    assert [p.where for p in index.update()] == [made.key]
    path.write_bytes(made.to_bytes())
    assert index.update() == []
    assert [cell.trials for cell in index.cells()] == [1]


def test_cells_are_those_of_the_records(storage: CountingStorage, index: Index, tmp_path: Path) -> None:
    write_sweep(Folder(storage.root), tmp_path)
    write_sweep(Folder(storage.root), tmp_path, sweep="other-11111111", datasets=["lesion"], shots=[4])
    index.update()
    records, _ = read_records(storage)
    for cell in index.cells():
        own = [r for r in records if r.sweep == cell.sweep and r.cell == f"{cell.dataset}.k{cell.shots}.{cell.label}"]
        search = [r for r in own if r.role == "search"]
        assert cell.trials == len(search)
        assert cell.pruned == sum(r.status == "pruned" for r in search)
        assert cell.failed == sum(r.status == "failed" for r in search)
        assert cell.seconds == pytest.approx(sum(r.seconds for r in own))
        assert [f.trial for f in cell.finals] == [r.trial for r in own if r.role == "final"]
        best = max((r for r in search if r.status == "completed"), key=lambda r: r.score or 0)
        assert cell.best.trial == best.trial
    assert len(index.cells()) == 15
    for cell, again in zip(index.cells(), cell_summaries(records), strict=True):
        assert again == replace(cell, seconds=again.seconds, gpu_seconds=again.gpu_seconds)
        assert (again.seconds, again.gpu_seconds) == pytest.approx((cell.seconds, cell.gpu_seconds))
    assert {cell.sweep for cell in index.cells("other-11111111")} == {"other-11111111"}
    index.update("other-11111111")
    assert len(index.cells()) == 15


def test_a_summary_survives_dump_and_load() -> None:
    summary = RecordSummary.of(record(config(role="final"), 1, 0, images=[0.25, 0.5]))
    again = RecordSummary.load(*summary.dump())
    assert again == summary
    assert again.image_scores.tolist() == [[0.25], [0.5]]


def test_best_of_a_cell_that_never_completed(storage: CountingStorage, index: Index) -> None:
    write_record(storage, record(config(), 0, status="failed", score=float("nan")))
    write_record(storage, record(config(), 1, status="pruned", score=0.1))
    index.update()
    (cell,) = index.cells()
    assert isinstance(cell, CellSummary) and cell.best.number == 1
    assert cell_summaries(read_records(storage).records) == [cell]


def test_a_damaged_index_is_rebuilt(storage: CountingStorage, tmp_path: Path) -> None:
    write_record(storage, record(config()))
    for content in (b"not a database at all" * 100, b""):
        with contextlib.closing(Index(storage, tmp_path / "i")) as index:
            index.update()
        (file,) = (tmp_path / "i").glob("*.sqlite")
        file.write_bytes(content)
        with contextlib.closing(Index(storage, tmp_path / "i")) as index:
            index.update()
            assert [cell.trials for cell in index.cells()] == [1]


def test_a_folder_that_cannot_hold_an_index(storage: CountingStorage) -> None:
    with pytest.raises(AmsamError, match="AMSAM_CACHE_DIR"):
        Index(storage, Path("/proc/1/index"))


def test_find(storage: CountingStorage, index: Index) -> None:
    made = record(config(), 1)
    write_record(storage, made)
    write_record(storage, record(config(), 1, sweep="other-11111111"))
    index.update()
    assert len(index.find(made.trial)) == 2
    assert index.find(f"demo-00000000/{made.trial}") == [made.key]
    assert index.find("nobody") == []


def test_processes_share_an_index(storage: CountingStorage, tmp_path: Path) -> None:
    for number in range(40):
        write_record(Folder(storage.root), record(config(), number))
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        counts = pool.starmap(_count, [(storage.root, tmp_path / "shared")] * 6)
    assert counts == [40] * 6


def _count(root: Path, folder: Path) -> int:
    with contextlib.closing(Index(LocalStorage(root), folder)) as index:
        index.update()
        return index.cells()[0].trials

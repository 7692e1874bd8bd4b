"""Requirements on every storage. Subclass ``StorageConformance`` with a ``uri`` fixture to test one."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from amsam_ray.errors import InputError
from amsam_ray.storage.base import ConflictError, ExistsError, NotFoundError, Storage
from amsam_ray.storage.open import check_storage, open_storage

BAD_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    "../a",
    "a/../b",
    "a/..",
    "./a",
    ".a",
    "a/.b",
    "a\\b",
    "a\nb",
    "a\0b",
    "ä",
    "a b",
]
BAD_KEYS += ["-a", "a" * 201, "/".join(["a" * 100] * 10), "~/../a", "%2e%2e/a", "a:b", "C:a"]


class StorageConformance:
    """Subclasses provide ``uri``: the URI of an empty storage for each test."""

    @pytest.fixture
    def uri(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def storage(self, uri: str) -> Storage:
        return open_storage(uri)

    def test_put_get_overwrite(self, storage: Storage) -> None:
        storage.put("a/b.bin", b"one")
        assert storage.get("a/b.bin") == b"one"
        storage.put("a/b.bin", b"")
        assert storage.get("a/b.bin") == b""
        storage.put("a/b.bin", bytes(range(256)) * 5000)
        assert storage.get("a/b.bin") == bytes(range(256)) * 5000

    def test_missing_key_is_not_found(self, storage: Storage, tmp_path: Path) -> None:
        for read in (storage.get, storage.get_versioned, lambda key: storage.download(key, tmp_path / "x")):
            with pytest.raises(NotFoundError, match="a/b"):
                read("a/b")
        assert list(tmp_path.glob("*")) == []

    def test_create_only_once(self, storage: Storage) -> None:
        storage.create("a/b", b"one")
        with pytest.raises(ExistsError):
            storage.create("a/b", b"two")
        assert storage.get("a/b") == b"one"

    def test_create_same_bytes_again_is_no_error(self, storage: Storage) -> None:
        storage.create("a/b", b"one")
        storage.create("a/b", b"one")
        assert storage.get("a/b") == b"one"

    def test_replace_needs_the_current_version(self, storage: Storage) -> None:
        storage.put("a/b", b"one")
        _, old = storage.get_versioned("a/b")
        storage.replace("a/b", b"two", old)
        assert storage.get("a/b") == b"two"
        with pytest.raises(ConflictError):
            storage.replace("a/b", b"three", old)
        assert storage.get("a/b") == b"two"

    def test_replace_of_nothing(self, storage: Storage) -> None:
        storage.replace("a/b", b"one", None)
        assert storage.get("a/b") == b"one"
        with pytest.raises(ConflictError):
            storage.replace("a/b", b"two", None)
        _, version = storage.get_versioned("a/b")
        storage.delete("a/b")
        with pytest.raises(ConflictError):
            storage.replace("a/b", b"three", version)
        with pytest.raises(NotFoundError):
            storage.get("a/b")

    def test_delete_twice(self, storage: Storage) -> None:
        storage.put("a/b", b"one")
        storage.delete("a/b")
        storage.delete("a/b")
        with pytest.raises(NotFoundError):
            storage.get("a/b")

    def test_list_is_sorted_complete_and_stops_at_the_folder(self, storage: Storage) -> None:
        keys = ["a/c/1", "a/c.json", "a/b", "ab/x", "a/c/d/2", "b"]
        for index, key in enumerate(keys):
            storage.put(key, b"x" * index)
        assert [(e.key, e.size) for e in storage.list("a/")] == [
            ("a/b", 2),
            ("a/c.json", 1),
            ("a/c/1", 0),
            ("a/c/d/2", 4),
        ]
        assert [e.key for e in storage.list("")] == sorted(keys)
        assert list(storage.list("nothing/")) == []
        assert storage.folders("a/") == ("c",)
        assert storage.folders("") == ("a", "ab")
        assert storage.folders("nothing/") == ()

    def test_list_more_than_a_page(self, storage: Storage) -> None:
        names = [f"p/{i:05d}" for i in range(1100)]
        threads = [
            threading.Thread(target=lambda part=part: [storage.put(n, b"1") for n in names[part::8]])
            for part in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [e.key for e in storage.list("p/")] == names

    def test_stamp_changes_with_the_content(self, storage: Storage) -> None:
        storage.put("a/b", b"one")
        first = next(storage.list("a/")).stamp
        assert next(storage.list("a/")).stamp == first
        storage.put("a/b", b"two")
        assert next(storage.list("a/")).stamp != first

    def test_files(self, storage: Storage, tmp_path: Path) -> None:
        big = os.urandom(1 << 20) * 18  # large enough for a multipart upload
        (tmp_path / "big").write_bytes(big)
        storage.upload("a/big", tmp_path / "big")
        storage.download("a/big", tmp_path / "sub" / "again")
        assert (tmp_path / "sub" / "again").read_bytes() == big
        assert sorted(p.name for p in (tmp_path / "sub").iterdir()) == ["again"]

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_no_key_leaves_the_root(self, storage: Storage, key: str) -> None:
        for act in (
            storage.get,
            storage.delete,
            lambda k: storage.put(k, b""),
            lambda k: storage.create(k, b""),
            lambda k: storage.replace(k, b"", None),
        ):
            with pytest.raises(InputError):
                act(key)
        with pytest.raises(InputError):
            list(storage.list(key + "/"))

    def test_check_leaves_nothing_behind(self, storage: Storage, uri: str) -> None:
        assert check_storage(uri) == []
        assert list(storage.list("")) == []

    def test_race_of_creates_has_one_winner(self, uri: str) -> None:
        rounds = 10
        won = _race(_create_race, uri, rounds)
        assert [sum(w[r] for w in won) for r in range(rounds)] == [1] * rounds

    def test_race_of_replacements_loses_no_update(self, uri: str) -> None:
        open_storage(uri).put("race/count", b"0")
        _race(_count_race, uri, 10)
        assert open_storage(uri).get("race/count") == b"40"


def _race(target, uri: str, rounds: int) -> list:
    """Run ``target`` in four processes at once and return what each of them returned."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        return pool.starmap(target, [(uri, worker, rounds) for worker in range(4)])


def _create_race(uri: str, worker: int, rounds: int) -> list[bool]:
    storage, won = open_storage(uri), []
    for r in range(rounds):
        try:
            storage.create(f"race/{r}", f"{worker}".encode())
            won.append(True)
        except ExistsError:
            won.append(False)
    return won


def _count_race(uri: str, worker: int, rounds: int) -> None:
    storage = open_storage(uri)
    for _ in range(rounds):
        while True:
            data, version = storage.get_versioned("race/count")
            try:
                storage.replace("race/count", str(int(data) + 1).encode(), version)
                break
            except ConflictError:
                continue

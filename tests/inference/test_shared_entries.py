"""Prepared inputs shared through a storage: what is downloaded, computed and uploaded, and what is refused."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from amsam_ray.inference import shared_entries
from amsam_ray.inference.feature_cache import FeatureCache, entry_key
from amsam_ray.inference.shared_entries import EntryForm, SharedEntries
from amsam_ray.storage.base import Entry, NotFoundError, Storage, UnavailableError
from amsam_ray.storage.local import LocalStorage
from amsam_ray.storage.open import open_storage
from tests.s3.moto import S3Server

KEYS = [entry_key("test", number=number) for number in range(40)]
FORM = EntryForm.of("features", "network", features=(torch.float32, (2, 3)), found=(torch.bool, ()))


def entry(position: int) -> dict[str, Tensor]:
    return {"features": torch.full((2, 3), float(position)), "found": torch.tensor(True)}


class Computing:
    """Computes entries, each in ``seconds``, and counts them."""

    def __init__(self, seconds: float = 0.0):
        self.seconds, self.count = seconds, 0

    def __call__(self, positions: list[int]) -> Iterator[Mapping[str, Tensor]]:
        for position in positions:
            time.sleep(self.seconds)
            self.count += 1
            yield entry(position)


@pytest.fixture(params=["folder", "bucket"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "results")
    aws: S3Server = request.getfixturevalue("aws")
    return f"s3://{aws.bucket}/{uuid.uuid4().hex}"


def get(folder: Path, storage: Storage, keys: Iterable[str], compute: Computing) -> SharedEntries:
    """What one node does: read ``keys`` with the cache in ``folder``, and check the entries."""
    shared = SharedEntries(storage)
    found = FeatureCache(folder, shared).get(list(keys), compute, batch=16, form=FORM)
    assert [float(one["features"][0, 0]) for one in found] == list(range(len(found)))
    assert all(one["found"].dtype == torch.bool for one in found)
    return shared


def test_the_second_node_downloads_what_the_first_computed(tmp_path: Path, uri: str) -> None:
    compute, second = Computing(0.05), Computing(0.05)
    assert get(tmp_path / "a", open_storage(uri), KEYS[:12], compute).uploaded == 12
    shared = get(tmp_path / "b", open_storage(uri), KEYS[:12], second)
    assert (compute.count, second.count, shared.downloaded, shared.uploaded) == (12, 0, 12, 0)
    keys = [item.key for item in open_storage(uri).list("")]
    assert keys == sorted(f"prepared/{FORM.scope}/{key}.safetensors" for key in KEYS[:12])
    again = get(tmp_path / "b", open_storage(uri), KEYS[:12], second)  # now from its own disk
    assert (second.count, again.downloaded) == (0, 0)


def test_the_log_states_what_was_downloaded_and_what_decided(
    tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "amsam_ray.inference.feature_cache")
    get(tmp_path / "a", open_storage(uri), KEYS[:6], Computing(0.05))
    get(tmp_path / "b", open_storage(uri), KEYS[:6], Computing(0.05))
    get(tmp_path / "b", open_storage(uri), KEYS[:6], Computing(0.05))  # all on its disk: no line
    computed, downloaded = caplog.messages
    assert f"{FORM.scope}: 6 in use, 0 downloaded, 6 computed on this node; one takes" in computed
    assert computed.endswith(" s to compute here.")
    assert "6 in use, 6 downloaded, 0 computed on this node; one takes" in downloaded
    assert "s to download" in downloaded and "s to compute on the node that uploaded it" in downloaded


def test_only_what_no_node_has_is_computed(tmp_path: Path, uri: str) -> None:
    get(tmp_path / "a", open_storage(uri), KEYS[:3], Computing(0.05))
    compute = Computing()
    shared = get(tmp_path / "b", open_storage(uri), KEYS[:6], compute)
    assert (compute.count, shared.downloaded, shared.uploaded) == (3, 3, 3)


def test_entries_without_a_form_stay_on_the_node(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "results")
    FeatureCache(tmp_path / "a", SharedEntries(storage)).get(KEYS[:2], Computing())
    assert not list(storage.list(""))


class Slow(LocalStorage):
    """A storage whose objects take time to arrive."""

    def get(self, key: str) -> bytes:
        time.sleep(0.4)
        return super().get(key)


@pytest.mark.parametrize(("seconds", "downloaded"), [(0.001, 16), (0.15, 20)])
def test_what_is_cheaper_to_compute_is_computed(tmp_path: Path, seconds: float, downloaded: int) -> None:
    """16 downloads at a time, 8 of them at once, take 50 ms each; the uploader states what computing took."""
    get(tmp_path / "a", LocalStorage(tmp_path / "results"), KEYS[:20], Computing(seconds))
    compute = Computing(seconds)
    shared = get(tmp_path / "b", Slow(tmp_path / "results"), KEYS[:20], compute)
    assert (shared.downloaded, compute.count) == (downloaded, 20 - downloaded)


def test_what_takes_much_longer_to_upload_than_to_compute_is_not_uploaded(tmp_path: Path) -> None:
    class Distant(LocalStorage):
        def put(self, key: str, data: bytes) -> None:
            time.sleep(0.5)
            super().put(key, data)

    shared = get(tmp_path / "a", Distant(tmp_path / "results"), KEYS[:32], Computing(0.05))
    assert shared.uploaded == 16  # those before the first upload was measured


def file_of(content: Mapping[str, Tensor], **metadata: str) -> bytes:
    return save(dict(content), metadata=metadata or None)


HOSTILE = {
    "not a file": b"\x00" * 64,
    "empty": b"",
    "cut short": file_of(entry(0))[:-4],
    "another shape": file_of({**entry(0), "features": torch.zeros(3, 2)}),
    "another dtype": file_of({**entry(0), "features": torch.zeros(2, 3, dtype=torch.float64)}),
    "one tensor more": file_of({**entry(0), "more": torch.zeros(1)}),
    "one tensor less": file_of({"features": torch.zeros(2, 3)}),
    "not finite": file_of({**entry(0), "features": torch.full((2, 3), float("nan"))}),
    "large": file_of({**entry(0), "features": torch.zeros(1 << 20)}),
    "a lie about its header": (1 << 62).to_bytes(8, "little") + b"{}" * 40,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_such_entry_is_computed_and_replaced(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    storage = LocalStorage(tmp_path / "results")
    for key in KEYS[:2]:
        storage.put(f"prepared/{FORM.scope}/{key}.safetensors", content)
    compute = Computing()
    with caplog.at_level(logging.WARNING):
        get(tmp_path / "a", storage, KEYS[:2], compute)
    assert compute.count == 2 and len(caplog.messages) <= 1
    compute = Computing()
    get(tmp_path / "b", storage, KEYS[:2], compute)
    assert compute.count == 0


@pytest.mark.parametrize("stated", ["nan", "inf", "-1", "0", "x" * 1000, "1e999", "1_0"])
def test_a_stated_time_that_is_none_does_no_harm(tmp_path: Path, stated: str) -> None:
    storage = LocalStorage(tmp_path / "results")
    for position, key in enumerate(KEYS[:20]):
        storage.put(f"prepared/{FORM.scope}/{key}.safetensors", file_of(entry(position), compute_s=stated))
    get(tmp_path / "a", storage, KEYS[:20], Computing())


def test_other_names_in_the_folder_are_no_entries(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "results")
    for name in ("x.safetensors", f"{KEYS[0]}.txt", f"{KEYS[0]}/{KEYS[1]}.safetensors"):
        storage.put(f"prepared/{FORM.scope}/{name}", file_of(entry(0)))
    shared = SharedEntries(storage)
    assert shared.offered(FORM, KEYS) == set()


class Failing(LocalStorage):
    """A storage of which some operations are unavailable, and the number of attempts."""

    broken: tuple[str, ...] = ()
    attempts = 0

    def _fail(self, name: str) -> None:
        if name in self.broken:
            self.attempts += 1
            raise UnavailableError("the bucket does not answer.")

    def get(self, key: str) -> bytes:
        self._fail("get")
        return super().get(key)

    def put(self, key: str, data: bytes) -> None:
        self._fail("put")
        super().put(key, data)

    def list(self, prefix: str) -> Iterator[Entry]:
        self._fail("list")
        return super().list(prefix)


@pytest.mark.parametrize("broken", [("get",), ("put",), ("list",), ("get", "put", "list")])
def test_a_storage_that_fails_costs_time_only_and_is_told_once(
    tmp_path: Path, broken: tuple[str, ...], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    get(tmp_path / "a", LocalStorage(tmp_path / "results"), KEYS[:2], Computing(0.05))
    storage = Failing(tmp_path / "results")
    storage.broken = broken
    shared, compute = SharedEntries(storage), Computing(0.05)
    for count in (4, 8, 12):
        found = FeatureCache(tmp_path / "b", shared).get(KEYS[:count], compute, batch=2, form=FORM)
        assert [float(one["features"][0, 0]) for one in found] == list(range(count))
    assert storage.attempts <= 8  # what ran at the same time; then it is left alone
    (told,) = caplog.messages
    assert "the bucket does not answer. Prepared inputs are computed on this node" in told
    storage.broken = ()
    monkeypatch.setattr(shared_entries, "_PAUSE_S", 0.0)
    shared._paused_until = 0.0
    FeatureCache(tmp_path / "c", shared).get(KEYS[12:14], compute, form=FORM)
    assert SharedEntries(storage).offered(FORM, KEYS[12:14]) == set(KEYS[12:14])


def test_an_entry_that_is_deleted_after_the_listing_is_computed(tmp_path: Path) -> None:
    class Vanishing(LocalStorage):
        def get(self, key: str) -> bytes:
            raise NotFoundError(f"{key} does not exist.")

    get(tmp_path / "a", LocalStorage(tmp_path / "results"), KEYS[:2], Computing())
    compute = Computing()
    get(tmp_path / "b", Vanishing(tmp_path / "results"), KEYS[:2], compute)
    assert compute.count == 2

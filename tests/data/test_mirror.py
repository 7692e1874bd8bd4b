"""Datasets in a bucket, on moto_server with signatures enforced."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.data import mirror as module
from amsam_ray.data.dataset import open_dataset
from amsam_ray.data.definition import check_dataset_config
from amsam_ray.data.mirror import mirror, mirror_folder
from amsam_ray.errors import AmsamError, InputError
from tests.data import layouts
from tests.s3.moto import S3Server, moto_server


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with moto_server() as running:
        yield running


@pytest.fixture
def root(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder dataset in a prefix of its own."""
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    layouts.folder(tmp_path / "source", 4)
    (tmp_path / "source/test.txt").write_text("photo3\n")
    (tmp_path / "source/archive.zip").write_bytes(b"not needed")
    prefix = tmp_path.name
    for path in (tmp_path / "source").rglob("*"):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(tmp_path / 'source').as_posix()}"
            server.client().upload_file(str(path), server.bucket, key)
    mirror.cache_clear()
    return f"s3://{server.bucket}/{prefix}"


def _put(server: S3Server, root: str, name: str, body: bytes) -> None:
    key = f"{root.removeprefix(f's3://{server.bucket}/')}/{name}"
    server.client().put_object(Bucket=server.bucket, Key=key, Body=body)


def _noting(paths: list[str]) -> Callable[..., None]:
    """Wrap the real download and record the requested paths."""
    original = module._download

    def download(*words: Any) -> None:
        paths.append(words[3].path)
        original(*words)

    return download


def test_a_bucket_reads_as_the_folder_does(root: str, tmp_path: Path) -> None:
    options = {"test": "test.txt"}
    local = open_dataset(DatasetConfig(name="folder", root=str(tmp_path / "source"), options=options), split="all")
    config = DatasetConfig(name="folder", root=root, options=options)
    remote = open_dataset(config, split="all", mirror_dir=tmp_path / "mirror")
    assert (remote.train, remote.test) == (local.train, local.test)
    for name in remote.train + remote.test:
        assert remote.content_key(name) == local.content_key(name)
        assert np.array_equal(remote.mask(name), local.mask(name))
    assert not list((tmp_path / "mirror").rglob("archive.zip"))


def test_the_check_before_a_sweep_lists_without_downloading(root: str, tmp_path: Path) -> None:
    config = DatasetConfig(name="folder", root=root)
    assert not check_dataset_config(config, 2, "datasets[0]")
    told = "\n".join(map(str, check_dataset_config(config, 8, "datasets[0]")))
    assert "more than the 3 of the train pool" in told
    nothing = DatasetConfig(name="folder", root=f"{root}/nothing")
    assert "holds no images" in str(check_dataset_config(nothing, 2, "datasets[0]")[0])


def test_only_what_changed_is_downloaded_again(
    root: str, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloaded: list[str] = []
    monkeypatch.setattr(module, "_download", _noting(downloaded))
    folder = mirror(root, tmp_path / "mirror")
    assert len(downloaded) == 9
    mirror.cache_clear()
    assert mirror(root, tmp_path / "mirror") == folder
    assert len(downloaded) == 9
    _put(server, root, "images/photo0.jpg", b"changed")
    (folder / "masks/photo1.png").write_bytes(b"cut")
    (folder / "images/stray.jpg").write_bytes(b"not in the bucket")
    mirror.cache_clear()
    mirror(root, tmp_path / "mirror")
    assert sorted(downloaded[9:]) == ["images/photo0.jpg", "masks/photo1.png"]
    assert (folder / "images/photo0.jpg").read_bytes() == b"changed"
    assert not (folder / "images/stray.jpg").exists()


def test_a_complete_copy_is_used_when_the_bucket_is_unavailable(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = mirror(root, tmp_path / "mirror")
    mirror.cache_clear()

    def away(root: str) -> list[object]:
        raise InputError(f"{root} cannot be listed")

    monkeypatch.setattr(module, "_list", away)
    assert mirror(root, tmp_path / "mirror") == folder
    assert "using the complete copy" in caplog.text
    mirror.cache_clear()
    (mirror_folder(root, tmp_path / "mirror") / "mirror.json").unlink()
    with pytest.raises(InputError, match="cannot be listed"):
        mirror(root, tmp_path / "mirror")


def test_bytes_that_differ_from_the_listing_are_refused(
    root: str, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = module._list(root)
    _put(server, root, "images/photo0.jpg", b"\0" * listed[0].size)
    assert listed[0].path == "images/photo0.jpg"
    monkeypatch.setattr(module, "_list", lambda root: listed)
    with pytest.raises(AmsamError, match="arrived damaged or changed"):
        mirror(root, tmp_path / "mirror")
    assert not (mirror_folder(root, tmp_path / "mirror") / "files/images/photo0.jpg").exists()


@pytest.mark.parametrize("name", ["../up.png", "a/../../up.png", "/abs.png"])
def test_keys_that_would_leave_the_mirror_are_refused(name: str, root: str, server: S3Server, tmp_path: Path) -> None:
    _put(server, root, name, b"x")
    with pytest.raises(InputError, match="the key is refused"):
        mirror(root, tmp_path / "mirror")
    assert not list(tmp_path.rglob("up.png"))


def test_a_wrong_secret_is_reported_with_the_remedy(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(InputError, match="check the address, AWS_ENDPOINT_URL_S3 and the credentials"):
        mirror(root, tmp_path / "mirror")


def test_a_root_without_a_bucket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not of the form"):
        mirror("s3://", tmp_path)


def _mirror_in_process(root: str, folder: str, queue: multiprocessing.Queue) -> None:
    downloaded: list[str] = []
    module._download = _noting(downloaded)
    mirror(root, Path(folder))
    queue.put(len(downloaded))


def test_lanes_of_a_node_share_one_download(root: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    lanes = [context.Process(target=_mirror_in_process, args=(root, str(tmp_path / "mirror"), queue)) for _ in range(3)]
    for lane in lanes:
        lane.start()
    counts = sorted(queue.get(timeout=60) for _ in lanes)
    for lane in lanes:
        lane.join(10)
    assert counts == [0, 0, 9]

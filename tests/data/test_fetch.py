from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from amsam_ray.data.definition import get_definition
from amsam_ray.data.fetch import fetch_dataset, unpack
from amsam_ray.data.schema import Archive, DatasetDefinition
from amsam_ray.errors import AmsamError, InputError
from tests.data import layouts


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[str]:
    """An HTTP server that offers the people of `vikram_human` as the publisher does: one zip with a top folder."""
    source, site = tmp_path / "source", tmp_path / "site"
    layouts.vikram_human(source)
    site.mkdir()
    with zipfile.ZipFile(site / "master.zip", "w") as archive:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                archive.write(path, f"Human-Segmentation-Dataset-master/{path.relative_to(source).as_posix()}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/master.zip"
    server.shutdown()
    server.server_close()
    thread.join()


def _definition(url: str, sha256: str | None = None) -> DatasetDefinition:
    archive = Archive(url=url, sha256=sha256, strip=1)
    split = get_definition("vikram_human").split.model_copy(update={"test": 2})
    return get_definition("vikram_human").model_copy(update={"fetch": [archive], "split": split})


def test_a_dataset_is_fetched_and_not_twice(publisher: str, tmp_path: Path) -> None:
    said: list[str] = []
    found = fetch_dataset(_definition(publisher), tmp_path / "data", say=said.append)
    assert (len(found.train), len(found.test)) == (4, 2)
    assert said == [f"downloading {publisher}", "unpacking master.zip"]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["Ground_Truth", "Training_Images"]
    fetch_dataset(_definition(publisher), tmp_path / "data", say=said.append)
    assert said[2:] == [f"{tmp_path / 'data'} already holds Human Segmentation Dataset (Vikram Shenoy)"]


def test_a_stated_hash_is_checked(publisher: str, tmp_path: Path) -> None:
    sha256 = hashlib.sha256((tmp_path / "site/master.zip").read_bytes()).hexdigest()
    assert fetch_dataset(_definition(publisher, sha256), tmp_path / "good").train
    with pytest.raises(AmsamError, match="cannot be downloaded"):
        fetch_dataset(_definition(publisher, "0" * 64), tmp_path / "bad")


def test_a_missing_file_is_reported(publisher: str, tmp_path: Path) -> None:
    with pytest.raises(AmsamError, match=r"other.zip cannot be downloaded .404"):
        fetch_dataset(_definition(publisher.replace("master", "other")), tmp_path / "data")


def test_what_is_no_zip_is_told_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "page.zip"
    path.write_text("<html>log in first</html>")
    with pytest.raises(AmsamError, match="not a usable zip archive"):
        unpack(path, tmp_path / "data")
    assert not path.exists()


@pytest.mark.parametrize("name", ["../../up.txt", "/etc/up.txt", "a/../../up.txt"])
def test_an_archive_cannot_write_outside(name: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(AmsamError, match="is refused"):
        unpack(path, tmp_path / "data/deep")
    assert not list(tmp_path.rglob("up.txt"))


def test_an_archive_of_another_dataset_is_reported(publisher: str, tmp_path: Path) -> None:
    other = _definition(publisher).model_copy(update={"within": ["elsewhere"]})
    with pytest.raises(AmsamError, match="does not hold"):
        fetch_dataset(other, tmp_path / "data")


def test_without_a_plain_url_the_way_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Kaggle account"):
        fetch_dataset(get_definition("tiktok"), tmp_path)

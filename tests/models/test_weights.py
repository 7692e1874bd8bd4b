"""Download of published files from a local HTTP server that breaks connections, sends wrong bytes and refuses."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from amsam_ray.cli.weights import weights
from amsam_ray.errors import AmsamError, InputError
from amsam_ray.models import weights as module
from amsam_ray.models.weights import WeightsFile, fetch, get_weights

BYTES = bytes(range(256)) * 12_000  # 3 MB


class Publisher(ThreadingHTTPServer):
    """Serves ``BYTES`` at any path.

    Attributes:
        break_after: for each of the next requests, the number of bytes after which the connection is closed.
        ranges: True if the server supports range requests.
        status: HTTP status of the responses; not 200 for an error.
        seen: the Range header of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.break_after: list[int] = []
        self.ranges = True
        self.status = 200
        self.seen: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/files/thing.pth"


class Handler(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.seen.append(asked)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        body = BYTES[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.break_after.pop(0)] if self.server.break_after else body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def publisher():
    server = Publisher()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def published(publisher, content=BYTES):
    return WeightsFile("thing", publisher.url, hashlib.sha256(content).hexdigest(), len(content), "Apache-2.0")


def test_a_fetched_file_is_verified(publisher, tmp_path):
    told: list[int] = []
    path = fetch(published(publisher), tmp_path / "new", told.append)
    assert path == tmp_path / "new" / "thing.pth" and path.read_bytes() == BYTES
    assert told[-1] == len(BYTES) and told == sorted(told)
    assert [p.name for p in path.parent.iterdir() if not p.name.startswith(".")] == ["thing.pth"]


def test_an_existing_file_is_not_fetched_again(publisher, tmp_path):
    for _ in range(2):
        fetch(published(publisher), tmp_path)
    assert len(publisher.seen) == 1


def test_a_broken_connection_is_resumed(publisher, tmp_path):
    publisher.break_after = [1_500_000, 700_000]
    path = fetch(published(publisher), tmp_path, pause=0.01)
    assert path.read_bytes() == BYTES
    first, *resumed = publisher.seen
    assert first is None and len(resumed) == 2
    starts = [int(str(asked).removeprefix("bytes=").rstrip("-")) for asked in resumed]
    assert 0 < starts[0] < starts[1] < len(BYTES)


def test_a_later_call_resumes_an_interrupted_one(publisher, tmp_path):
    publisher.break_after = [1_500_000]
    with pytest.raises(AmsamError, match=r"kept in .*thing.pth.part"):
        fetch(published(publisher), tmp_path, attempts=1)
    assert not (tmp_path / "thing.pth").exists()
    have = (tmp_path / "thing.pth.part").stat().st_size
    assert 0 < have < len(BYTES)
    assert fetch(published(publisher), tmp_path).read_bytes() == BYTES
    assert publisher.seen == [None, f"bytes={have}-"]


def test_without_range_support_the_download_restarts(publisher, tmp_path):
    publisher.ranges, publisher.break_after = False, [1_500_000]
    assert fetch(published(publisher), tmp_path, pause=0.01).read_bytes() == BYTES


def test_wrong_bytes_are_refused_and_removed(publisher, tmp_path):
    lie = published(publisher, bytes(len(BYTES)))
    with pytest.raises(AmsamError, match=f"SHA-256 {hashlib.sha256(BYTES).hexdigest()}, expected .*{lie.sha256}"):
        fetch(lie, tmp_path)
    assert not list(tmp_path.glob("thing*"))


def test_a_damaged_file_is_replaced(publisher, tmp_path):
    (tmp_path / "thing.pth").write_bytes(b"half")
    assert fetch(published(publisher), tmp_path).read_bytes() == BYTES


def test_a_partial_file_that_is_too_long_is_discarded(publisher, tmp_path):
    (tmp_path / "thing.pth.part").write_bytes(bytes(len(BYTES) + 5))
    with pytest.raises(AmsamError, match="removed; run the command again"):
        fetch(published(publisher), tmp_path)
    assert fetch(published(publisher), tmp_path).read_bytes() == BYTES


@pytest.mark.parametrize("status", [404, 503])
def test_an_http_error_is_reported(publisher, tmp_path, status):
    publisher.status = status
    with pytest.raises(AmsamError, match=str(status)):
        fetch(published(publisher), tmp_path, attempts=2, pause=0.01)


def test_an_unreachable_server_is_reported(tmp_path):
    nowhere = WeightsFile("x", "http://127.0.0.1:9/x.pth", "0" * 64, 10, "none")
    with pytest.raises(AmsamError, match=r"127\.0\.0\.1"):
        fetch(nowhere, tmp_path, attempts=2, pause=0.01)


def test_the_command_prints_the_path_of_the_file(publisher, tmp_path, monkeypatch):
    monkeypatch.setitem(module.WEIGHTS, "thing", published(publisher))
    monkeypatch.setenv("AMSAM_WEIGHTS_DIR", str(tmp_path))
    ran = CliRunner().invoke(weights, ["fetch", "thing"])
    assert ran.exit_code == 0 and ran.stdout.strip() == str(tmp_path / "thing.pth")
    listing = CliRunner().invoke(weights, ["list"]).stdout
    assert [line.split()[0] for line in listing.splitlines() if " here " in line] == ["thing"]


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match=r"vit_b, vit_l, vit_h, mobile_sam, yolov8n.pt"):
        get_weights("vit_x")
    assert get_weights("sam_vit_b_01ec64.pth").name == "vit_b"

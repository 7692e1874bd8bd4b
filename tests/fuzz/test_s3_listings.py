"""S3 listings: keys, sizes and pages that a server may return, however strange, stay within root and limits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import strategies as st

from amsam_ray.data.mirror import list_tree, mirror
from amsam_ray.errors import AmsamError
from amsam_ray.records.io import list_sweeps, read_records
from amsam_ray.storage.open import open_storage
from tests.fuzz.harness import attempt, fuzz
from tests.fuzz.hostile import TEXTS, damaged

OBJECT = b"x"


class Server:
    """An S3 endpoint that answers every listing with ``listing`` and every other request with one byte."""

    def __init__(self) -> None:
        self.listing = b""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = server.listing if "list-type=2" in self.path else OBJECT
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", '"x"')
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL_S3": made.endpoint,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            patch.setenv(name, value)
        yield made
    made.http.shutdown()


def xml_text(text: str) -> str:
    """Return ``text`` as XML can hold it: characters outside XML 1.0 are dropped."""
    return escape("".join(c for c in text if c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd"))


def listing(keys: list[str], size: str = "1", *, folders: list[str] | None = None, more: bool = False) -> bytes:
    """Return one page of ListObjectsV2."""
    items = "".join(
        f"<Contents><Key>{xml_text(key)}</Key><Size>{size}</Size><ETag>&quot;x&quot;</ETag></Contents>" for key in keys
    )
    items += "".join(f"<CommonPrefixes><Prefix>{xml_text(f)}</Prefix></CommonPrefixes>" for f in folders or [])
    state = f"<IsTruncated>{str(more).lower()}</IsTruncated>"
    state += "<NextContinuationToken>again</NextContinuationToken>" if more else ""
    return f"<?xml version='1.0'?><ListBucketResult>{state}{items}</ListBucketResult>".encode()


KEYS = st.lists(
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["p/", "p/images/", "p/../", "/", "", "p//", "p/sweeps/x/records/"]),
        st.sampled_from(TEXTS) | st.text(max_size=12),
        st.sampled_from([".png", ".txt", ".json", "", "/"]),
    ),
    max_size=8,
)
SIZES = st.sampled_from(["0", "1", "-1", "9" * 30, "", "x", "1e9"])


@fuzz(0.2, keys=KEYS, size=SIZES)
def test_trees(server: Server, keys: list[str], size: str) -> None:
    server.listing = listing(keys, size)
    attempt("S3 listing of a dataset", lambda: list_tree("s3://bucket/p"))


@fuzz(0.1, keys=KEYS)
def test_mirrors(server: Server, tmp_path_factory: pytest.TempPathFactory, keys: list[str]) -> None:
    server.listing, folder = listing(keys), tmp_path_factory.mktemp("mirror")
    mirror.cache_clear()
    attempt("S3 mirror", lambda: mirror("s3://bucket/p", folder / "in"))
    assert {path.name for path in folder.iterdir()} <= {"in"}


@fuzz(0.1, keys=KEYS, folders=KEYS)
def test_results(server: Server, keys: list[str], folders: list[str]) -> None:
    server.listing = listing(keys, folders=[f"p/sweeps/{name}/" for name in folders])

    def read() -> Any:
        storage = open_storage("s3://bucket/p", patient=False)
        list_sweeps(storage)
        return read_records(storage)

    attempt("S3 listing of results", read)


@fuzz(0.1, content=damaged([listing(["p/images/a.png", "p/masks/a.png"])]) | st.binary(max_size=60))
def test_damaged_pages(server: Server, content: bytes) -> None:
    server.listing = content
    attempt("S3 listing of a dataset", lambda: list_tree("s3://bucket/p"))


def test_a_listing_without_end(server: Server) -> None:
    server.listing = listing(["p/a.png"], more=True)
    accepted, error = attempt("S3 listing of a dataset", lambda: list_tree("s3://bucket/p"))
    assert not accepted and isinstance(error, AmsamError)


@pytest.mark.parametrize("uri", TEXTS[::3])
def test_addresses(server: Server, tmp_path: Path, uri: str) -> None:
    server.listing = listing(["p/a.png"])
    for root in (f"s3://{uri}", f"s3://bucket/{uri}"):
        attempt("S3 address", partial(list_tree, root))
        attempt("S3 address", partial(lambda r: list(open_storage(r, patient=False).list("")), root))

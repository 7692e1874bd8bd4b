"""A proxy in front of an S3 server that fails on purpose: errors, throttling, resets, lost answers, outages."""

from __future__ import annotations

import http.client
import math
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

# What may happen to a request, besides passing through.
FAULTS = ("error", "throttle", "reset", "cut_upload", "lost_answer", "cut_answer")
_XML = '<?xml version="1.0"?><Error><Code>{0}</Code><Message>{0}</Message></Error>'


class FaultProxy:
    """Forwards requests to ``endpoint`` and injects faults into some of them.

    Attributes:
        chances: fault -> its share of the requests, in [0, 1]; they add up to at most 1. Faults are dealt from a
            shuffled deck that holds every fault in its share, so each comes up in every round of the deck.
        away: while True every connection is reset, as if the server were gone.
        happened: how often each fault was dealt out, and ``passed`` and ``away``.
    """

    def __init__(self, endpoint: str, seed: int = 0):
        self._chances: Mapping[str, float] = {}
        self.away = False
        self.happened: Counter[str] = Counter()
        self._upstream = urlsplit(endpoint).netloc
        self._random, self._lock = random.Random(seed), threading.Lock()
        self._deck: list[str] = []
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def chances(self) -> Mapping[str, float]:
        return self._chances

    @chances.setter
    def chances(self, chances: Mapping[str, float]) -> None:
        with self._lock:
            self._chances, self._deck = chances, []

    def draw(self) -> str:
        """Draw the fault of the next request."""
        with self._lock:
            fault = "away" if self.away else self._pick()
            self.happened[fault] += 1
            return fault

    def _pick(self) -> str:
        if not self._deck:
            shares = {fault: Fraction(chance).limit_denominator(100) for fault, chance in self.chances.items()}
            size = math.lcm(*(share.denominator for share in shares.values()))
            self._deck = [fault for fault, share in shares.items() for _ in range(int(share * size))]
            self._deck += ["passed"] * (size - len(self._deck))
            self._random.shuffle(self._deck)
        return self._deck.pop()

    def forward(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> http.client.HTTPResponse:
        """The server's answer to a request, whose signature stays valid because nothing of it is changed."""
        connection = http.client.HTTPConnection(self._upstream, timeout=30)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            if name.lower() not in ("connection", "expect"):
                connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse()


class _Handler(BaseHTTPRequestHandler):
    owner: FaultProxy
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        fault = self.owner.draw()
        length = int(self.headers.get("Content-Length") or 0)
        if fault in ("away", "reset"):
            self._reset()
        elif fault == "cut_upload":
            self.rfile.read(length // 2)
            self._reset()
        elif fault in ("error", "throttle"):
            self.rfile.read(length)
            status, code = (500, "InternalError") if fault == "error" else (503, "SlowDown")
            self._answer(status, {}, _XML.format(code).encode())
        else:
            response = self.owner.forward(self.command, self.path, dict(self.headers.items()), self.rfile.read(length))
            content = response.read()
            if fault == "lost_answer":
                self._reset()
            else:
                kept = {k: v for k, v in response.getheaders() if k.lower() not in ("connection", "transfer-encoding")}
                self._answer(response.status, kept, content, cut=fault == "cut_answer")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def _answer(self, status: int, headers: Mapping[str, str], content: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(content))) if self.command == "HEAD" else str(len(content))
        if status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        if cut:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self._reset()
        elif self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        """Drop the connection with a RST, as a crashed peer does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            return

    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def fault_proxy(endpoint: str, seed: int = 0) -> Iterator[FaultProxy]:
    """A running proxy in front of ``endpoint``."""
    proxy = FaultProxy(endpoint, seed)
    try:
        yield proxy
    finally:
        proxy.close()

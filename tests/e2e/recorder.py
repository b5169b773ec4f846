"""An engine that only listens: it answers a ping, refuses everything else, and keeps what it was asked. For comparing clients by their requests."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    """Without the API version."""
    query: dict[str, list[str]]
    body: Any
    """Decoded JSON, None if there is no body."""


class Recorder:
    """What was asked since `clear`, without pings."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def clear(self) -> None:
        self.requests.clear()


def _handler(recorder: Recorder) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def address_string(self) -> str:
            return "unix"

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            path = "/" + parts.path.split("/", 2)[2] if parts.path.startswith("/v1.") else parts.path
            length = int(self.headers.get("Content-Length") or 0)
            data = self.rfile.read(length)
            status, body = 200, b"OK"
            if path != "/_ping":
                status, body = 418, b'{"message":"recorded"}'
                recorder.requests.append(
                    Request(self.command, path, parse_qs(parts.query), json.loads(data) if data else None)
                )
            self.send_response(status)
            self.send_header("Api-Version", "1.50")
            self.send_header("Ostype", "linux")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _answer

    return Handler


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@contextmanager
def recording(path: str) -> Iterator[Recorder]:
    """A recorder that listens on the unix socket `path`."""
    recorder = Recorder()
    with _Server(path, _handler(recorder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield recorder
        finally:
            server.shutdown()
            thread.join()

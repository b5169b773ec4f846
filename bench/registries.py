"""The registry beside Debian's docker-registry: blobs pushed and pulled over loopback, by the same client."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.registry import docker_registry, wherry_registry

from bench.measure import Sample

LARGE = 500 << 20
SMALL, SMALL_BYTES = 1000, 4096
CONNECTIONS = 4

Blob = tuple[str, bytes]


@contextlib.contextmanager
def both(root: Path) -> Iterator[tuple[str, str]]:
    """(ours, docker-registry's) HOST:PORT."""
    with wherry_registry(root / "ours", "--no-access-log") as ours, docker_registry(root / "theirs") as theirs:
        yield ours.host, theirs


class Connection:
    def __init__(self, host: str) -> None:
        self._http = http.client.HTTPConnection(host)
        self._http.connect()
        self._http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def push(self, repository: str, blob: Blob) -> None:
        """POST, then PUT of the whole, as clients do."""
        digest, data = blob
        self._http.request("POST", f"/v2/{repository}/blobs/uploads/")
        answer = self._http.getresponse()
        answer.read()
        location = answer.headers["Location"].removeprefix(f"http://{self._http.host}:{self._http.port}")
        separator = "&" if "?" in location else "?"
        headers = {"Content-Type": "application/octet-stream"}
        self._http.request("PUT", f"{location}{separator}digest={digest}", data, headers)
        answer = self._http.getresponse()
        answer.read()
        if answer.status != 201:
            raise RuntimeError(f"push: {answer.status}")

    def pull(self, repository: str, blob: Blob) -> None:
        self._http.request("GET", f"/v2/{repository}/blobs/{blob[0]}")
        answer = self._http.getresponse()
        buffer, size = bytearray(1 << 20), 0
        while count := answer.readinto(buffer):
            size += count
        if size != len(blob[1]):
            raise RuntimeError(f"pull: {answer.status}, {size} bytes")


def blobs(count: int, size: int) -> list[Blob]:
    """Never the same twice, so that no registry has them."""
    made = []
    for _ in range(count):
        data = os.urandom(32) + bytes(size - 32)
        made.append((f"sha256:{hashlib.sha256(data).hexdigest()}", data))
    return made


def _shared_out(host: str, todo: list[Blob], do: Callable[[Connection, Blob], None]) -> float:
    """Milliseconds until CONNECTIONS connections have done it all."""
    waiting: queue.SimpleQueue[Blob] = queue.SimpleQueue()
    for blob in todo:
        waiting.put(blob)

    def work() -> None:
        connection = Connection(host)
        with contextlib.suppress(queue.Empty):
            while True:
                do(connection, waiting.get_nowait())

    threads = [threading.Thread(target=work) for _ in range(min(CONNECTIONS, len(todo)))]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - begin) * 1000


def push(host: str, *, large: bool) -> Sample:
    def once() -> float:
        todo = blobs(1, LARGE) if large else blobs(SMALL, SMALL_BYTES)
        return _shared_out(host, todo, lambda connection, blob: connection.push("bench", blob))

    return once


def pull(host: str, *, large: bool) -> Sample:
    todo = blobs(1, LARGE) if large else blobs(SMALL, SMALL_BYTES)
    _shared_out(host, todo, lambda connection, blob: connection.push("bench", blob))
    return lambda: _shared_out(host, todo, lambda connection, blob: connection.pull("bench", blob))

"""A TCP relay that counts what passes to the client, and stops or cuts it where a test says: a bad line between an engine and a registry."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

_PIECE = 64 << 10


class Cutter:
    """In front of `target` (HOST:PORT). `passed`: bytes to all clients so far."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._lock = threading.Condition()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._left: int | None = None
        self._cut = False
        self._held = False
        self._closed = False
        self.cuts = 0
        self.passed = 0
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def hold_after(self, count: int) -> None:
        """Nothing passes any more after that many bytes, until `let_go`."""
        with self._lock:
            self._left, self._cut = count, False

    def cut_every(self, count: int) -> None:
        """The connection breaks after that many bytes, each time."""
        with self._lock:
            self._left, self._cut, self._every = count, True, count

    def until_held(self) -> None:
        with self._lock:
            assert self._lock.wait_for(lambda: self._held, 300), "the relay passed less than it was to hold after"

    def let_go(self) -> None:
        with self._lock:
            self._left, self._held = None, False
            self._lock.notify_all()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify_all()
            ends = [self._listener, *self._open]
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(300)
        self._listener.close()

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                with self._lock:
                    self._open |= {client, server}
                self._start(self._up, client, server)
                self._start(self._down, server, client)

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := client.recv(_PIECE):
                server.sendall(piece)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (size := self._allowed()) and (piece := server.recv(size)):
                self._count(len(piece))
                client.sendall(piece)
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            with self._lock:
                self._open.discard(end)
            end.close()

    def _allowed(self) -> int:
        """How much may pass next; 0: the connection is to be cut."""
        with self._lock:
            if self._left == 0 and self._cut:
                self.cuts += 1
                self._left = self._every
                return 0
            if self._left == 0:
                self._held = True
                self._lock.notify_all()
                self._lock.wait_for(lambda: self._left != 0 or self._closed)
            return 0 if self._closed else min(_PIECE, self._left or _PIECE)

    def _count(self, size: int) -> None:
        with self._lock:
            self.passed += size
            if self._left is not None:
                self._left = max(0, self._left - size)


@contextlib.contextmanager
def cutter(target: str) -> Iterator[Cutter]:
    made = Cutter(target)
    try:
        yield made
    finally:
        made.close()

"""A control connection of a shim: requests in, answers and events out.

Runs in the shim, once for the connection that the zygote handed over and once for every engine that connects to `shim.sock`.
**Invariants**: a peer that breaks the protocol, or lags MAX_QUEUED bytes behind, loses its connection and nothing else; descriptors that
came with a request and that its handler did not take are closed. Absent: what the requests mean (`supervisor`).
"""

from __future__ import annotations

import os
from _socket import CMSG_SPACE, MSG_CMSG_CLOEXEC, MSG_CTRUNC, SCM_RIGHTS, SHUT_RDWR, SOL_SOCKET
from _socket import socket as Socket
from _struct import unpack

from wherry.shim.loop import GONE, READ, WRITE
from wherry.wire import shim as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from wherry.shim.loop import Loop
    from wherry.wire.shim import Message

    Handler = Callable[["Connection", Message, list[int]], None]

MAX_QUEUED = 1024 * 1024
_CHUNK = 64 * 1024
_ANCILLARY = CMSG_SPACE(wire.MAX_FDS * 4)


def receive(connection: Socket, decoder: wire.Decoder) -> bool:
    """One recvmsg into `decoder`: False at end of file. BlockingIOError when nothing is there, FrameError when descriptors were cut off."""
    data, ancillary, flags, _ = connection.recvmsg(_CHUNK, _ANCILLARY, MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            fds += unpack(f"{len(payload) // 4}i", payload[: len(payload) & ~3])
    decoder.receive(data, fds)
    if flags & MSG_CTRUNC:
        raise wire.FrameError("descriptors were cut off")
    return bool(data)


class Connection:
    """`on_message(connection, message, fds)` for each request; `on_close(connection)` once, when it has ended."""

    def __init__(self, loop: Loop, fd: int, *, on_message: Handler, on_close: Callable[[Connection], None]) -> None:
        self._loop = loop
        self._socket = Socket(fileno=fd)
        self._socket.setblocking(False)
        self._fd = fd
        self._decoder = wire.Decoder()
        self._queued = b""
        self._on_message = on_message
        self._on_close = on_close
        loop.watch(fd, READ, self._on_event)

    @property
    def has_queued(self) -> bool:
        return bool(self._queued)

    def send(self, message: Mapping[str, Any]) -> None:
        """Queues a message; what the kernel takes at once is gone at once."""
        if self._fd < 0:
            return
        had = bool(self._queued)
        self._queued += wire.encode(message)
        if had:
            if len(self._queued) > MAX_QUEUED:
                self.close()
            return
        self._flush()
        if self._queued and self._fd >= 0:
            self._loop.change(self._fd, READ | WRITE)

    def finish(self) -> None:
        """The last words before the process ends: blocks until the peer's kernel has everything. What it has asked meanwhile is read and
        dropped, since unread requests would reach it as a reset instead of end of file.
        """
        if self._fd < 0:
            return
        try:
            if self._queued:
                self._socket.setblocking(True)
                self._socket.sendall(self._queued)
                self._socket.setblocking(False)
            self._socket.shutdown(SHUT_RDWR)
            while self._socket.recv(_CHUNK):
                pass
        except OSError:
            pass

    def close(self) -> None:
        if self._fd < 0:
            return
        self._loop.forget(self._fd)
        self._fd = -1
        self._socket.close()
        self._queued = b""
        for fd in self._decoder.abandon():
            os.close(fd)
        self._on_close(self)

    def _flush(self) -> None:
        try:
            self._queued = self._queued[self._socket.send(self._queued) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def _on_event(self, events: int) -> None:
        if events & WRITE:
            self._flush()
            if not self._queued and self._fd >= 0:
                self._loop.change(self._fd, READ)
        if self._fd >= 0 and events & (READ | GONE):
            self._read()

    def _read(self) -> None:
        try:
            if not receive(self._socket, self._decoder):
                self.close()
                return
            while self._fd >= 0 and (frame := self._decoder.next_frame()) is not None:
                message, fds = frame
                try:
                    self._on_message(self, message, fds)
                finally:
                    for fd in fds:
                        if fd >= 0:
                            os.close(fd)
        except BlockingIOError:
            return
        except (OSError, wire.FrameError):
            self.close()

"""wherryd's end of a connection to the zygote or to a shim: questions with their answers, and events.

Runs in wherryd, on the event loop. **Invariants**: answers find their question by id; when the connection ends, every open question gets
Unavailable and `on_closed` is called once; events are delivered in order, and answers before the events that follow them. Blocks never: what
the kernel does not take at once is queued. Absent: what is asked (`tasks`).

Reading is the event loop's transport, and not `add_reader`: a peer that is killed with our requests unread resets the connection, upon which
libuv calls a reader of one's own once more and then never again, whatever is still to be read. Writing is our own, since it carries descriptors.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from wherry.errors import Unavailable
from wherry.wire import shim as wire


class ShimConnection(asyncio.Protocol):
    """`await ShimConnection.open(socket)` takes a connected socket over. Set `on_event` before the first question."""

    def __init__(self, channel: socket.socket) -> None:
        self.on_event: Callable[[dict[str, Any]], None] = lambda event: None
        self.on_closed: Callable[[], None] = lambda: None
        self._loop = asyncio.get_running_loop()
        self._socket = channel
        """For writing; the transport has a duplicate for reading."""
        self._transport: asyncio.BaseTransport | None = None
        self._decoder = wire.Decoder()
        self._next_id = 1
        self._questions: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._queued: deque[tuple[bytes, list[int]]] = deque()
        """What is to be sent, with descriptors of our own that go along with the first byte."""
        channel.setblocking(False)

    @classmethod
    async def open(cls, channel: socket.socket) -> ShimConnection:
        connection = cls(channel)
        try:
            connection._transport, _ = await asyncio.get_running_loop().create_unix_connection(
                lambda: connection, sock=channel.dup()
            )
        except BaseException:
            channel.close()
            raise
        return connection

    @classmethod
    def closed(cls) -> ShimConnection:
        """A connection to nobody."""
        channel = socket.socket(socket.AF_UNIX)
        connection = cls(channel)
        channel.close()
        return connection

    @property
    def is_closed(self) -> bool:
        return self._socket.fileno() < 0

    async def ask(self, operation: str, body: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        """The answer's "ok". Raises what the other side raised; Unavailable when the connection ends first. `fds` stay the caller's."""
        if self.is_closed:
            raise Unavailable("the shim is gone")
        number, self._next_id = self._next_id, self._next_id + 1
        message = {"id": number, "op": operation, **body}
        if fds:
            message["fds"] = len(fds)
        payload = wire.frame(msgspec.json.encode(message))
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._questions[number] = answer
        self._send(payload, fds)
        try:
            return await answer
        finally:
            self._questions.pop(number, None)

    def close(self) -> None:
        """Ends the connection from our side; `on_closed` is not called."""
        self.on_closed = lambda: None
        self._end()

    def _send(self, payload: bytes, fds: Sequence[int]) -> None:
        if self._queued:
            self._queued.append((payload, [os.dup(fd) for fd in fds]))
            return
        try:
            sent = self._send_now(payload, fds)
        except BlockingIOError:
            self._queued.append((payload, [os.dup(fd) for fd in fds]))
        except OSError:
            self._loop.call_soon(self._end)
            return
        else:
            if sent == len(payload):
                return
            self._queued.append((payload[sent:], []))
        self._loop.add_writer(self._socket.fileno(), self._on_writable)

    def _send_now(self, payload: bytes, fds: Sequence[int]) -> int:
        if not fds:
            return self._socket.send(payload, socket.MSG_NOSIGNAL)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        return self._socket.sendmsg([payload], [rights], socket.MSG_NOSIGNAL)

    def _on_writable(self) -> None:
        try:
            while self._queued:
                payload, fds = self._queued[0]
                sent = self._send_now(payload, fds)
                _close_all(fds)
                if sent < len(payload):
                    self._queued[0] = (payload[sent:], [])
                    return
                self._queued.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._end()
            return
        self._loop.remove_writer(self._socket.fileno())

    def data_received(self, data: bytes) -> None:
        """From the transport."""
        self._decoder.receive(data)
        try:
            while (frame := self._decoder.next_frame()) is not None:
                self._on_message(frame[0])
        except wire.FrameError:
            self._end()

    def connection_lost(self, error: Exception | None) -> None:
        """From the transport: end of file, or a reset."""
        self._end()

    def _on_message(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self.on_event(message)
            return
        answer = self._questions.get(message.get("id", -1))
        if answer is None or answer.done():
            return  # who asked has been cancelled
        if "error" in message:
            answer.set_exception(wire.error_from_message(message["error"]))
        else:
            answer.set_result(message.get("ok") or {})

    def _end(self) -> None:
        if self.is_closed:
            return
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        if self._transport is not None:
            self._transport.close()
        for _, fds in self._queued:
            _close_all(fds)
        self._queued.clear()
        for answer in self._questions.values():
            if not answer.done():
                answer.set_exception(Unavailable("the shim is gone"))
        on_closed, self.on_closed = self.on_closed, lambda: None
        on_closed()


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
    fds.clear()

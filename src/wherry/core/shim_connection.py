"""wherryd's end of a connection to the zygote or to a shim: questions with their answers, and events.

Runs in wherryd, on the event loop. **Invariants**: answers find their question by id; when the connection ends, every open question gets
Unavailable and `on_closed` is called once; events are delivered in order, and answers before the events that follow them. Blocks never: what
the kernel does not take at once is queued. Absent: what is asked (`tasks`).
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

_CHUNK = 256 * 1024


class ShimConnection:
    """Takes over a connected socket. Set `on_event` and `on_closed` before the first question."""

    def __init__(self, channel: socket.socket) -> None:
        self.on_event: Callable[[dict[str, Any]], None] = lambda event: None
        self.on_closed: Callable[[], None] = lambda: None
        self._loop = asyncio.get_running_loop()
        self._socket = channel
        self._decoder = wire.Decoder()
        self._next_id = 1
        self._questions: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._queued: deque[tuple[bytes, list[int]]] = deque()
        """What is to be sent, with descriptors of our own that go along with the first byte."""
        channel.setblocking(False)
        if channel.fileno() >= 0:
            self._loop.add_reader(channel.fileno(), self._on_readable)

    @classmethod
    def closed(cls) -> ShimConnection:
        """A connection to nobody."""
        ours, theirs = socket.socketpair()
        theirs.close()
        connection = cls(ours)
        connection.close()
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

    def _on_readable(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, _CHUNK, wire.MAX_FDS)
            self._decoder.receive(data, fds)
            while (frame := self._decoder.next_frame()) is not None:
                message, attached = frame
                _close_all(attached)  # no message to us has any
                self._on_message(message)
        except BlockingIOError:
            return
        except (OSError, wire.FrameError):
            data = b""
        if not data:
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
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        _close_all(self._decoder.abandon())
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

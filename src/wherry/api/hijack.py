"""Connection upgrade: the client's HTTP connection becomes the raw stream of a process.

`hijack` takes the transport away from aiohttp, answers `101 UPGRADED` (or `200 OK` to clients that did not ask for an upgrade), and relays between
the client and the backend's socket until the output is complete, the client is gone, or the detach keys were typed.

**Invariants**
- Back-pressure both ways: neither side is read faster than the other takes; what is buffered in between is bounded.
- Half-close both ways: the client's end of input becomes SHUT_WR towards the process; the end of output becomes end of file at the client, and
  the connection stays until the client has read it. A client that is gone altogether is noticed although its input had ended before (EPOLLHUP).
- A process that no longer reads its input does not cost the output that it has already written.

The backend's side is driven by `recv` and `send` on the socket rather than by a transport, because a transport drops what it has not yet delivered
when a write fails.
"""

from __future__ import annotations

import asyncio
import fcntl
import select
import socket
import sys
import termios
from contextlib import aclosing
from typing import cast

from aiohttp import web

from wherry.api.call import Call
from wherry.api.connection import Connection, Ended
from wherry.api.detach import DetachScanner, parse_keys
from wherry.spec.calls import AttachedStream

CHUNK = 64 << 10
CLIENT_BUFFER = 256 << 10
"""Bytes waiting for the client above which the process's output is not read."""
LINGER_SECONDS = 10.0
"""How long a client may take to read the head, and to close its side once the output is complete."""

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"


def stream_type(call: Call, *, multiplexed: bool) -> str:
    return MULTIPLEXED_STREAM if multiplexed and call.version >= (1, 42) else RAW_STREAM


def upgrade(call: Call, *, multiplexed: bool) -> Relay:
    """Take the connection over and send the head. `Relay.run` or `Relay.end_with` must follow.

    Clients tell the head from the stream by reading what is there; so what starts a process sends the head before it does, as dockerd, and the
    stream begins when the head has been read, where the socket tells.
    """
    relay = Relay()
    relay.take_over(call.http, response_head(call, multiplexed=multiplexed))
    return relay


async def hijack(call: Call, stream: AttachedStream, *, stdin: bool, detach_keys: str = "") -> web.StreamResponse:
    """Relay `stream` over the call's connection until it ends. Owns `stream.socket` from here on."""
    try:
        relay = upgrade(call, multiplexed=stream.multiplexed)
    except BaseException:
        stream.socket.close()
        raise
    return await relay.run(stream, stdin=stdin, detach_keys=detach_keys)


def response_head(call: Call, *, multiplexed: bool) -> bytes:
    if "Upgrade" in call.http.headers:
        kind = stream_type(call, multiplexed=multiplexed)
        lines = ["HTTP/1.1 101 UPGRADED", f"Content-Type: {kind}", "Connection: Upgrade", "Upgrade: tcp"]
    else:
        lines = ["HTTP/1.1 200 OK", f"Content-Type: {RAW_STREAM}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in call.headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Relay(asyncio.Protocol):
    """The client's side is a transport (plain or TLS) that this is the protocol of; the process's side is `stream.socket`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream: AttachedStream | None = None
        self._process: socket.socket
        self._scanner: DetachScanner | None = None
        self._stdin_wanted = False
        self._stdin_ended = False
        self._pending = bytearray()  # input that the process's socket did not take yet
        self._reading_process = False
        self._writing_process = False
        self._client_paused = True
        self._client_writable = asyncio.Event()
        self._client_writable.set()
        self._replayed = False
        self._hangup: select.epoll | None = None
        self._output: select.epoll | None = None
        """Watches the process's socket. A poll of our own in between: for a socket that has an error (its peer was killed with input
        unread) libuv calls once more and then never again, so that the rest of the output, and the end, would be missed."""
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._client_closed: asyncio.Future[None] = self._loop.create_future()
        self._previous: asyncio.Protocol | None = None
        self._early = b""
        self._early_eof = False
        self._transport: asyncio.Transport

    # -- begin and end ---------------------------------------------------------------------------------------------------------------

    def take_over(self, http: web.BaseRequest, head: bytes) -> None:
        """From here on this is the connection's protocol; nothing is read from it yet. ConnectionResetError when the client has gone."""
        transport = http.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        connection = cast(Connection, http.protocol)
        self._early, self._early_eof = connection.take_early()
        self._previous = connection
        self._transport = transport
        self._transport.set_protocol(self)
        self._transport.set_write_buffer_limits(high=CLIENT_BUFFER)
        self._transport.write(head)
        self._transport.pause_reading()

    async def run(self, stream: AttachedStream, *, stdin: bool, detach_keys: str = "") -> web.StreamResponse:
        """Ends when the stream has ended and the client has read it, or is gone. Leaves no reader, writer or descriptor behind.

        Owns `stream.socket`. `stdin`: whether the client's bytes are input; otherwise they are read and dropped. `detach_keys` count on
        terminals only.
        """
        try:
            keys = parse_keys(detach_keys or stream.detach_keys)
            self._scanner = None if stream.multiplexed else DetachScanner(keys)
            self._stream, self._process, self._stdin_wanted = stream, stream.socket, stdin
            if self._early:
                self.data_received(self._early)
            if self._early_eof:
                self.eof_received()
            if not self._pending:
                self._resume_client()
            await self._head_is_read()
            if stream.replay is not None:
                async with aclosing(stream.replay) as replay:  # type: ignore[type-var]
                    async for piece in replay:
                        if self._finished.done():  # the client has gone while the log was read, or has detached
                            break
                        self._transport.write(piece)
                        await self._client_writable.wait()
            self._replayed = True
            self._read_process()
            await self._finished
            stream.socket.close()  # the process learns of it now, whatever the client does
            if not self._client_closed.done():
                await self._linger()
        finally:
            self._stop_reading_process()
            self._stop_writing_process()
            self._stop_hangup()
            stream.socket.close()
            self._transport.close()
        return Ended()

    async def _head_is_read(self) -> None:
        """Returns when the client has read the head, is gone, or takes LINGER_SECONDS for it.

        Some (docker-py) read the head through a buffer and the stream past it: what comes together with the head they lose. Only a unix socket
        tells, by the memory of what its peer has not read (SIOCOUTQ; each read wakes whoever waits to write: net/unix/af_unix.c).
        """
        descriptor = self._transport.get_extra_info("socket")
        if self._finished.done() or descriptor is None or descriptor.family != socket.AF_UNIX:
            return
        if self._is_all_read(descriptor):
            return
        is_read: asyncio.Future[None] = self._loop.create_future()
        with select.epoll(1, select.EPOLL_CLOEXEC) as reads:
            reads.register(descriptor.fileno(), select.EPOLLOUT | select.EPOLLET)  # told again at each read

            def look() -> None:
                reads.poll(0)
                if not (self._finished.done() or is_read.done()) and self._is_all_read(descriptor):
                    is_read.set_result(None)

            self._loop.add_reader(reads.fileno(), look)
            try:
                first = asyncio.FIRST_COMPLETED
                await asyncio.wait([is_read, self._finished], timeout=LINGER_SECONDS, return_when=first)
            finally:
                self._loop.remove_reader(reads.fileno())

    def _is_all_read(self, descriptor: socket.socket) -> bool:
        if self._transport.get_write_buffer_size():
            return False
        unread = int.from_bytes(fcntl.ioctl(descriptor.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return unread <= 1  # who is woken can look before the last byte of what was read is counted off (sock_wfree)

    async def end_with(self, data: bytes) -> web.StreamResponse:
        """There is no stream: some last words, and the end."""
        try:
            await self._head_is_read()
            self._finish()
            self._transport.write(data)
            await self._linger()
        finally:
            self._transport.close()
        return Ended()

    async def _linger(self) -> None:
        """End of file first, and closing only when the client has closed: what it has still under way must not reset what it has yet to read."""
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._resume_client()
            try:
                async with asyncio.timeout(LINGER_SECONDS):
                    await asyncio.shield(self._client_closed)
            except TimeoutError:
                pass

    def _finish(self) -> None:
        self._stop_reading_process()
        self._stop_writing_process()
        self._pending.clear()
        if not self._finished.done():
            self._finished.set_result(None)

    # -- the client's side -----------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if not self._stdin_wanted or self._stdin_ended or self._finished.done():
            return
        detached = False
        if self._scanner is not None:
            data, detached = self._scanner.feed(data)
        if data:
            self._write_process(data)
        if detached:
            self._stdin_ended = True
            if self._stream is not None and self._stream.on_detach is not None:
                self._stream.on_detach()
            self._finish()

    def eof_received(self) -> bool:
        if self._finished.done():
            self._mark_closed()
            return True
        self._watch_hangup()
        if self._stdin_wanted and not self._stdin_ended:
            if self._scanner is not None:
                self._write_process(self._scanner.flush())
            self._stdin_ended = True
            if not self._pending:
                self._shut_process()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._mark_closed()
        self._client_writable.set()
        self._finish()
        if self._previous is not None:
            previous, self._previous = self._previous, None
            previous.connection_lost(exc)

    def pause_writing(self) -> None:
        self._client_writable.clear()
        self._stop_reading_process()

    def resume_writing(self) -> None:
        if not self._client_writable.is_set():
            self._client_writable.set()
            if self._replayed:
                self._read_process()

    def _mark_closed(self) -> None:
        if not self._client_closed.done():
            self._client_closed.set_result(None)

    def _resume_client(self) -> None:
        if self._client_paused:
            self._client_paused = False
            self._transport.resume_reading()

    def _watch_hangup(self) -> None:
        """The client's end of input may be a half-close, or all that is seen of a client that left; only the kernel's HUP tells."""
        descriptor = self._transport.get_extra_info("socket")
        if descriptor is None or self._hangup is not None:
            return
        self._hangup = select.epoll(1, select.EPOLL_CLOEXEC)
        self._hangup.register(descriptor.fileno(), select.EPOLLET)  # HUP and ERR are always reported
        self._loop.add_reader(self._hangup.fileno(), self._hung_up)

    def _hung_up(self) -> None:
        self._stop_hangup()
        self._mark_closed()
        self._client_writable.set()
        self._finish()

    def _stop_hangup(self) -> None:
        if self._hangup is not None:
            self._loop.remove_reader(self._hangup.fileno())
            self._hangup.close()
            self._hangup = None

    # -- the process's side ----------------------------------------------------------------------------------------------------------

    def _read_process(self) -> None:
        if not self._reading_process and not self._finished.done() and self._client_writable.is_set():
            self._reading_process = True
            self._output = select.epoll(1, select.EPOLL_CLOEXEC)
            self._output.register(self._process.fileno(), select.EPOLLIN)
            self._loop.add_reader(self._output.fileno(), self._process_readable)

    def _stop_reading_process(self) -> None:
        if self._reading_process and self._output is not None:
            self._reading_process = False
            self._loop.remove_reader(self._output.fileno())
            self._output.close()
            self._output = None

    def _process_readable(self) -> None:
        try:
            data = self._process.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # the other side closed with input unread: all output had been read before the kernel says so
            data = b""
        if data:
            self._transport.write(data)
        else:
            self._finish()

    def _write_process(self, data: bytes) -> None:
        if not self._pending:
            sent = self._send(data)
            if sent == len(data):
                return
            data = data[sent:]
        self._pending += data
        if not self._writing_process:
            self._writing_process = True
            self._loop.add_writer(self._process.fileno(), self._process_writable)
        if not self._client_paused:
            self._client_paused = True
            self._transport.pause_reading()

    def _process_writable(self) -> None:
        del self._pending[: self._send(bytes(self._pending))]
        if not self._pending:
            self._stop_writing_process()
            self._resume_client()
            if self._stdin_ended:
                self._shut_process()

    def _send(self, data: bytes) -> int:
        """How much of it is done with: sent, or of no use because nobody reads it any more."""
        try:
            return self._process.send(data, socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self._stdin_wanted = False
            return len(data)

    def _stop_writing_process(self) -> None:
        if self._writing_process:
            self._writing_process = False
            self._loop.remove_writer(self._process.fileno())

    def _shut_process(self) -> None:
        try:
            self._process.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is closed already

"""A process's standard streams in the shim: read, logged, sent to whoever is attached; what those send goes to its stdin.

Runs in the shim. **Invariants**
- Output is written to the log and queued to the clients in the order in which it was read, before more of it is read.
- A client may lag by MAX_LAG bytes. Beyond that the process's output waits for it, as with dockerd; a client that takes nothing at all for
  STALL_SECONDS is cut off, so that nobody who has stopped reading holds up the container and its log for ever.
- A client's end (SHUT_WR) is the end of the process's stdin if the process was started so; its going away never ends the process.
- A client sees end of file after all output, never a reset: its own unread input is taken before its socket is closed.
- What has finished refers to nothing that refers to it: a shim collects no garbage, and has as many execs as somebody likes.

Absent: what a client is (a socket from the engine), and when a process has ended (`supervisor`).
"""

from __future__ import annotations

import os
from _socket import SHUT_RDWR
from _socket import socket as Socket

from wherry.shim.loop import GONE, READ, WRITE
from wherry.wire import stdcopy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.shim.jsonfile import JsonFileLog
    from wherry.shim.loop import Loop, Timer

CHUNK = 64 * 1024
MAX_LAG = 1024 * 1024
STALL_SECONDS = 10.0
FLUSH = 256 * 1024
_CUT_OFF = b"wherry: attached client does not read; cut off\n"


class Stdin:
    """The writing end of a process's stdin: takes all it is given, in order; `is_full` says when to wait.

    `on_change` is called when it has room again, and when it has been closed.
    """

    def __init__(self, loop: Loop, fd: int, on_change: Callable[[], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._on_change = on_change
        self._pending = b""
        self._ending = False
        os.set_blocking(fd, False)

    @property
    def is_full(self) -> bool:
        return bool(self._pending)

    @property
    def is_closed(self) -> bool:
        return self._fd < 0

    def write(self, data: bytes) -> None:
        """Call it when not `is_full`. Input for a process that has closed its end is dropped."""
        self._pending = data
        self._write()
        if self._pending:
            self._loop.watch(self._fd, WRITE, self._on_writable)

    def _write(self) -> None:
        try:
            self._pending = self._pending[os.write(self._fd, self._pending) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def _on_writable(self, events: int) -> None:
        self._write()
        if self._fd >= 0 and not self._pending:
            self._loop.forget(self._fd)
            if self._ending:
                self.close()
            else:
                self._on_change()

    def end(self) -> None:
        """Closes it once everything has been written."""
        if self._pending:
            self._ending = True
        else:
            self.close()

    def close(self) -> None:
        """Closes it now."""
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._pending = b""
            self._on_change()


class Client:
    """One attached connection. Owns its descriptor."""

    def __init__(self, streams: Streams, fd: int, *, stdin: bool, wants: tuple[int, ...]) -> None:
        self.wants = wants
        """The streams that it is sent; empty once it cannot be sent anything."""
        self._streams = streams
        self._fd = fd
        self._pending = bytearray()
        self._reads = stdin
        self._paused = False
        self._deaf = False
        """The peer takes nothing any more."""
        self._closing = False
        self._stalled: Timer | None = None
        self._watched = 0
        os.set_blocking(fd, False)
        streams.loop.watch(fd, 0, self._on_event)
        self._update()

    def send(self, stream: int, data: bytes) -> None:
        """Queues output. Beyond MAX_LAG, the streams are told to wait."""
        pieces = [data] if self._streams.raw else [stdcopy.header(stream, len(data)), data]
        written = 0
        if not self._pending:
            try:
                written = os.writev(self._fd, pieces)
            except BlockingIOError:
                pass
            except OSError:
                self._lose_output()
                return
        for piece in pieces:
            if written < len(piece):
                self._pending += piece[written:] if written else piece
            written = max(written - len(piece), 0)
        if self._pending:
            if len(self._pending) > MAX_LAG and self._stalled is None:
                self._restart_stall_timer()
                self._streams.hold(self)
            self._update()

    def finish(self) -> None:
        """No more output comes: closes once what is queued has been sent."""
        self._reads = False
        if not self._pending:
            self.close()
            return
        self._closing = True
        self._restart_stall_timer()
        self._update()

    def resume_input(self) -> None:
        """There is room for input again."""
        self._paused = False
        self._update()

    def end_input(self) -> None:
        """The process takes no input any more."""
        self._reads = False
        if self._deaf:
            self.close()
        elif self._fd >= 0:
            self._update()

    def close(self) -> None:
        """Ends the connection; what is queued is dropped."""
        if self._fd < 0:
            return
        self._release()
        self._streams.loop.forget(self._fd)
        connection = Socket(fileno=self._fd)
        self._fd = -1
        self._pending.clear()
        try:
            connection.shutdown(SHUT_RDWR)
            while connection.recv(CHUNK):  # unread input would reach the client as ECONNRESET
                pass
        except OSError:
            pass
        connection.close()
        self._streams.lose(self)

    def _update(self) -> None:
        """Watches for what can happen now. A deaf peer is not watched without a wish: GONE would be reported for ever."""
        events = (READ if self._reads and not self._paused else 0) | (WRITE if self._pending else 0)
        wish = -1 if self._deaf and not events else events
        if wish == self._watched:
            return
        loop = self._streams.loop
        if wish < 0:
            loop.forget(self._fd)
        elif self._watched < 0:
            loop.watch(self._fd, wish, self._on_event)
        else:
            loop.change(self._fd, wish)
        self._watched = wish

    def _on_event(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if self._fd < 0:
            return
        if events & READ and self._reads and not self._paused:
            self._read()
        elif events & GONE:
            self._lose_output()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._paused = not self._streams.on_input(data)
            if self._fd >= 0:
                self._update()
        else:
            self.end_input()
            self._streams.on_input_end()

    def _flush(self) -> None:
        try:
            with memoryview(self._pending) as view:
                written = os.write(self._fd, view[:FLUSH])
        except BlockingIOError:
            return
        except OSError:
            self._lose_output()
            return
        del self._pending[:written]
        if not self._pending and self._closing:
            self.close()
            return
        if self._stalled is not None:
            if self._closing or len(self._pending) > MAX_LAG // 2:
                self._restart_stall_timer()
            else:
                self._release()
        self._update()

    def _restart_stall_timer(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
        self._stalled = self._streams.loop.call_later(STALL_SECONDS, self._cut_off)

    def _release(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        self._streams.release(self)

    def _cut_off(self) -> None:
        """It has taken nothing for too long. What is queued stays, with an error after it, in case it reads again."""
        self._stalled = None
        if self._closing:
            self.close()
            return
        self.wants = ()
        self._reads = False
        self._closing = True
        if not self._streams.raw:
            self._pending += stdcopy.frame(stdcopy.SYSTEM_ERROR, _CUT_OFF)
        self._update()
        self._streams.release(self)

    def _lose_output(self) -> None:
        """The peer is gone, or takes no more output. Input that it has sent is still read to its end."""
        self.wants = ()
        self._deaf = True
        self._pending.clear()
        self._release()
        if self._closing or not self._reads:
            self.close()
        else:
            self._update()


class Output:
    """The reading end of stdout, of stderr, or of a terminal."""

    def __init__(self, streams: Streams, stream: int, fd: int) -> None:
        self._streams = streams
        self._stream = stream
        self.fd = fd
        os.set_blocking(fd, False)

    def watch(self) -> None:
        if self.fd >= 0:
            self._streams.loop.watch(self.fd, READ, self._on_readable)

    def unwatch(self) -> None:
        if self.fd >= 0:
            self._streams.loop.forget(self.fd)

    def _on_readable(self, events: int) -> None:
        self.read()

    def read(self) -> bool:
        """One piece of output, if there is any: whether there was."""
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: nobody has the terminal's other end open
            data = b""
        if data:
            self._streams.on_output(self._stream, data)
            return True
        self.close()
        self._streams.on_output_end()
        return False

    def close(self) -> None:
        if self.fd >= 0:
            self.unwatch()
            os.close(self.fd)
            self.fd = -1


class Streams:
    """`Streams(loop, outputs=[(stream, fd)], stdin_fd=…, raw=terminal, log=…)`; owns the descriptors.

    `ends_with_client`: the end of a client's input is the end of stdin. `log` is the caller's to close.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        outputs: list[tuple[int, int]],
        stdin_fd: int | None,
        raw: bool,
        log: JsonFileLog | None = None,
        ends_with_client: bool = False,
    ) -> None:
        self.loop = loop
        self.raw = raw
        self._log = log
        self._ends_with_client = ends_with_client
        self._clients: list[Client] = []
        self._holding: list[Client] = []
        self._stdin = None if stdin_fd is None else Stdin(loop, stdin_fd, self._on_stdin_change)
        self._outputs = [Output(self, stream, fd) for stream, fd in outputs]
        self._finished = False
        self.when_at_end: Callable[[], None] | None = None
        """Called when nobody can write output any more."""
        self.when_detached: Callable[[], None] | None = None
        """Called when the last client has gone."""
        for output in self._outputs:
            output.watch()

    @property
    def at_end(self) -> bool:
        """Whether nobody can write output any more."""
        return all(output.fd < 0 for output in self._outputs)

    @property
    def console(self) -> int | None:
        """The terminal's master while it is open."""
        return self._outputs[0].fd if self.raw and self._outputs and self._outputs[0].fd >= 0 else None

    @property
    def has_clients(self) -> bool:
        return bool(self._clients)

    def attach(self, fd: int, *, stdin: bool, stdout: bool, stderr: bool) -> None:
        """Connects a client: it gets what is output from now on. Takes the descriptor over."""
        wants = ((1,) if stdout else ()) + ((2,) if stderr and not self.raw else ())
        reads = stdin and self._stdin is not None and not self._stdin.is_closed
        client = Client(self, fd, stdin=reads, wants=wants)
        self._clients.append(client)
        if self._finished:
            client.finish()
        elif stdin and not reads and not wants:
            client.close()

    def close_stdin(self) -> None:
        """The process reads end of file once it has read what was sent before."""
        if self._stdin is not None and not self.raw:
            self._stdin.end()

    def drain(self) -> None:
        """Reads all output that is there now, held up or not."""
        for output in self._outputs:
            while output.fd >= 0 and output.read():
                pass

    def detach_all(self) -> None:
        """Lets the clients go once they have been sent what is queued; output is read on, for the log."""
        for client in list(self._clients):
            client.finish()
        self._finished = True

    def finish(self) -> None:
        """The process has ended and `drain` was called: no output comes any more. Clients go when they have been sent everything."""
        for output in self._outputs:
            output.close()
        self._outputs.clear()
        if self._stdin is not None:
            self._stdin.close()
            self._stdin = None
        if self._log is not None:
            self._log.finish()
        self.detach_all()

    def on_output(self, stream: int, data: bytes) -> None:
        if self._log is not None:
            self._log.write(stream, data)
        for client in list(self._clients):
            if stream in client.wants:
                client.send(stream, data)

    def on_output_end(self) -> None:
        if self.at_end and self.when_at_end is not None:
            self.when_at_end()

    def on_input(self, data: bytes) -> bool:
        """Input from a client: whether it may send more at once."""
        stdin = self._stdin
        if stdin is None or stdin.is_closed:
            return False
        stdin.write(data)
        return not stdin.is_full

    def on_input_end(self) -> None:
        if self._stdin is not None and self._ends_with_client and not self.raw:
            self._stdin.end()

    def _on_stdin_change(self) -> None:
        ended = self._stdin is None or self._stdin.is_closed
        for client in list(self._clients):
            if ended:
                client.end_input()
            else:
                client.resume_input()

    def hold(self, client: Client) -> None:
        """Stops reading output until `release`: `client` lags."""
        if not self._holding:
            for output in self._outputs:
                output.unwatch()
        self._holding.append(client)

    def release(self, client: Client) -> None:
        if client in self._holding:
            self._holding.remove(client)
            if not self._holding:
                for output in self._outputs:
                    output.watch()

    def lose(self, client: Client) -> None:
        if client in self._clients:
            self._clients.remove(client)
            if not self._clients and self.when_detached is not None:
                self.when_detached()

"""A process's standard streams and this terminal's, joined: output copied, stdin pumped and half-closed, raw mode, detach keys, window size, signals.

Output is copied by the main thread; stdin by a second thread (`_thread`, which the process does not wait for at its end). Signal handlers run in the
main thread between its system calls, on a session of their own.
"""

from __future__ import annotations

import os

from wherry.client.stdcopy import STDERR, Demultiplexer
from wherry.errors import WherryError

from .app import write_all
from .command import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wherry.client.http import Stream

    from .app import App

_PIECE = 1 << 16
_DEFAULT_DETACH = b"\x10\x11"  # ctrl-p,ctrl-q
_SIGINT, _SIGTERM, _SIGWINCH = 2, 15, 28
_OWN_SIGNALS = frozenset(
    (4, 5, 7, 8, 11)  # faults of this process
    + (9, 19)  # not to be caught
    + (13, 17, 23, _SIGWINCH)  # PIPE, CHLD, URG
    + (20, 21, 22)  # job control of the shell
    + (32, 33)  # the C library's
)


def check_tty(*, attach_stdin: bool, tty: bool) -> None:
    """A terminal inside needs a terminal here, if its stdin is to come from here."""
    if attach_stdin and tty and not os.isatty(0):
        raise CliError("the input device is not a TTY")


def window_size() -> tuple[int, int]:
    """(height, width) of the terminal on stdout, (0, 0) if there is none."""
    try:
        size = os.get_terminal_size(1)
        return size.lines, size.columns
    except OSError:
        return 0, 0


class DetachFilter:
    """Looks for the detach keys in what is typed; holds back what may be their beginning."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what to send on, whether the keys are complete)."""
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(out), True
                continue
            out += self._keys[: self._matched]
            self._matched = 0
            if byte == self._keys[0]:
                self._matched = 1
            else:
                out.append(byte)
        return bytes(out), False


class Terminal:
    """This process's terminal in raw mode, and back."""

    def __init__(self) -> None:
        self._saved: list[tuple[int, list[Any]]] = []

    def make_raw(self) -> None:
        """stdin raw, so that keys reach the process inside; output processing off on stdout, since the inner terminal does it."""
        import termios as t

        for fd in (0, 1):
            if not os.isatty(fd):
                continue
            attributes = t.tcgetattr(fd)
            self._saved.append((fd, [*attributes[:6], list(attributes[6])]))
            if fd == 0:
                attributes[0] &= ~(t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON)
                attributes[1] &= ~t.OPOST
                attributes[2] = (attributes[2] & ~(t.CSIZE | t.PARENB)) | t.CS8
                attributes[3] &= ~(t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN)
                attributes[6][t.VMIN], attributes[6][t.VTIME] = 1, 0
            else:
                attributes[1] &= ~t.OPOST
            t.tcsetattr(fd, t.TCSANOW, attributes)

    def restore(self) -> None:
        """As it was. Safe to call more than once, and from the other thread."""
        import termios

        while self._saved:
            fd, attributes = self._saved.pop()
            try:
                termios.tcsetattr(fd, termios.TCSADRAIN if fd else termios.TCSANOW, attributes)
            except OSError:
                pass  # the terminal is gone


class Streamer:
    """Joins a hijacked connection to this process's streams. `copy` blocks until the output has ended; `detached` tells why."""

    def __init__(
        self, stream: Stream, *, stdin: bool, stdout: bool, stderr: bool, tty: bool, detach_keys: bytes | None = None
    ) -> None:
        self.stream = stream
        self.detached = False
        self._stdin = stdin
        self._stdout = stdout
        self._stderr = stderr
        self._tty = tty
        self._keys = detach_keys or _DEFAULT_DETACH
        self._terminal = Terminal()

    def start_input(self) -> None:
        """Begins to pump stdin; with a terminal, in raw mode."""
        if self._stdin:
            if self._tty:
                self._terminal.make_raw()
            from _thread import start_new_thread

            start_new_thread(self._pump, ())
        elif not self._tty:
            self.stream.close_write()

    def _pump(self) -> None:
        from _signal import SIG_BLOCK, pthread_sigmask, valid_signals  # type: ignore[import-not-found]

        pthread_sigmask(SIG_BLOCK, valid_signals())  # they are the main thread's, which they wake
        keys = DetachFilter(self._keys) if self._tty else None
        try:
            while data := os.read(0, _PIECE):
                if keys is not None:
                    data, complete = keys.feed(data)
                    if data:
                        self.stream.send(data)
                    if complete:
                        self.detached = True
                        self._terminal.restore()
                        self.stream.sock.shutdown(2)  # wakes the main thread
                        return
                else:
                    self.stream.send(data)
        except OSError:
            return  # the process is gone; the main thread sees it too
        self.stream.close_write()

    def copy(self) -> None:
        """Output until its end."""
        try:
            if self._tty:
                self._copy_raw()
            else:
                self._copy_frames()
        except OSError:
            if not self.detached:
                raise
        finally:
            self._terminal.restore()
            if not self.detached:
                self.stream.close()

    def _copy_raw(self) -> None:
        while data := self.stream.receive(_PIECE):
            if self._stdout:
                write_all(1, data)

    def _copy_frames(self) -> None:
        demultiplexer = Demultiplexer()
        while data := self.stream.receive(_PIECE):
            for number, payload in demultiplexer.feed(data):
                if number == STDERR:
                    if self._stderr:
                        write_all(2, payload)
                elif self._stdout:
                    write_all(1, payload)

    def abandon(self) -> None:
        """Gives the connection up; the terminal is as it was."""
        self._terminal.restore()
        self.stream.close()


def forward_signals(app: App, container_id: str) -> None:
    """From now on, what is sent to this process is sent to the container instead, but for what a process uses for itself.

    A third SIGINT or SIGTERM ends this process, for containers that heed neither.
    """
    from _signal import NSIG, signal

    endings = 0

    def forward(number: int, _frame: object) -> None:
        nonlocal endings
        endings += number in (_SIGINT, _SIGTERM)
        if endings == 3:
            app.err("\ngot 3 SIGTERM/SIGINTs, forcefully exiting\n")
            os._exit(1)
        try:
            with app.another_session() as session:
                from wherry.client.containers import Containers

                Containers(session).kill(container_id, signal=str(number))
        except WherryError as error:
            app.log(f"sending signal {number}: {error}")

    for number in range(1, NSIG):
        if number not in _OWN_SIGNALS:
            signal(number, forward)


def follow_window_size(app: App, resize: Callable[[App, int, int], None]) -> None:
    """Gives the terminal inside this window's size, now and at every change. `resize` gets (app, height, width)."""
    from _signal import signal

    def tell(*_: object) -> None:
        height, width = window_size()
        if height or width:
            try:
                resize(app, height, width)
            except WherryError as error:
                app.log(f"resize: {error}")

    signal(_SIGWINCH, tell)
    tell()


def resize_container(container_id: str) -> Callable[[App, int, int], None]:
    def resize(app: App, height: int, width: int) -> None:
        from wherry.client.containers import Containers

        with app.another_session() as session:
            Containers(session).resize(container_id, height=height, width=width)

    return resize


def resize_exec(exec_id: str) -> Callable[[App, int, int], None]:
    def resize(app: App, height: int, width: int) -> None:
        from wherry.client.containers import Containers

        with app.another_session() as session:
            Containers(session).exec_resize(exec_id, height=height, width=width)

    return resize

"""A container's process in the foreground: its signals, its terminal, its exit status.

Without a terminal the process has our own standard streams and there is nothing to relay: we wait, and pass signals
on. With one, bytes go between our terminal, in raw mode, and the container's; a change of size goes along.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found,unused-ignore]  # the C half of signal, which would import enum
import os

from wherry.errors import InvalidArgument
from wherry.runtime import interrupts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

# Not passed on: what concerns our own children and terminal, what cannot be caught, and SIGURG, SIGPIPE, which mean
# our own descriptors.
_KEPT = (_signal.SIGCHLD, _signal.SIGURG, _signal.SIGPIPE, _signal.SIGWINCH, _signal.SIGKILL, _signal.SIGSTOP)
_WIDE = 32768
_TIOCGWINSZ, _TIOCSWINSZ = 0x5413, 0x5414
_PR_SET_CHILD_SUBREAPER = 36


class Foreground:
    """Made before the process is, so that no signal is lost: those that come early are passed on when `wait` begins. Those that end the making
    are `interrupts`' until it gives them to `pass_on`.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._early: list[int] = []
        self._resized = False
        for number in range(1, 32):
            if number not in _KEPT and _signal.getsignal(number) not in (_signal.SIG_IGN, interrupts.note):
                _signal.signal(number, self.pass_on)

    def pass_on(self, number: int, _frame: FrameType | None) -> None:
        if not self._pid:
            self._early.append(number)
            return
        try:
            os.kill(self._pid, number)
        except ProcessLookupError:
            pass

    def wait(self, pid: int, console: int | None) -> int:
        """The status of `pid`, a child of ours: its exit code, or 128+n for signal n. `console` is the master of its
        terminal, which is closed.
        """
        self._pid = pid
        for number in self._early:
            self.pass_on(number, None)
        if console is not None:
            with _Terminal(console) as terminal:
                terminal.relay(pid)
        while True:
            done, status = os.waitpid(-1, 0)  # as a subreaper, others' orphans end here too
            if done == pid:
                self._pid = 0  # soon somebody else's
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def become_subreaper() -> None:
    """Orphans of the container, where it has no pid namespace of its own, become our children, so that they can be
    waited for.
    """
    from wherry.linux import syscalls

    syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 1, subject="child subreaper")


def require_terminal_or_socket(*, terminal: bool, detached: bool, socket: str) -> None:
    """runc's rules for who gets the terminal's master."""
    if terminal and detached and not socket:
        raise InvalidArgument("cannot allocate tty if runc will detach without setting console socket")
    if socket and not (terminal and detached):
        raise InvalidArgument("cannot use console socket if runc will not detach or allocate tty")


def send_console(path: str, console: int) -> None:
    """Hands the terminal's master to whoever listens at the AF_UNIX socket `path` (runc's terminals.md: one message,
    the tty's name and the descriptor).
    """
    send_descriptor(path, os.readlink(f"/proc/self/fd/{console}").encode(), console, "--console-socket")


def send_descriptor(path: str, text: bytes, fd: int, option: str) -> None:
    """One message with one descriptor to whoever listens at the AF_UNIX socket `path`. InvalidArgument naming `option`."""
    import _socket

    peer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        with interrupts.waiting:
            peer.connect(path)
        peer.sendmsg([text], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, _byteorder()))])
    except OSError as error:
        raise InvalidArgument(f"{option} {path}: {(error.strerror or '').lower()}") from None
    finally:
        peer.close()


def _byteorder() -> Any:
    import sys

    return sys.byteorder


class _Terminal:
    """Our terminal in raw mode (if stdin is one), and the container's master."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._saved: list[Any] | None = None

    def __enter__(self) -> _Terminal:
        import termios

        try:
            self._saved = termios.tcgetattr(0)
        except termios.error:
            return self
        raw = termios.tcgetattr(0)
        raw[0] &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        raw[1] |= termios.OPOST | termios.ONLCR  # as the container's terminal adds no carriage returns
        raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        termios.tcsetattr(0, termios.TCSANOW, raw)
        self._resize()
        _signal.signal(_signal.SIGWINCH, lambda *_: self._resize())
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            import termios

            _signal.signal(_signal.SIGWINCH, _signal.SIG_DFL)
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
        os.close(self._master)

    def _resize(self) -> None:
        import fcntl

        try:
            fcntl.ioctl(self._master, _TIOCSWINSZ, fcntl.ioctl(0, _TIOCGWINSZ, bytes(8)))
        except OSError:
            pass  # not a terminal any more

    def relay(self, pid: int) -> None:
        """Until the process has ended and all of its output is written."""
        import select

        pidfd = os.pidfd_open(pid)
        os.set_blocking(self._master, False)
        poller = select.poll()
        poller.register(self._master, select.POLLIN)
        poller.register(0, select.POLLIN)
        poller.register(pidfd, select.POLLIN)
        pending = b""
        ended = False
        try:
            while True:
                ready = dict(poller.poll(0 if ended else None))
                if pidfd in ready:
                    ended = True
                    poller.unregister(pidfd)
                if ready.get(self._master, 0) & select.POLLOUT:
                    pending = pending[_try_write(self._master, pending) :]
                elif self._master in ready:
                    output = _try_read(self._master)
                    if not output:
                        return
                    _write_all(1, output)
                elif ended:
                    return
                if 0 in ready and not pending:
                    pending = _try_read(0)
                    if not pending:
                        poller.unregister(0)
                    pending = pending[_try_write(self._master, pending) :]
                # what the container does not read yet waits, and our reading of stdin with it
                poller.modify(self._master, select.POLLIN | (select.POLLOUT if pending else 0))
        finally:
            os.close(pidfd)


def _try_read(fd: int) -> bytes:
    """Bytes, or none at the end: EIO is a terminal whose other side has closed."""
    try:
        return os.read(fd, _WIDE)
    except OSError:
        return b""


def _try_write(fd: int, data: bytes) -> int:
    """How much was taken. All, when nobody will ever read it."""
    try:
        return os.write(fd, data) if data else 0
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            import select

            select.select([], [fd], [])
        except OSError:
            return

"""A criu at work for us: started as `criu swrk`, asked one thing over a socket, its notifications answered.

    with Session(…) as session: session.ask(request, on_notify)

Runs in `wherry-runc`. Source: criu's images/rpc.proto, criu/cr-service.c. **Invariants:** criu has no descriptor of
ours but those it is given, and an environment of PATH alone, so that no configuration of a user's home counts; when
the session ends, whatever the reason, criu has ended too. Absent: `criu service` (a daemon for others), criu's
command line.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import struct

from wherry.errors import FailedPrecondition, StartError, SyscallError
from wherry.linux import namespaces, syscalls
from wherry.runtime import channel as messages
from wherry.runtime import criu_rpc as rpc
from wherry.runtime import process, spawn
from wherry.runtime.init import announce

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SOCKET = 3
FIRST = 4
"""The number that the first of the descriptors that criu is given has there."""
_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TOO_LATE = "pre-resume"
_SIGKILL = 9
_LOG_LIMIT = 1 << 20
_QUOTED = 8


class Session:
    """One criu. `prepare` runs in the process that becomes it, in new namespaces where `flags` says so, with `stdio` as 0, 1, 2 and
    `keep` as its other descriptors; what it returns criu finds at the numbers from FIRST on, and nothing else.

    FailedPrecondition when there is no criu, StartError when `prepare` fails.
    """

    def __init__(
        self,
        program: str = "",
        *,
        stdio: tuple[int, int, int] | None = None,
        flags: int = 0,
        cgroup_fd: int | None = None,
        prepare: Callable[[], list[int]] | None = None,
        keep: tuple[int, ...] = (),
    ) -> None:
        path = find(program)
        self.pid = self._pidfd = -1
        self._socket: _socket.socket | None = None
        ours, theirs = messages.pair()
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            self.pid, self._pidfd = namespaces.clone(flags, cgroup_fd=cgroup_fd)
            if self.pid == 0:
                spawn.guard(lambda end: _become(path, stdio or (null, null, null), prepare, keep, end), theirs)
            theirs.close()
            self._socket = _await_exec(ours)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(null)
            theirs.close()
            ours.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(
        self, request: dict[str, Any], on_notify: Callable[[str, int, int | None], None] | None = None
    ) -> dict[str, Any]:
        """Sends `request` and returns criu's answer to it.

        Every notification on the way is passed on: (name of the script, pid, descriptor that came along, to be closed
        there). One that raises ends the work: criu undoes what it did. At pre-resume it would not, nor end when the processes that it
        traces have been killed: there it is killed, after the one who raised has killed them. FailedPrecondition when criu says no.
        """
        self._send(request)
        while True:
            response, fd = self._receive()
            kind = response.get("type", 0)
            if kind != rpc.NOTIFY or not response.get("success"):
                if fd is not None:
                    os.close(fd)
                break
            notify = response.get("notify", {})
            if on_notify is None:
                if fd is not None:
                    os.close(fd)
            else:
                try:
                    on_notify(notify.get("script", ""), notify.get("pid", 0), fd)
                except BaseException:
                    if notify.get("script") == _TOO_LATE:
                        namespaces.send_signal(self._pidfd, _SIGKILL)
                    else:
                        self._send({"type": rpc.NOTIFY, "notify_success": False})
                    self._drain()
                    raise
            self._send({"type": rpc.NOTIFY, "notify_success": True})
        if not response.get("success"):
            reason = f": {response['cr_errmsg']}" if response.get("cr_errmsg") else ""
            raise FailedPrecondition(
                f"criu failed: type {rpc.TYPES.get(kind, kind)} errno {response.get('cr_errno', 0)}{reason}"
            )
        return response

    def _send(self, request: dict[str, Any]) -> None:
        assert self._socket is not None
        try:
            self._socket.sendmsg([rpc.encode(request)], [], _socket.MSG_NOSIGNAL)
        except OSError as error:
            raise FailedPrecondition(f"criu has ended: {(error.strerror or '').lower()}") from None

    def _receive(self) -> tuple[dict[str, Any], int | None]:
        assert self._socket is not None
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(rpc.LIMIT, _socket.CMSG_LEN(4), _socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise FailedPrecondition(f"criu has ended: {(error.strerror or '').lower()}") from None
        fd = None
        for level, kind, payload in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS and len(payload) >= 4:
                fd = int(struct.unpack_from("i", payload)[0])
        if not data or flags & _socket.MSG_TRUNC:
            raise FailedPrecondition("criu has ended without an answer" if not data else "criu's answer is too long")
        return rpc.decode(data), fd

    def _drain(self) -> None:
        """Lets criu undo its work; its last words are not needed."""
        assert self._socket is not None
        try:
            while self._socket.recv(rpc.LIMIT):
                pass
        except OSError:
            pass

    def close(self) -> None:
        """Ends the session: criu sees the closed socket, finishes and is reaped."""
        if self._socket is not None:
            self._socket.close()
        if self.pid > 0:
            try:
                os.waitpid(self.pid, 0)
            except ChildProcessError:
                pass
            os.close(self._pidfd)
            self.pid = self._pidfd = -1


def find(program: str = "") -> bytes:
    """The path of criu: `program` if it is given, else the first in the usual directories. FailedPrecondition when there is none."""
    for directory in ("",) if program else os.fsdecode(_PATH).split(":"):
        path = program or f"{directory}/criu"
        if os.path.isabs(path) and os.access(path, os.X_OK):
            return os.fsencode(path)
    raise FailedPrecondition(f"{program or 'criu'} not found: checkpoint and restore need CRIU (package criu)")


def _become(
    path: bytes,
    stdio: tuple[int, int, int],
    prepare: Callable[[], list[int]] | None,
    keep: tuple[int, ...],
    channel: _socket.socket,
) -> None:
    """The process that will be criu. The socket is made here: criu takes the numbers of descriptors in a request for those of the process
    that has made it (SO_PEERCRED), so they are its own, of its own mount namespace."""
    process.install_stdio(stdio)
    process.close_descriptors([*keep, channel.fileno()])
    end = _moved(channel.fileno())
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    given = [_moved(fd) for fd in (theirs.fileno(), *(prepare() if prepare is not None else ()))]
    messages.send(channel, messages.READY, ours.fileno())
    for number, fd in enumerate(given, _SOCKET):
        os.dup2(fd, number, inheritable=True)
    process.close_descriptors([end], first=_SOCKET + len(given))
    announce(_socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, end))
    process.reset_signals()
    try:
        syscalls.execve(path, [b"criu", b"swrk", b"%d" % _SOCKET], [b"PATH=" + _PATH])
    except SyscallError as error:
        os.write(2, f"exec {os.fsdecode(path)}: {os.strerror(error.errno).lower()}\n".encode())
    os._exit(127)


def _moved(fd: int) -> int:
    """A copy with a number above those that criu's descriptors are to have."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)


def _await_exec(channel: _socket.socket) -> _socket.socket:
    """Our end of criu's socket."""
    found = None
    while True:
        message, fd = messages.receive(channel)
        if fd is not None:
            found = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd)
        if message[:1] == messages.FAILED:
            raise messages.read_failure(message)
        if message[:1] == messages.EXEC and found is not None:
            return found
        if not message:
            raise StartError("criu", "the process that becomes criu died", 0)


def errors_of(log: str) -> str:
    """The lines of criu's log that say what went wrong: the last few of those with "Error"."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_LIMIT))
            lines = file.read(_LOG_LIMIT).splitlines()
    except OSError:
        return ""
    found = [line.decode("utf-8", "replace") for line in lines if b"Error" in line]
    return "\n".join(found[-_QUOTED:])

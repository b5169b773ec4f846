"""Counts what an engine and its workers are about to change on disk, and at the change of a given number kills them, stops everything, or has the
disk fail. Runs beside the engine, in the process of the test; the product knows nothing of it.

    points = Points(root)
    process = points.launch([*ENGINE, "--data-root=…", …], env=…)      # as subprocess.Popen
    points.arm(7); …; points.disarm()

The engine puts itself below a seccomp filter (`engine`, `calls`), which its workers inherit: a thread that is about to change a file below `root`
waits until one thread here has counted its call and let it go on. So the count has one owner, however many processes and threads there are, and what
SQLite and other libraries do is counted with the rest. Source: seccomp_unotify(2); Linux 5.19.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from tests.crash.calls import Call, Change, name_of

_RECEIVE, _ANSWER = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND
_NOTICE = struct.Struct("=QIIiIQ6Q")
_REPLY = struct.Struct("=QqiI")
_CONTINUE = 1
ENGINE = (sys.executable, "-m", "tests.crash.engine")
HALTED = "tests.crash: halted"


class End(enum.Enum):
    KILL = "SIGKILL of the engine, and of the process that came there"
    HALT = "a line on the console, and no change any more by anybody; whoever reads the line cuts the power"
    NO_SPACE = "ENOSPC for all that needs room, from there on"
    IO_ERROR = "EIO, once"


class Points:
    """Of one engine after another. `unknown`: calls that nobody has classified; a test is to find it empty."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.unknown: set[str] = set()
        self.last = ""
        """The call that was the end."""
        self.names: list[str] = []
        """Of the calls counted since `arm`."""
        self._lock = threading.Lock()
        self._engine = 0
        self._count: int | None = None
        self._target = 0
        self._end = End.KILL

    def launch(self, command: list[str], *, env: Mapping[str, str], **options: Any) -> subprocess.Popen[bytes]:
        """`subprocess.Popen(command)` of a process that calls `engine.go_below_the_filter`: watched from then until its last child has ended."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                told = {**env, "WHERRY_POINTS": str(theirs.fileno()), "UV_USE_IO_URING": "0"}
                process = subprocess.Popen(command, env=told, pass_fds=[theirs.fileno()], **options)
            _, listeners, _, _ = socket.recv_fds(ours, 1, 1)
        if not listeners:
            raise ChildProcessError("the process ended before it was watched")
        with self._lock:
            self._engine = process.pid
            self._count = None
        threading.Thread(target=self._watch, args=[*listeners, process.pid], daemon=True).start()
        return process

    def arm(self, target: int = 0, end: End = End.KILL) -> None:
        """The n-th change from now on is the end; 0 only counts."""
        with self._lock:
            self._count, self._target, self._end, self.last = 0, target, end, ""
            self.names.clear()

    def disarm(self) -> int:
        """→ how many there were."""
        with self._lock:
            count, self._count = self._count, None
            return count or 0

    def _watch(self, listener: int, engine: int) -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        try:
            while poll.poll()[0][1] & select.POLLIN:
                notice = bytearray(_NOTICE.size)
                try:
                    fcntl.ioctl(listener, _RECEIVE, notice)
                except OSError:
                    continue  # it was killed meanwhile
                number, pid, _, call, _, _, *arguments = _NOTICE.unpack(notice)
                error = self._decide(Call(pid, name_of(call), tuple(arguments)), engine)
                if error is None:
                    continue
                try:
                    fcntl.ioctl(listener, _ANSWER, _REPLY.pack(number, 0, -error, 0 if error else _CONTINUE))
                except OSError:
                    continue
        finally:
            os.close(listener)

    def _decide(self, call: Call, engine: int) -> int | None:
        """→ the error that it is answered with; 0: it is carried out; None: it never is."""
        try:
            change = call.changes(self.root)
        except OSError:
            return 0  # the process is gone
        except LookupError as error:
            self.unknown.add(str(error))
            return 0
        with self._lock:
            if change is None or self._count is None or engine != self._engine:
                return 0
            self._count += 1
            self.names.append(call.name)
            if not self._target or self._count < self._target:
                return 0
            return self._reach(call, change)

    def _reach(self, call: Call, change: Change) -> int | None:
        self.last = self.last or call.told()
        match self._end:
            case End.KILL:
                self._count = None
                for pid in (self._engine, call.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                return None
            case End.HALT:
                if self._target % 2 == 0:
                    _bring_names_to_disk(os.path.dirname(self.root))
                os.write(os.open("/dev/console", os.O_WRONLY), f"{HALTED}\n".encode())
                threading.Event().wait()
                return None
            case End.NO_SPACE:
                return errno.ENOSPC if change.room else 0
            case End.IO_ERROR:
                return errno.EIO if self._count == self._target else 0


def _bring_names_to_disk(directory: str) -> None:
    """With the name of one new file that is synced ext4 writes all names, and not what is in the files."""
    path = os.path.join(directory, f"names-{os.urandom(8).hex()}")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.fsync(fd)
    os.close(fd)

"""Counts what a process changes on disk, and ends everything just before the change of a given number. Loaded into wherryd and its unpack workers by
`tests.crash.engine`; the product knows nothing of it.

The counter is a file that all processes have mapped: they and the test share it. A point is a system call that changes a file system, made by Python,
and the beginning and the end of a transaction of the database. `WHERRY_POINTS` names the file; `WHERRY_POINTS_END` says what the end is: "kill"
(SIGKILL of the engine, and of the worker that came there), or "halt": a line on standard output, and nothing more from this process; whoever reads
the line cuts the power.
"""

from __future__ import annotations

import mmap
import os
import signal
import stat
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

_LAYOUT = struct.Struct("=QQQQ")  # armed, count, target, the engine's pid
_CALLS = (
    *("rename", "replace", "link", "symlink", "unlink", "remove", "mkdir", "rmdir", "mknod", "truncate", "ftruncate"),
    *("fsync", "fdatasync", "chmod", "fchmod", "chown", "fchown", "utime", "setxattr", "removexattr"),
)
_WRITES = ("write", "pwrite")
HALTED = "tests.crash: halted"


class Counter:
    """The shared file. `arm(n)` makes the n-th point from now the end; n = 0 only counts."""

    def __init__(self, path: str) -> None:
        self.path = path
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(fd, _LAYOUT.size)
        self._map = mmap.mmap(fd, _LAYOUT.size)
        os.close(fd)

    def arm(self, target: int) -> None:
        pid = self._fields()[3]
        self._map[:] = _LAYOUT.pack(1, 0, target, pid)

    def disarm(self) -> int:
        """→ how many points there were."""
        _, count, _, pid = self._fields()
        self._map[:] = _LAYOUT.pack(0, 0, 0, pid)
        return count

    def set_engine(self, pid: int) -> None:
        self._map[:] = _LAYOUT.pack(0, 0, 0, pid)

    def _fields(self) -> tuple[int, int, int, int]:
        armed, count, target, pid = _LAYOUT.unpack(self._map[:])
        return armed, count, target, pid

    def step(self) -> bool:
        """→ whether this is the end."""
        armed, count, target, pid = self._fields()
        if not armed:
            return False
        self._map[:] = _LAYOUT.pack(armed, count + 1, target, pid)
        return target != 0 and count + 1 >= target

    @property
    def engine(self) -> int:
        return self._fields()[3]


def install(path: str, end: str) -> Callable[[], None]:
    """Wraps the calls of this process. → what is to be called at further points."""
    counter = Counter(path)
    lock = threading.Lock()

    def point() -> None:
        with lock:
            if not counter.step():
                return
            if end == "kill":
                os.kill(counter.engine, signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(os.open("/dev/console", os.O_WRONLY), f"{HALTED}\n".encode())
            while True:
                time.sleep(60)

    for name in _CALLS:
        setattr(os, name, _wrapped(getattr(os, name), point))
    for name in _WRITES:
        setattr(os, name, _wrapped_write(getattr(os, name), point))
    return point


def _wrapped(call: Callable[..., Any], point: Callable[[], None]) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        point()
        return call(*arguments, **options)

    return wrapped


def _wrapped_write(call: Callable[..., Any], point: Callable[[], None]) -> Callable[..., Any]:
    """Not to pipes and sockets: they are no state."""

    def wrapped(fd: int, *arguments: Any) -> Any:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            point()
        return call(fd, *arguments)

    return wrapped

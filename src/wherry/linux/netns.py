"""Network namespaces of a thread: make one, enter one.

Runs in wherryd, in the one thread that `network.sandboxes` keeps for it: a namespace switch holds for the calling thread alone. Sources: unshare(2),
setns(2), network_namespaces(7).

Deliberately absent: names under /run/netns (a namespace of ours lives as long as its descriptor or a process in it), every other kind of namespace.
"""

from __future__ import annotations

import ctypes
import os

from wherry.errors import SyscallError

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def current() -> int:
    """A new descriptor (CLOEXEC) of the calling thread's network namespace."""
    return open_path("/proc/thread-self/ns/net")


def open_path(path: str) -> int:
    """A new descriptor (CLOEXEC) of the namespace at `path`, e.g. /proc/PID/ns/net."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SyscallError("open", path, error.errno or 0) from None


def unshare() -> None:
    """Moves the calling thread into a new, empty network namespace."""
    if _libc.unshare(_CLONE_NEWNET):
        raise SyscallError("unshare", "network namespace", ctypes.get_errno())


def enter(fd: int) -> None:
    """Moves the calling thread into the network namespace `fd`."""
    if _libc.setns(fd, _CLONE_NEWNET):
        raise SyscallError("setns", "network namespace", ctypes.get_errno())

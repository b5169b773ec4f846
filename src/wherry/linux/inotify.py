"""inotify(7) by ctypes: to be told that a file grew, instead of looking again and again."""

from __future__ import annotations

import ctypes
import os

from wherry.errors import SyscallError

IN_MODIFY = 0x002
IN_MOVED_TO = 0x080
IN_CREATE = 0x100
IN_DELETE_SELF = 0x400
_IN_NONBLOCK = os.O_NONBLOCK
_IN_CLOEXEC = os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


def watch(path: str, mask: int) -> int:
    """A non-blocking descriptor that becomes readable at each event of `mask` on `path`. The caller closes it."""
    fd = _libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
    if fd < 0:
        raise SyscallError("inotify_init1", "", ctypes.get_errno())
    if _libc.inotify_add_watch(fd, os.fsencode(path), mask) < 0:
        errno = ctypes.get_errno()
        os.close(fd)
        raise SyscallError("inotify_add_watch", path, errno)
    return int(fd)


def drain(fd: int) -> None:
    """Read and forget what is queued."""
    try:
        while os.read(fd, 65536):
            pass
    except BlockingIOError:
        pass

"""An interpreter that a container cannot overwrite: what /proc/PID/exe of our processes leads to is read-only.

A process that enters a container shows its program as /proc/PID/exe there, and a container can make us execute that
link again; through it root in the container could write the host's interpreter (CVE-2019-5736). So the interpreter is
executed from a detached clone of its mount that is read-only and in nobody's mount table, or, where the kernel or the
file system does not do that, from a sealed copy in memory. Used by the engine to start the zygote (whose forks, the
shims, inherit it) and by `wherry-runc`. **Invariant:** argv[0] stays the real path, so that Python finds its library.
Absent: protection of the shared libraries, which /proc does not hand out for writing.
"""

from __future__ import annotations

import fcntl
import os
import sys

from wherry.errors import SyscallError
from wherry.linux import mounts

_ST_RDONLY = 1
_MFD_CLOEXEC, _MFD_ALLOW_SEALING = 1, 2
_F_ADD_SEALS, _SEAL_ALL = 1033, 0xF  # seal, shrink, grow, write
_MEMFD_NAME = "wherry-python"
_CHUNK = 1 << 30


def is_protected() -> bool:
    """Whether this process already runs from such an interpreter."""
    try:
        return bool(os.statvfs("/proc/self/exe").f_flag & _ST_RDONLY) or os.readlink("/proc/self/exe").startswith(
            f"/memfd:{_MEMFD_NAME}"
        )
    except OSError:
        return False


def open_interpreter(path: str = "") -> int:
    """A CLOEXEC descriptor of the interpreter (`path`, else the running one) to be executed: read-only for ever. The caller owns it.

    Execute it with `os.execve(fd, …)`, or by /proc/self/fd/N where only a path will do.
    """
    real = os.path.realpath(path or sys.executable)
    try:
        return _clone(real)
    except SyscallError:
        return copy_interpreter(real)


def execute(argv: list[str], env: dict[str, str]) -> None:
    """Replaces this process by the protected interpreter with the arguments `argv` (after argv[0]). Returns only by raising OSError."""
    os.execve(open_interpreter(), [sys.executable, *argv], env)


def _clone(path: str) -> int:
    fd = mounts.clone_tree(path)
    try:
        mounts.set_attributes(fd, mounts.Attributes(mounts.RDONLY, propagation=mounts.PRIVATE), subject=path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def copy_interpreter(path: str) -> int:
    """A CLOEXEC descriptor of a sealed copy in memory."""
    memory = os.memfd_create(_MEMFD_NAME, _MFD_CLOEXEC | _MFD_ALLOW_SEALING)
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while os.sendfile(memory, source, None, _CHUNK):
                pass
        finally:
            os.close(source)
        fcntl.fcntl(memory, _F_ADD_SEALS, _SEAL_ALL)
        # a descriptor that is open for writing cannot be executed (ETXTBSY)
        return os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(memory)

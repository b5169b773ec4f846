"""procfs, verified: a handle on the root of a real proc file system, and writes that cannot be led elsewhere.

Runs in the shim, `wherry-runc` and a container's init. Labels, sysctls and oom_score_adj decide what a process may
do, so they are written only through a descriptor of procfs's root that was checked (type and inode), without leaving
that mount on the way: not into something mounted over a part of it, not through a magic link (CVE-2019-16884,
CVE-2019-19921, CVE-2025-52881).
"""

from __future__ import annotations

import os

from wherry.errors import FailedPrecondition, SyscallError
from wherry.linux import syscalls
from wherry.linux.paths import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV

PROC_SUPER_MAGIC = 0x9FA0
_ROOT_INODE = 1


def is_root(fd: int) -> bool:
    """Whether `fd` is the root directory of a proc file system."""
    return syscalls.filesystem_type(fd) == PROC_SUPER_MAGIC and os.fstat(fd).st_ino == _ROOT_INODE


class Procfs:
    """The proc file system whose root `fd` is. Takes the descriptor over; FailedPrecondition when it is something else."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        if not is_root(fd):
            os.close(fd)
            raise FailedPrecondition("/proc is not the root of a proc file system: refusing to write through it")
        self.fd = fd

    @classmethod
    def of_this_machine(cls) -> Procfs:
        """What is mounted at /proc of the caller's own view."""
        return cls(os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))

    def open(self, path: str, flags: int) -> int:
        """A descriptor of `path` (relative: "self/attr/exec") on this very mount."""
        try:
            fd = syscalls.openat2(
                self.fd, path, flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS
            )
        except SyscallError as error:
            raise SyscallError("open", f"/proc/{path}", error.errno) from None
        if syscalls.filesystem_type(fd) != PROC_SUPER_MAGIC:
            os.close(fd)
            raise FailedPrecondition(f"/proc/{path} is not part of a proc file system")
        return fd

    def write(self, path: str, text: str) -> None:
        """One write(2) of the whole text, as procfs asks for."""
        fd = self.open(path, os.O_WRONLY)
        try:
            os.write(fd, text.encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise SyscallError("write", f"/proc/{path}", error.errno or 0) from None
        finally:
            os.close(fd)

    def read(self, path: str, limit: int = 1 << 16) -> str:
        fd = self.open(path, os.O_RDONLY)
        try:
            return os.read(fd, limit).decode("utf-8", "replace")
        except OSError as error:
            raise SyscallError("read", f"/proc/{path}", error.errno or 0) from None
        finally:
            os.close(fd)

    def close(self) -> None:
        os.close(self.fd)

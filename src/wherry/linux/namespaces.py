"""Namespaces: making a process in new ones, joining those of others, and the handle on a process (pidfd).

Runs in the zygote's children (shim), `wherry-runc` and a container's init. `clone` is clone3(2) with the
interpreter's own fork protocol around it, so the child is a whole Python process and already PID 1 of its new PID
namespace: one fork, no helper. Sources: namespaces(7), clone(2), setns(2), CPython's C API "Operating System
Utilities" (PyOS_BeforeFork and its two counterparts).
**Invariant:** all signals are blocked in a child that `clone` made, and no handler of the parent's runs there.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the C half of signal, which would import enum
import fcntl
import os
import struct

from wherry.errors import InvalidArgument, SyscallError
from wherry.linux import syscalls
from wherry.linux.syscalls import Long, Pointer, addressof, get_errno

NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
CLONE_PARENT = 0x8000

FLAG = {
    "pid": NEWPID,
    "network": NEWNET,
    "mount": NEWNS,
    "ipc": NEWIPC,
    "uts": NEWUTS,
    "user": NEWUSER,
    "cgroup": NEWCGROUP,
    "time": NEWTIME,
}
"""OCI name → clone flag."""
FILE = {
    "pid": "pid",
    "network": "net",
    "mount": "mnt",
    "ipc": "ipc",
    "uts": "uts",
    "user": "user",
    "cgroup": "cgroup",
    "time": "time",
}
"""OCI name → file in /proc/PID/ns."""

_CLONE_PIDFD, _CLONE_CLEAR_SIGHAND, _CLONE_INTO_CGROUP = 0x1000, 1 << 32, 1 << 33
_NSFS_MAGIC = 0x6E736673
_NS_GET_NSTYPE = 0xB703
_ALL_SIGNALS = b"\xff" * 8  # the kernel's sigset_t

_RT_SIGPROCMASK = syscalls.number("rt_sigprocmask")
_rt_sigprocmask = syscalls.function("syscall", Long, Long, Pointer, Pointer, Long)
_clone3 = syscalls.function("syscall", Long, Pointer, Long, hold_gil=True)
_before_fork = syscalls.function("PyOS_BeforeFork", hold_gil=True)
_after_fork_parent = syscalls.function("PyOS_AfterFork_Parent", hold_gil=True)
_after_fork_child = syscalls.function("PyOS_AfterFork_Child", hold_gil=True)


def clone(flags: int = 0, *, cgroup_fd: int | None = None) -> tuple[int, int]:
    """Forks: (0, -1) in the child, (pid, pidfd) in the parent. `flags` are CLONE_NEW* and CLONE_PARENT;
    `cgroup_fd` is a cgroup v2 directory to start in.

    The child has all signals blocked and their handlers reset. It must end in execve or `os._exit`, never return into its parent's code.
    """
    flags |= _CLONE_PIDFD | _CLONE_CLEAR_SIGHAND
    if cgroup_fd is not None:
        flags |= _CLONE_INTO_CGROUP
    out = syscalls.buffer(4)
    # flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup
    exit_signal = 0 if flags & CLONE_PARENT else _signal.SIGCHLD
    arguments = struct.pack("11Q", flags, addressof(out), 0, 0, exit_signal, 0, 0, 0, 0, 0, cgroup_fd or 0)
    mask = syscalls.buffer(8)
    _rt_sigprocmask(_RT_SIGPROCMASK, _signal.SIG_SETMASK, _ALL_SIGNALS, mask, 8)
    _before_fork()
    pid = _clone3(syscalls.CLONE3, arguments, len(arguments))
    if pid == 0:
        _after_fork_child()
        return 0, -1
    error = get_errno()
    _after_fork_parent()
    _rt_sigprocmask(_RT_SIGPROCMASK, _signal.SIG_SETMASK, mask, None, 8)
    if pid < 0:
        raise SyscallError("clone", names(flags), error)
    return pid, int(struct.unpack("i", out.raw)[0])


def names(flags: int) -> str:
    """The namespaces that `flags` stand for, for messages: "pid, mount"."""
    return ", ".join(name for name, flag in FLAG.items() if flags & flag) or "process"


def open_namespace(kind: str, path: str) -> int:
    """A descriptor of the namespace file at `path`, checked to be a namespace of `kind` ("network"). InvalidArgument naming the path if it is not."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument(f"{kind} namespace {path}: {(error.strerror or '').lower()}") from None
    try:
        if syscalls.filesystem_type(fd) != _NSFS_MAGIC or fcntl.ioctl(fd, _NS_GET_NSTYPE) != FLAG[kind]:
            raise InvalidArgument(f"{path} is not a {kind} namespace")
    except BaseException:
        os.close(fd)
        raise
    return fd


def in_user_namespace() -> bool:
    """Whether root here is not the machine's: the user namespace that we are in has not all ids (user_namespaces(7))."""
    with open("/proc/self/uid_map", "rb") as file:
        return file.read(64).split() != [b"0", b"0", b"4294967295"]


def is_own(kind: str, fd: int) -> bool:
    """Whether the namespace `fd` is the one that the caller is in already."""
    mine, other = os.stat(f"/proc/self/ns/{FILE[kind]}"), os.fstat(fd)
    return (mine.st_dev, mine.st_ino) == (other.st_dev, other.st_ino)


def join(fd: int, kind: str) -> None:
    """setns(2) into one namespace. For "pid" it counts for children only."""
    syscalls.setns(fd, FLAG[kind], f"{kind} namespace")


def send_signal(pidfd: int, signal: int) -> bool:
    """Sends `signal` to the process; False when it is gone."""
    try:
        _signal.pidfd_send_signal(pidfd, signal)
    except ProcessLookupError:
        return False
    return True

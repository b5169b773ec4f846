"""System calls that Python's `os` does not have: thin wrappers, one per call, that raise `SyscallError` naming call and
object.

Runs in the engine, the zygote, the shim, `wherry-runc` and the child that becomes a container. Built on `_ctypes`,
the C half of `ctypes`, because importing the Python half costs every start of `wherry-runc` about 3 ms; prototypes
are made once, at import. Calls that glibc wraps with side effects on other threads (setuid and its kin) or does not
have at all go through syscall(2); the others by their libc names.
**Invariants:** every descriptor that is made here is CLOEXEC; a path with a NUL byte never reaches the kernel cut
short.
Absent: policy. What the numbers mean together is the business of `mounts`, `namespaces`, `paths` and `capabilities`.
"""

from __future__ import annotations

import errno
import os
import struct
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_PYTHONAPI,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    _SimpleCData,
    addressof,
    dlopen,
    dlsym,
    get_errno,
)

from wherry.errors import FailedPrecondition, SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

__all__ = ["addressof", "get_errno"]  # beside what is defined here

_CAP_SETGID = 6
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100

_LIBC = dlopen(None, 0)  # type: ignore[arg-type]


class Long(_SimpleCData):  # type: ignore[type-arg]
    """C long: also every descriptor, flag word and size on the 64-bit machines that wherry runs on."""

    _type_ = "l"


class Int(_SimpleCData):  # type: ignore[type-arg]
    """C int: what the C library's functions return. Read as a long, their -1 could be 4294967295."""

    _type_ = "i"


class Pointer(_SimpleCData):  # type: ignore[type-arg]
    """void *: takes bytes, None, an address, or an array."""

    _type_ = "P"


class Char(_SimpleCData):  # type: ignore[type-arg]
    """char, for output buffers: `(Char * 64)()`."""

    _type_ = "c"


class String(_SimpleCData):  # type: ignore[type-arg]
    """char *, for arrays of strings."""

    _type_ = "z"


class _Call(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO


class _CallHoldingGil(CFuncPtr):
    """For calls that return twice: no other thread may run Python code while one copies the process."""

    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO | FUNCFLAG_PYTHONAPI


def function(name: str, *argtypes: type, hold_gil: bool = False) -> Callable[..., int]:
    """The C library's (or the interpreter's) function `name` with a prototype; it leaves errno for `failed`.

    syscall(2) returns a long, all others an int.
    """
    call: Any = (_CallHoldingGil if hold_gil else _Call)(dlsym(_LIBC, name))
    call.argtypes = argtypes
    call.restype = Long if name == "syscall" else Int
    return call  # type: ignore[no-any-return]


def failed(call: str, subject: str) -> SyscallError:
    """The error for the call that has just returned -1."""
    return SyscallError(call, subject, get_errno())


def buffer(size: int) -> Any:
    """`size` writable zero bytes for the kernel to fill; `.raw` gives them back."""
    return (Char * size)()


def path_bytes(path: str | bytes) -> bytes:
    """A path as the kernel takes it. OSError EINVAL when it holds a NUL byte."""
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise SyscallError("open", repr(path), errno.EINVAL)
    return raw


# Calls without a (usable) wrapper in every C library. Numbers from 424 on are the same on all architectures.
_NUMBERS = {
    "x86_64": {
        "rt_sigaction": 13, "rt_sigprocmask": 14,
        "setgroups": 116, "setresuid": 117, "setresgid": 119, "keyctl": 250, "ioprio_set": 251, "seccomp": 317,
        "sched_setaffinity": 203, "sched_setattr": 314, "set_mempolicy": 238,
    },
    "generic": {
        "rt_sigaction": 134, "rt_sigprocmask": 135,
        "setgroups": 159, "setresuid": 147, "setresgid": 149, "keyctl": 219, "ioprio_set": 30, "seccomp": 277,
        "sched_setaffinity": 122, "sched_setattr": 274, "set_mempolicy": 237,
    },
}  # fmt: skip
_MACHINE = os.uname().machine
_TABLE = _NUMBERS.get("generic" if _MACHINE in ("aarch64", "riscv64", "loongarch64") else _MACHINE, {})


def number(name: str) -> int:
    """The system call number of `name` on this machine. FailedPrecondition on an architecture that wherry has no table for."""
    try:
        return _TABLE[name]
    except KeyError:
        raise FailedPrecondition(f"wherry does not know the number of the system call {name} on {_MACHINE}") from None


CLONE3 = 435
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _FSPICK = 428, 429, 430, 431, 432, 433
_OPENAT2, _MOUNT_SETATTR = 437, 442

_sys0 = function("syscall", Long, Long, Long, Long, Long)
_sys_path = function("syscall", Long, Long, Pointer, Long)
_sys_groups = function("syscall", Long, Long, Pointer)
_sys_openat2 = function("syscall", Long, Long, Pointer, Pointer, Long)
_sys_move_mount = function("syscall", Long, Long, Pointer, Long, Pointer, Long)
_sys_fsopen = function("syscall", Long, Pointer, Long)
_sys_fsconfig = function("syscall", Long, Long, Long, Pointer, Pointer, Long)
_sys_mount_setattr = function("syscall", Long, Long, Pointer, Long, Pointer, Long)
_sys_keyctl = function("syscall", Long, Long, Pointer, Pointer, Long)
_sys_sigaction = function("syscall", Long, Long, Pointer, Pointer, Long)
_sys_seccomp = function("syscall", Long, Long, Long, Pointer)
_sys_affinity = _sys_seccomp  # (number, pid, length, mask)
_mount = function("mount", Pointer, Pointer, Pointer, Long, Pointer)
_umount2 = function("umount2", Pointer, Long)
_pivot_root = function("pivot_root", Pointer, Pointer)
_unshare = function("unshare", Long)
_setns = function("setns", Long, Long)
_prctl = function("prctl", Long, Long, Long, Long, Long)
_capget = function("capget", Pointer, Pointer)
_capset = function("capset", Pointer, Pointer)
_sethostname = function("sethostname", Pointer, Long)
_setdomainname = function("setdomainname", Pointer, Long)
_prlimit = function("prlimit", Long, Long, Pointer, Pointer)
_personality = function("personality", Long)
_fstatfs = function("fstatfs", Long, Pointer)
_close_range = function("syscall", Long, Long, Long, Long)
_execve = function("execve", Pointer, Pointer, Pointer)


def _subject(fd: int, path: str | bytes) -> str:
    name = os.fsdecode(path)
    if fd == AT_FDCWD:
        return name
    return f"{name} below descriptor {fd}" if name else f"descriptor {fd}"


# ---------------------------------------------------------------------------------------------------------------- files


def openat2(fd: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2), always CLOEXEC. A walk that raced with a rename (EAGAIN under RESOLVE_IN_ROOT) is tried again, up to 128 times."""
    raw = path_bytes(path)
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(128):
        result = _sys_openat2(_OPENAT2, fd, raw, how, len(how))
        if result >= 0:
            return result
        if get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    raise failed("openat2", _subject(fd, path))


def filesystem_type(fd: int) -> int:
    """The magic number of the file system that `fd` is on (fstatfs(2), f_type)."""
    out = buffer(120)
    if _fstatfs(fd, out) < 0:
        raise failed("fstatfs", f"descriptor {fd}")
    return int(struct.unpack_from("l", out.raw)[0])


def close_range(first: int, last: int) -> None:
    """Closes the descriptors first..last. Nothing to do for an empty range."""
    if first <= last and _close_range(436, first, last, 0) < 0:
        raise failed("close_range", f"{first}-{last}")


# --------------------------------------------------------------------------------------------------------------- mounts


def mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    result = _mount(path_bytes(source), path_bytes(target), path_bytes(fstype), flags, path_bytes(data))
    if result < 0:
        raise failed("mount", f"{fstype or source} on {target}")


def umount2(target: str, flags: int) -> None:
    if _umount2(path_bytes(target), flags) < 0:
        raise failed("umount", target)


def pivot_root(new_root: str, put_old: str) -> None:
    if _pivot_root(path_bytes(new_root), path_bytes(put_old)) < 0:
        raise failed("pivot_root", new_root)


def open_tree(fd: int, path: str | bytes, flags: int) -> int:
    """open_tree(2), always CLOEXEC."""
    result = _sys_path(_OPEN_TREE, fd, path_bytes(path), flags | os.O_CLOEXEC)
    if result < 0:
        raise failed("open_tree", _subject(fd, path))
    return result


def move_mount(from_fd: int, from_path: str, to_fd: int, to_path: str, flags: int) -> None:
    result = _sys_move_mount(_MOVE_MOUNT, from_fd, path_bytes(from_path), to_fd, path_bytes(to_path), flags)
    if result < 0:
        raise failed("move_mount", _subject(to_fd, to_path))


def fsopen(fstype: str) -> int:
    """fsopen(2), always CLOEXEC."""
    result = _sys_fsopen(_FSOPEN, path_bytes(fstype), 1)
    if result < 0:
        raise failed("fsopen", fstype)
    return result


def fspick(fd: int, subject: str) -> int:
    """fspick(2) of the file system that `fd` is the root of a mount of; always CLOEXEC."""
    result = _sys_path(_FSPICK, fd, b"", 1 | 8)  # FSPICK_CLOEXEC, FSPICK_EMPTY_PATH
    if result < 0:
        raise failed("fspick", subject)
    return result


def fsconfig(fd: int, command: int, key: str | None, value: str | bytes | None, aux: int, subject: str) -> None:
    """fsconfig(2). The kernel's own words about a failure, which it leaves on `fd`, become part of the error's subject."""
    raw_key = None if key is None else path_bytes(key)
    raw_value = None if value is None else path_bytes(value)
    if _sys_fsconfig(_FSCONFIG, fd, command, raw_key, raw_value, aux) < 0:
        error = get_errno()
        option = "" if key is None else f" option {key}" if value is None else f" option {key}={os.fsdecode(value)}"
        raise SyscallError("mount", f"{subject}{option}{_kernel_log(fd)}", error)


def _kernel_log(fd: int) -> str:
    try:
        os.set_blocking(fd, False)
        text = os.read(fd, 512).decode("utf-8", "replace").strip()
    except OSError:
        return ""
    return f" ({text.partition(' ')[2]})" if text else ""


def fsmount(fd: int, attributes: int, subject: str) -> int:
    """fsmount(2), always CLOEXEC."""
    result = _sys0(_FSMOUNT, fd, 1, attributes, 0)
    if result < 0:
        raise failed("fsmount", subject)
    return result


def mount_setattr(
    fd: int, path: str, flags: int, *, set_: int, clear: int, propagation: int, userns_fd: int = 0, subject: str
) -> None:
    attributes = struct.pack("QQQQ", set_, clear, propagation, userns_fd)
    if _sys_mount_setattr(_MOUNT_SETATTR, fd, path_bytes(path), flags, attributes, len(attributes)) < 0:
        raise failed("mount_setattr", subject)


# ------------------------------------------------------------------------------------------------- processes, namespaces


def unshare(flags: int, subject: str) -> None:
    if _unshare(flags) < 0:
        raise failed("unshare", subject)


def setns(fd: int, flags: int, subject: str) -> None:
    if _setns(fd, flags) < 0:
        raise failed("setns", subject)


def reset_signal(signal: int) -> None:
    """The default action for one signal, also for 32 and 33, which the C library keeps for itself and refuses to touch (rt_sigaction(2))."""
    if _sys_sigaction(number("rt_sigaction"), signal, bytes(32), None, 8) < 0:
        raise failed("rt_sigaction", f"signal {signal}")


def prctl(option: int, argument: int = 0, third: int = 0, fourth: int = 0, *, subject: str) -> int:
    result = _prctl(option, argument, third, fourth, 0)
    if result < 0:
        raise failed("prctl", subject)
    return result


def set_parent_death_signal(signal: int) -> None:
    """What this process gets when the thread that has forked it ends; 0: nothing. A change of credentials clears it (PR_SET_PDEATHSIG)."""
    prctl(1, signal, subject="parent death signal")


def drop_bounding(numbers: Sequence[int]) -> None:
    """Takes capabilities out of this thread's bounding set (PR_CAPBSET_DROP), one call each."""
    for number in numbers:
        if _prctl(24, number, 0, 0, 0) < 0:
            raise failed("prctl", f"bounding set without capability {number}")


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Sets this thread's three sets from bit masks (capset(2), version 3)."""
    low, high = 0xFFFFFFFF, 32
    header = struct.pack("Ii", 0x20080522, 0)
    data = struct.pack(
        "6I",
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> high,
        permitted >> high,
        inheritable >> high,
    )
    if _capset(header, data) < 0:
        raise failed("capset", f"permitted {permitted:#x}")


def capget() -> tuple[int, int, int]:
    """This thread's (effective, permitted, inheritable) as bit masks."""
    out = buffer(24)
    if _capget(struct.pack("Ii", 0x20080522, 0), out) < 0:
        raise failed("capget", "self")
    e0, p0, i0, e1, p1, i1 = struct.unpack("6I", out.raw)
    return e0 | e1 << 32, p0 | p1 << 32, i0 | i1 << 32


def sethostname(name: bytes) -> None:
    if _sethostname(name, len(name)) < 0:
        raise failed("sethostname", os.fsdecode(name))


def setdomainname(name: bytes) -> None:
    if _setdomainname(name, len(name)) < 0:
        raise failed("setdomainname", os.fsdecode(name))


def prlimit(pid: int, resource: int, soft: int, hard: int, subject: str) -> None:
    if _prlimit(pid, resource, struct.pack("QQ", soft, hard), None) < 0:
        raise failed("prlimit", subject)


def personality(domain: int) -> None:
    if _personality(domain) < 0:
        raise failed("personality", f"{domain:#x}")


def set_identity(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Supplementary groups, then all three group ids, then all three user ids of this thread, by raw system calls:
    glibc's wrappers would signal threads that a forked child does not have.

    Without `groups`, those that we have stay where the user namespace denies setgroups(2) (user_namespaces(7)).
    """
    if _sys_groups(number("setgroups"), len(groups), struct.pack(f"{len(groups)}I", *groups)) < 0 and not (
        get_errno() == errno.EPERM and not groups and capget()[0] >> _CAP_SETGID & 1
    ):
        raise failed("setgroups", " ".join(str(group) for group in groups))
    if _sys0(number("setresgid"), gid, gid, gid, 0) < 0:
        raise failed("setgid", str(gid))
    if _sys0(number("setresuid"), uid, uid, uid, 0) < 0:
        raise failed("setuid", str(uid))


def keyctl(operation: int, first: int | bytes | None, second: Any = None, third: int = 0, *, subject: str) -> int:
    result = _sys_keyctl(number("keyctl"), operation, first, second, third)
    if result < 0:
        raise failed("keyctl", subject)
    return result


def ioprio_set(which: int, who: int, priority: int) -> None:
    if _sys0(number("ioprio_set"), which, who, priority, 0) < 0:
        raise failed("ioprio_set", f"{priority:#x}")


def sched_setaffinity(pid: int, mask: bytes) -> None:
    """The CPUs that a thread may run on (0: the caller's), as bits; of those, the ones that its cpuset has count."""
    if _sys_affinity(number("sched_setaffinity"), pid, len(mask), mask) < 0:
        raise failed("sched_setaffinity", f"pid {pid}")


def load_seccomp(program: bytes, flags: int) -> int:
    """Puts a compiled filter (an array of struct sock_filter) on this thread: seccomp(2), SECCOMP_SET_MODE_FILTER.

    Returns 0, or the listener's descriptor (CLOEXEC) if `flags` ask for one.
    """
    keep = (Char * len(program)).from_buffer_copy(program)
    fprog = struct.pack("HxxxxxxP", len(program) // 8, addressof(keep))
    result = _sys_seccomp(number("seccomp"), 1, flags, fprog)
    if result < 0:
        raise failed("seccomp", f"filter of {len(program) // 8} instructions")
    return result


def execve(path: bytes, argv: Sequence[bytes], envp: Sequence[bytes]) -> None:
    """execve(2) with the environment as it is given, order and oddities kept. Returns only by raising."""
    arguments, environment = _strings(argv), _strings(envp)
    _execve(path, arguments, environment)
    raise failed("execve", os.fsdecode(path))


def _strings(items: Sequence[bytes]) -> Any:
    array = (String * (len(items) + 1))()
    for index, item in enumerate(items):
        array[index] = item
    return array

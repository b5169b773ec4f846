"""Every system call of this kernel by what it does to a file system, and the filter that has those stop which may change one.

The filter names what is harmless; whatever else a process calls is told to its supervisor (`points`), so nothing is missed because nobody thought of
it: a call that neither list knows is an error of this module, which the tests report. What no filter can see is writing through a shared mapping:
making one is told, and only SQLite's index of its log, which is made anew after a crash, may have one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import struct
from dataclasses import dataclass

_HARMLESS = """
read close stat fstat lstat poll lseek mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn pread64 readv access pipe select
sched_yield mremap mincore madvise shmget shmat shmctl shmdt dup dup2 dup3 pause nanosleep getitimer alarm setitimer getpid socket connect
accept accept4 sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg shutdown listen getsockname getpeername socketpair setsockopt getsockopt
clone clone3 fork vfork execve execveat exit exit_group wait4 waitid kill uname fcntl flock getdents getdents64 getcwd chdir fchdir readlink
readlinkat umask gettimeofday getrlimit setrlimit prlimit64 getrusage sysinfo times ptrace getuid getgid setuid setgid geteuid getegid
setpgid getppid getpgrp getpgid setsid getsid setreuid setregid getgroups setgroups setresuid getresuid setresgid getresgid setfsuid
setfsgid capget capset rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend rt_tgsigqueueinfo sigaltstack personality ustat statfs
fstatfs getpriority setpriority sched_setparam sched_getparam sched_setscheduler sched_getscheduler sched_get_priority_max
sched_get_priority_min sched_rr_get_interval sched_setaffinity sched_getaffinity sched_setattr sched_getattr mlock mlock2 munlock mlockall
munlockall prctl arch_prctl chroot pivot_root sethostname setdomainname gettid readahead getxattr lgetxattr fgetxattr listxattr llistxattr
flistxattr getxattrat listxattrat tkill tgkill time futex futex_waitv futex_wake futex_wait futex_requeue epoll_create epoll_create1
epoll_wait epoll_pwait epoll_pwait2 epoll_ctl set_tid_address restart_syscall fadvise64 timer_create timer_settime timer_gettime
timer_getoverrun timer_delete clock_gettime clock_getres clock_nanosleep mbind set_mempolicy get_mempolicy add_key request_key keyctl
ioprio_set ioprio_get inotify_init inotify_init1 inotify_add_watch inotify_rm_watch newfstatat faccessat faccessat2 pselect6 ppoll unshare
setns set_robust_list get_robust_list vmsplice signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime eventfd eventfd2 pipe2
preadv preadv2 perf_event_open fanotify_init fanotify_mark name_to_handle_at getcpu process_vm_readv kcmp seccomp getrandom memfd_create bpf
membarrier pkey_mprotect pkey_alloc pkey_free statx statmount listmount rseq pidfd_send_signal pidfd_open pidfd_getfd close_range open_tree
fsopen fspick mount_setattr io_uring_enter landlock_create_ruleset landlock_add_rule landlock_restrict_self cachestat
"""
_SOMETIMES = "open openat mmap"
"""Told only with the flags that create, cut off, or map what is shared; the rest is most of what a program calls."""


@dataclass(frozen=True, slots=True)
class Change:
    """A call that changes a file system. `fd`, `path`, `directory`: which arguments (from 0) say where; `room`: it may need more of the disk."""

    fd: int | None = None
    directory: int | None = None
    path: int | None = None
    room: bool = False


_CHANGES = {
    Change(fd=0, room=True): "write pwrite64 writev pwritev pwritev2 fallocate ftruncate fsetxattr",
    Change(fd=0): "fsync fdatasync syncfs sync_file_range fchmod fchown fremovexattr ioctl",
    Change(fd=1, room=True): "tee",
    Change(fd=2, room=True): "splice copy_file_range",
    Change(fd=4): "mmap",
    Change(path=0, room=True): "open creat mkdir mknod truncate setxattr lsetxattr",
    Change(path=0): "rmdir unlink chmod chown lchown utime utimes removexattr lremovexattr umount2",
    Change(path=1, room=True): "rename link symlink mount",
    Change(directory=0, path=1, room=True): "openat openat2 mkdirat mknodat setxattrat",
    Change(directory=0, path=1): "unlinkat fchmodat fchmodat2 fchownat futimesat utimensat removexattrat",
    Change(directory=1, path=2, room=True): "symlinkat",
    Change(directory=2, path=3, room=True): "renameat renameat2 linkat move_mount",
    Change(room=True): "sync bind fsconfig fsmount msync",
}
CHANGES = {name: change for change, names in _CHANGES.items() for name in names.split()} | {
    "sendfile": Change(fd=0, room=True)
}

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_REFUSED = "io_uring_setup"
"""What is asked for through a ring is seen by no filter. The event loop has had its one before: it watches descriptors with it, and is told
(UV_USE_IO_URING, in `points`) to have none for files."""
_LOAD, _EQUAL, _ANY_OF, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _NOTIFY, _KILL, _ERRNO = 0x7FFF0000, 0x7FC00000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000
_TMPFILE = 0o20000000
_CREATING = os.O_CREAT | os.O_TRUNC | _TMPFILE
_PROT_WRITE, _MAP_SHARED, _MAP_ANONYMOUS = 2, 1, 0x20

_library = ctypes.CDLL("libseccomp.so.2")
_library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
_libc = ctypes.CDLL(None)


def _number(name: str) -> int:
    """Negative for a call that this machine, or this libseccomp, does not know: then it is told, by its number."""
    return int(_library.seccomp_syscall_resolve_name(name.encode()))


def name_of(number: int) -> str:
    address = _library.seccomp_syscall_resolve_num_arch(_ARCHITECTURES[platform.machine()], number)
    if not address:
        return f"call {number}"
    name = ctypes.string_at(address).decode()
    _libc.free(ctypes.c_void_p(address))
    return name


def filter_program() -> bytes:
    """struct sock_filter[]: what is harmless is allowed, another architecture's calls kill, everything else is told."""
    program = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, _ARCHITECTURES[platform.machine()], 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
        _step(_AT_LEAST, _X32, 0, 1),
        _step(_RETURN, _KILL),
    ]
    for name in _HARMLESS.split():
        if (number := _number(name)) >= 0:
            program += [_step(_EQUAL, number, 0, 1), _step(_RETURN, _ALLOW)]
    program += [_step(_EQUAL, _number(_REFUSED), 0, 1), _step(_RETURN, _ERRNO | errno.ENOSYS)]
    for name, argument in (("open", 1), ("openat", 2)):
        if (number := _number(name)) >= 0:
            program += [
                _step(_EQUAL, number, 0, 4),
                _step(_LOAD, _ARGUMENTS + 8 * argument),
                _step(_ANY_OF, _CREATING, 0, 1),
                _step(_RETURN, _NOTIFY),
                _step(_RETURN, _ALLOW),
            ]
    program += [
        _step(_EQUAL, _number("mmap"), 0, 7),
        _step(_LOAD, _ARGUMENTS + 8 * 2),
        _step(_ANY_OF, _PROT_WRITE, 0, 4),
        _step(_LOAD, _ARGUMENTS + 8 * 3),
        _step(_ANY_OF, _MAP_ANONYMOUS, 2, 0),
        _step(_ANY_OF, _MAP_SHARED, 0, 1),
        _step(_RETURN, _NOTIFY),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join([*program, _step(_RETURN, _NOTIFY)])


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)


# --- which of the calls that are told are points -------------------------------------------------------------------------------------

_OPEN_HOW = struct.Struct("=QQQ")
_HARMLESS_IOCTLS = frozenset(b"T\x89!\xb7\x00\xff")
"""By the kind in the request's second byte: terminals and descriptors (FIOCLEX), sockets, seccomp, namespaces."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a process that waits for its answer."""

    pid: int
    name: str
    arguments: tuple[int, ...]

    def changes(self, root: str) -> Change | None:
        """What it would change, if that is below `root` (also through a detached mount, or in a file without a name). LookupError for a call
        that this module does not know; OSError when the process is gone.
        """
        change = CHANGES.get(self.name)
        if change is None:
            raise LookupError(f"{self.name} is on neither list of tests.crash.calls")
        if self.name == "ioctl" and (self.arguments[1] >> 8) & 0xFF in _HARMLESS_IOCTLS:
            return None
        if (
            self.name == "openat2"
            and not _OPEN_HOW.unpack(self._memory(self.arguments[2], _OPEN_HOW.size))[0] & _CREATING
        ):
            return None
        if self.name == "bind":
            return change if self._memory(self.arguments[1], 3)[:2] == b"\x01\x00" else None
        if change.path is not None:
            return change if self._is_name_below(change, root) else None
        if change.fd is None:
            return change
        if not self._is_file_below(self.arguments[change.fd], root):
            return None
        if self.name == "mmap":
            return None if self._link(f"fd/{self.arguments[4]}").endswith("wherry.db-shm") else self._unseen()
        return change

    def _unseen(self) -> Change:
        raise LookupError(
            f"{self._link(f'fd/{self.arguments[4]}')} is mapped to be written: unseen by tests.crash.calls"
        )

    def _is_name_below(self, change: Change, root: str) -> bool:
        assert change.path is not None
        directory = -100 if change.directory is None else ctypes.c_int(self.arguments[change.directory]).value
        if not self.arguments[change.path]:  # the descriptor itself: utimensat(2)
            return self._is_file_below(directory, root)
        path = os.fsdecode(self._memory(self.arguments[change.path], 4096).partition(b"\0")[0])
        if path.startswith("/"):
            return path.startswith((f"{root}/", "/proc/")) or path == root
        return self._is_file_below(directory, root)

    def _is_file_below(self, fd: int, root: str) -> bool:
        name = "cwd" if fd == -100 else f"fd/{fd & 0xFFFFFFFF}"
        try:
            found = os.stat(f"/proc/{self.pid}/{name}")
        except FileNotFoundError:
            return False  # a descriptor that is not open: the call fails
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            return False
        path = self._link(name)
        if path.startswith(f"{root}/") or path == root:
            return True
        try:
            is_there = os.path.samestat(os.stat(path), found)
        except OSError:
            is_there = path.startswith(("/memfd:", "/proc/"))
        return not is_there

    def _link(self, name: str) -> str:
        return os.readlink(f"/proc/{self.pid}/{name}")

    def _memory(self, address: int, size: int) -> bytes:
        fd = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY)
        try:
            try:
                return os.pread(fd, size, address)
            except OSError:  # it reaches beyond the last page
                return os.pread(fd, min(size, 4096 - address % 4096), address)
        finally:
            os.close(fd)

    def told(self) -> str:
        """For people."""
        change = CHANGES.get(self.name)
        where = ""
        try:
            if change is not None and change.path is not None:
                where = os.fsdecode(self._memory(self.arguments[change.path], 4096).partition(b"\0")[0])
            elif change is not None and change.fd is not None:
                where = self._link(f"fd/{self.arguments[change.fd] & 0xFFFFFFFF}")
        except OSError:
            pass
        return f"{self.name}({where})"

"""Probes of the kernel: the system calls that containers are made with, and namespaces."""

from __future__ import annotations

import errno
import os

from .finding import Finding, degraded, missing, ok
from .trial import attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def system_calls() -> Finding:
    """openat2, pidfd, close_range, the new mount API, mount_setattr, clone3: each called once."""
    release = os.uname().release
    absent = [name for name, call in _CALLS if not _has(call)]
    if absent:
        return missing(
            "kernel",
            f"{release} without {', '.join(absent)}",
            "wherry resolves paths and makes mounts with them alone",
            "use Linux 5.12 or newer",
        )
    return ok("kernel", f"{release}: {', '.join(name for name, _ in _CALLS)}")


def _has(call: Callable[[], None]) -> bool:
    """Whether the kernel knows a call, whatever it thinks of the arguments."""
    try:
        call()
    except OSError as error:
        return error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP)
    except Exception as error:
        return getattr(error, "errno", 0) not in (errno.ENOSYS, errno.EOPNOTSUPP)
    return True


def _openat2() -> None:
    from wherry.linux import syscalls

    os.close(syscalls.openat2(syscalls.AT_FDCWD, "/", os.O_PATH | os.O_CLOEXEC))


def _pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _close_range() -> None:
    from wherry.linux import syscalls

    syscalls.close_range(1 << 20, 1 << 20)


def _fsopen() -> None:
    from wherry.linux import syscalls

    os.close(syscalls.fsopen("tmpfs"))


def _mount_setattr() -> None:
    from wherry.linux import syscalls

    fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:  # a directory that is no mount's root is refused by a kernel that knows the call, and nothing is changed
        syscalls.mount_setattr(fd, "proc/self", 0, set_=0, clear=0, propagation=0, subject="/proc/self")
    finally:
        os.close(fd)


def _clone3() -> None:
    from wherry.linux import namespaces

    pid, pidfd = namespaces.clone()
    if pid == 0:
        os._exit(0)
    os.close(pidfd)
    os.waitpid(pid, 0)


_CALLS: tuple[tuple[str, Callable[[], None]], ...] = (
    ("openat2", _openat2),
    ("pidfd_open", _pidfd),
    ("close_range", _close_range),
    ("fsopen", _fsopen),
    ("mount_setattr", _mount_setattr),
    ("clone3", _clone3),
)


def namespaces() -> Finding:
    """Each kind of namespace that a container has, made once."""
    from wherry.linux.namespaces import FLAG

    kinds = ("mount", "pid", "network", "ipc", "uts", "cgroup")
    problems = {kind: problem for kind in kinds if (problem := attempt(FLAG[kind]))}
    if problems:
        said = "; ".join(f"{kind}: {problem}" for kind, problem in problems.items())
        return missing(
            "namespaces",
            said,
            "a container is made of them",
            "run as root, on a kernel with CONFIG_NAMESPACES and its kinds",
        )
    return ok("namespaces", ", ".join(kinds))


def user_namespaces() -> Finding:
    """Not needed by ordinary containers."""
    from wherry.linux.namespaces import NEWUSER

    problem = attempt(NEWUSER)
    if not problem:
        return ok("user namespaces", "usable")
    remedy = "sysctl user.max_user_namespaces=15000; a kernel with CONFIG_USER_NS"
    return degraded("user namespaces", problem, "OCI bundles with a user namespace do not run", remedy)

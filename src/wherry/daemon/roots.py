"""The directories that one engine owns, and the locks by which it owns them alone.

**Invariants**: data root and exec root are 0700 and root's, so that no user of the machine reaches into layers or talks to shims (CVE-2021-41091).
Two engines never share a root: each is locked with flock, which the kernel releases when the engine dies, however it dies. The PID file is locked
likewise, so a stale one is recognised whatever process has its number now.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat

from wherry.errors import FailedPrecondition

DEFAULT_DATA_ROOT = "/var/lib/wherry"
_FOREIGN = frozenset(
    {"/", "/root", "/home", "/var", "/var/lib", "/run", "/tmp", "/var/tmp", "/etc", "/usr", "/srv", "/opt", "/dev/shm"}
)


def instance_of(data_root: str) -> str:
    """Part of the names of bridge, nftables table and cgroups: "" for the default root, else six hex digits of its hash."""
    root = os.path.realpath(data_root)
    return "" if root == DEFAULT_DATA_ROOT else hashlib.sha256(root.encode()).hexdigest()[:6]


def make_root(path: str) -> None:
    """Create the directory, 0700. FailedPrecondition when it is not a directory that an engine may have for itself."""
    if os.path.realpath(path) in _FOREIGN:
        raise FailedPrecondition(f"{path} is not a directory that an engine can have for itself")
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        state = os.stat(path)
        if state.st_uid != os.geteuid():
            raise FailedPrecondition(f"{path} belongs to user {state.st_uid}, not to the engine's user")
        if stat.S_IMODE(state.st_mode) != 0o700:
            os.chmod(path, 0o700)
    except OSError as error:
        raise FailedPrecondition(f"cannot use {path}: {(error.strerror or str(error)).lower()}") from None


def lock_root(path: str, stack: contextlib.ExitStack) -> None:
    """Hold the root until the stack ends; FailedPrecondition when another engine does."""
    _hold(os.path.join(path, "lock"), 0o600, stack, f"{path} is in use by another engine")


def write_pidfile(path: str, stack: contextlib.ExitStack) -> None:
    """Write our PID; the file is removed at the end of the stack. FailedPrecondition when a living engine holds it."""
    fd = _hold(path, 0o644, stack, f"the PID file {path} is in use by another engine")
    stack.callback(_remove_if_same, path, fd)


def _remove_if_same(path: str, fd: int) -> None:
    with contextlib.suppress(OSError):
        if os.path.samestat(os.stat(path), os.fstat(fd)):
            os.unlink(path)


def _hold(path: str, mode: int, stack: contextlib.ExitStack, message: str) -> int:
    """Lock the file and write our PID into it."""
    try:
        os.makedirs(os.path.dirname(path) or "/", exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    except OSError as error:
        raise FailedPrecondition(f"cannot use {path}: {(error.strerror or str(error)).lower()}") from None
    stack.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held = os.pread(fd, 20, 0).strip().decode("ascii", "replace")
        raise FailedPrecondition(f"{message} (process {held})") from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd

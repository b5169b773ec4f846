"""The interpreter that runs us must not be writable through /proc/PID/exe of a process that enters a container
(CVE-2019-5736).

The launcher (`bin/wherry-runc`, of tools/make_launcher.py) starts the interpreter from a read-only clone of its
mount, at no cost. Here that is checked, and made up for where the launcher could not do it: another architecture, a
start by way of the shell script. That costs a second interpreter start. An ordinary
user may not clone mounts: what root alone can write is safe as it is then, since no id of root's is in the user's
containers; any other interpreter is copied into sealed memory. See docs/decisions/runc-interpreter.md.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys

from wherry.errors import FailedPrecondition, SyscallError

_TRIED = "WHERRY_RUNC_READONLY"
_STDIN = "WHERRY_RUNC_STDIN"


def require_readonly() -> None:
    """Returns when the interpreter's file cannot be written through this process; else executes everything again so
    that it cannot. FailedPrecondition where the kernel does not let us.
    """
    if os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY:
        return
    if os.geteuid() != 0 and _is_roots(os.stat("/proc/self/exe")):
        return
    from wherry.linux import exe

    if exe.is_protected():
        return
    if _TRIED in os.environ:
        raise FailedPrecondition(
            "cannot execute the interpreter from a read-only mount: a container could overwrite it"
        )
    try:
        fd = _readonly_interpreter(os.path.realpath(sys.executable))
    except SyscallError:  # Linux 5.12, CAP_SYS_ADMIN
        fd = exe.copy_interpreter(os.path.realpath(sys.executable))
    os.execve(fd, sys.orig_argv, {**os.environ, _TRIED: "1", **_hide_directory()})


def _hide_directory() -> dict[str, str]:
    """Python does not start with a directory as its standard input: the variable by which `entry` finds it elsewhere, and puts it back."""
    try:
        if os.fstat(0).st_mode & 0o170000 != 0o040000:
            return {}
    except OSError:  # it is closed
        return {}
    directory = fcntl.fcntl(0, fcntl.F_DUPFD, 3)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return {_STDIN: str(directory)}


def _is_roots(status: os.stat_result) -> bool:
    return status.st_uid == 0 and not status.st_mode & 0o022


def _readonly_interpreter(path: str) -> int:
    """The program's descriptor on a read-only clone of the root directory's mount, so that it keeps its path; where
    it lies on another mount, of itself.
    """
    from wherry.linux import mounts, paths

    root = mounts.clone_tree("/")
    mounts.set_attributes(root, mounts.Attributes(mounts.RDONLY), subject="/")
    try:
        return paths.open_in_root(root, path, os.O_PATH)
    except SyscallError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
    fd = mounts.clone_tree(path)
    mounts.set_attributes(fd, mounts.Attributes(mounts.RDONLY), subject=path)
    return fd

"""The layer between an image and a container: the mount points that every container has, made once for each image.

In wherryd. Without it they would be made in the container's own directory and count as its changes. It is what Docker calls the init layer: the
same files (`docker export` shows them, `docker diff` and `docker commit` do not).
"""

from __future__ import annotations

import errno
import os
import stat

from wherry.errors import SyscallError
from wherry.linux.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS
from wherry.linux.syscalls import openat2

_DIRECTORIES = ("dev/pts", "dev/shm", "proc", "sys")
_FILES = (".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf")
_LINKS = (("etc/mtab", "/proc/mounts"),)
_FLAGS = os.O_PATH | os.O_NOFOLLOW


def fill(target: str, below: int | None) -> None:
    """Makes in the empty directory `target` what the image's file system `below` (a directory's descriptor; None for no image) lacks.

    Where a directory on the way is something else in the image (a link), nothing is made: the runtime finds its own way there.
    """
    if below is not None:
        _dress(target, os.fstat(below))
    for path in _DIRECTORIES:
        _make_directory(target, path, below)
    for path in _FILES:
        if _wanted(target, path, below):
            fd = os.open(f"{target}/{path}", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755)
            os.fchmod(fd, 0o755)
            os.close(fd)
    for path, aim in _LINKS:
        if _wanted(target, path, below):
            os.symlink(aim, f"{target}/{path}")
    if below is not None:
        # Making something in a directory has changed its time.
        for path in ("dev", "etc", ""):
            found = _look_up(below, path)
            if found is not None and os.path.isdir(f"{target}/{path}"):
                os.utime(f"{target}/{path}", ns=(found.st_atime_ns, found.st_mtime_ns))


def _wanted(target: str, path: str, below: int | None) -> bool:
    return (below is None or _look_up(below, path) is None) and _make_directory(target, os.path.dirname(path), below)


def _make_directory(target: str, path: str, below: int | None) -> bool:
    """→ whether `path` is a directory of both now. Missing ones are root's, 0755; others are as in the image."""
    done = ""
    for part in path.split("/") if path else ():
        done = f"{done}/{part}" if done else part
        found = None if below is None else _look_up(below, done)
        if found is not None and not stat.S_ISDIR(found.st_mode):
            return False
        try:
            os.mkdir(f"{target}/{done}", 0o755)
        except FileExistsError:
            continue
        os.chmod(f"{target}/{done}", 0o755)
        if found is not None:
            _dress(f"{target}/{done}", found)
    return True


def _dress(path: str, found: os.stat_result) -> None:
    os.chown(path, found.st_uid, found.st_gid)
    os.chmod(path, stat.S_IMODE(found.st_mode))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _look_up(root: int, path: str) -> os.stat_result | None:
    """A link on the way counts as something that is there, and is no directory."""
    try:
        fd = openat2(root, path or ".", _FLAGS, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    except SyscallError as error:
        return None if error.errno == errno.ENOENT else os.stat(os.devnull)
    try:
        found = os.fstat(fd)
    finally:
        os.close(fd)
    return os.stat(os.devnull) if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0 else found

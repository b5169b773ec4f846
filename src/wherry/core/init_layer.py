"""The layer between an image and a container: the mount points that every container has, made once for each image.

In wherryd. Without it they would be made in the container's own directory and count as its changes. It is what Docker calls the init layer: the
same files (`docker export` shows them, `docker diff` and `docker commit` do not).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from wherry.core.stack import find

_DIRECTORIES = ("dev/pts", "dev/shm", "proc", "sys")
_FILES = (".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf")
_LINKS = (("etc/mtab", "/proc/mounts"),)
_TIME = (0, 0)
"""Always the same: who compares with a layer that was made again finds no change."""


def fill(target: str, below: Sequence[str]) -> None:
    """Makes in the empty directory `target` what the image's layers `below` (topmost first) lack.

    Where a directory on the way is something else in the image (a link), nothing is made: the runtime finds its own way there.
    """
    if below:
        _dress(target, os.stat(below[0]))
    for path in _DIRECTORIES:
        _make_directory(target, path, below)
    for path in _FILES:
        if _wanted(target, path, below):
            fd = os.open(f"{target}/{path}", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755)
            os.fchmod(fd, 0o755)
            os.utime(fd, _TIME)
            os.close(fd)
    for path, aim in _LINKS:
        if _wanted(target, path, below):
            os.symlink(aim, f"{target}/{path}")
            os.utime(f"{target}/{path}", _TIME, follow_symlinks=False)
    for path in ("dev", "etc", ""):  # making something in a directory has changed its time
        found = find(below, path.encode())
        if found is not None and os.path.isdir(f"{target}/{path}"):
            os.utime(f"{target}/{path}", ns=(found.st_atime_ns, found.st_mtime_ns))


def _wanted(target: str, path: str, below: Sequence[str]) -> bool:
    return find(below, path.encode()) is None and _make_directory(target, os.path.dirname(path), below)


def _make_directory(target: str, path: str, below: Sequence[str]) -> bool:
    """→ whether `path` is a directory of both now. Missing ones are root's, 0755; others are as in the image."""
    done = ""
    for part in path.split("/") if path else ():
        done = f"{done}/{part}" if done else part
        found = find(below, done.encode())
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

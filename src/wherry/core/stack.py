"""Looking something up in a stack of overlay layers without mounting it. In wherryd and in threads; needs no privileges."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from wherry.core.unpack import OPAQUE

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def find(stack: Sequence[str], name: bytes) -> os.stat_result | None:
    """What `name` is in the layers `stack` (directories, topmost first), as overlayfs would show it; None if there is nothing.

    No link is followed: where a directory on the way is a link or a file, that is the answer.
    """
    for layer in stack:
        fd = os.open(layer, _OPEN_DIRECTORY)
        try:
            found, ends = _walk(fd, [part for part in name.split(b"/") if part not in (b"", b".")])
        finally:
            os.close(fd)
        if found is not None or ends:
            return found
    return None


def _walk(root: int, parts: list[bytes]) -> tuple[os.stat_result | None, bool]:
    """→ what is there, and whether layers further down do not count."""
    fd = os.dup(root)
    try:
        for part in parts:
            try:
                following = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            except FileNotFoundError:
                return None, _is_opaque(fd)
            os.close(fd)
            fd = following
            found = os.fstat(fd)
            if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
                return None, True
            if not stat.S_ISDIR(found.st_mode):
                return found, True
        return os.fstat(fd), True
    finally:
        os.close(fd)


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", OPAQUE) == b"y"
    except OSError:
        return False

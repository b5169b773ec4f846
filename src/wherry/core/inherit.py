"""Directories that a layer's tar does not mention look as they do in the layers below. In threads of wherryd."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence

from wherry.core.stack import find
from wherry.errors import SyscallError
from wherry.linux.syscalls import openat2

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08


def inherited(fs: str, implied: Iterable[bytes], lower: Sequence[str]) -> Iterator[tuple[int, os.stat_result]]:
    """A descriptor of each of those directories below `fs`, open for the moment, and what it is in the layers below."""
    root = os.open(fs, _OPEN_DIRECTORY)
    try:
        for name in implied:
            found = find(lower, name)
            if found is None or not stat.S_ISDIR(found.st_mode):
                continue
            try:
                # Something later in the tar may have put a link where the directory was.
                fd = openat2(root, name, os.O_RDONLY | os.O_DIRECTORY, resolve=_RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS)
            except SyscallError:
                continue
            try:
                yield fd, found
            finally:
                os.close(fd)
    finally:
        os.close(root)


def inherit_attributes(fs: str, implied: Iterable[bytes], lower: Sequence[str]) -> None:
    """Changes the files of an unpacked layer (`drivers.driver.Driver.inherit`)."""
    for fd, found in inherited(fs, implied, lower):
        os.fchown(fd, found.st_uid, found.st_gid)
        os.fchmod(fd, stat.S_IMODE(found.st_mode))
        os.utime(fd, ns=(found.st_mtime_ns, found.st_mtime_ns))

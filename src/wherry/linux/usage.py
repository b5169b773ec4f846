"""How much a directory tree takes, counted while somebody may be at work in it. Blocks: in threads of wherryd."""

from __future__ import annotations

import errno
import os
import stat

from wherry.errors import SyscallError
from wherry.linux.syscalls import openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH_WITHOUT_LINKS = 0x8 | 0x4
_LONG_WAY = 3000  # bytes; a path has 4096 at most
_MOST_WAYS = 100

BLOCK = 512
"""The unit of `st_blocks`, whatever the file system's own is (stat(2))."""


def inodes(path: str) -> Iterator[os.stat_result]:
    """The directory `path` itself and everything below it, hard-linked files once."""
    try:
        yield os.lstat(path)
    except FileNotFoundError:
        return
    seen: set[tuple[int, int]] = set()
    for _, _, found in walk(path):
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
        yield found


def walk(path: str) -> Iterator[tuple[int, str, os.stat_result]]:
    """All that is below the directory `path`: the descriptor of the directory that it is in, its name there, and what it is. What vanishes meanwhile
    is left out, no link is followed, whoever puts one in a directory's place. As deep as it may be: what is deeper than anybody needs is left out."""
    try:
        root = os.open(path, _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        yield from _below(root, 0)
    finally:
        os.close(root)


def _below(root: int, depth: int) -> Iterator[tuple[int, str, os.stat_result]]:
    """Of a directory whose way is too long for a path `root` is another, `depth` such ways below the first."""
    pending = [b"."]
    while pending:
        way = pending.pop()
        try:
            directory = openat2(root, way, _DIRECTORY, resolve=_BENEATH_WITHOUT_LINKS)
        except SyscallError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                continue
            raise
        try:
            if len(way) > _LONG_WAY:
                if depth < _MOST_WAYS:
                    yield from _below(directory, depth + 1)
                continue
            for name in os.listdir(directory):
                try:
                    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISDIR(found.st_mode):
                    pending.append(way + b"/" + os.fsencode(name))
                yield directory, name, found
        finally:
            os.close(directory)


def disk_usage(path: str) -> int:
    """Bytes of the blocks of the tree, as `du` counts them: holes are none, directories are counted. 0 when there is nothing."""
    return sum(found.st_blocks for found in inodes(path)) * BLOCK

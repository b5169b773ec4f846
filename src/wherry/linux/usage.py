"""How much a directory tree takes, counted while somebody may be at work in it. Blocks: in threads of wherryd."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
"""The unit of `st_blocks`, whatever the file system's own is (stat(2))."""


def inodes(path: str) -> Iterator[os.stat_result]:
    """The directory `path` itself and everything below it, hard-linked files once. What vanishes meanwhile is left out, no link is followed."""
    seen: set[tuple[int, int]] = set()
    try:
        yield os.lstat(path)
    except FileNotFoundError:
        return
    pending = [path]
    while pending:
        directory = pending.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if stat.S_ISDIR(found.st_mode):
                        pending.append(entry.path)
                    elif found.st_nlink > 1:
                        if (found.st_dev, found.st_ino) in seen:
                            continue
                        seen.add((found.st_dev, found.st_ino))
                    yield found
        except FileNotFoundError:
            continue


def disk_usage(path: str) -> int:
    """Bytes of the blocks of the tree, as `du` counts them: holes are none, directories are counted. 0 when there is nothing."""
    return sum(found.st_blocks for found in inodes(path)) * BLOCK

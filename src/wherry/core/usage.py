"""What containers and layers take: as Docker counts it, and as `du` does. In threads of wherryd."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from itertools import islice

from wherry.linux.usage import BLOCK, disk_usage, inodes


def tree_usage(path: str) -> tuple[int, int]:
    """(bytes of files and links, inodes) below `path`; hard-linked files count once."""
    size = count = 0
    for found in islice(inodes(path), 1, None):
        count += 1
        size += found.st_size if stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode) else 0
    return size, count


@dataclass(slots=True)
class Measured:
    """The disk usage of directories that do not change, each walked once: a directory in another's place (`ino`, `ctime`) is another."""

    _known: dict[str, tuple[tuple[int, int], int]] = field(default_factory=dict)

    def of(self, path: str) -> int:
        """Blocks. 0 when there is nothing."""
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            self._known.pop(path, None)
            return 0
        if not stat.S_ISDIR(found.st_mode):
            return found.st_blocks * BLOCK
        identity, (known, size) = (found.st_ino, found.st_ctime_ns), self._known.get(path, ((0, 0), 0))
        if known != identity:
            size = disk_usage(path)
            self._known[path] = identity, size
        return size

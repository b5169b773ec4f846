"""How much a directory tree takes, counted while a container may be at work in it. In threads of wherryd."""

from __future__ import annotations

import os
import stat


def tree_usage(path: str) -> tuple[int, int]:
    """(bytes of files and links, inodes); hard-linked files count once."""
    size = inodes = 0
    seen: set[int] = set()
    pending = [path]
    while pending:
        directory = pending.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                        if found.st_ino in seen:
                            continue
                        seen.add(found.st_ino)
                    inodes += 1
                    size += found.st_size if stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode) else 0
                    if stat.S_ISDIR(found.st_mode):
                        pending.append(entry.path)
        except FileNotFoundError:
            continue  # the container is at work
    return size, inodes

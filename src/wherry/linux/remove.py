"""Removes directory trees that containers and tars have filled: any depth, any names, links never followed.

Blocks: in threads of wherryd, and in unpack workers. A tree can be deeper than Python's stack and the number of descriptors allow, so directories
are not descended into: each is renamed to the top, and emptied from there.
"""

from __future__ import annotations

import os
from errno import EEXIST, ENOTDIR, ENOTEMPTY
from itertools import count

_TAKEN = (EEXIST, ENOTEMPTY, ENOTDIR)
_numbers = count()
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_at(parent_fd: int, name: bytes) -> None:
    """Removes what `name` in `parent_fd` is: a file, a link, or a directory with all that it holds. FileNotFoundError if there is nothing.

    Directories on the way are renamed to `.removing-N` beside `name`: after a crash, or an error, whoever removes the parent directory finds them.
    """
    try:
        os.unlink(name, dir_fd=parent_fd)
        return
    except IsADirectoryError:
        pass
    queue = [name]
    while queue:
        directory = queue.pop()
        fd = os.open(directory, _OPEN, dir_fd=parent_fd)
        try:
            with os.scandir(fd) as entries:
                found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
            for child, is_directory in found:
                if not is_directory:
                    os.unlink(child, dir_fd=fd)
                    continue
                try:
                    os.rmdir(child, dir_fd=fd)
                    continue
                except OSError:
                    pass
                queue.append(_move_up(child, fd, parent_fd))
        finally:
            os.close(fd)
        os.rmdir(directory, dir_fd=parent_fd)


def _move_up(child: bytes, fd: int, parent_fd: int) -> bytes:
    """→ its new name. What an attempt has left that did not come to its end is in nobody's way."""
    while True:
        moved = b".removing-%d-%d" % (os.getpid(), next(_numbers))
        try:
            os.rename(child, moved, src_dir_fd=fd, dst_dir_fd=parent_fd)
            return moved
        except OSError as error:
            if error.errno not in _TAKEN:
                raise


def remove_tree(path: str) -> None:
    """As `remove_at`, by path. Nothing happens if there is nothing."""
    parent, name = os.path.split(path)
    try:
        fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        remove_at(fd, os.fsencode(name))
    except FileNotFoundError:
        pass
    finally:
        os.close(fd)


def remove_directory(path: str) -> None:
    """As `remove_tree`, but nothing is renamed out of the directory `path`, whose siblings have names that mean something."""
    fd = os.open(path, _OPEN)
    try:
        for name in os.listdir(fd):
            remove_at(fd, os.fsencode(name))
    finally:
        os.close(fd)
    os.rmdir(path)

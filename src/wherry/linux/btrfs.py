"""Subvolumes of btrfs: made, cloned and deleted by ioctl (linux/btrfs.h), without its tools.

Runs in the engine. A subvolume looks like a directory; what tells it is its inode's number. Needs CAP_SYS_ADMIN to delete one.
"""

from __future__ import annotations

import fcntl
import os
import struct

from wherry.errors import SyscallError

MAGIC = 0x9123683E
_SUBVOL_CREATE, _SNAP_DESTROY, _SNAP_CREATE_V2 = 0x5000940E, 0x5000940F, 0x50009417
_FIRST_INODE = 256


def create_subvolume(path: str) -> None:
    """An empty one at `path`, where nothing is. SyscallError."""
    directory, name = os.path.split(path)
    _call(directory, name, _SUBVOL_CREATE, struct.pack("q4088s", 0, os.fsencode(name)))


def create_snapshot(source: str, path: str) -> None:
    """A writable clone of the subvolume `source` at `path`, where nothing is. SyscallError."""
    directory, name = os.path.split(path)
    fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _call(directory, name, _SNAP_CREATE_V2, struct.pack("qQQ32x4040s", fd, 0, 0, os.fsencode(name)))
    finally:
        os.close(fd)


def delete_subvolume(path: str) -> None:
    """With all that is in it, but further subvolumes (ENOTEMPTY). SyscallError."""
    directory, name = os.path.split(path)
    _call(directory, name, _SNAP_DESTROY, struct.pack("q4088s", 0, os.fsencode(name)))


def is_subvolume(found: os.stat_result) -> bool:
    """Of what is on btrfs."""
    return found.st_ino == _FIRST_INODE and (found.st_mode & 0o170000) == 0o040000


def _call(directory: str, name: str, request: int, argument: bytes) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, request, bytearray(argument))
    except OSError as error:
        raise SyscallError("ioctl", f"btrfs subvolume {directory}/{name}", error.errno or 0) from None
    finally:
        os.close(fd)

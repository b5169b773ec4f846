"""Directory trees as tars: a container's whole file system (`export_tree`), or the layer that its changes make (`layer_tar`).

Runs in threads of wherryd. The container may be at work meanwhile: a file that shrinks is filled with zeros up to the size that was told, what
has gone is left out.

**Invariants**: a file is opened through a descriptor that is known to be a plain file, so neither a device nor a pipe that takes its place is
ever opened; no link is followed; attributes of overlayfs itself and of the host's security modules do not leave the host.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator

from wherry.core.diff import PATH_MAX, Differ, Kind, open_directory, too_long
from wherry.core.tar import (
    BLOCK_DEVICE,
    CHARACTER,
    CHUNK,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    MAX_SPARSE,
    REGULAR,
    SYMLINK,
    Entry,
)
from wherry.core.tar_writer import TarWriter
from wherry.errors import SyscallError
from wherry.linux.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS
from wherry.linux.sparse import data_ranges
from wherry.linux.syscalls import openat2

_KINDS = {
    stat.S_IFREG: REGULAR,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHARACTER,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}
"""Sockets are left out: they mean nothing without the process behind them."""
_HOST_XATTRS = (
    "trusted.overlay.",
    "user.overlay.",
    "user.fuseoverlayfs.",
    "security.selinux",
    "security.ima",
    "security.evm",
    "system.nfs4_acl",
)
_WORTH_A_MAP = 64 << 10
"""Holes of that many bytes altogether make a file sparse in the tar as well."""

Write = Callable[[bytes], object]


def export_tree(root: int, write: Write) -> None:
    """Everything below the directory `root` (a descriptor). FailedPrecondition before the first byte for a tree that is deeper than a path."""
    _check_depth(root)
    packer = _Packer(root, write)
    pending = [b""]
    while pending:
        path = pending.pop()
        directories = []
        for name, found in _entries(root, path):
            below = path + b"/" + name if path else name
            packer.add(below, found)
            if stat.S_ISDIR(found.st_mode):
                directories.append(below)
        pending += reversed(directories)
    packer.finish()


def layer_tar(upper: int, new: int, old: int, write: Write, *, whole: bool = False) -> None:
    """The layer that makes `old` into `new`: what is in `upper`, and whiteouts. The roots as for `Differ`."""
    packer = _Packer(new, write)
    now, before = os.fstat(new), os.fstat(old)
    if (now.st_mode, now.st_uid, now.st_gid) != (before.st_mode, before.st_uid, before.st_gid):
        packer.add(b".", now)
    for change in Differ(upper, new, old, everything=not whole, whole=whole):
        if change.kind is Kind.DELETED:
            directory, slash, name = change.path.rpartition(b"/")
            packer.write_entry(Entry(directory + slash + b".wh." + name, REGULAR, 0o600))
        elif change.found is not None:
            packer.add(change.path, change.found)
    packer.finish()


class _Packer:
    def __init__(self, root: int, write: Write) -> None:
        self._root = root
        self._tar = TarWriter(write)
        self._linked: dict[tuple[int, int], bytes] = {}  # of files with several names: the one that is in the tar

    def finish(self) -> None:
        self._tar.finish()

    def write_entry(self, entry: Entry) -> None:
        self._tar.add(entry)

    def add(self, path: bytes, found: os.stat_result) -> None:
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return
        try:
            fd = openat2(self._root, path, os.O_PATH | os.O_NOFOLLOW, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        except SyscallError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise too_long(path) from None
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            return  # it has gone meanwhile
        try:
            self._add(path, fd, os.fstat(fd))
        finally:
            os.close(fd)

    def _add(self, path: bytes, fd: int, found: os.stat_result) -> None:
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None or (kind == CHARACTER and found.st_rdev == 0):
            return
        entry = _entry(path + b"/" if kind == DIRECTORY else path, kind, found)
        if kind != DIRECTORY and found.st_nlink > 1:
            first = self._linked.setdefault((found.st_dev, found.st_ino), path)
            if first != path:
                entry.kind, entry.link, entry.size = HARD_LINK, first, 0
                self._tar.add(entry)
                return
        entry.xattrs = _xattrs(fd)
        if kind == SYMLINK:
            entry.link = os.readlink(b"", dir_fd=fd)
        if kind != REGULAR:
            self._tar.add(entry)
            return
        file = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if found.st_blocks * 512 + _WORTH_A_MAP <= entry.size:
                entry.sparse = _pieces(file, entry.size)
            self._tar.add(entry, _contents(file, entry.sparse if entry.sparse is not None else [(0, entry.size)]))
        finally:
            os.close(file)


def _check_depth(root: int) -> None:
    """Looks at names alone: a tenth of what writing the tree takes."""
    pending = [b""]
    while pending:
        path = pending.pop()
        fd = open_directory(root, path)
        if fd is None:
            continue
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    below = path + b"/" + os.fsencode(entry.name) if path else os.fsencode(entry.name)
                    if len(below) >= PATH_MAX:
                        raise too_long(below)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(below)
        finally:
            os.close(fd)


def _entries(root: int, path: bytes) -> list[tuple[bytes, os.stat_result]]:
    fd = open_directory(root, path)
    if fd is None:
        return []
    try:
        found = []
        with os.scandir(fd) as entries:
            for entry in entries:
                try:
                    found.append((os.fsencode(entry.name), entry.stat(follow_symlinks=False)))
                except FileNotFoundError:
                    continue
    finally:
        os.close(fd)
    return sorted(found, key=lambda item: item[0])


def _entry(path: bytes, kind: bytes, found: os.stat_result) -> Entry:
    device = (os.major(found.st_rdev), os.minor(found.st_rdev)) if kind in (CHARACTER, BLOCK_DEVICE) else (0, 0)
    size = found.st_size if kind == REGULAR else 0
    return Entry(
        path, kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, size, found.st_mtime_ns, device=device
    )


def _xattrs(fd: int) -> dict[bytes, bytes]:
    path = f"/proc/self/fd/{fd}"
    found = {}
    try:
        for name in os.listxattr(path):
            if not name.startswith(_HOST_XATTRS):
                found[os.fsencode(name)] = os.getxattr(path, name)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENODATA, errno.EPERM):
            raise
    return found


def _pieces(file: int, size: int) -> list[tuple[int, int]] | None:
    """Where the data is; None when it is in more pieces than readers take."""
    pieces: list[tuple[int, int]] = []
    for start, end in data_ranges(file, size):
        pieces.append((start, end - start))
        if len(pieces) >= MAX_SPARSE:
            return None
    return pieces


def _contents(file: int, pieces: list[tuple[int, int]]) -> Iterator[bytes]:
    for offset, length in pieces:
        end = offset + length
        while offset < end:
            data = os.pread(file, min(CHUNK, end - offset), offset)
            if not data:
                data = bytes(min(CHUNK, end - offset))  # it has shrunk meanwhile
            offset += len(data)
            yield data

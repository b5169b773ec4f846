"""Copying a directory's content by descriptors: what `tmpcopyup` and a new volume need.

Runs in a container's init and in the shim. Never follows a symlink, never leaves the two directories that it was
given, whoever else writes to them meanwhile, keeps owner, mode, times, xattrs, hard links within the tree, devices and
sparse files' holes. Absent: a faithful copy of files that change meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat

from wherry.errors import SyscallError
from wherry.linux.sparse import data_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    Path = tuple[str, ...]
    """A directory below the copy's root, component by component: it may be longer than a path can be."""

_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DEPTH = 512


def copy_contents(source: int, target: int) -> None:
    """Copies everything in the directory `source` into the directory `target`, and the
    directory's own owner and mode. Descriptors, O_PATH will do."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    opened: list[int] = []
    try:
        for fd in (source, target):
            opened.append(os.open(".", flags, dir_fd=fd))
        _Copy(opened[1]).directory(opened[0], opened[1], ())
    except OSError as error:
        raise SyscallError("copy", os.fsdecode(error.filename or ""), error.errno or 0) from None
    finally:
        for fd in opened:
            os.close(fd)


class _Copy:
    """One copy, to the directory `root`. It holds two descriptors for each level of depth and no more."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._first_names: dict[tuple[int, int], tuple[Path, str]] = {}
        """Of files with several: where in the copy the first is."""

    def directory(self, source: int, target: int, path: Path) -> None:
        if len(path) > _MAX_DEPTH:
            raise OSError(errno.ELOOP, "too deep")
        for name in os.listdir(source):
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.mkdir(name, 0o700, dir_fd=target)
                child, copy = os.open(name, _DIRECTORY, dir_fd=source), os.open(name, _DIRECTORY, dir_fd=target)
                try:
                    self.directory(child, copy, (*path, name))
                finally:
                    os.close(child)
                    os.close(copy)
            elif not stat.S_ISSOCK(status.st_mode):  # without its process it is of no use
                first = self._first_names.get((status.st_dev, status.st_ino))
                if first is not None:
                    self._link(*first, target, name)
                    continue
                _copy_entry(source, target, name, status)
                if status.st_nlink > 1:
                    self._first_names[status.st_dev, status.st_ino] = path, name
        _copy_metadata(source, target, os.fstat(source))

    def _link(self, path: Path, first: str, target: int, name: str) -> None:
        directory = os.dup(self._root)
        try:
            for component in path:
                below = os.open(component, _DIRECTORY, dir_fd=directory)
                os.close(directory)
                directory = below
            os.link(first, name, src_dir_fd=directory, dst_dir_fd=target, follow_symlinks=False)
        finally:
            os.close(directory)


def _copy_entry(source: int, target: int, name: str, status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        _copy_file(source, target, name, status)
    elif kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    else:
        os.mknod(name, kind | 0o600, status.st_rdev, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        _change_mode(target, name, stat.S_IMODE(status.st_mode))
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _change_mode(directory: int, name: str, mode: int) -> None:
    """Of what is not opened. chmod(2) follows links, and a container that has the volume already may have put one there meanwhile."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


def _copy_file(source: int, target: int, name: str, status: os.stat_result) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    try:
        writer = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target
        )
        try:
            _copy_data(reader, writer, status.st_size)
            _copy_metadata(reader, writer, status)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_data(reader: int, writer: int, size: int) -> None:
    """Only what is not a hole."""
    os.ftruncate(writer, size)
    for start, end in data_ranges(reader, size):
        while start < end:
            chunk = os.pread(reader, min(_CHUNK, end - start), start)
            if not chunk:
                return
            done = 0
            while done < len(chunk):
                done += os.pwrite(writer, chunk[done:], start + done)
            start += len(chunk)


def _copy_metadata(source: int, target: int, status: os.stat_result) -> None:
    """Owner before mode (chown clears setuid), xattrs where both sides have them, times last."""
    os.fchown(target, status.st_uid, status.st_gid)
    try:
        for name in os.listxattr(source):
            os.setxattr(target, name, os.getxattr(source, name))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENODATA, errno.EPERM):
            raise
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

"""Lays a layer over a directory tree: what an overlay mount would show of the two becomes one plain tree.

In threads of wherryd. With an empty tree it is a faithful copy: owners, modes, times, attributes, hard links within the layer, holes, devices, pipes,
sockets. Files share their blocks where the file system can (FICLONE).

**Invariants**: nothing else writes to either tree; no link is followed; memory is one directory's entries, and the names of directories and of files
with several names.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from wherry.core.diff import open_directory
from wherry.core.unpack import OPAQUE
from wherry.linux.remove import remove_at
from wherry.linux.sparse import data_ranges

_FICLONE = 0x40049409
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OWN_XATTRS = ("trusted.overlay.", "user.overlay.", "security.selinux")


def lay_over(source: int, target: int) -> None:
    """`source` (a layer's directory, with whiteouts as overlayfs reads them) over `target`: descriptors of directories."""
    linked: dict[int, bytes] = {}
    times: list[tuple[bytes, os.stat_result]] = []
    pending = [b""]
    while pending:
        path = pending.pop()
        above, below = open_directory(source, path), open_directory(target, path)
        assert above is not None and below is not None
        try:
            found = os.fstat(above)
            if _is_opaque(above):
                for hidden in os.listdir(below):
                    remove_at(below, os.fsencode(hidden))
            with os.scandir(above) as scanned:
                entries = [(os.fsencode(entry.name), entry.stat(follow_symlinks=False)) for entry in scanned]
            for name, entry in entries:
                if stat.S_ISDIR(entry.st_mode):
                    _make_directory(below, name)
                    pending.append(path + b"/" + name if path else name)
                    continue
                _clear(below, name)
                if stat.S_ISCHR(entry.st_mode) and entry.st_rdev == 0:
                    continue
                here = path + b"/" + name if path else name
                first = linked.setdefault(entry.st_ino, here) if entry.st_nlink > 1 else here
                if first != here:
                    os.link(first, name, src_dir_fd=target, dst_dir_fd=below, follow_symlinks=False)
                else:
                    _copy(above, below, name, entry)
            _dress(f"/proc/self/fd/{above}", f"/proc/self/fd/{below}", found, follow=True)
            times.append((path, found))
        finally:
            os.close(above)
            os.close(below)
    for where, found in times:  # what was made in a directory has changed its time
        fd = open_directory(target, where)
        assert fd is not None
        os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))
        os.close(fd)


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, OPAQUE) == b"y"
    except OSError:
        return False


def _clear(directory: int, name: bytes) -> None:
    try:
        remove_at(directory, name)
    except FileNotFoundError:
        pass


def _make_directory(parent: int, name: bytes) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o700, dir_fd=parent)


def _copy(above: int, below: int, name: bytes, found: os.stat_result) -> None:
    if stat.S_ISREG(found.st_mode):
        _copy_file(above, below, name, found.st_size)
    elif stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=above), name, dir_fd=below)
    else:
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=below)
    there = (b"/proc/self/fd/%d/%s" % (above, name), b"/proc/self/fd/%d/%s" % (below, name))
    _dress(*there, found, follow=False)
    os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=below, follow_symlinks=False)


def _copy_file(above: int, below: int, name: bytes, size: int) -> None:
    source, target = os.open(name, _READ, dir_fd=above), -1
    try:
        target = os.open(name, _CREATE, 0o600, dir_fd=below)
        try:
            fcntl.ioctl(target, _FICLONE, source)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY):
                raise
        for start, end in data_ranges(source, size):
            while start < end:
                start += os.copy_file_range(source, target, end - start, start, start)
        os.ftruncate(target, size)
    finally:
        os.close(source)
        if target >= 0:
            os.close(target)


def _dress(source: bytes | str, target: bytes | str, found: os.stat_result, *, follow: bool) -> None:
    """Owner, then mode (a change of owner clears set-user-id), then attributes (it clears capabilities too)."""
    os.chown(target, found.st_uid, found.st_gid, follow_symlinks=follow)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(target, stat.S_IMODE(found.st_mode))
    wanted = _xattrs(source, follow=follow)
    for name in _xattrs(target, follow=follow) - wanted:
        os.removexattr(target, name, follow_symlinks=follow)
    for name in wanted:
        os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=follow), follow_symlinks=follow)


def _xattrs(path: bytes | str, *, follow: bool) -> set[str]:
    try:
        names = os.listxattr(path, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return set()
        raise
    return {name for name in names if not name.startswith(_OWN_XATTRS)}

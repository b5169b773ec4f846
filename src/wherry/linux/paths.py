"""Paths inside a root that somebody else controls: resolved once, by the kernel, to a descriptor.

Runs in the shim, `wherry-runc`, a container's init, and wherever the engine touches a container's files (copy,
archive). The root is a descriptor; absolute paths, absolute symlinks and ".." stay below it (openat2(2),
RESOLVE_IN_ROOT), magic links of procfs are refused. What is missing is made component by component, each relative to
the descriptor of the one before and never through a symlink that was not read here.
**Invariant:** nothing is ever made or opened outside of the root, whatever is renamed meanwhile (CVE-2021-30465,
CVE-2024-45310, CVE-2019-18837).
"""

from __future__ import annotations

import errno
import os

from wherry.errors import SyscallError
from wherry.linux import syscalls

RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 0x1, 0x2, 0x4, 0x8, 0x10
_PARENT_MODE = 0o755
_MAX_LINKS = 40  # as the kernel's own limit for one path (path_resolution(7))


def open_in_root(root: int, path: str | bytes, flags: int = os.O_PATH, *, mode: int = 0, follow: bool = True) -> int:
    """A descriptor of `path` inside the directory `root`. `follow=False` refuses any symlink on the way (ELOOP). SyscallError as the kernel says."""
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | (0 if follow else RESOLVE_NO_SYMLINKS)
    try:
        return syscalls.openat2(root, path or b"/", flags, mode=mode, resolve=resolve)
    except SyscallError as error:
        raise SyscallError("open", os.fsdecode(path), error.errno) from None


def exists_in_root(root: int, path: str | bytes) -> bool:
    """Whether something is at `path` inside `root`."""
    try:
        os.close(open_in_root(root, path))
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def make_directory(root: int, path: str | bytes, mode: int = 0o755) -> int:
    """An O_PATH descriptor of the directory `path` inside `root`, made with its parents where missing."""
    try:
        return open_in_root(root, path, os.O_PATH | os.O_DIRECTORY)
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
    return _walk(root, path, mode, last_is_file=False)


def make_file(root: int, path: str | bytes, mode: int = 0o644) -> int:
    """An O_PATH descriptor of `path` inside `root`: what is there, else a new empty file, its parents made where missing."""
    try:
        return open_in_root(root, path)
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
    return _walk(root, path, mode, last_is_file=True)


def split(path: str | bytes) -> tuple[bytes, bytes]:
    """(directory, last component) of a path without a trailing slash. The last component is never empty, "." or ".."; else SyscallError EINVAL."""
    directory, _, name = syscalls.path_bytes(path).rstrip(b"/").rpartition(b"/")
    if name in (b"", b".", b".."):
        raise SyscallError("open", os.fsdecode(path), errno.EINVAL)
    return directory or b"/", name


def _walk(root: int, path: str | bytes, mode: int, *, last_is_file: bool) -> int:
    """Resolves as RESOLVE_IN_ROOT does, making what is missing. `stack` holds a descriptor per level, so that ".." needs no look-up."""
    pending = [part for part in reversed(syscalls.path_bytes(path).split(b"/")) if part not in (b"", b".")]
    stack = [os.dup(root)]
    links = 0
    try:
        while pending:
            name = pending.pop()
            if name == b"..":
                if len(stack) > 1:
                    os.close(stack.pop())
                continue
            is_file = last_is_file and not pending
            fd = _open_or_make(stack[-1], name, mode if not pending else _PARENT_MODE, is_file=is_file)
            link = _read_link(fd)
            if link is None:
                stack.append(fd)
                continue
            os.close(fd)
            links += 1
            if links > _MAX_LINKS:
                raise SyscallError("open", os.fsdecode(path), errno.ELOOP)
            if link.startswith(b"/"):
                while len(stack) > 1:
                    os.close(stack.pop())
            pending += [part for part in reversed(link.split(b"/")) if part not in (b"", b".")]
        return stack.pop()
    except SyscallError as error:
        raise SyscallError(error.call, os.fsdecode(path), error.errno) from None
    except OSError as error:
        raise SyscallError("mkdir", os.fsdecode(path), error.errno or 0) from None
    finally:
        for fd in stack:
            os.close(fd)


def _open_or_make(parent: int, name: bytes, mode: int, *, is_file: bool) -> int:
    """One component, as a symlink if it is one. RESOLVE_BENEATH: a single name cannot lead elsewhere, also not through a magic link."""
    resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
    try:
        return syscalls.openat2(parent, name, os.O_PATH | os.O_NOFOLLOW, resolve=resolve)
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
    try:
        if is_file:
            os.close(syscalls.openat2(parent, name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode=mode, resolve=resolve))
        else:
            os.mkdir(name, mode, dir_fd=parent)
    except SyscallError as error:
        if error.errno != errno.EEXIST:
            raise
    except FileExistsError:
        pass  # somebody was faster: look at what they made
    return syscalls.openat2(parent, name, os.O_PATH | os.O_NOFOLLOW, resolve=resolve)


def _read_link(fd: int) -> bytes | None:
    """The target when `fd` (O_PATH | O_NOFOLLOW) is a symlink."""
    if (os.fstat(fd).st_mode & 0o170000) != 0o120000:
        return None
    return os.readlink(b"", dir_fd=fd)

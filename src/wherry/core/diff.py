"""What a container has changed: its overlay's upper directory, read natively and compared with what lies below.

Runs in threads of wherryd, on directory trees that the container may be writing to at this moment. Three directories are looked at: `upper`,
`old` (the read-only view without it) and `new` (with it; the upper directory itself, unless the kernel has recorded renames or metadata alone
in it, which only a mounted view resolves). Source of what counts as a change: Docker, whose `docker diff` compares mode, owner and device of
everything, size and time of what is no directory, and file capabilities.

**Invariants**: nothing is opened through a symbolic link; memory is that of one directory's entries per level; parents come before children.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from wherry.core.unpack import OPAQUE
from wherry.errors import FailedPrecondition, SyscallError
from wherry.linux.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS
from wherry.linux.syscalls import openat2

_REDIRECT = "trusted.overlay.redirect"
_METACOPY = "trusted.overlay.metacopy"
_CAPABILITY = b"security.capability"
PATH_MAX = 4096


class Kind(IntEnum):
    """As the Engine API numbers them."""

    MODIFIED = 0
    ADDED = 1
    DELETED = 2


@dataclass(frozen=True, slots=True)
class Change:
    """`path` relative to the root. `found`: what is there now; None when it was deleted."""

    path: bytes
    kind: Kind
    found: os.stat_result | None


@dataclass(slots=True)
class _Level:
    """One directory on the way down. `withheld`: its own change, told only if something below it has changed."""

    path: bytes
    entries: Iterator[tuple[bytes, os.stat_result | None, os.stat_result | None]]
    whole: bool
    withheld: Change | None = None


class Differ:
    """Descriptors of the three roots; `new` may be `upper`. `everything`: whatever is in `upper` counts, also what looks the same (as a
    layer is to hold it). `whole`: `upper` is no overlay's, but all there is: what is not in it is gone."""

    def __init__(self, upper: int, new: int, old: int, *, everything: bool = False, whole: bool = False) -> None:
        self._upper = upper
        self._new = new
        self._old = old
        self._everything = everything
        self._whole = whole

    def __iter__(self) -> Iterator[Change]:
        levels = [self._level(b"", whole=self._whole)]
        while levels:
            level = levels[-1]
            entry = next(level.entries, None)
            if entry is None:
                levels.pop()
                continue
            name, new, old = entry
            path = level.path + b"/" + name if level.path else name
            change = self._judge(path, new, old)
            below = None
            if new is not None and stat.S_ISDIR(new.st_mode):
                below = self._level(path, whole=level.whole)
                if change is None:
                    below.withheld = Change(path, Kind.MODIFIED, new)
                levels.append(below)
            if change is not None:
                for outer in levels:
                    if outer.withheld is not None and outer is not below:
                        yield outer.withheld
                        outer.withheld = None
                yield change

    def _judge(self, path: bytes, new: os.stat_result | None, old: os.stat_result | None) -> Change | None:
        if new is None:
            return None if old is None else Change(path, Kind.DELETED, None)
        if old is None:
            return Change(path, Kind.ADDED, new)
        if (
            self._everything
            or _differs(new, old)
            or self._attributes(self._new, path) != self._attributes(self._old, path)
        ):
            return Change(path, Kind.MODIFIED, new)
        return None

    def _level(self, path: bytes, *, whole: bool) -> _Level:
        """`whole`: inside of a directory that hides what was below, so that what is not mentioned in it is gone."""
        upper = open_directory(self._upper, path)
        new = open_directory(self._new, path) if self._new != self._upper else upper
        old = open_directory(self._old, path)
        try:
            if upper is not None and path:
                whole = whole or _attribute(upper, OPAQUE) == b"y" or _attribute(upper, _REDIRECT) is not None
            names = _names(new) | _names(old) if whole else _names(upper)
            found = [(name, _found(new, name), _found(old, name)) for name in sorted(names)]
        finally:
            for fd in {upper, new, old} - {None}:
                os.close(fd)  # type: ignore[arg-type]
        return _Level(path, iter(found), whole)

    def _attributes(self, root: int, path: bytes) -> object:
        """File capabilities; of whole trees, where nothing else tells, all attributes."""
        try:
            fd = openat2(root, path, os.O_PATH | os.O_NOFOLLOW, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        except SyscallError:
            return None  # a link, which has none, or it has gone
        try:
            return _attributes(fd) if self._whole else _attribute(fd, _CAPABILITY)
        finally:
            os.close(fd)


def needs_merging(upper: int) -> bool:
    """Whether the kernel has recorded a rename (redirect_dir) or a change of metadata alone (metacopy) in it."""
    pending = [b""]
    while pending:
        path = pending.pop()
        fd = open_directory(upper, path)
        if fd is None:
            continue
        try:
            if _attribute(fd, _REDIRECT) is not None:
                return True
            for name in _names(fd):
                found = _found(fd, name)
                if found is None or stat.S_ISLNK(found.st_mode):
                    continue
                if stat.S_ISDIR(found.st_mode):
                    pending.append(path + b"/" + name if path else name)
                elif stat.S_ISREG(found.st_mode) and _attribute_at(fd, name, _METACOPY) is not None:
                    return True
        finally:
            os.close(fd)
    return False


def open_directory(root: int, path: bytes) -> int | None:
    """The directory `path` below `root`; None if there is none (any more). No link is followed."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        return openat2(root, path or b".", flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    except SyscallError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise too_long(path) if error.errno == errno.ENAMETOOLONG else error from None


def too_long(path: bytes) -> FailedPrecondition:
    """For a tree that a container has made deeper than a path reaches: no archive of it could be unpacked, nor a path in it be told."""
    return FailedPrecondition(
        f"/{path[:60].decode('utf-8', 'replace')}…: file name too long ({len(path) + 1} bytes, and a path has at most {PATH_MAX - 1})"
    )


def _names(fd: int | None) -> set[bytes]:
    return set() if fd is None else {os.fsencode(name) for name in os.listdir(fd)}


def _found(fd: int | None, name: bytes) -> os.stat_result | None:
    """None also for a whiteout."""
    if fd is None:
        return None
    try:
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return None if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0 else found


def _differs(new: os.stat_result, old: os.stat_result) -> bool:
    if (new.st_mode, new.st_uid, new.st_gid, new.st_rdev) != (old.st_mode, old.st_uid, old.st_gid, old.st_rdev):
        return True
    if stat.S_ISDIR(new.st_mode):
        return False
    return new.st_size != old.st_size or new.st_mtime_ns != old.st_mtime_ns


def _attributes(fd: int) -> dict[str, bytes | None]:
    try:
        return {name: _attribute(fd, name) for name in os.listxattr(f"/proc/self/fd/{fd}")}
    except OSError:
        return {}


def _attribute_at(directory: int, name: bytes, attribute: str | bytes) -> bytes | None:
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return None
    try:
        return _attribute(fd, attribute)
    finally:
        os.close(fd)


def _attribute(fd: int, attribute: str | bytes) -> bytes | None:
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", attribute)
    except OSError:
        return None

"""Whether two directory trees are the same: names, types, modes, owners, sizes, times, links, extended attributes, contents.

Blocking: in threads of wherryd, and in tests. **Invariants**: memory is bounded by the largest directory, the depth and the number of
hard links; no link is followed, whatever somebody has put in a directory's place meanwhile. Deliberately absent: access and change times, which say
nothing of a layer; and `security.selinux`, which is the machine's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator

from wherry.errors import SyscallError
from wherry.linux.syscalls import openat2

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RESOLVE_BENEATH_NO_SYMLINKS = 0x08 | 0x04
_CHUNK = 1 << 20
_STEPS = 15  # directories that are opened with one call: 15 names of 255 bytes are less than PATH_MAX
_NOT_OURS = ("security.selinux",)


def differences(right: str, found: str, timeless: Collection[bytes] = ()) -> Iterator[str]:
    """What is wrong with the tree `found`, where `right` is how it should be; each a line for people. `timeless`: directories whose time does
    not count (b"." is the root)."""
    comparison = _Comparison(right, found, frozenset(timeless))
    try:
        yield from comparison.run()
    finally:
        comparison.close()


class _Comparison:
    def __init__(self, right: str, found: str, timeless: frozenset[bytes]) -> None:
        self._timeless = timeless
        self._roots = (os.open(right, _OPEN_DIRECTORY), os.open(found, _OPEN_DIRECTORY))
        self._linked: dict[int, int] = {}  # inode of `right` with several names → that of `found`

    def close(self) -> None:
        for root in self._roots:
            os.close(root)

    def run(self) -> Iterator[str]:
        yield from _attributes(b".", *(os.fstat(root) for root in self._roots), timeless=b"." in self._timeless)
        yield from _xattrs(b".", *(f"/proc/self/fd/{root}".encode() for root in self._roots))
        pending = [b""]
        while pending:
            path = pending.pop()
            try:
                right, found = (_open(root, path) for root in self._roots)
            except SyscallError as error:
                yield f"{_shown(path)}: {error}"
                continue
            try:
                yield from self._directory(path, right, found, pending)
            finally:
                os.close(right)
                os.close(found)

    def _directory(self, path: bytes, right: int, found: int, pending: list[bytes]) -> Iterator[str]:
        names, there = ({os.fsencode(name) for name in os.listdir(fd)} for fd in (right, found))
        for name in sorted(there - names):
            yield f"{_shown(_join(path, name))}: does not belong there"
        for name in sorted(names - there):
            yield f"{_shown(_join(path, name))}: is missing"
        for name in sorted(names & there):
            whole = _join(path, name)
            one, other = (os.stat(name, dir_fd=fd, follow_symlinks=False) for fd in (right, found))
            said = False
            for problem in self._entry(whole, name, (right, one), (found, other)):
                said = True
                yield problem
            if stat.S_ISDIR(one.st_mode) and stat.S_ISDIR(other.st_mode):
                pending.append(whole)
            elif not said and one.st_nlink > 1 and self._linked.setdefault(one.st_ino, other.st_ino) != other.st_ino:
                yield f"{_shown(whole)}: is a file of its own, not a hard link"

    def _entry(
        self, path: bytes, name: bytes, right: tuple[int, os.stat_result], found: tuple[int, os.stat_result]
    ) -> Iterator[str]:
        (one_fd, one), (other_fd, other) = right, found
        if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode):
            yield f"{_shown(path)}: is {_kind(other)}, not {_kind(one)}"
            return
        whiteout = stat.S_ISCHR(one.st_mode) and one.st_rdev == 0
        yield from _attributes(path, one, other, timeless=whiteout or path in self._timeless)
        yield from _xattrs(path, *(b"/proc/self/fd/%d/%s" % (fd, name) for fd in (one_fd, other_fd)))
        if stat.S_ISLNK(one.st_mode):
            if os.readlink(name, dir_fd=one_fd) != os.readlink(name, dir_fd=other_fd):
                yield f"{_shown(path)}: leads elsewhere"
        elif (
            stat.S_ISREG(one.st_mode)
            and one.st_size == other.st_size
            and not self._is_known(one, other)
            and not _same_content(one_fd, other_fd, name)
        ):
            yield f"{_shown(path)}: has another content"

    def _is_known(self, one: os.stat_result, other: os.stat_result) -> bool:
        return one.st_nlink > 1 and self._linked.get(one.st_ino) == other.st_ino


def _attributes(path: bytes, right: os.stat_result, found: os.stat_result, *, timeless: bool) -> Iterator[str]:
    if stat.S_IMODE(right.st_mode) != stat.S_IMODE(found.st_mode):
        yield f"{_shown(path)}: has the mode {stat.S_IMODE(found.st_mode):04o}, not {stat.S_IMODE(right.st_mode):04o}"
    if (right.st_uid, right.st_gid) != (found.st_uid, found.st_gid):
        owner, wanted = f"{found.st_uid}:{found.st_gid}", f"{right.st_uid}:{right.st_gid}"
        yield f"{_shown(path)}: belongs to {owner}, not {wanted}"
    if stat.S_ISREG(right.st_mode) and right.st_size != found.st_size:
        yield f"{_shown(path)}: has {found.st_size} bytes, not {right.st_size}"
    if right.st_rdev != found.st_rdev:
        yield f"{_shown(path)}: is another device"
    if not timeless and right.st_mtime_ns != found.st_mtime_ns:
        yield f"{_shown(path)}: has another time of change"
    if not stat.S_ISDIR(right.st_mode) and right.st_nlink != found.st_nlink:
        yield f"{_shown(path)}: has {found.st_nlink} names, not {right.st_nlink}"


def _xattrs(path: bytes, right: bytes, found: bytes) -> Iterator[str]:
    root = path == b"."
    wanted, there = (
        {
            name: os.getxattr(one, name, follow_symlinks=root)
            for name in os.listxattr(one, follow_symlinks=root)
            if name not in _NOT_OURS
        }
        for one in (right, found)
    )
    for name in sorted(wanted.keys() | there.keys()):
        if wanted.get(name) != there.get(name):
            yield f"{_shown(path)}: the attribute {_shown(os.fsencode(name))} is different"


def _same_content(right: int, found: int, name: bytes) -> bool:
    with (
        open(os.open(name, _OPEN_FILE, dir_fd=right), "rb", buffering=0) as one,
        open(os.open(name, _OPEN_FILE, dir_fd=found), "rb", buffering=0) as other,
    ):
        while True:
            piece = one.read(_CHUNK)
            if piece != other.read(len(piece) or 1):
                return False
            if not piece:
                return True


def _open(root: int, path: bytes) -> int:
    """A directory below `root`, however long its path."""
    parts = path.split(b"/") if path else []
    fd = os.dup(root)
    for start in range(0, len(parts), _STEPS):
        step = b"/".join(parts[start : start + _STEPS])
        try:
            following = openat2(fd, step, os.O_RDONLY | os.O_DIRECTORY, resolve=_RESOLVE_BENEATH_NO_SYMLINKS)
        finally:
            os.close(fd)
        fd = following
    return fd


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def _shown(path: bytes) -> str:
    text = path[:200].decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _kind(found: os.stat_result) -> str:
    kinds = {stat.S_IFREG: "a file", stat.S_IFDIR: "a directory", stat.S_IFLNK: "a link"}
    return kinds.get(stat.S_IFMT(found.st_mode), "a special file")

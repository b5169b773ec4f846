"""Who a process runs as: Docker's `user[:group]` against the container's own /etc/passwd and /etc/group.

Runs in the shim (and in wherry-runc), on a descriptor of the container's root. **Invariant**: the container's files are data. They are opened
inside the root (openat2, RESOLVE_IN_ROOT) if they are regular files, are read up to a bound, and parsed here: no name service of the host or of the
image is ever asked (CVE-2019-14271), a FIFO does not block (CVE-2024-9676), an id that does not fit 31 bits is an error and not root
(CVE-2024-40635, CVE-2026-30892), and a number is never looked up as a name: an image that calls its root "1000" does not make root of
who asked for 1000 (CVE-2026-46680; here dockerd differs).
"""

from __future__ import annotations

import os

from wherry.errors import InvalidArgument, SyscallError
from wherry.linux import paths

MAX_ID = 2**31 - 1
_FILE_BOUND = 8 * 1024 * 1024
_S_IFMT, _S_IFREG = 0o170000, 0o100000


class Identity:
    """Numbers of a process's user: uid, gid, supplementary groups."""

    __slots__ = ("gid", "groups", "uid")

    def __init__(self, uid: int, gid: int, groups: list[int]) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups


def resolve(root_fd: int, user: str, group_add: list[str]) -> Identity:
    """`user`: "", "name", "uid", "name:group", "uid:gid" in any mixture; `group_add`: names or numbers.

    InvalidArgument in Docker's words when a name is unknown or a number is out of range.
    """
    name, _, group = user.partition(":")
    group = group.partition(":")[0]  # what comes behind is ignored, as by runc
    passwd = _read_table(root_fd, "/etc/passwd", 7)
    groups = _read_table(root_fd, "/etc/group", 4)
    uid, gid, login = 0, 0, ""
    wanted = name or "0"
    number = _number(wanted)
    row = _find_user(passwd, wanted, number)
    if row is not None:
        login = row[0]
        uid, gid = _checked(row[2], user), _checked(row[3], user)
    elif number is not None:
        uid = _in_range(number, user)
    else:
        raise InvalidArgument(f"unable to find user {wanted}: no matching entries in passwd file")
    if group:
        gid = _group_id(groups, group)
    supplementary: list[int] = []
    if login and not group:
        supplementary = [_checked(entry[2], user) for entry in groups if login in entry[3].split(",")]
    for extra in group_add:
        supplementary.append(_group_id(groups, extra))
    return Identity(uid, gid, _unique([gid, *supplementary]))


def _find_user(passwd: list[list[str]], wanted: str, number: int | None) -> list[str] | None:
    for row in passwd:
        if row[0] == wanted if number is None else row[2] == wanted:
            return row
    return None


def _group_id(groups: list[list[str]], wanted: str) -> int:
    number = _number(wanted)
    for row in groups:
        if number is None and row[0] == wanted:
            return _checked(row[2], wanted)
    if number is None:
        raise InvalidArgument(f"unable to find group {wanted}: no matching entries in group file")
    return _in_range(number, wanted)


def _number(text: str) -> int | None:
    """A decimal number, sign allowed; None for anything else (also for digits that are not ASCII)."""
    digits = text[1:] if text[:1] in ("-", "+") else text
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 32 else None


def _in_range(number: int, user: str) -> int:
    if not 0 <= number <= MAX_ID:
        raise InvalidArgument(f"unable to find user {user}: uids and gids must be in range 0-{MAX_ID}")
    return number


def _checked(text: str, user: str) -> int:
    number = _number(text)
    if number is None:
        raise InvalidArgument(f"unable to find user {user}: malformed id {text[:40]!r} in the container's files")
    return _in_range(number, user)


def _unique(numbers: list[int]) -> list[int]:
    return list(dict.fromkeys(numbers))


def _read_table(root_fd: int, path: str, fields: int) -> list[list[str]]:
    """Rows of a colon-separated file, each with exactly `fields` fields (missing ones empty). An absent file has no rows."""
    try:
        place = paths.open_in_root(root_fd, path)
    except SyscallError:
        return []
    try:
        if os.fstat(place).st_mode & _S_IFMT != _S_IFREG:
            return []  # opening a device can do things (a watchdog, a tape), and here no cgroup forbids it
        fd = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    finally:
        os.close(place)
    try:
        data = b""
        while len(data) < _FILE_BOUND and (block := os.read(fd, 65536)):
            data += block
    finally:
        os.close(fd)
    rows = []
    for line in str(data, "utf-8", "surrogateescape").split("\n"):
        line = line.strip()
        if line and not line.startswith("#"):
            row = line.split(":")
            rows.append((row + [""] * fields)[:fields])
    return rows

"""Reading and writing the kernel's control files, and the words for it when the kernel says no.

Runs in the engine, the shim and `wherry-runc`, always in the host's view of the cgroup mounts. A control file is
written with one write(2), as cgroupfs asks. Every failure names the resource as the OCI configuration calls it
("memory.limit"), the value, the file and the reason.
"""

from __future__ import annotations

import errno
import os

from wherry.errors import FailedPrecondition, InvalidArgument, SyscallError, WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_SECONDS = 2.0
"""How long a group's removal waits for a process that lives in it."""
KILLED_SECONDS = 60.0
"""And for one that was killed: with few shares of a busy CPU it is long about its end."""
_ENOTSUPP = 524  # the kernel's own "not supported", which has no text in the C library
_WRONG_VALUE = (errno.EINVAL, errno.ERANGE, errno.ENODEV, errno.E2BIG, errno.ENXIO)


def read(path: str) -> str:
    """The text of a control file, up to 1 MiB."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SyscallError("open", path, error.errno or 0) from None
    try:
        parts = []
        room = 1 << 20
        while room > 0 and (part := os.read(fd, min(room, 65536))):
            parts.append(part)
            room -= len(part)
        return b"".join(parts).decode("utf-8", "replace")
    except OSError as error:
        raise SyscallError("read", path, error.errno or 0) from None
    finally:
        os.close(fd)


def read_or_none(path: str) -> str | None:
    """The text of a control file; None when there is no such file, or it cannot be read (ENODEV of a group that is
    being removed).
    """
    try:
        return read(path)
    except SyscallError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP, errno.EIO, errno.ENOTDIR):
            return None
        raise


def read_int(path: str, default: int = 0) -> int:
    """The number in a control file; `default` when the file is absent or says something else ("max")."""
    text = read_or_none(path)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        return default


def keyed(text: str | None) -> dict[str, int]:
    """A flat keyed file ("oom_kill 3" per line) as a dictionary; lines of another form are left out."""
    values: dict[str, int] = {}
    for line in (text or "").splitlines():
        key, _, value = line.partition(" ")
        try:
            values[key] = int(value)
        except ValueError:
            continue
    return values


def members(text: str | None) -> list[int]:
    """The numbers of a list such as "0-2,5"."""
    found: list[int] = []
    for part in (text or "").strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            found += range(int(first), int(last or first) + 1)
    return found


def write(path: str, value: str) -> None:
    """One write(2) of `value`. OSError as the kernel gives it: callers word it by `refused`."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, os.fsencode(value))
    finally:
        os.close(fd)


def refused(resource: str, path: str, value: str, error: OSError) -> WherryError:
    """The error for a control file that could not be written: wrong value → InvalidArgument, all else →
    FailedPrecondition.
    """
    name = path.rpartition("/")[2]
    if error.errno == errno.ENOENT and not os.path.exists(path):
        return FailedPrecondition(f"{resource}: this kernel (or this cgroup) has no {name}")
    reason = (
        "not supported by this kernel"
        if error.errno in (_ENOTSUPP, errno.EOPNOTSUPP)
        else (error.strerror or "").lower()
    )
    text = f"{resource}: cannot write {value!r} to {path}: {reason}"
    return InvalidArgument(text) if error.errno in _WRONG_VALUE else FailedPrecondition(text)


def set_value(resource: str, directory: str, name: str, value: str | int) -> None:
    """Writes `value` to the control file `name` for the OCI field `resource`; the error names all four."""
    path = f"{directory}/{name}"
    try:
        write(path, str(value))
    except OSError as error:
        raise refused(resource, path, str(value), error) from None


def pids_max(limit: int) -> int | str:
    """What pids.max gets for `pids.limit`: below 0 is no limit, and 0, as with runc, just the first process."""
    return "max" if limit < 0 else max(limit, 1)


def tree(directory: str) -> Iterator[str]:
    """`directory` and every group below it, each before what is below it. Groups that vanish meanwhile are passed
    over; no depth is too much.
    """
    waiting = [directory]
    while waiting:
        path = waiting.pop()
        yield path
        try:
            if os.stat(path).st_nlink == 2:
                continue  # none below: kernfs counts a link for each
            with os.scandir(path) as entries:
                waiting.extend(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
        except OSError:
            continue


def pids(directory: str) -> set[int]:
    """The processes in a group and below it. One that this pid namespace does not show (0) is left out."""
    found: set[int] = set()
    for path in tree(directory):
        found.update(int(pid) for pid in (read_or_none(f"{path}/cgroup.procs") or "").split())
    found.discard(0)
    return found

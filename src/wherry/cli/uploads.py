"""Archives read piece by piece, for the verbs that send one to the engine."""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = 1 << 18


def pieces(fd: int) -> Iterator[bytes]:
    """What `fd` gives, to its end."""
    while data := os.read(fd, _PIECE):
        yield data


def open_archive(path: str) -> int:
    """A descriptor of the file. OSError names it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return fd

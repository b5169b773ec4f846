"""Where a file has data and where it has holes: lseek(2), SEEK_DATA and SEEK_HOLE.

In a container's init, in the shim, in threads of wherryd.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each piece of data in the first `size` bytes, in order. Of a file that grows or shrinks meanwhile, what was found.

    The file's offset is moved: read with `pread`. A file system that knows no holes tells of one piece.
    """
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
            if start >= size:
                return
            end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # a hole up to the end
        yield start, end

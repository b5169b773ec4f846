"""Downloads that were interrupted: `content/partial/DIGEST`, so that the next pull of the same blob goes on where the last one stopped.

In wherryd, on the event loop and in threads. A partial is written under the digest that it is to have from its first byte, so it outlives `kill -9`.

**Invariants**: nothing that a partial holds is believed: who resumes it reads all of it again and hashes it (so it need not be synced, and a power
cut that left a hole in it is noticed), and only `Ingest.commit` makes a blob of it. One writer at a time has a partial. What is not a regular file of
our own making - a link, a second name of a file, a directory - is never opened, but removed. Those that nobody writes are removed when they are
older than `LIFETIME`, or more than `MOST`.
Deliberately absent: which pulls may leave a partial (`pull` says so).
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from wherry.errors import InvalidArgument
from wherry.linux.remove import remove_at, remove_tree
from wherry.linux.usage import BLOCK, inodes
from wherry.spec.ids import Digest, is_digest

LIFETIME = 24 * 3600.0
"""Seconds since the last byte."""

MOST = 64

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Partials:
    """`Partials(directory)`, which is theirs alone, on the file system of the blobs."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._writers: set[Digest] = set()
        self._lock = threading.Lock()

    def open(self) -> None:
        if os.path.islink(self._directory) or not os.path.isdir(self._directory):
            remove_tree(self._directory)
            os.makedirs(self._directory, mode=0o700)
        self.remove_old()

    @contextmanager
    def writer(self, digest: Digest) -> Iterator[tuple[str, int]]:
        """→ the path and a descriptor (of the caller's to close) of the partial with that digest, which is kept while the block lasts.
        InvalidArgument when somebody else writes it."""
        if not is_digest(digest):
            raise InvalidArgument(f"{digest!r} is not a digest")
        with self._lock:
            if digest in self._writers:
                raise InvalidArgument(f"content {digest}: is being written already")
            fd = self._open(digest)
            self._writers.add(digest)
        try:
            yield os.path.join(self._directory, digest), fd
        finally:
            with self._lock:
                self._writers.discard(digest)

    def _open(self, digest: Digest) -> int:
        path = os.path.join(self._directory, digest)
        try:
            if _is_ours(os.lstat(path)):
                fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                if _is_ours(os.fstat(fd)):
                    return fd
                os.close(fd)
            remove_tree(path)
        except FileNotFoundError:
            pass
        return os.open(path, _NEW, 0o600)

    def disk_usage(self) -> int:
        """Bytes on disk of all of them."""
        return sum(found.st_blocks for found in islice(inodes(self._directory), 1, None)) * BLOCK

    def remove(self, digests: Iterable[Digest]) -> None:
        """Removes those of the digests that nobody writes."""
        with self._lock:
            for digest in set(digests) - self._writers:
                remove_tree(os.path.join(self._directory, digest))

    def remove_old(self, lifetime: float = LIFETIME, most: int = MOST) -> int:
        """Removes what nobody writes and is older than `lifetime` seconds, all but the `most` latest, and what does not belong here. → bytes
        freed."""
        freed = 0
        with self._lock:
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                kept: list[tuple[float, str, int]] = []
                for name in os.listdir(directory):
                    if name in self._writers:
                        continue
                    found = os.lstat(name, dir_fd=directory)
                    if is_digest(name) and _is_ours(found) and 0 <= time.time() - found.st_mtime < lifetime:
                        kept.append((found.st_mtime, name, found.st_blocks * BLOCK))
                    else:
                        freed += found.st_blocks * BLOCK
                        remove_at(directory, os.fsencode(name))
                kept.sort(reverse=True)
                for _, name, size in kept[most:]:
                    freed += size
                    os.unlink(name, dir_fd=directory)
            finally:
                os.close(directory)
        return freed


def _is_ours(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == os.geteuid()

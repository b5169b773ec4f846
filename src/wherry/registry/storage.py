"""Where blobs are kept, by digest: the `Storage` that the registry needs, and the file system's.

**Invariants**: `keep` takes a whole, verified file; when it returns, the blob survives a power cut; until then nobody sees a part of it. Blobs never
change. What was opened can be read to its end, also when the blob is removed meanwhile (object stores: as far as they allow).
`tests/contract/test_registry_storage.py` is the suite that every driver passes. Blocking: call from threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol

from wherry.errors import NotFound
from wherry.registry.names import ALGORITHMS
from wherry.spec.ids import Digest, is_digest


class OpenBlob(Protocol):
    """A blob that is being read."""

    @property
    def size(self) -> int: ...

    @property
    def fd(self) -> int | None:
        """A file descriptor that holds the blob from its beginning, for sendfile(2); None where there is none."""
        ...

    def read(self, offset: int, count: int) -> bytes:
        """At most `count` bytes from `offset`; empty at the end. Blocking."""
        ...

    def close(self) -> None: ...


class Storage(Protocol):
    @property
    def is_local(self) -> bool:
        """Whether `size` and `open` answer at once, as a file system does; otherwise they, too, are called from threads."""
        ...

    def size(self, digest: Digest) -> int | None:
        """Bytes; None when it is not there."""
        ...

    def open(self, digest: Digest) -> OpenBlob:
        """NotFound when it is not there."""
        ...

    def keep(self, path: str, digest: Digest) -> None:
        """Makes the file at `path` the blob `digest`, in the place of one that is there already, and removes `path`."""
        ...

    def remove(self, digest: Digest) -> None:
        """Nothing happens when it is not there."""
        ...

    def __iter__(self) -> Iterator[Digest]:
        """All blobs, in no order."""
        ...


class FileStorage:
    """Below a directory: `sha256/ab/ab…`. The files that `keep` takes must be on the same file system."""

    is_local = True

    def __init__(self, root: str) -> None:
        self.root = root
        for algorithm in ALGORITHMS:
            os.makedirs(os.path.join(root, algorithm), mode=0o700, exist_ok=True)

    def _path(self, digest: Digest) -> str:
        algorithm, _, encoded = digest.partition(":")
        return f"{self.root}/{algorithm}/{encoded[:2]}/{encoded}"

    def size(self, digest: Digest) -> int | None:
        try:
            return os.stat(self._path(digest)).st_size
        except FileNotFoundError:
            return None

    def open(self, digest: Digest) -> OpenBlob:
        try:
            return FileBlob(os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            raise NotFound(f"blob {digest}: not found") from None

    def keep(self, path: str, digest: Digest) -> None:
        target = self._path(digest)
        sync(path)
        try:
            os.rename(path, target)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            sync(os.path.dirname(os.path.dirname(target)))
            os.rename(path, target)
        sync(os.path.dirname(target))

    def remove(self, digest: Digest) -> None:
        try:
            os.unlink(self._path(digest))
        except FileNotFoundError:
            pass

    def __iter__(self) -> Iterator[Digest]:
        for algorithm in ALGORITHMS:
            for directory in os.scandir(os.path.join(self.root, algorithm)):
                for entry in os.scandir(directory.path):
                    if is_digest(f"{algorithm}:{entry.name}"):
                        yield Digest(f"{algorithm}:{entry.name}")


class FileBlob:
    """A file, owned: `close` closes it."""

    def __init__(self, fd: int) -> None:
        self.fd: int | None = fd
        self.size = os.fstat(fd).st_size
        self._fd = fd

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self._fd, count, offset)

    def close(self) -> None:
        os.close(self._fd)


def sync(path: str) -> None:
    """fsync(2) of a file or directory."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
